"""A real Kubernetes cluster on this machine, made from nothing and taken away whole: `Cluster.start`, `stop`.

    10.77.0.1  this machine      etcd, kube-apiserver, kube-controller-manager, kube-scheduler
    10.77.0.1x node n<x>         a network namespace and a mount namespace of its own, in which containerd,
                                 kubelet and kube-proxy run

Each node has its own /run, /var/lib/kubelet, /var/lib/containerd and /var/lib/hydra, so that two kubelets on
one machine are two machines to Kubernetes. Everything lies in one folder; the processes die with this one.
Needs root, and what `tools/kubernetes/setup.sh` installs. Images are not pulled: see `tests.kube.images`.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

from hydra_cli.programs import program
from tests.kube import documents
from tests.kube.documents import GROUP

HOST = "10.77.0.1"
BRIDGE = "hydra-kube"
FOLDERS = "/tmp/hydra-kube-"  # of all runs; a short path: containerd's sockets lie below it
LOCK = Path("/tmp/hydra-kube.lock")
API_PORT = 6443
API = f"https://{HOST}:{API_PORT}"
SERVICES, PODS = "10.79.0.0/24", "10.78.0.0/16"
TOKEN = "admin-of-a-test"
GROUPS = {"endpointslices": "apis/discovery.k8s.io/v1"}  # where the API has those that are not at its core
PRIVATE = (  # folders that each node has for itself
    "/run",
    "/var/lib/kubelet",
    "/var/lib/containerd",
    "/var/lib/cni",
    "/var/lib/hydra",
    "/var/lib/hydra-consul",
    "/var/log/pods",
    "/var/log/containers",
)
SYSTEM_CONTROLS = {"/proc/sys/net/ipv4/ip_forward": "1"}
LIMIT_S = 120.0


class Failed(AssertionError):
    """Something did not happen in time; the text ends with what the programs said last."""


def until(what: str, true: Callable[[], object], limit_s: float = LIMIT_S) -> Any:
    """Look again and again until the answer is true, and return it; fails after `limit_s`."""
    end = time.monotonic() + limit_s
    while True:
        if answer := true():
            return answer
        if time.monotonic() > end:
            raise Failed(f"after {limit_s:g} s still not so: {what}")
        time.sleep(0.1)


class Programs:
    """The processes of one machine, simulated or not: started in `inside`, with their logs in `folder`."""

    def __init__(self, folder: Path, inside: Sequence[str] = ()) -> None:
        self.folder, self.inside = folder, list(inside)
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *command: object, environ: Mapping[str, str] | None = None) -> None:
        """Start a program that dies with this process, however that ends."""
        self.folder.mkdir(parents=True, exist_ok=True)
        tied = ["setpriv", "--pdeathsig", "KILL"]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [*tied, *self.inside, *tied, *map(str, command)]
                if self.inside
                else [*tied, *map(str, command)],
                env={**os.environ, **(environ or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop(self, name: str, how: signal.Signals = signal.SIGTERM) -> None:
        """End one program; by force where it does not follow within 10 s."""
        running = self.running.pop(name)
        running.send_signal(how)
        try:
            running.wait(10)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()

    def stop_all(self) -> None:
        for name in reversed(list(self.running)):
            self.stop(name)

    def last_words(self) -> str:
        """The end of each log, for whoever has to find out what went wrong."""
        texts = [f"--- {f.name}\n{_tail(f)}" for f in sorted(self.folder.glob("*.log"))]
        return "\n".join(texts)


def _tail(file: Path) -> str:
    return "\n".join(file.read_text(errors="replace").splitlines()[-12:])


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
            _kill_containers(f"{self.folder}/mounts/")
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
        run(*self.enter("sh", "-c", f"echo 1 > {next(iter(SYSTEM_CONTROLS))}", mounts=False))
        self.programs.inside = self.enter()

    def _configure(self) -> None:
        files = documents.of_node(self.name, self.folder, self.pods, self._cluster.kubeconfig, PODS)
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


class Cluster:
    """The control plane and its nodes; `images` are archives that every node gets."""

    def __init__(self, folder: Path, images: Sequence[Path], nodes: Sequence[str] = ("n1", "n2")) -> None:
        self.folder, self.images = folder, list(images)
        self.kubeconfig = folder / "kubeconfig"
        self.programs = Programs(folder / "log")
        self.nodes = {n: Node(n, i, folder / "nodes" / n, self) for i, n in enumerate(nodes, start=1)}

    def start(self) -> None:
        """Everything; returns when all nodes are Ready."""
        for path, value in SYSTEM_CONTROLS.items():
            Path(path).write_text(value)
        _make_cgroups(self.nodes)
        run("ip", "link", "add", BRIDGE, "type", "bridge")
        run("ip", "address", "add", f"{HOST}/24", "dev", BRIDGE)
        run("ip", "link", "set", BRIDGE, "up")
        # a machine whose packet filter drops what is forwarded would keep the nodes apart
        run("iptables", "-I", "FORWARD", "-i", BRIDGE, "-o", BRIDGE, "-j", "ACCEPT")
        documents.certificates(self.folder / "pki", HOST)
        self.kubeconfig.write_text(documents.kubeconfig(API, self.folder / "pki", TOKEN))
        self._start_etcd()
        self.start_api_server()
        for name, words in documents.controllers(self.kubeconfig, self.folder / "pki", PODS).items():
            self.programs.start(name, program(name), *words)
        # programs are started by the main thread only: the end of the thread that started them ends them
        for node in self.nodes.values():
            node.prepare()
        with futures.ThreadPoolExecutor() as several:
            list(several.map(Node.load, self.nodes.values()))
        for node in self.nodes.values():
            node.start()
        until("all nodes are Ready", self._all_ready)

    def _start_etcd(self) -> None:
        self.programs.start(
            "etcd",
            "/usr/bin/etcd",
            f"--data-dir={self.folder}/etcd",
            f"--listen-client-urls=http://{HOST}:2379",
            f"--advertise-client-urls=http://{HOST}:2379",
            f"--listen-peer-urls=http://{HOST}:2380",
            f"--initial-advertise-peer-urls=http://{HOST}:2380",
            f"--initial-cluster=default=http://{HOST}:2380",
            "--unsafe-no-fsync" if _knows_unsafe_no_fsync() else "--auto-compaction-retention=0",
        )

    def start_api_server(self) -> None:
        """kube-apiserver alone, also again; returns when it is ready."""
        words = documents.api_server(self.folder / "pki", HOST, SERVICES, f"http://{HOST}:2379", TOKEN)
        self.programs.start("kube-apiserver", program("kube-apiserver"), *words)
        until("the API server is ready", self._is_up)

    def restart_api_server(self) -> None:
        """Kill it, and start it again; returns when it is ready."""
        self.programs.stop("kube-apiserver", signal.SIGKILL)
        self.start_api_server()

    def stop(self) -> None:
        """Take everything away again, whatever is there of it."""
        for node in self.nodes.values():
            node.stop()
        self.programs.stop_all()
        for node in self.nodes.values():
            run("ip", "route", "delete", node.pods, check=False)
        run("ip", "link", "delete", BRIDGE, check=False)
        run("iptables", "-D", "FORWARD", "-i", BRIDGE, "-o", BRIDGE, "-j", "ACCEPT", check=False)
        _unmount_below(self.folder)
        _remove_cgroups()
        shutil.rmtree(self.folder, ignore_errors=True)

    def kubectl(self, *words: str, given: str | None = None, check: bool = True) -> str:
        """Run kubectl as administrator; what it says on stdout."""
        command = [str(program("kubectl")), f"--kubeconfig={self.kubeconfig}", *words]
        return run(*command, given=given, check=check).stdout

    @contextlib.contextmanager
    def cordoned(self, node: str) -> Iterator[None]:
        """No new pod comes to this node during the block."""
        self.kubectl("cordon", node)
        try:
            yield
        finally:
            self.kubectl("uncordon", node)

    def get(self, *words: str) -> Any:
        """`kubectl get … -o json`, read."""
        return json.loads(self.kubectl("get", *words, "-o", "json"))

    def items(self, kind: str, namespace: str = "", *, labels: str = "", fields: str = "") -> list[Any]:
        """All objects of a kind. Not by kubectl, whose start costs more than an answer: tests ask often."""
        place = f"/namespaces/{namespace}" if namespace else ""
        query = urllib.parse.urlencode({"labelSelector": labels, "fieldSelector": fields})
        return list(json.loads(self._ask(f"/{GROUPS.get(kind, 'api/v1')}{place}/{kind}?{query}"))["items"])

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """Let these objects be there, as the server sees them."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        self.kubectl("apply", "--server-side", "-f", "-", given=text)

    def stream(self, path: str) -> Stream:
        """Begin a watch of the API server."""
        return Stream(path, self._trust())

    def last_words(self) -> str:
        """What the programs said last."""
        texts = [self.programs.last_words(), *(node.programs.last_words() for node in self.nodes.values())]
        return "\n".join(texts)

    def _is_up(self) -> bool:
        try:
            return self._ask("/readyz") == "ok"
        except OSError:
            return False

    def _ask(self, path: str) -> str:
        """What the API server answers to an administrator; raises `OSError`."""
        request = urllib.request.Request(API + path, headers={"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(request, context=self._trust(), timeout=30) as answer:
            return str(answer.read().decode())

    def _trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.folder / "pki" / "ca.crt"))

    def _all_ready(self) -> bool:
        rows = self.items("nodes")
        ready = [c["status"] for row in rows for c in row["status"]["conditions"] if c["type"] == "Ready"]
        return len(rows) == len(self.nodes) and ready == ["True"] * len(rows)


