"""What the commands ask of Consul beside its KV: the agent, healthy services, ACL policies and tokens.

The only importer of the Consul client (`consul`, py-consul). Its requests travel over our own transport: the
client's own one knows half of the environment of the Go command line, prefers CONSUL_HTTP_TOKEN to the token
that it was given, leaves the token out of some calls, and raises the errors of `requests`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct, field

from handlers.adapters.consul_http import Address, Transport
from handlers.core.errors import HydraError


class AgentInfo(Struct, frozen=True, kw_only=True):
    """The agent that we talk to; `settings` is the rest of what it says about its configuration."""

    node: str
    version: str
    server: bool
    settings: Mapping[str, Any] = field(default_factory=dict)


class Catalog:
    """Consul's agent, health and ACL API. Raises `Temporary`, `Denied` and the other errors of `core`."""

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
            server=config["Server"],
            settings=said.get("DebugConfig") or {},
        )

    def healthy(self, name: str) -> tuple[str, ...]:
        """The ids of a Consul service's instances to which Consul would send requests."""
        _, rows = self._client.health.service(name, passing=True)
        return tuple(sorted(row["Service"]["ID"] for row in rows))

    def write_policy(self, name: str, rules: str) -> str:
        """Create the ACL policy, or give the one of this name these rules (HCL); its id."""
        body = {"Name": name, "Rules": rules}
        known = self._client.http.answer("GET", f"acl/policy/name/{name}")
        path = f"acl/policy/{known['ID']}" if known else "acl/policy"
        # the client's own call would encode HCL as a JSON text, which no agent understands
        return str(self._client.http.answer("PUT", path, body)["ID"])

    def create_token(self, description: str, policies: Sequence[str]) -> str:
        """A new ACL token with these policies; its secret."""
        token = self._client.acl.token.create(description=description, policies_name=list(policies))
        return str(token["SecretID"])


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
