"""What the commands ask of Consul beside its KV: agent, members, services and their checks, ACLs.

The only importer of the Consul client (`consul`, py-consul). Its requests travel over our own transport: the
client's own one knows half of the environment of the Go command line, prefers CONSUL_HTTP_TOKEN to the token
that it was given, leaves the token out of some calls, and raises the errors of `requests`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from handlers.adapters.consul_http import Address, Transport
from handlers.core.errors import HydraError, Temporary

PASSING = "passing"
_SERF_HEALTH = "serfHealth"


@dataclass(frozen=True, kw_only=True)
class AgentInfo:
    """The agent that we talk to; `settings` is the rest of what it says about its configuration."""

    node: str
    version: str
    datacenter: str
    server: bool
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Member:
    """A machine in the gossip pool; `status` is `alive`, `left`, `failed` or another word of serf."""

    node: str
    address: str
    status: str
    server: bool


@dataclass(frozen=True, kw_only=True)
class Check:
    """One health check; `service_id` is empty for a check of the node."""

    id: str
    name: str
    status: str
    output: str = ""
    notes: str = ""
    service_id: str = ""


@dataclass(frozen=True, kw_only=True)
class CatalogService:
    """One instance of a Consul service; `incarnation` is its CreateIndex, new when it registers anew."""

    node: str
    name: str
    id: str
    address: str
    port: int
    incarnation: str
    meta: Mapping[str, str] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()

    @property
    def passing(self) -> bool:
        """Whether Consul would send requests to it."""
        return all(check.status == PASSING for check in self.checks)


class Catalog:
    """Consul's catalog, agent and ACL API. Raises `Temporary`, `Denied` and the other errors of `core`."""

    def __init__(self, address: Address) -> None:
        from consul.std import Consul

        # host and port are given so that the client does not look for them in the environment
        self._client: Any = Consul(host="127.0.0.1", port=8500, verify=True)
        self._client.token = None
        self._client.http = _Bridge(Transport(address))

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Catalog:
        """The agent that the CONSUL_ variables name; raises `Usage` on values that make no sense."""
        return cls(Address.from_env(environ))

    def agent(self) -> AgentInfo:
        """Who the agent is; needs `agent:read` where there are ACLs."""
        said = self._client.agent.self()
        config = said["Config"]
        return AgentInfo(
            node=config["NodeName"],
            version=config["Version"],
            datacenter=config["Datacenter"],
            server=config["Server"],
            settings=said.get("DebugConfig") or {},
        )

    def leader(self) -> str:
        """The address of the cluster's leader; raises `Temporary` while there is none."""
        found = str(self._client.status.leader() or "")
        if not found:
            raise Temporary("Consul has no leader")
        return found

    def members(self) -> tuple[Member, ...]:
        """All machines that the agent sees, by name."""
        words = {0: "none", 1: "alive", 2: "leaving", 3: "left", 4: "failed"}
        found = (
            Member(
                node=row["Name"],
                address=row["Addr"],
                status=words.get(row["Status"], str(row["Status"])),
                server=row["Tags"].get("role") == "consul",
            )
            for row in self._client.agent.members()
        )
        return tuple(sorted(found, key=lambda member: member.node))

    def nodes(self) -> tuple[str, ...]:
        """The names of all nodes in the catalog."""
        _, rows = self._client.catalog.nodes(consistency="consistent")
        return tuple(sorted(row["Node"] for row in rows))

    def serf_passing(self, node: str) -> bool:
        """Whether the gossip pool sees the node; False for a node that the catalog does not know."""
        return any(c.id == _SERF_HEALTH and c.status == PASSING for c in self.node_checks(node))

    def node_checks(self, node: str) -> tuple[Check, ...]:
        """All checks of a node, those of its services included."""
        _, rows = self._client.health.node(node)
        return tuple(_check(row) for row in rows)

    def service(self, name: str) -> tuple[CatalogService, ...]:
        """All instances of a Consul service with their checks, those of their nodes included."""
        _, rows = self._client.health.service(name)
        found = (_service(row["Node"], row["Service"], row["Checks"]) for row in rows)
        return tuple(sorted(found, key=lambda s: (s.node, s.id)))

    def services_of(self, node: str) -> tuple[CatalogService, ...]:
        """All service instances of a node with their own checks; empty for an unknown node."""
        _, known = self._client.catalog.node(node, consistency="consistent")
        if not known:
            return ()
        _, checks = self._client.health.node(node)
        return tuple(
            _service(known["Node"], row, [c for c in checks if c["ServiceID"] == service_id])
            for service_id, row in sorted(known["Services"].items())
        )

    def set_maintenance(self, service_id: str, on: bool, reason: str = "") -> None:
        """Switch Consul's maintenance mode of a service instance of this agent."""
        word = "true" if on else "false"
        if not self._client.agent.service.maintenance(service_id, word, reason or None):
            raise HydraError(f"this Consul agent has no service with the id {service_id}")

    def write_policy(self, name: str, rules: str) -> str:
        """Create the ACL policy, or give the one of this name these rules (HCL); its id."""
        body = {"Name": name, "Rules": rules}
        known = self._client.http.answer("GET", f"acl/policy/name/{name}")
        path = f"acl/policy/{known['ID']}" if known else "acl/policy"
        # the client's own call would encode HCL as a JSON text, which no agent understands
        return str(self._client.http.answer("PUT", path, body)["ID"])

    def create_token(
        self, description: str, policies: Sequence[str], *, agent_of: str = "", secret: str = ""
    ) -> str:
        """A new ACL token with these policies; its secret (a new one, or the given UUID).

        `agent_of` names the node whose agent shall use it (a node identity in our datacenter).
        """
        identities = [f"{agent_of}:{self.agent().datacenter}"] if agent_of else None
        token = self._client.acl.token.create(
            description=description,
            policies_name=list(policies),
            node_identities=identities,
            secret_id=secret or None,
        )
        return str(token["SecretID"])

    def who_am_i(self) -> Mapping[str, Any]:
        """What Consul knows of our own token; raises `Denied` when it does not know it."""
        return dict(self._client.acl.token.read_self())


