"""One node of the test cluster, which to Kubernetes is a machine of its own."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from hydra_cli.programs import program
from tests.kube import documents
from tests.kube.leftovers import BRIDGE, kill_containers
from tests.kube.programs import Failed, Programs, run, until

if TYPE_CHECKING:
    from tests.kube.cluster import Cluster

HOST = "10.77.0.1"
PODS = "10.78.0.0/16"
PRIVATE = (  # folders that each node has for itself
    "/run",
    "/var/lib/kubelet",
    "/var/lib/containerd",
    "/var/lib/cni",
    "/var/lib/hydra",
    "/var/lib/hydra-ram",
    "/var/lib/hydra-consul",
    "/var/log/pods",
    "/var/log/containers",
)
FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")


class Node:
    """One node: namespaces, containerd, kubelet, kube-proxy."""

    def __init__(self, name: str, number: int, folder: Path, cluster: Cluster) -> None:
        self.name, self.number, self.folder, self._cluster = name, number, folder, cluster
        self.address, self.pods = f"10.77.0.{10 + number}", f"10.78.{number}.0/24"
        self.netns = f"hydra-kube-{name}"
        self.holder: subprocess.Popen[bytes] | None = None
        self.programs = Programs(folder / "log")

    def prepare(self) -> None:
        """The namespaces, and containerd in them."""
        self._wire()
        self._hold()
        self._configure()
        containerd = ("/usr/bin/containerd", "--config", self.folder / "containerd.toml")
        self.programs.start("containerd", *containerd)

    def load(self) -> None:
        """Give containerd the images: what takes long, and may be done for several nodes at once."""
        until(f"containerd of {self.name}", lambda: self.ctr("version", check=False).returncode == 0)
        for image in self._cluster.images:
            self.ctr("-n", "k8s.io", "images", "import", "--all-platforms", str(image))

    def start(self) -> None:
        """kubelet, which joins the cluster, and kube-proxy."""
        self.start_kubelet()
        self.programs.start("kube-proxy", program("kube-proxy"), "--config", self.folder / "kube-proxy.yaml")

    def start_kubelet(self) -> None:
        """kubelet alone, also again."""
        self.programs.start(
            "kubelet",
            program("kubelet"),
            f"--config={self.folder}/kubelet.yaml",
            f"--kubeconfig={self._cluster.kubeconfig}",
            f"--hostname-override={self.name}",
            f"--node-ip={self.address}",
        )

    def stop_kubelet(self) -> None:
        """Without its containers, which go on."""
        self.programs.stop("kubelet")

    def enter(self, *command: object, mounts: bool = True) -> list[str]:
        """How `command` is run in this node's namespaces."""
        assert self.holder is not None
        kinds = ["--net", *(["--mount"] if mounts else [])]
        return ["nsenter", f"--target={self.holder.pid}", *kinds, *map(str, command)]

    def ctr(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Ask the node's containerd."""
        command = self.enter("ctr", "-a", "/run/containerd/containerd.sock", *words)
        return run(*command, check=check)

    @property
    def root(self) -> Path:
        """What the node sees as /var/lib/hydra."""
        return self.folder / "mounts" / "var-lib-hydra"

    def stop(self) -> None:
        """Everything, containers included; may be called again."""
        if self.holder is not None:
            self.programs.stop_all()
            kill_containers(f"{self.folder}/mounts/")
            self.holder.kill()
            self.holder.wait()
            self.holder = None
        run("ip", "link", "delete", f"{BRIDGE}-{self.number}", check=False)
        run("ip", "netns", "delete", self.netns, check=False)

    def _wire(self) -> None:
        """A network namespace on the bridge, which knows where the pods of the other nodes are."""
        host, inner = f"{BRIDGE}-{self.number}", "eth0"
        run("ip", "netns", "add", self.netns)
        run("ip", "link", "add", host, "type", "veth", "peer", "name", inner, "netns", self.netns)
        run("ip", "link", "set", host, "master", BRIDGE, "up")
        inside = ("ip", "-n", self.netns)
        run(*inside, "address", "add", f"{self.address}/24", "dev", inner)
        for link in ("lo", inner):
            run(*inside, "link", "set", link, "up")
        run(*inside, "route", "add", "default", "via", HOST)
        run("ip", "route", "add", self.pods, "via", self.address)
        for other in self._cluster.nodes.values():
            if other is not self:
                run(*inside, "route", "add", other.pods, "via", other.address)

    def _hold(self) -> None:
        """A process that keeps the node's namespaces, with folders of the node's own mounted in them."""
        binds = []
        for path in PRIVATE:
            own = self.folder / "mounts" / path.strip("/").replace("/", "-")
            own.mkdir(parents=True, exist_ok=True)
            Path(path).mkdir(parents=True, exist_ok=True)
            binds.append(f"mount --bind {own} {path}")
        # shared inside, so that what is mounted on the node reaches containers (HostToContainer)
        steps = ["mount --make-rshared /", *binds, "echo held && exec sleep infinity"]
        script = " && ".join(steps)
        self.holder = subprocess.Popen(
            [
                # not `ip netns exec`: that hides /sys/fs/cgroup
                *("setpriv", "--pdeathsig", "KILL", "nsenter", f"--net=/run/netns/{self.netns}"),
                *("unshare", "--mount", "--propagation", "private", "sh", "-c", script),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self.holder.stdout is not None
        with self.holder.stdout as said:
            if said.readline() != b"held\n":
                raise Failed(f"the namespaces of {self.name} could not be made")
        run(*self.enter("sh", "-c", f"echo 1 > {FORWARDING}", mounts=False))
        self.programs.inside = self.enter()

    def _configure(self) -> None:
        files = documents.of_node(self.name, self.folder, self.pods, self._cluster.kubeconfig, PODS)
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
