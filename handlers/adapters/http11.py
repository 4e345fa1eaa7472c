"""HTTP/1.1 as Consul's agents speak it: one kept-alive connection, one request at a time, whole answers.

The standard `http.client` reads headers by the parser for mail and brings TLS along, which costs a handler a
quarter of its start; and a handler starts anew for every change. Used by `adapters.consul_http` only.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Mapping
from typing import BinaryIO, NamedTuple

_LONGEST_LINE = 65_536
_BODILESS = frozenset({204, 304})


class BadAnswer(ConnectionError):
    """The other side ended in the middle of an answer, or does not speak HTTP."""


class Response(NamedTuple):
    """Status, headers by their names in small letters, and the whole body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Connection:
    """`connect` opens a socket with a timeout in seconds; `headers` (with `Host`) go with every request."""

    def __init__(self, connect: Callable[[float], socket.socket], headers: Mapping[str, str]) -> None:
        self._connect = connect
        self._head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._socket: socket.socket | None = None
        self._file: BinaryIO | None = None

    def __del__(self) -> None:
        """Closes itself: it ends with its thread, which knows nothing of it."""
        self.close()

    @property
    def usable(self) -> bool:
        """Whether it is open; one with something to read between two requests has been ended over there."""
        if self._socket is None:
            return False
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return not poll.poll(0)

    def exchange(self, method: str, target: str, body: bytes | None, timeout_s: float) -> Response:
        """Send a request and read its answer; raises OSError, after which the connection is of no use.

        `timeout_s` is how long the other side may be silent.
        """
        if self._socket is None or self._file is None:
            self._socket = self._connect(timeout_s)
            self._file = self._socket.makefile("rb")
        self._socket.settimeout(timeout_s)
        length = f"Content-Length: {len(body or b'')}\r\n" if body is not None or method != "GET" else ""
        head = f"{method} {target} HTTP/1.1\r\n{self._head}{length}\r\n"
        # in one piece: with Nagle's algorithm a small body would wait until the head is acknowledged
        self._socket.sendall(head.encode("ascii") + (body or b""))
        try:
            response, last = _response(self._file)
        except ValueError as e:
            raise BadAnswer(f"not an answer in HTTP: {e}") from e
        if last:
            self.close()
        return response

    def close(self) -> None:
        """End the connection; fine when it has ended."""
        for part in (self._file, self._socket):
            if part is not None:
                part.close()
        self._file = self._socket = None


def _response(file: BinaryIO) -> tuple[Response, bool]:
    """The next answer, and whether it is the last one of this connection; raises ValueError and OSError."""
    protocol, status = "", 0
    headers: dict[str, str] = {}
    while status < 200:  # the ones below only announce another
        protocol, code, *_ = _line(file).split(" ", 2)
        if not protocol.startswith("HTTP/1."):
            raise ValueError(f"it begins with {protocol[:20]!r}")
        status, headers = int(code), {}
        while line := _line(file):
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
    last = protocol == "HTTP/1.0" or headers.get("connection", "").lower() == "close"
    if status in _BODILESS:
        return Response(status, headers, b""), last
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return Response(status, headers, _chunks(file)), last
    if "content-length" in headers:
        return Response(status, headers, _exactly(file, int(headers["content-length"]))), last
    return Response(status, headers, file.read()), True


def _chunks(file: BinaryIO) -> bytes:
    found = []
    while size := int(_line(file).partition(";")[0], 16):
        found.append(_exactly(file, size))
        _line(file)
    while _line(file):
        pass  # trailers say nothing that is needed here
    return b"".join(found)


def _line(file: BinaryIO) -> str:
    raw = file.readline(_LONGEST_LINE)
    if not raw.endswith(b"\n"):
        raise BadAnswer("the connection ended before the answer")
    return raw.decode("latin-1").rstrip("\r\n")


def _exactly(file: BinaryIO, size: int) -> bytes:
    if size < 0:
        raise ValueError(f"a length of {size}")
    data = file.read(size)
    if len(data) < size:
        raise BadAnswer("the connection ended in the middle of the answer")
    return data


def tcp(host: str, port: int) -> Callable[[float], socket.socket]:
    """Opens TCP connections."""

    def connect(timeout_s: float) -> socket.socket:
        opened = socket.create_connection((host, port), timeout_s)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return opened

    return connect


def unix(path: str) -> Callable[[float], socket.socket]:
    """Opens connections to a Unix socket."""

    def connect(timeout_s: float) -> socket.socket:
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        opened.settimeout(timeout_s)
        try:
            opened.connect(path)
        except OSError:
            opened.close()
            raise
        return opened

    return connect


def split_host(text: str, default_port: int) -> tuple[str, int]:
    """`host:port`, `host`, `[IPv6]:port` or `[IPv6]`; raises ValueError on a port that is no number."""
    host, colon, port = text.rpartition(":")
    if not colon or "]" in port:
        host, port = text, ""
    return host.strip("[]"), int(port) if port else default_port
