"""Start real servers on loopback: Consul servers, Consul client agents, an S3 server (versitygw).

`hydra dev` and the tests stand on this. Configuration is built by pure functions; a started program is a
`Running`, which knows its address and ends by its own process id. Programs end with the thread that started
them (`setpriv --pdeathsig`), so start them from a thread that lives as long as they should.
"""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from handlers.adapters.consul_http import Address, Transport
from handlers.adapters.kv import ConsulKV
from handlers.core.errors import HydraError, Temporary
from hydra_cli.dev.ports import free_port

HOST = "127.0.0.1"
START_LIMIT_S = 60.0
POLL_S = 0.05
_PORT_TAKEN = ("address already in use", "bind: ")


@dataclass(frozen=True)
class ConsulAgent:
    """One Consul agent, server or client. Ports must be free; the same value starts it again after a stop.

    `token` is the initial management token of a server with ACLs, or the agent token of a client; without
    one there are no ACLs. `join` are serf addresses. `config_files` are read before what is built here.
    `key_list_policy`: with ACLs, a denied listing is refused instead of being cut short.
    `environ` is added to the environment of the program.
    """

    node: str
    folder: Path
    server: bool = True
    token: str = field(default="", repr=False)
    join: tuple[str, ...] = ()
    key_list_policy: bool = True
    session_ttl_min: str = "10s"
    config_files: tuple[Path, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict)
    http_port: int = field(default_factory=free_port)
    serf_port: int = field(default_factory=free_port)
    rpc_port: int = field(default_factory=free_port)
    https_port: int = -1

    @property
    def address(self) -> str:
        """For CONSUL_HTTP_ADDR."""
        return f"{HOST}:{self.http_port}"

    @property
    def serf_address(self) -> str:
        """What another agent joins."""
        return f"{HOST}:{self.serf_port}"

    def kv(self, token: str | None = None) -> ConsulKV:
        """A client with `token` (default: the agent's own)."""
        return ConsulKV(self.kv_address(token))

    def kv_address(self, token: str | None = None) -> Address:
        """How to reach it with `token` (default: the agent's own)."""
        return Address(host=self.address, token=self.token if token is None else token)

    def config(self) -> dict[str, Any]:
        """The agent's configuration as Consul reads it (JSON)."""
        config: dict[str, Any] = {
            "node_name": self.node,
            "data_dir": str(self.folder / "data"),
            "bind_addr": HOST,
            "client_addr": HOST,
            "server": self.server,
            "log_level": "info",
            "disable_update_check": True,
            "disable_remote_exec": True,
            "leave_on_terminate": False,  # a stopped agent would take its sessions, and so the slots, with it
            "skip_leave_on_interrupt": True,
            "ports": {
                "http": self.http_port,
                "https": self.https_port,
                "serf_lan": self.serf_port,
                "server": self.rpc_port,
                **dict.fromkeys(("dns", "grpc", "grpc_tls", "serf_wan"), -1),
            },
            # all watches, templates and handlers of a machine share one source address
            "limits": {"http_max_conns_per_client": 5000},
            "performance": {"raft_multiplier": 1},
            "session_ttl_min": self.session_ttl_min,
            **({"bootstrap_expect": 1, "ui_config": {"enabled": True}} if self.server else {}),
            **({"retry_join": list(self.join), "retry_interval": "1s"} if self.join else {}),
            **({"acl": self._acl()} if self.token else {}),
        }
        return config | dict(self.settings)

    def _acl(self) -> dict[str, Any]:
        tokens = {"agent": self.token} | ({"initial_management": self.token} if self.server else {})
        return {
            "enabled": True,
            "default_policy": "deny",
            "down_policy": "extend-cache",
            "enable_key_list_policy": self.key_list_policy,
            "tokens": tokens,
        }

    def command(self, consul: Path) -> list[str]:
        """Write the configuration and return the command line."""
        self.folder.mkdir(parents=True, exist_ok=True)
        own = self.folder / "agent.json"
        own.write_text(json.dumps(self.config(), indent=2))
        own.chmod(0o600)  # it holds the token
        files = [*self.config_files, own]
        return [str(consul), "agent", *(f"-config-file={file}" for file in files)]

    def start(self, consul: Path, limit_s: float = START_LIMIT_S) -> Running:
        """Start and wait until the agent is in the catalog and there is a leader; raises `Temporary`."""
        running = start(f"consul {self.node}", self.command(consul), self.folder / "consul.log", self.environ)
        await_ready(running, self.is_ready, limit_s)
        return running

    def is_ready(self) -> bool:
        """The cluster has a leader and knows this node, so that reads, writes and sessions work."""
        kv = self.kv()
        leader, _ = kv.get_json("status/leader")
        if not leader:
            return False
        known, _ = kv.get_json(f"catalog/node/{self.node}", {"consistent": ""})
        return bool(known)


