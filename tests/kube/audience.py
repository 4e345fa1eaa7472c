"""Steady traffic to a Service, and what came of each request."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from tests.kube.cluster import Cluster
from tests.kube.images import ROOT
from tests.kube.programs import run, until

TRAFFIC = ROOT / "tests" / "kube" / "traffic.py"


@dataclass(frozen=True)
class Request:
    """One request of the client, and what came of it."""

    at: float
    took: float
    body: Mapping[str, str]
    trouble: str

    @property
    def mixed(self) -> bool:
        """Whether the answer was made of two releases."""
        return not self.trouble and self.body["left"] != self.body["right"]


@dataclass
class Audience:
    """A client's requests during a block."""

    requests: list[Request] = field(default_factory=list)

    @property
    def failed(self) -> list[Request]:
        return [request for request in self.requests if request.trouble]

    @property
    def mixed(self) -> list[Request]:
        return [request for request in self.requests if request.mixed]

    @property
    def seen(self) -> set[str]:
        """All versions that were answered with."""
        return {request.body["left"] for request in self.requests if not request.trouble}


@contextlib.contextmanager
def ask(cluster: Cluster, namespace: str, service: str, rate: float) -> Iterator[Audience]:
    """A client on node n1 that asks a Service's ClusterIP for the whole block, so often per second."""
    address = cluster.get("service", service, "-n", namespace)["spec"]["clusterIP"]
    node, log = cluster.nodes["n1"], cluster.folder / f"{namespace}.requests"
    # its kube-proxy learns of the pods later than the EndpointSlices, and refuses all requests until then
    probe = node.enter("curl", "-fsS", "--max-time", "2", f"http://{address}:80", mounts=False)
    until("the client's node leads to the Service", lambda: run(*probe, check=False).returncode == 0)
    own = (str(TRAFFIC), f"http://{address}:80", str(rate), str(log))
    client = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", *node.enter(sys.executable, "-I", *own, mounts=False)]
    )
    audience = Audience()
    try:
        yield audience
    finally:
        client.send_signal(signal.SIGTERM)
        client.wait(30)
    rows = map(json.loads, log.read_text().splitlines())
    audience.requests = [Request(**row) for row in rows]
