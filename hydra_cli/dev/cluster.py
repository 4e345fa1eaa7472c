"""A real Hydra cluster on one machine, behind `hydra dev`, the demo and the end-to-end tests.

One Consul server with ACLs (default deny), a planner, an S3 server, and per node a Consul client agent and a
supervisord that `hydra node run` became: the same programs, policies and settings as on real machines.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from handlers import resources
from handlers.adapters.kv import ConsulKV
from handlers.core import keys
from handlers.core.errors import Temporary, Usage
from hydra_cli.dev import processes, servers
from hydra_cli.dev.access import Access
from hydra_cli.dev.backbone import SESSION_TTL_MIN, Backbone
from hydra_cli.dev.folder import Folder, as_toml
from hydra_cli.dev.node import END_S, MARK, NODE_MARK, Node, Supervisor
from hydra_cli.dev.ram import Memory

ENVIRONMENTS = ("demo", "dev", "prod")
READY_S = 90.0
# What takes minutes on real machines takes seconds here, by the same mechanisms. Sessions still need up to
# twice their TTL to end.
LIMITS: Mapping[str, float] = {
    "resync_s": 10,
    "drop_after_s": 5,
    "alive_ttl_s": 10,
    "slot_ttl_s": 10,
    "plan_ttl_s": 10,
    "dead_after_s": 5,
    "unused_grace_s": 10,
    "idle_grace_s": 60,
    "retry_s": 5,
}


ZONES = "abc"  # of the nodes, one after the other


class Cluster:
    """`with Cluster(folder) as cluster:` or `up()` and `down()`; start it from the main thread.

    The processes die with the thread that started them, however it ends. `limits` override `LIMITS`. An S3
    server is started unless AWS_ENDPOINT_URL names one already.
    """

    def __init__(
        self,
        folder: Path,
        *,
        nodes: int = 3,
        environments: Sequence[str] = ENVIRONMENTS,
        limits: Mapping[str, float] | None = None,
    ) -> None:
        self.folder = folder.absolute()
        self._wanted = nodes
        self._environments = tuple(environments)
        self._limits = {**LIMITS, **(limits or {})}
        self._say: Callable[[str], None] = lambda _: None
        self._files = Folder(self.folder)
        self._memory = Memory()
        self._backbone = Backbone(self.folder)
        self._nodes: dict[str, Node] = {}

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    # --- life

    def up(self, say: Callable[[str], None] | None = None) -> None:
        """Start everything and wait until each node is alive in the KV; `say` gets progress as sentences.

        What an earlier cluster left in the folder is removed first. Raises `Conflict` when one runs there,
        `Temporary` when something does not start; nothing is left running then.
        """
        self._say = say or self._say
        self._files.claim()
        try:
            self._record()
            self._backbone.start_s3(self._say)
            self._backbone.start_consul(self._environments, self._say)
            self._record()
            self._backbone.start_planner(self._limits)
            for number in range(1, self._wanted + 1):
                self._add(f"n{number}")
            self._await_nodes(*self.nodes)
            self._files.write_env({**self.env("developer"), "HYDRA_DEV_NODES": " ".join(self.nodes)})
        except BaseException:
            self.down()
            raise
        self._say(f"ready: {len(self.nodes)} nodes; Consul UI at {self.ui}")

    def down(self) -> None:
        """End everything, in order; fine when nothing runs. Logs and data stay in the folder."""
        hydras = [*self._backbone.planner, *(r for n in self._nodes.values() for r in n.running[:1])]
        agents = [running for node in self._nodes.values() for running in node.running[1:]]
        for group in (hydras, agents, self._backbone.running):
            for running in group:
                running.process.terminate()
            for running in group:
                running.stop(END_S)
        processes.kill_marked(MARK, self._backbone.mark)
        self._memory.remove()
        self._files.release()

    def ended(self) -> list[servers.Running]:
        """What was started and does not run any more, without being asked to."""
        return [running for running in self._running() if not running.alive]

    # --- what it is

    @property
    def nodes(self) -> tuple[str, ...]:
        """The names of all nodes, lost ones included."""
        return tuple(self._nodes)

    def node(self, name: str) -> Node:
        """One node; raises `Usage` when there is none of this name."""
        if name not in self._nodes:
            raise Usage(f"no node {name!r}; there are {', '.join(self._nodes)}")
        return self._nodes[name]

    def root(self, name: str) -> Path:
        """A node's HYDRA_ROOT."""
        return self.node(name).root

    @property
    def planner_root(self) -> Path:
        """The planner's HYDRA_ROOT."""
        return self._backbone.planner_root

    @property
    def planner_config(self) -> Path:
        """The planner's HYDRA_CONFIG."""
        return self._backbone.planner_config

    @property
    def server(self) -> servers.ConsulAgent:
        """The Consul server."""
        return self._backbone.server

    @property
    def ui(self) -> str:
        """Hydra's part of the KV in the Consul UI."""
        return f"http://{self.server.address}/ui/dc1/kv/{keys.ROOT}"

    def env(self, role: str, node: str = "") -> dict[str, str]:
        """The environment for a person or program with `role`, at the server or at the agent of `node`.

        Roles: operator, publisher (of all channels), reader, planner; `developer` is operator and publisher;
        `services` may register services; `management` may do everything; `node` is the Hydra of `node`.
        """
        if role == "node":
            return self.node(node).environ()
        if role not in self._backbone.tokens:
            raise Usage(f"no role {role!r}; there are node, {', '.join(sorted(self._backbone.tokens))}")
        return self._backbone.env(role, self.node(node).agent if node else None)

    def kv(self, role: str = "management", node: str = "") -> ConsulKV:
        """A Consul client with a role's token."""
        return ConsulKV.from_env(self.env(role, node))

    # --- nodes

    def add_node(self, name: str = "") -> Node:
        """Let a new machine join, by default `n<next number>`; returns when it is alive in the KV."""
        node = self._add(name or f"n{len(self._nodes) + 1}")
        self._await_nodes(node.name)
        return node

    def kill_node(self, name: str) -> None:
        """Lose a machine: everything on it dies at once, services and memory included."""
        self.node(name).kill()

    def start_node(self, name: str) -> None:
        """Let a lost machine come back with its disk."""
        self.node(name).start()
        self._record()
        self._await_nodes(name)

    def supervisor(self, name: str) -> Supervisor:
        """The XML-RPC interface `supervisor` of a node; raises `Temporary` when that is not there."""
        return self.node(name).supervisor

    def add_service(self, node: str, name: str, command: Sequence[str], environ: Mapping[str, str]) -> None:
        """Run `command` as the program `name` under a node's supervisord: a service, not a part of Hydra."""
        self.node(node).add_service(name, command, environ)

    def register(self, node: str, service: Mapping[str, Any]) -> None:
        """Register a service with a node's agent, as `PUT /v1/agent/service/register` takes it."""
        self.kv("services", node).put_json("agent/service/register", dict(service))

    def deregister(self, node: str, service_id: str) -> None:
        """Take a service away from a node's agent."""
        self.kv("services", node).put_json(f"agent/service/deregister/{service_id}")

    # --- Consul

    def stop_server(self, *, kill: bool = False) -> None:
        """Let Consul be away."""
        self._backbone.stop_consul(kill=kill)

    def start_server(self) -> None:
        """Let Consul come back with its data."""
        self._backbone.restart_consul()
        self._record()

    def stop_planner(self) -> None:
        """Let there be no planner."""
        self._backbone.stop_planner()

    def start_planner(self) -> None:
        """Let the planner come back with what is on its disk."""
        self._backbone.restart_planner()
        self._record()

    def snapshot(self) -> bytes:
        """All of Consul's state, as `consul snapshot save` takes it."""
        return servers.snapshot(self.server)

    def restore(self, snapshot: bytes) -> None:
        """Set Consul back to a snapshot."""
        servers.restore(self.server, snapshot)

    # --- starting

    def _add(self, name: str) -> Node:
        if name in self._nodes:
            raise Usage(f"there is a node {name!r} already")
        node_token, agent_token = Access(self._backbone.catalog("management")).node(name)
        folder, mark = self.folder / "nodes" / name, f"{self._backbone.mark}/{name}"
        agent = servers.ConsulAgent(
            name,
            folder / "agent",
            server=False,
            token=agent_token,
            join=(self.server.serf_address,),
            session_ttl_min=SESSION_TTL_MIN,
            config_files=(resources.path("consul", "agent.hcl"),),
            environ={**self._backbone.marks, NODE_MARK: mark},
        )
        variables = {**self._backbone.s3, **self._backbone.marks, "CONSUL_HTTP_TOKEN": node_token}
        node = self._nodes[name] = Node(name, folder, agent, mark, variables)
        node.prepare(as_toml(self._limits), zone=ZONES[(len(self._nodes) - 1) % len(ZONES)])
        if not self._memory.add(node.ram):
            self._say(f"node {name}: its RAM volume is on disk, since memory cannot be mounted here")
        self._record()  # before anything of it runs
        node.start()
        self._record()
        self._say(f"node {name}: agent at http://{node.agent.address}")
        return node

    def _await_nodes(self, *names: str) -> None:
        """Wait until the nodes have told the KV of themselves; raises `Temporary` with their logs."""
        until = time.monotonic() + READY_S
        kv, missing = self.kv(), list(names)
        while missing:
            listed = kv.list(keys.NODES).entries
            missing = [n for n in missing if keys.info(n) not in listed or keys.alive(n) not in listed]
            if missing and time.monotonic() > until:
                logs = self.node(missing[0]).last_words()
                raise Temporary(f"after {READY_S:.0f} s there is no life in {', '.join(missing)}:\n{logs}")
            time.sleep(servers.POLL_S)

    def _running(self) -> list[servers.Running]:
        """All that was started."""
        nodes = [running for node in self._nodes.values() for running in node.running]
        return [*self._backbone.running, *self._backbone.planner, *nodes]

    def _record(self) -> None:
        """Note all processes and mounts for whoever has to end this cluster without us."""
        self._files.record(self._backbone.mark, self._memory.mounts, self._running())
