"""The wires of `partition`, with two that listen in place of Consul: what goes through, and what does not."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from hydra_cli.dev.ports import free_port
from hydra_cli.dev.servers import HOST
from tests.faults.partition import Network, Side, Wires, outside

LONG_S, SHORT_S = 10.0, 0.3


@dataclass
class Ends:
    """Both ends of a TCP connection and of a UDP path, from inside to outside."""

    wires: Wires
    said: socket.socket
    heard: socket.socket
    sent: socket.socket
    received: socket.socket

    @classmethod
    def of(cls, wires: Wires, *, cluster: bool) -> Ends:
        """They meet at one port."""
        port = free_port()
        received, listening = (made(outside, kind) for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM))
        for end in (received, listening):
            end.bind((HOST, port))
        listening.listen()
        wires.stream(port, wires.inside, outside, cluster=cluster)
        wires.datagrams(port, wires.inside, outside)
        sent, said = (made(wires.inside, kind) for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM))
        for end in (sent, said):
            end.connect((HOST, port))
        heard, _ = listening.accept()
        listening.close()
        return cls(wires, said, heard, sent, received)

    def close(self) -> None:
        for end in (self.said, self.heard, self.sent, self.received):
            end.close()


def made(side: Side, kind: socket.SocketKind) -> socket.socket:
    end = side(kind)
    end.settimeout(LONG_S)
    return end


@pytest.fixture
def wires() -> Iterator[Wires]:
    network = Network()
    with Wires(network) as laid:
        yield laid
    network.close()


def arrives(end: socket.socket, limit_s: float = LONG_S) -> bytes:
    """What comes in time; nothing where nothing does."""
    end.settimeout(limit_s)
    try:
        return end.recv(100)
    except TimeoutError:
        return b""


def test_network_of_its_own_reaches_nobody_but_by_a_wire(wires: Wires) -> None:
    listening = made(outside, socket.SOCK_STREAM)
    listening.bind((HOST, 0))
    listening.listen()
    with listening, made(wires.inside, socket.SOCK_STREAM) as lonely, pytest.raises(ConnectionRefusedError):
        lonely.connect(listening.getsockname())


def test_wires_carry_both_ways_and_end_with_either_end(wires: Wires) -> None:
    ends = Ends.of(wires, cluster=True)
    for there, back in ((ends.said, ends.heard), (ends.heard, ends.said)):
        there.sendall(b"stream")
        assert arrives(back) == b"stream"
    ends.sent.send(b"datagram")
    assert arrives(ends.received) == b"datagram"

    ends.heard.close()

    assert ends.said.recv(100) == b""
    ends.close()


def test_cut_wires_of_the_cluster_are_silent_and_tcp_goes_on_where_it_stood(wires: Wires) -> None:
    ends, others = Ends.of(wires, cluster=True), Ends.of(wires, cluster=False)
    with wires.cut():
        ends.said.sendall(b"stream")
        ends.sent.send(b"lost")
        assert arrives(ends.heard, SHORT_S) == b""
        assert arrives(ends.received, SHORT_S) == b""
        others.said.sendall(b"goes on")
        assert arrives(others.heard) == b"goes on"

    assert arrives(ends.heard) == b"stream"
    ends.sent.send(b"after")
    assert arrives(ends.received) == b"after"
    ends.close()
    others.close()
