"""How a node is cut off from Consul: where networks may be made, by cutting the wires around its agent.

All processes of the node run on and talk to each other then. Elsewhere its agent is frozen, which cuts the
node off from its own agent, too.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from hydra_cli.dev import processes
from hydra_cli.dev.cluster import Cluster
from hydra_cli.dev.demo.sight import Replica
from tests.faults.partition import Network, Wires, apart, outside


class Cuts:
    """For the block, each agent is behind wires where that can be."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._laid = cluster, contextlib.ExitStack()
        self._wires: dict[str, Wires] = {}
        self._reached: set[tuple[str, int]] = set()
        self._refusal = _refusal()

    def __enter__(self) -> Self:
        if not self._refusal:
            for name in self._cluster.nodes:
                self._wires[name] = self._laid.enter_context(apart(self._cluster, name))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._laid.close()

    @property
    def how(self) -> str:
        """How a node is cut off here, and why not better."""
        if self._refusal:
            return f"by freezing its agent, as networks cannot be made here: {self._refusal}"
        return "by cutting the wires around its agent, all processes run on"

    def reach(self, replica: Replica) -> None:
        """Let the agent of its node check a replica."""
        if replica.node in self._wires and (replica.node, replica.port) not in self._reached:
            wires = self._wires[replica.node]
            wires.stream(replica.port, wires.inside, outside, cluster=False)
            self._reached.add((replica.node, replica.port))

    @contextlib.contextmanager
    def cut_off(self, node: str) -> Iterator[None]:
        """For the block, the node hears nothing of Consul's servers and of other nodes."""
        if node in self._wires:
            with self._wires[node].cut():
                yield
            return
        agent = processes.find(self._cluster.node(node).running[1].process.pid)
        assert agent
        agent.send(signal.SIGSTOP)
        try:
            yield
        finally:
            agent.send(signal.SIGCONT)


def _refusal() -> str:
    """Why no network can be made here; empty where one can."""
    try:
        Network().close()
    except OSError as e:
        return str(e)
    return ""
