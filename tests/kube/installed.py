"""Hydra on a test cluster, installed by Helm, with the S3 server that it reads from."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from handlers.core import codec, keys
from handlers.core.model import NodeInfo
from handlers.core.pods import Json
from hydra_cli.programs import program
from tests.kube.cluster import Cluster
from tests.kube.images import HYDRA, ROOT
from tests.kube.node import HOST
from tests.kube.programs import Failed, run, until

SERVER = "10.79.0.53"  # the embedded Consul's ClusterIP: there is no DNS in the test cluster
S3_PORT = 7070
ENVIRONMENT = "prod"
RAM_MI, MEMORY_MI = 448, 300  # of each node: for datasets in RAM; the limit of what Hydra's programs take
# volumes and limits of nodes: RAM, and downloads that can be met half-way
NODE_CONFIG = f"""
[volumes.disk]
class = "DISK"
reserve_bytes = 0
[volumes.ram]
class = "RAM"
budget_bytes = {RAM_MI << 20}
[limits]
bandwidth_bytes_s = 40_000_000
"""
HYDRA_COMMAND = (sys.executable, "-I", "-m", "hydra_cli.main")
NODES, PLANNERS = HYDRA_PODS = ("daemonset/hydra-node", "deployment/hydra-planner")


class Installed:
    """Hydra on a cluster: installed, looked at from outside, uninstalled."""

    def __init__(self, cluster: Cluster, namespace: str = "hydra") -> None:
        self.cluster, self.namespace = cluster, namespace
        self.key, self.secret = "hydra", secrets.token_hex(16)
        self.s3 = f"http://{HOST}:{S3_PORT}"
        self.image = HYDRA

    def helm(self, *words: str, check: bool = True) -> str:
        """The real helm, on this cluster."""
        command = (str(program("helm")), "--kubeconfig", str(self.cluster.kubeconfig), *words)
        return run(*command, check=check).stdout

    def values(self) -> dict[str, Any]:
        """What an administrator would write into a file."""
        repository, _, tag = self.image.rpartition(":")
        return {
            "image": {"repository": repository, "tag": tag, "pullPolicy": "Never"},
            "environment": ENVIRONMENT,
            "environments": [ENVIRONMENT],
            "secrets": {"node": "hydra-s3"},
            "env": {"AWS_ENDPOINT_URL": self.s3, "AWS_REGION": "us-east-1"},
            "consul": {"embedded": True, "embeddedClusterIP": SERVER},
            "nodeConfig": NODE_CONFIG,
            "ram": {"sizeMi": RAM_MI},
            "node": {
                "resources": {"requests": {"cpu": "10m"}},
                "memoryLimitMi": MEMORY_MI,
                "maxUnavailable": 1,
                "startupTaint": True,
            },
            "planner": {"resources": {"requests": {"cpu": "10m"}}},
        }

    def install(self) -> None:
        """The S3 server, its credentials, the chart; returns when all of it is there."""
        self._start_s3()
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}}
        self.cluster.apply(namespace, self.sealed("hydra-s3", self.keys_of_s3))
        self.upgrade()
        self.await_rollout()

    @property
    def keys_of_s3(self) -> dict[str, str]:
        """For whoever reads and writes there."""
        return {"AWS_ACCESS_KEY_ID": self.key, "AWS_SECRET_ACCESS_KEY": self.secret}

    def sealed(self, name: str, content: Json) -> dict[str, Any]:
        """A Secret beside Hydra."""
        meta = {"name": name, "namespace": self.namespace}
        return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": content}

    def await_rollout(self) -> None:
        """Wait until Hydra's own pods are all there, of their newest kind, and Ready."""
        for what in HYDRA_PODS:
            self.kubectl("rollout", "status", what, "--timeout=180s")

    def upgrade(self, **values: Any) -> None:
        """`helm upgrade --install` with further values."""
        file = self.cluster.folder / "values.json"
        file.write_text(json.dumps({**self.values(), **values}))
        chart = str(ROOT / "k8s" / "chart")
        self.helm("upgrade", "--install", "hydra", chart, "-n", self.namespace, "-f", str(file))

    def replace(self, what: str, image: str) -> None:
        """Let those of Hydra's pods run another image, as an upgrade does that has come so far."""
        self.kubectl("set", "image", what, f"*={image}")

    def versions(self) -> set[str]:
        """The versions of Hydra that nodes say they run."""
        kv = self.kv()
        entries = [kv.get(keys.info(node))[0] for node in self.cluster.nodes]
        infos = [codec.decode(NodeInfo, entry.value, entry.key) for entry in entries if entry]
        return {info.versions["hydra"] for info in infos}

    def kubectl(self, *words: str) -> str:
        return self.cluster.kubectl("-n", self.namespace, *words)

    def pod(self, component: str, node: str = "") -> dict[str, Any]:
        """One of Hydra's own pods: `node` on a node, `planner`, `consul`."""
        fields, label = f"spec.nodeName={node}" if node else "", f"app.kubernetes.io/component={component}"
        pods = self.cluster.items("pods", self.namespace, labels=label, fields=fields)
        return dict(next(pod for pod in pods if "deletionTimestamp" not in pod["metadata"]))

    def node_restarts(self) -> dict[str, int]:
        """How often Hydra's programs were started again, by the name of their pod on each node."""
        pods = [self.pod("node", node) for node in self.cluster.nodes]
        return {
            pod["metadata"]["name"]: row["restartCount"]
            for pod in pods
            for row in pod["status"]["containerStatuses"]
            if row["name"] == "hydra"
        }

    @contextlib.contextmanager
    def without_consul(self) -> Iterator[None]:
        """The server refuses everybody: as if its process had ended, but it has its KV afterwards."""
        inside = ["nsenter", f"--target={process_of(self.pod('consul'))}", "--net", "iptables", "--wait"]
        rules = [["-p", "udp", "-j", "DROP"], ["-p", "tcp", "-j", "REJECT", "--reject-with", "tcp-reset"]]
        for rule in rules:
            run(*inside, "-I", "INPUT", *rule)
        try:
            yield
        finally:
            for rule in rules:
                run(*inside, "-D", "INPUT", *rule)

    @contextlib.contextmanager
    def agents_of_nodes(self) -> Iterator[None]:
        """Each node runs an agent of Consul that is no pod, and Hydra's pods use that one; they also see all
        processes of their node.

        The agent goes on with what the sidecar knew of itself, so to Consul it is the same one.
        """
        values = self.values()
        self.upgrade(consul={**values["consul"], "agent": "host"}, node={**values["node"], "hostPID": True})
        self.await_rollout()
        for node in self.cluster.nodes.values():
            where = (f"-node={node.name}", f"-bind={node.address}", f"-client={node.address}")
            words = (f"-config-file={ROOT}/consul/agent.hcl", "-hcl=acl { enabled = false }", *where)
            known = ("-data-dir=/var/lib/hydra-consul", f"-retry-join={SERVER}")
            node.programs.start("consul", program("consul"), "agent", *words, *known)
        try:
            yield
        finally:
            for node in self.cluster.nodes.values():
                node.programs.stop("consul")
            self.upgrade()
            self.await_rollout()

    def consul(self) -> dict[str, str]:
        """How the embedded Consul is reached from this machine, which knows the way to pods."""
        (pod,) = self.cluster.items("pods", self.namespace, fields="metadata.name=hydra-consul-0")
        return {"CONSUL_HTTP_ADDR": f"http://{pod['status']['podIP']}:8500"}

    def environ(self) -> dict[str, str]:
        """For `hydra` on this machine: Consul, and S3 with credentials."""
        return {**self.consul(), **self.keys_of_s3, "AWS_ENDPOINT_URL": self.s3, "AWS_REGION": "us-east-1"}

    def hydra(self, *words: str, code: int = 0) -> str:
        """Run a command of a person; what it says on stdout."""
        environ = {**os.environ, **self.environ()}
        answer = subprocess.run([*HYDRA_COMMAND, *words], env=environ, capture_output=True, text=True)
        said = f"hydra {' '.join(words)} ended with {answer.returncode}:\n{answer.stdout}{answer.stderr}"
        assert answer.returncode == code, said
        return answer.stdout

    def kv(self) -> Any:
        """A client of the KV."""
        from handlers.adapters.kv import ConsulKV

        return ConsulKV.from_env(self.consul())

    def s3_client(self) -> Any:
        """A boto3 client."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.s3,
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
            region_name="us-east-1",
        )

    def _start_s3(self) -> None:
        folder = self.cluster.folder / "s3"
        for name in ("data", "meta"):
            (folder / name).mkdir(parents=True)
        words = ("--port", f"{HOST}:{S3_PORT}", "--health", "/health", "--keep-alive", "--quiet")
        posix = ("posix", "--sidecar", folder / "meta", folder / "data")
        environ = {"ROOT_ACCESS_KEY": self.key, "ROOT_SECRET_KEY": self.secret}
        self.cluster.programs.start("versitygw", program("versitygw"), *words, *posix, environ=environ)
        probe = ("curl", "-fsS", f"{self.s3}/health")
        until("S3 answers", lambda: run(*probe, check=False).returncode == 0)

    def last_words(self) -> str:
        """What Hydra's pods said last, and what Kubernetes says of them."""
        texts = [self.cluster.kubectl("get", "pods", "-A", "-o", "wide", check=False)]
        texts.append(self.cluster.kubectl("get", "events", "-A", check=False)[-6000:])
        for node in self.cluster.nodes.values():
            for log in sorted((node.root / "state" / "log").rglob("*.log")):
                lines = log.read_text(errors="replace").splitlines()[-15:]
                texts.append("\n".join([f"--- {node.name} {log.name}", *lines]))
        planner = ("logs", "-n", self.namespace, "-l", "app.kubernetes.io/component=planner", "--tail=20")
        texts.append(self.cluster.kubectl(*planner, "--all-containers", check=False))
        return "\n".join(texts)


def process_of(pod: Mapping[str, Any]) -> int:
    """A process of the pod's first container, as this machine numbers them."""
    container = pod["status"]["containerStatuses"][0]["containerID"].rpartition("/")[2]
    for group in Path("/proc").glob("[0-9]*/cgroup"):
        with contextlib.suppress(OSError):  # it has ended
            if any(line.endswith(f"/{container}") for line in group.read_text().splitlines()):
                return int(group.parent.name)
    raise Failed(f"{pod['metadata']['name']} has no process here")
