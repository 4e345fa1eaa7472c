"""Real servers for tests: Consul with or without ACLs, an S3 server; all on free ports of 127.0.0.1."""

from __future__ import annotations

import contextlib
import itertools
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from handlers.adapters.consul_http import Address
from handlers.adapters.kv import ConsulKV
from handlers.adapters.ports import Delete
from handlers.adapters.txn import split
from handlers.core.errors import HydraError, Temporary
from hydra_cli.dev import servers
from hydra_cli.programs import program

LIMIT_S = 60.0


def wait_until(true: Callable[[], object], limit_s: float = LIMIT_S, what: str = "") -> Any:
    """Ask again and again until the answer is true, and return it; fails after `limit_s`."""
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        if answer := true():
            return answer
        time.sleep(0.02)
    raise AssertionError(f"after {limit_s:g} s still not true: {what or true}")


@dataclass
class Consul:
    """A Consul agent of a test. After `stop` or `kill`, `start` goes on with the same data and ports."""

    agent: servers.ConsulAgent
    running: servers.Running

    @property
    def address(self) -> str:
        return self.agent.address

    @property
    def token(self) -> str:
        return self.agent.token

    def kv(self, token: str | None = None) -> ConsulKV:
        return self.agent.kv(token)

    def environment(self, token: str | None = None) -> dict[str, str]:
        """What a client of this agent has to have in its environment."""
        chosen = self.token if token is None else token
        return {"CONSUL_HTTP_ADDR": self.address} | ({"CONSUL_HTTP_TOKEN": chosen} if chosen else {})

    def start(self) -> None:
        self.running = self.agent.start(program("consul"))

    def stop(self) -> None:
        self.running.stop()

    def kill(self) -> None:
        self.running.kill()

    def join(
        self, node: str, folder: Path, *, token: str = "", **more: Any
    ) -> AbstractContextManager[Consul]:
        """A client agent of this server under the name `node`."""
        return consul_agent(
            servers.ConsulAgent(
                node,
                folder,
                server=False,
                token=token or self.token,
                join=(self.agent.serf_address,),
                session_ttl_min=self.agent.session_ttl_min,
                **more,
            )
        )

    def wipe(self) -> None:
        """Make the KV empty, end all sessions, deregister this agent's services; tokens stay."""
        kv = self.kv()
        for service_id, row in kv.get_json("agent/services")[0].items():
            if not row.get("Kind"):  # a sidecar goes with its service
                kv.put_json(f"agent/service/deregister/{service_id}")
        for row in kv.get_json("session/list")[0] or []:
            kv.destroy_session(row["ID"])
        for batch in split([Delete(key) for key in kv.list("").entries]):
            kv.txn(batch)
        catalog = f"catalog/node-services/{self.agent.node}"
        wait_until(lambda: {row["ID"] for row in kv.get_json(catalog)[0]["Services"]} <= {"consul"})

    def token_for(self, rules: str) -> str:
        """A token with a policy of its own, which has `rules` (HCL)."""
        kv, name = self.kv(), f"test-{uuid.uuid4().hex[:8]}"
        kv.put_json("acl/policy", {"Name": name, "Rules": rules})
        secret = str(kv.put_json("acl/token", {"Policies": [{"Name": name}]})["SecretID"])
        seen = ConsulKV(Address(host=self.address, token=secret))
        wait_until(lambda: seen.get_json("acl/token/self")[0], what="the token is known")
        return secret


@contextlib.contextmanager
def consul_agent(agent: servers.ConsulAgent) -> Iterator[Consul]:
    """Start the agent, end it with the block."""
    consul = Consul(*servers.start_consul(agent, program("consul")))
    try:
        yield consul
    finally:
        consul.stop()


def consul_server(
    folder: Path, *, acl: bool = False, session_ttl_min: str = "1s", **more: Any
) -> AbstractContextManager[Consul]:
    """One server, a cluster of its own; with `acl`: default deny and a token that may do everything."""
    token = str(uuid.uuid4()) if acl else ""
    agent = servers.ConsulAgent("server", folder, token=token, session_ttl_min=session_ttl_min, **more)
    return consul_agent(agent)


@contextlib.contextmanager
def three_servers(folder: Path, *, session_ttl_min: str = "1s") -> Iterator[list[Consul]]:
    """Three Consul servers that elect a leader; each may be killed and started again."""
    first = servers.ConsulAgent("server-1", folder / "1")
    agents = [first, *(servers.ConsulAgent(f"server-{n}", folder / str(n)) for n in (2, 3))]
    with contextlib.ExitStack() as stack:
        made = []
        for agent in agents:
            agent = replace(  # noqa: PLW2901 - the same server, with what all have in common
                agent,
                session_ttl_min=session_ttl_min,
                settings={"bootstrap_expect": 3},
                join=() if agent.node == first.node else (first.serf_address,),
            )
            consul = Consul(
                agent, servers.start("consul", agent.command(program("consul")), agent.folder / "log")
            )
            stack.callback(consul.stop)
            made.append(consul)
        wait_until(lambda: all(leader_of(consul) for consul in made), what="there is a leader")
        yield made


def leader_of(consul: Consul) -> str:
    """The RPC address of the leader as this server knows it; empty while there is none."""
    try:
        return str(consul.kv().get_json("status/leader")[0] or "")
    except HydraError:
        return ""


@dataclass
class S3:
    """An S3 server of a test."""

    server: servers.S3Server
    running: servers.Running
    _numbers: Iterator[int]

    @property
    def endpoint(self) -> str:
        return self.server.endpoint

    def environment(self) -> dict[str, str]:
        return self.server.environment()

    def client(self) -> Any:
        """A boto3 client."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.server.access_key,
            aws_secret_access_key=self.server.secret_key,
            region_name=self.server.region,
        )

    def bucket(self) -> str:
        """A new, empty bucket; its name."""
        name = f"bucket-{next(self._numbers)}-{uuid.uuid4().hex[:6]}"
        self.client().create_bucket(Bucket=name)
        return name

    def versioned_bucket(self) -> str:
        """A new bucket that keeps the versions of its objects, on a server that can."""
        name = self.bucket()
        self.client().put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
        return name

    def put(self, bucket: str, objects: dict[str, bytes]) -> None:
        """Write small objects by key."""
        client = self.client()
        for key, body in objects.items():
            client.put_object(Bucket=bucket, Key=key, Body=body)

    def start(self) -> None:
        self.running = self.server.start(program("versitygw"))

    def stop(self) -> None:
        self.running.stop()


@contextlib.contextmanager
def s3_server(folder: Path, **more: Any) -> Iterator[S3]:
    """An S3 server with no bucket yet; `more`, as `versions=True`: see `servers.S3Server`."""
    server, running = servers.start_s3(servers.S3Server(folder, **more), program("versitygw"))
    s3 = S3(server, running, itertools.count(1))
    try:
        yield s3
    finally:
        s3.stop()


def answers(kv: ConsulKV) -> bool:
    """Whether Consul answers reads (again)."""
    try:
        kv.get("hydra/v1/meta")
    except Temporary:
        return False
    return True
