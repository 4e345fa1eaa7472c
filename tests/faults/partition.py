"""A Consul agent in a network of its own, which hears of the others only through wires that can be cut.

The agent's network namespace has nothing but a loopback of its own. For each port that somebody on the other
side has to reach, a wire listens on one side and goes on to the same port of the other: the agent's API for
what runs on its node, health checks for its services, gossip (UDP and TCP) and RPC for the Consul cluster.
Cut are the wires of the cluster, both ways and silently, as by a switch that died: what is under way arrives
neither here nor there, and nobody is told. The node itself and its agent go on, and talk to each other.

Making a network namespace needs CAP_SYS_ADMIN, as the superuser has it. Nothing on the machine's own network
is changed, and the namespace is gone with the last that has it open.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from hydra_cli.dev.cluster import Cluster
from hydra_cli.dev.servers import HOST, ConsulAgent

_CLONE_NEWNET = 0x40000000
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1
_LIBC = ctypes.CDLL(None, use_errno=True)
_PIECE = 1 << 16
Side = Callable[[socket.SocketKind], socket.socket]


def _system(name: str, *words: int) -> None:
    if getattr(_LIBC, name)(*words):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)} (a network namespace needs CAP_SYS_ADMIN)")


class Network:
    """A network namespace with a loopback; `socket` makes sockets that stay in it wherever they are used."""

    def __init__(self) -> None:
        self._home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        _system("unshare", _CLONE_NEWNET)
        try:
            self._own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
                fcntl.ioctl(asked, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))
        finally:
            _system("setns", self._home, _CLONE_NEWNET)

    def close(self) -> None:
        """Keep it no longer than whatever runs in it."""
        os.close(self._own)
        os.close(self._home)

    @property
    def entered(self) -> tuple[str, ...]:
        """What stands before the command of a program that is to run in it."""
        return "nsenter", f"--net=/proc/{os.getpid()}/fd/{self._own}"

    def socket(self, kind: socket.SocketKind) -> socket.socket:
        """A socket of it; only the calling thread goes there, and is back at once."""
        _system("setns", self._own, _CLONE_NEWNET)
        try:
            return outside(kind)
        finally:
            _system("setns", self._home, _CLONE_NEWNET)


def outside(kind: socket.SocketKind) -> socket.socket:
    """A socket of the machine's own network."""
    made = socket.socket(socket.AF_INET, kind)
    made.setblocking(False)
    return made


class Wires:
    """All wires between the machine and one network, in one thread."""

    def __init__(self, network: Network) -> None:
        self.inside: Side = network.socket
        self._loop = asyncio.new_event_loop()
        self._whole = asyncio.Event()
        self._whole.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @contextlib.contextmanager
    def cut(self) -> Iterator[None]:
        """For the block, nothing comes through the wires of the cluster; TCP goes on where it stood."""
        self._loop.call_soon_threadsafe(self._whole.clear)
        try:
            yield
        finally:
            self._loop.call_soon_threadsafe(self._whole.set)

    def stream(self, port: int, here: Side, there: Side, *, cluster: bool) -> None:
        """TCP: whoever connects to the port `here` is connected to the same port `there`."""
        listening = _bound(here, socket.SOCK_STREAM, port)
        listening.listen(128)
        self._begin(self._accept(listening, port, there, cluster))

    def datagrams(self, port: int, here: Side, there: Side) -> None:
        """UDP of the cluster: what comes to the port `here` goes on to it `there`.

        From which port does not matter: gossip answers to the address that a message names.
        """
        self._begin(self._forward(_bound(here, socket.SOCK_DGRAM, port), port, there))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        async def kept() -> None:
            self._keep(work)

        self._do(kept())

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _end(self) -> None:
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, listening: socket.socket, port: int, there: Side, cluster: bool) -> None:
        with listening:
            while True:
                near, _ = await self._loop.sock_accept(listening)
                near.setblocking(False)
                self._keep(self._connect(near, port, there, cluster))

    async def _connect(self, near: socket.socket, port: int, there: Side, cluster: bool) -> None:
        with near, there(socket.SOCK_STREAM) as far, contextlib.suppress(OSError):
            if cluster:
                await self._whole.wait()
            await self._loop.sock_connect(far, (HOST, port))
            await asyncio.gather(self._pump(near, far, cluster), self._pump(far, near, cluster))

    async def _pump(self, source: socket.socket, target: socket.socket, cluster: bool) -> None:
        with contextlib.suppress(OSError):
            while piece := await self._loop.sock_recv(source, _PIECE):
                if cluster:
                    await self._whole.wait()
                await self._loop.sock_sendall(target, piece)
        for end, how in ((target, socket.SHUT_WR), (source, socket.SHUT_RD)):
            with contextlib.suppress(OSError):
                end.shutdown(how)

    async def _forward(self, near: socket.socket, port: int, there: Side) -> None:
        with near, there(socket.SOCK_DGRAM) as far:
            while True:
                piece = await self._loop.sock_recv(near, _PIECE)
                if self._whole.is_set():
                    with contextlib.suppress(OSError):  # nobody listens there now
                        await self._loop.sock_sendto(far, piece, (HOST, port))


def _bound(side: Side, kind: socket.SocketKind, port: int) -> socket.socket:
    made = side(kind)
    if kind is socket.SOCK_STREAM:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((HOST, port))
    return made


@dataclass(frozen=True)
class Entered(ConsulAgent):
    """An agent whose program runs in a network of its own."""

    entered: tuple[str, ...] = field(default=(), kw_only=True)

    @classmethod
    def of(cls, agent: ConsulAgent, network: Network) -> Self:
        """The same agent there."""
        known = {f.name: getattr(agent, f.name) for f in fields(agent)}
        return cls(**known, entered=network.entered)

    def command(self, consul: Path) -> list[str]:
        """The command line, from outside."""
        return [*self.entered, *super().command(consul)]


@contextlib.contextmanager
def apart(cluster: Cluster, name: str) -> Iterator[Wires]:
    """For the block, the agent of a node runs behind wires; it is restarted before and after."""
    node = cluster.node(name)
    before, network = node.agent, Network()
    others = [cluster.server, *(cluster.node(other).agent for other in cluster.nodes if other != name)]
    node.stop_agent()
    try:
        with Wires(network) as wires:
            wires.stream(before.http_port, outside, wires.inside, cluster=False)
            wires.stream(before.serf_port, outside, wires.inside, cluster=True)
            wires.datagrams(before.serf_port, outside, wires.inside)
            wires.stream(cluster.server.rpc_port, wires.inside, outside, cluster=True)
            for other in others:
                wires.stream(other.serf_port, wires.inside, outside, cluster=True)
                wires.datagrams(other.serf_port, wires.inside, outside)
            node.agent = Entered.of(before, network)
            node.start_agent()
            yield wires
    finally:
        node.stop_agent()
        network.close()
        node.agent = before
        node.start_agent()
