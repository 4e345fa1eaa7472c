"""Tokens for a local cluster: one per role and node, with the policies that `hydra acl show` prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from handlers.adapters.catalog import Catalog
from hydra_cli import acl

# Registers services with the agents, as a platform would; none of Hydra's roles may.
_SERVICES = """
service_prefix "" { policy = "write" }
node_prefix "" { policy = "read" }
"""
# For whoever opens the Consul UI at its top, which lists the folders of the whole KV.
_BROWSE = """
key_prefix "" { policy = "list" }
session_prefix "" { policy = "read" }
agent_prefix "" { policy = "read" }
"""
PLANNER_NODE = "server"  # the planner's sessions are the server's: it has no client agent of its own


@dataclass(frozen=True)
class Access:
    """Makes policies and tokens through `consul`, whose token may do everything."""

    consul: Catalog

    def roles(self) -> Mapping[str, str]:
        """A token for each role that is not tied to a node; `developer` is for the person in front of it."""
        rules = {
            "planner": acl.render("planner", node=PLANNER_NODE),
            "publisher": acl.render("publisher", channel=""),
            "operator": acl.render("operator"),
            "reader": acl.render("reader"),
            "services": _SERVICES,
            "browse": _BROWSE,
        }
        for role, text in rules.items():
            self._policy(role, text)
        tokens = {role: self._token(role) for role in rules if role != "browse"}
        return tokens | {"developer": self._token("operator", "publisher", "browse")}

    def node(self, name: str) -> tuple[str, str]:
        """The tokens of the node `name` and of its Consul agent."""
        self._policy(f"node-{name}", acl.render("node", node=name, services=("*",)))
        self._policy(f"agent-{name}", acl.render("agent", node=name))
        return self._token(f"node-{name}"), self._token(f"agent-{name}")

    def _policy(self, name: str, rules: str) -> None:
        self.consul.write_policy(f"hydra-{name}", rules)

    def _token(self, *policies: str) -> str:
        return self.consul.create_token(
            f"hydra dev: {', '.join(policies)}", [f"hydra-{name}" for name in policies]
        )
