"""The API server alone, real, without any node: for what only asks it, ready in seconds and without root."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from hydra_cli.dev.ports import free_port
from hydra_cli.programs import program
from tests.kube import documents
from tests.kube.cluster import SERVICES, TOKEN, Cluster
from tests.kube.programs import Failed, until

HERE, PODS = "127.0.0.1", "10.78.0.0/16"
_AUDITED = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata", "userGroups": ["measured"]}, {"level": "None"}],
}


class ControlPlane(Cluster):
    """etcd and kube-apiserver on free ports; with `crowd` also what makes many pods and places them.

    The requests of `users` are counted; each has a kubeconfig and may do everything.
    """

    def __init__(self, folder: Path, *, crowd: bool = False, users: Sequence[str] = ()) -> None:
        super().__init__(folder, images=(), nodes=())
        self._crowd, self._users = crowd, users
        self._audit = folder / "audit.log"

    def start(self) -> None:
        """All of it; returns when the API server is ready."""
        self._port, pki = free_port(), self.folder / "pki"
        documents.certificates(pki, HERE)
        self.kubeconfig.write_text(documents.kubeconfig(f"https://{HERE}:{self._port}", pki, TOKEN))
        etcd = self._start_etcd_here()
        words = documents.api_server(pki, HERE, SERVICES, etcd, TOKEN)
        with (pki / "tokens.csv").open("a") as tokens:
            tokens.writelines(f'{user},{user},{user},"system:masters,measured"\n' for user in self._users)
        (self.folder / "audit.json").write_text(json.dumps(_AUDITED))
        more = (
            f"--secure-port={self._port}",
            "--endpoint-reconciler-type=none",  # no Service leads to an address that only this machine knows
            f"--audit-policy-file={self.folder}/audit.json",
            f"--audit-log-path={self._audit}",
        )
        self.programs.start("kube-apiserver", program("kube-apiserver"), *words, *more)
        until("the API server is ready", self._is_ready)
        if self._crowd:
            # the defaults are 20 and 50 requests per second, and 12 s of silence of a node; kwok may be slow
            fast = ("--kube-api-qps=500", "--kube-api-burst=1000", "--secure-port=0")
            for name, flags in documents.controllers(self.kubeconfig, pki, PODS).items():
                slow = ("--node-monitor-grace-period=600s",) if name == "kube-controller-manager" else ()
                self.programs.start(name, program(name), *flags, *fast, *slow)

    def kubeconfig_of(self, user: str) -> Path:
        """For one of the users whose requests are counted."""
        file = self.folder / f"{user}.kubeconfig"
        file.write_text(documents.kubeconfig(f"https://{HERE}:{self._port}", self.folder / "pki", user))
        return file

    def requests_of(self, user: str) -> Counter[str]:
        """How often a user asked for what so far, by `list pods`; a watch is one request, however long."""
        seen: dict[str, str] = {}
        for line in self._audit.read_text().splitlines():
            event = json.loads(line)
            if event["user"]["username"] == user:
                what = event.get("objectRef", {})
                parts = [what.get("resource", "?"), what.get("subresource", "")]
                seen[event["auditID"]] = f"{event['verb']} {'/'.join(filter(None, parts))}"
        return Counter(seen.values())

    def stop(self) -> None:
        """Take it away again."""
        self.programs.stop_all()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start_etcd_here(self) -> str:
        clients, peers = (f"http://{HERE}:{free_port()}" for _ in range(2))
        self.programs.start(
            "etcd",
            "/usr/bin/etcd",
            f"--data-dir={self.folder}/etcd",
            f"--listen-client-urls={clients}",
            f"--advertise-client-urls={clients}",
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=default={peers}",
        )
        return clients

    def _is_ready(self) -> bool:
        if dead := [name for name, one in self.programs.running.items() if one.poll() is not None]:
            raise Failed(f"{', '.join(dead)} ended:\n{self.last_words()}")
        return self.kubectl("get", "--raw", "/readyz", check=False) == "ok"
