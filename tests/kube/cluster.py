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
import http.client
import json
import shutil
import signal
import socket
import ssl
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

from hydra_cli.programs import program
from tests.kube import documents
from tests.kube.leftovers import BRIDGE, make_cgroups, remove_cgroups, unmount_below
from tests.kube.node import FORWARDING, HOST, PODS, Node
from tests.kube.programs import LIMIT_S, Programs, run, until

API_PORT = 6443
API = f"https://{HOST}:{API_PORT}"
SERVICES = "10.79.0.0/24"
TOKEN = "admin-of-a-test"
GROUPS = {"endpointslices": "apis/discovery.k8s.io/v1"}  # where the API has those that are not at its core


class Cluster:
    """The control plane and its nodes; `images` are archives that every node gets."""

    def __init__(self, folder: Path, images: Sequence[Path], nodes: Sequence[str] = ("n1", "n2")) -> None:
        self.folder, self.images = folder, list(images)
        self.kubeconfig = folder / "kubeconfig"
        self.programs = Programs(folder / "log")
        self.nodes = {n: Node(n, i, folder / "nodes" / n, self) for i, n in enumerate(nodes, start=1)}

    def start(self) -> None:
        """Everything; returns when all nodes are Ready."""
        FORWARDING.write_text("1")
        make_cgroups(self.nodes)
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
        unmount_below(self.folder)
        remove_cgroups()
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
            answer = self._connection.getresponse()
            if answer.status != 200:  # it is only starting
                raise http.client.HTTPException(f"HTTP {answer.status}")
            for line in answer:
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


def _knows_unsafe_no_fsync() -> bool:
    return "unsafe-no-fsync" in run("/usr/bin/etcd", "--help").stderr
