"""Hydra with a Consul of one's own that denies whatever no token allows, as in production: `Guarded`."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

from handlers.adapters.catalog import Catalog
from handlers.adapters.consul_http import Address
from handlers.core.errors import HydraError
from hydra_cli import acl
from hydra_cli.programs import program
from tests.kube.images import ROOT
from tests.kube.installed import ENVIRONMENT, Installed
from tests.kube.node import HOST
from tests.kube.programs import run, until

ADDRESS = f"{HOST}:8500"  # of the only server, which runs on this machine, outside of Kubernetes
CLEAN = """
umount /var/lib/hydra/volumes/ram /var/lib/hydra-ram
find /var/lib/hydra /var/lib/hydra-ram /var/lib/hydra-consul -mindepth 1 -delete
"""  # as k8s/README.md says it, but that here these folders are mounts themselves


class Guarded(Installed):
    """In the place of an installation that was taken away: of its nodes' data too."""

    def __init__(self, before: Installed) -> None:
        super().__init__(before.cluster)
        self.key, self.secret, self.image = before.key, before.secret, before.image
        self._token = secrets.token_hex(16)

    def values(self) -> dict[str, Any]:
        return {
            **super().values(),
            "consul": {"address": f"http://{ADDRESS}", "join": [HOST], "configSecret": "hydra-agent"},
            "secrets": {"node": "hydra-node", "planner": "hydra-planner"},
        }

    def consul(self) -> dict[str, str]:
        return {"CONSUL_HTTP_ADDR": f"http://{ADDRESS}", "CONSUL_HTTP_TOKEN": self._token}

    def install(self) -> None:
        """The server, its tokens in Secrets, the chart."""
        until("none of Hydra's pods is left", lambda: not self.cluster.items("pods", self.namespace))
        for node in self.cluster.nodes.values():
            run(*node.enter("sh", "-euc", CLEAN))
        tokens = self._tokens()
        self._token = tokens.pop("person")
        self.hydra("init", "--env", ENVIRONMENT)
        agent = f'acl {{ tokens {{ agent = "{tokens.pop("agent")}" }} }}'
        given = {name: {"CONSUL_HTTP_TOKEN": token, **self.keys_of_s3} for name, token in tokens.items()}
        made = {f"hydra-{name}": content for name, content in given.items()}
        made["hydra-agent"] = {"token.hcl": agent}
        self.cluster.apply(*(self.sealed(name, content) for name, content in made.items()))
        self.upgrade()
        self.await_rollout()

    def _tokens(self) -> dict[str, str]:
        """Start the server; a token for each role: all pods of a DaemonSet have the same Secret."""
        self._start_consul()
        nodes = tuple(self.cluster.nodes)
        rules = {
            "planner": {"planner": acl.render("planner")},
            "node": {f"node-{node}": acl.render("node", node=node) for node in nodes},
            "agent": {f"agent-{node}": acl.render("agent", node=node) for node in nodes},
            "person": {"operator": acl.render("operator"), "publisher": acl.render("publisher", channel="")},
        }
        consul = Catalog(Address.from_env(self.consul()))
        for policies in rules.values():
            for name, text in policies.items():
                consul.write_policy(name, text)
        return {role: consul.create_token(role, list(policies)) for role, policies in rules.items()}

    def _start_consul(self) -> None:
        folder: Path = self.cluster.folder / "consul"
        folder.mkdir()
        own = folder / "token.hcl"
        own.write_text(
            f'acl {{ tokens {{ initial_management = "{self._token}", agent = "{self._token}" }} }}'
        )
        files = (f"-config-file={ROOT}/consul/server.hcl", f"-config-file={own}")
        where = ("-node=server", f"-bind={HOST}", f"-client={HOST}", f"-data-dir={folder}/data")
        self.cluster.programs.start(
            "consul", program("consul"), "agent", *files, *where, "-bootstrap-expect=1"
        )
        until("Consul has a leader and its first token", self._may_do_everything)

    def _may_do_everything(self) -> bool:
        try:
            return bool(self.kv().get_json("acl/token/self")[0])
        except HydraError:
            return False