class Stream:
    """One watch, from what is there on, until the API server ends it, or another thread closes it."""

    def __init__(self, path: str, trust: ssl.SSLContext) -> None:
        # version 0: whatever the server has now, as events, and then what changes
        self._path, self._closed = f"{path}&watch=true&resourceVersion=0", False
        self._connection = http.client.HTTPSConnection(HOST, API_PORT, timeout=LIMIT_S, context=trust)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        try:
            self._connection.request("GET", self._path, headers={"Authorization": f"Bearer {TOKEN}"})
            for line in self._connection.getresponse():
                event = json.loads(line)
                if event.get("type") == "ERROR":
                    raise http.client.HTTPException(event["object"])
                yield event
        except (OSError, http.client.HTTPException, ValueError) as e:
            if not self._closed:
                print(f"watch {self._path} ends: {e}")
                time.sleep(0.1)  # the server is away, or was killed in the middle of an event
        finally:
            self._connection.close()

    def close(self) -> None:
        """End it, from another thread."""
        self._closed = True
        if self._connection.sock is not None:
            with contextlib.suppress(OSError):
                self._connection.sock.shutdown(socket.SHUT_RDWR)


def run(*command: str, given: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; fails with all that it said, unless `check` is false."""
    answer = subprocess.run(command, input=given, capture_output=True, text=True)
    if check and answer.returncode:
        said = f"{answer.stdout}{answer.stderr}".strip()
        raise Failed(f"{' '.join(command)} ended with {answer.returncode}:\n{said}")
    return answer


def sweep() -> None:
    """Take away what a run left that was killed; only while no other run goes on (`alone`)."""
    _kill_containers(FOLDERS)
    for namespace in Path("/run/netns").glob(f"{BRIDGE}-*"):
        run("ip", "netns", "delete", namespace.name, check=False)
    for link in Path("/sys/class/net").glob(f"{BRIDGE}*"):
        run("ip", "link", "delete", link.name, check=False)
    for folder in Path("/").glob(f"{FOLDERS.strip('/')}*"):
        _unmount_below(folder)
        shutil.rmtree(folder, ignore_errors=True)
    _remove_cgroups()


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Wait for other runs on this machine to end: all use the same addresses."""
    with LOCK.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _knows_unsafe_no_fsync() -> bool:
    return "unsafe-no-fsync" in run("/usr/bin/etcd", "--help").stderr


def _kill_containers(mounts: str) -> None:
    """End the shims of a node's containerd, and what runs in their containers: both outlive containerd."""
    mark = mounts.encode()
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal():
            continue
        with contextlib.suppress(OSError):
            command = (process / "cmdline").read_bytes()
            own = (process / "mountinfo").read_bytes() if b"containerd-shim" in command else b""
            if mark in own:
                _kill_tree(int(process.name))


def _kill_tree(pid: int) -> None:
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            _kill_tree(int(child))
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _unmount_below(folder: Path) -> None:
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for path in sorted((m for m in mounts if m.startswith(f"{folder}/")), reverse=True):
        run("umount", "--lazy", path, check=False)


def _cgroups() -> list[Path]:
    """The control group of all pods here: one, or with version 1 one per controller."""
    top = Path("/sys/fs/cgroup")
    mounted = [file.parent for file in (*top.glob("cgroup.procs"), *top.glob("*/cgroup.procs"))]
    return [path / GROUP for path in (mounted[:1] if top in mounted else mounted)]


def _make_cgroups(nodes: Iterable[str]) -> None:
    """One for each node, with as much weight beside everything else as a machine of its own would have."""
    for group in _cgroups():
        for node in nodes:
            (group / node).mkdir(parents=True, exist_ok=True)
        if (weight := group / "cpu.shares").exists():
            weight.write_text(str(1024 * (os.cpu_count() or 1) * 2))


def _remove_cgroups() -> None:
    """What kubelet and runc leave below the group that the nodes were given."""
    for group in _cgroups():
        for path, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                Path(path).rmdir()