@dataclass(frozen=True)
class S3Server:
    """versitygw on a folder: buckets are folders below `folder/data`.

    `versions`: buckets may keep the versions of their objects.
    """

    folder: Path
    access_key: str = "hydra"
    secret_key: str = field(default_factory=partial(secrets.token_hex, 16), repr=False)
    region: str = "us-east-1"
    environ: Mapping[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    versions: bool = False

    @property
    def endpoint(self) -> str:
        """For AWS_ENDPOINT_URL."""
        return f"http://{HOST}:{self.port}"

    def environment(self) -> dict[str, str]:
        """What a client of this server has to have in its environment."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
        }

    def start(self, versitygw: Path, limit_s: float = START_LIMIT_S) -> Running:
        """Start and wait until it answers; raises `Temporary`."""
        data, meta, versions = (self.folder.absolute() / name for name in ("data", "meta", "versions"))
        for folder in (data, meta, versions):
            folder.mkdir(parents=True, exist_ok=True)
        command = [
            str(versitygw),
            "--port",
            f"{HOST}:{self.port}",
            "--health",
            "/health",
            "--keep-alive",
            "--quiet",
        ]
        kept = ["--versioning-dir", str(versions)] if self.versions else []
        command += ["--region", self.region, "posix", "--sidecar", str(meta), *kept, str(data)]
        keys = {**self.environ, "ROOT_ACCESS_KEY": self.access_key, "ROOT_SECRET_KEY": self.secret_key}
        running = start("versitygw", command, self.folder / "versitygw.log", keys)
        await_ready(running, self.is_ready, limit_s)
        return running

    def is_ready(self) -> bool:
        """The server answers."""
        import http.client

        connection = http.client.HTTPConnection(HOST, self.port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError as e:
            raise Temporary(f"{self.endpoint}: {e}") from e
        finally:
            connection.close()


@dataclass
class Running:
    """A program that runs: ended only through its own process id."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def alive(self) -> bool:
        """The process has not ended."""
        return self.process.poll() is None

    def stop(self, limit_s: float = 15.0) -> None:
        """Ask to end (SIGTERM), end by force after `limit_s`; fine when it has ended already."""
        self.process.terminate()
        try:
            self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End by force, as a crash would."""
        self.process.kill()
        self.process.wait()

    def last_lines(self, count: int = 15) -> str:
        """The end of the log, for error texts."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])


def snapshot(agent: ConsulAgent) -> bytes:
    """All state of the cluster of `agent`, whose token may do everything."""
    return Transport(agent.kv_address()).request("GET", "snapshot", {}).body


def restore(agent: ConsulAgent, state: bytes) -> None:
    """Set the cluster of `agent` back to a snapshot."""
    Transport(agent.kv_address()).request("PUT", "snapshot", {}, state)


def start(name: str, command: Sequence[str], log: Path, extra: Mapping[str, str] | None = None) -> Running:
    """Start `command` with its output appended to `log`; it is killed when the calling thread ends."""
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("CONSUL_", "VGW_", "ROOT_"))}
    with log.open("ab") as output:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment | dict(extra or {}),
            start_new_session=True,  # Ctrl-C ends us first, in order
        )
    return Running(name, process, log)


def await_ready(running: Running, ready: Callable[[], bool], limit_s: float) -> None:
    """Wait until `ready` says so; a program that ends or is late is ended and raised as `Temporary`."""
    until = time.monotonic() + limit_s
    said = ""
    while time.monotonic() < until and running.alive:
        try:
            if ready():
                return
        except HydraError as e:
            said = str(e)
        time.sleep(POLL_S)
    ended = "ended" if not running.alive else f"was not ready after {limit_s:g} s ({said})"
    running.kill()
    raise Temporary(f"{running.name} {ended}; the end of {running.log}:\n{running.last_lines()}")


def start_consul(agent: ConsulAgent, consul: Path, tries: int = 5) -> tuple[ConsulAgent, Running]:
    """Start `agent`, with other ports where somebody was faster to take one; returns it as it runs."""
    for _ in range(tries - 1):
        try:
            return agent, agent.start(consul)
        except Temporary as e:
            if not any(word in str(e) for word in _PORT_TAKEN):
                raise
        agent = dataclasses.replace(agent, http_port=free_port(), serf_port=free_port(), rpc_port=free_port())
    return agent, agent.start(consul)


def start_s3(server: S3Server, versitygw: Path, tries: int = 5) -> tuple[S3Server, Running]:
    """Start `server`, with another port where somebody was faster to take it; returns it as it runs."""
    for _ in range(tries - 1):
        try:
            return server, server.start(versitygw)
        except Temporary as e:
            if not any(word in str(e) for word in _PORT_TAKEN):
                raise
        server = dataclasses.replace(server, port=free_port())
    return server, server.start(versitygw)