class _Bridge:
    """The HTTP half of the Consul client, over our transport."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def get(self, callback: Any, path: str, params: Any = None, **_: Any) -> Any:
        return self._send(callback, "GET", path, params, None)

    def put(self, callback: Any, path: str, params: Any = None, data: Any = "", **_: Any) -> Any:
        return self._send(callback, "PUT", path, params, data)

    def answer(self, method: str, path: str, body: object = None) -> Any:
        """One request with JSON in and out, for what the client gets wrong; None for 404."""
        import json

        raw = None if body is None else json.dumps(body).encode()
        answer = self._transport.request(method, path, {}, raw)
        return json.loads(answer.body) if answer.status == 200 and answer.body.strip() else None

    def _send(self, callback: Any, method: str, path: str, params: Any, data: Any) -> Any:
        from consul.base import Response
        from consul.exceptions import ConsulException

        body = data.encode() if isinstance(data, str) else data
        wanted = {str(k): str(v) for k, v in params or ()}
        answer = self._transport.request(method, path.removeprefix("/v1/"), wanted, body or None)
        headers = {"X-Consul-Index": str(answer.index)}
        try:
            return callback(Response(answer.status, headers, answer.body.decode()))
        except ConsulException as e:
            raise HydraError(f"{method} {path}: {e}") from e


def _check(row: Mapping[str, Any]) -> Check:
    return Check(
        id=row["CheckID"],
        name=row["Name"],
        status=row["Status"],
        output=row.get("Output", ""),
        notes=row.get("Notes", ""),
        service_id=row.get("ServiceID", ""),
    )


def _service(node: Mapping[str, Any], row: Mapping[str, Any], checks: Sequence[Any]) -> CatalogService:
    return CatalogService(
        node=node["Node"],
        name=row["Service"],
        id=row["ID"],
        address=row["Address"] or node["Address"],
        port=row["Port"],
        incarnation=str(row["CreateIndex"]),
        meta=row["Meta"] or {},
        checks=tuple(_check(check) for check in checks),
    )
