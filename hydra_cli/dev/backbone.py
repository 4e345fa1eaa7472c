"""What a local cluster has once: the Consul server with its tokens, the planner, the S3 server."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from handlers import resources
from handlers.adapters.catalog import Catalog
from handlers.adapters.kv import ConsulKV
from handlers.adapters.ports import Cas
from handlers.core import codec, keys
from handlers.core.model import Meta
from hydra_cli.dev import servers
from hydra_cli.dev.access import PLANNER_NODE, Access
from hydra_cli.dev.folder import as_toml
from hydra_cli.dev.node import END_S, MARK, path_of_programs, supervised
from hydra_cli.programs import program

SESSION_TTL_MIN = "1s"  # Consul's own least is 10 s; tests may ask for less


class Backbone:
    """Starts in this order: S3, Consul, planner. All its processes carry `marks` in their environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = uuid.uuid4().hex
        self.marks = {MARK: self.mark}
        self.tokens = {"management": str(uuid.uuid4())}
        self.s3: Mapping[str, str] = {}
        self._server: servers.ConsulAgent | None = None
        self._server_runs: servers.Running | None = None
        self._planner_runs: servers.Running | None = None
        self._s3_runs: servers.Running | None = None

    @property
    def planner(self) -> list[servers.Running]:
        """The planner, once it was started."""
        return [self._planner_runs] if self._planner_runs else []

    @property
    def running(self) -> list[servers.Running]:
        """The servers that were started."""
        return [running for running in (self._server_runs, self._s3_runs) if running]

    @property
    def planner_root(self) -> Path:
        """The planner's HYDRA_ROOT."""
        return self.folder / "planner" / "root"

    @property
    def planner_config(self) -> Path:
        """The planner's HYDRA_CONFIG."""
        return self.folder / "planner" / "node.toml"

    @property
    def server(self) -> servers.ConsulAgent:
        """The Consul server."""
        assert self._server, "Consul is started first"
        return self._server

    def env(self, role: str, agent: servers.ConsulAgent | None = None) -> dict[str, str]:
        """What someone with `role` needs in the environment, at `agent` or at the server."""
        address = (agent or self.server).address
        return {**self.s3, "CONSUL_HTTP_ADDR": address, "CONSUL_HTTP_TOKEN": self.tokens[role]}

    def kv(self, role: str) -> ConsulKV:
        """A client of the server with a role's token."""
        return ConsulKV.from_env(self.env(role))

    def catalog(self, role: str) -> Catalog:
        """The rest of the server's API with a role's token."""
        return Catalog.from_env(self.env(role))

    def start_s3(self, say: Callable[[str], None]) -> None:
        """Start an S3 server, or take the one that AWS_ENDPOINT_URL names."""
        if os.environ.get("AWS_ENDPOINT_URL"):
            self.s3 = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
            say(f"S3: using {self.s3['AWS_ENDPOINT_URL']}")
            return
        wanted = servers.S3Server(self.folder / "s3", environ=self.marks)
        server, self._s3_runs = servers.start_s3(wanted, program("versitygw"))
        self.s3 = server.environment()
        say(f"S3: {server.endpoint}")

    def start_consul(self, environments: Sequence[str], say: Callable[[str], None]) -> None:
        """Start the Consul server, make tokens for all roles, and initialise the KV as `hydra init` does."""
        wanted = servers.ConsulAgent(
            PLANNER_NODE,
            self.folder / "consul",
            token=self.tokens["management"],
            session_ttl_min=SESSION_TTL_MIN,
            config_files=(resources.path("consul", "server.hcl"),),
            environ=self.marks,
        )
        self._server, self._server_runs = servers.start_consul(wanted, program("consul"))
        self.tokens |= Access(self.catalog("management")).roles()
        meta = codec.encode(Meta(environments=tuple(sorted(environments))))
        self.kv("operator").txn([Cas(keys.META, meta, 0)])
        say(f"Consul: http://{self._server.address}")

    def stop_consul(self, *, kill: bool) -> None:
        """Let Consul be away."""
        assert self._server_runs, "Consul is started first"
        if kill:
            self._server_runs.kill()
        else:
            self._server_runs.stop()

    def restart_consul(self) -> None:
        """Let Consul come back with its data."""
        self._server_runs = self.server.start(program("consul"))

    def start_planner(self, limits: Mapping[str, float]) -> None:
        """Start `hydra node run --planner`, with a root of its own and sessions on the server's node."""
        self.planner_root.mkdir(parents=True)
        self.planner_config.write_text(as_toml(limits))
        self.restart_planner()

    def stop_planner(self) -> None:
        """Let there be no planner."""
        assert self._planner_runs, "the planner was started"
        self._planner_runs.stop(END_S)

    def restart_planner(self) -> None:
        """Start the planner, with what it left on its disk."""
        own = {
            "PATH": path_of_programs(),
            "HYDRA_ROOT": str(self.planner_root),
            "HYDRA_NODE": PLANNER_NODE,
            "HYDRA_CONFIG": str(self.planner_config),
        }
        environ = {**self.env("planner"), **self.marks, **own}
        self._planner_runs = supervised("planner", self.planner_root.parent, environ, "--planner")
