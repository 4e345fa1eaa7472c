"""Ranges of large bodies over HTTP/1.1 at the speed of the socket, without what `http.client` spends most on.

One request at a time per connection, kept alive, answers with Content-Length; each thread has its own
connection and one buffer of 1 MiB for it, in which bodies arrive without being copied again. A read asks the
kernel for a whole buffer at once and waits there, outside of Python's lock.

Raises OSError only: `Stalled` when an answer brings less than 64 KiB in `stall_s` seconds, ConnectionError
when it breaks off or is no HTTP. Used by the object stores.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

BUFFER_BYTES = 1024**2
SLOWEST_BYTES = 64 * 1024  # in `stall_s`: less is a line that hangs, not one that is slow
_HEAD_BYTES = 64 * 1024


class Stalled(TimeoutError):
    """The other side sends (nearly) nothing any more."""


@dataclass(frozen=True)
class Origin:
    """Where to connect; `tls` is None for plain HTTP."""

    host: str
    port: int
    tls: ssl.SSLContext | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and headers (names in lower case); `length` of the body, None where it is not said."""

    status: int
    headers: Mapping[str, str]
    length: int | None


class Connections:
    """The kept-alive connections of all threads; a thread has one for each origin."""

    def __init__(self, stall_s: float, connect_s: float) -> None:
        self._stall_s, self._connect_s = stall_s, connect_s
        self._own = threading.local()

    def to(self, origin: Origin) -> Connection:
        """This thread's connection."""
        known: dict[Origin, Connection] = self._own.__dict__.setdefault("known", {})
        if origin not in known:
            known[origin] = Connection(origin, self._stall_s, self._connect_s)
        return known[origin]


class _Secure:
    """TLS over a connected socket, read by 1 MiB: an SSLSocket asks the kernel twice for each 16 KiB."""

    def __init__(self, plain: socket.socket, context: ssl.SSLContext, host: str) -> None:
        self._plain = plain
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname=host)
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._ended = False
        while not self._has_shaken_hands():
            self._exchange()
        self._send()

    def _has_shaken_hands(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def sendall(self, data: bytes) -> None:
        self._tls.write(data)
        self._send()

    def recv_into(self, view: memoryview) -> int:
        """What has come, up to all of `view`; waits where nothing has. 0 at the end."""
        while not (count := self._decrypted(view)) and not self._ended:
            self._exchange()
        return count

    def _decrypted(self, view: memoryview) -> int:
        """All records that are here already, up to a full `view`: each is one step of Python."""
        got, size = 0, len(view)
        try:
            # 0 is an orderly end
            while got < size and (count := int(self._tls.read(size - got, view[got:]))):
                got += count
            self._ended = got < size
        except ssl.SSLWantReadError:
            return got
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            self._ended = True
        return got

    def close(self) -> None:
        self._plain.close()

    def _exchange(self) -> None:
        self._send()
        if count := self._plain.recv_into(self._buffer):
            self._in.write(self._buffer[:count])
        else:
            self._in.write_eof()

    def _send(self) -> None:
        if self._out.pending:
            self._plain.sendall(self._out.read())


class Connection:
    """One connection, opened when it is needed, and again after anything went wrong."""

    def __init__(self, origin: Origin, stall_s: float, connect_s: float) -> None:
        self._origin, self._stall_s, self._connect_s = origin, stall_s, connect_s
        self._wait_s = stall_s / 2  # a read returns what it has by then, and the next one finds nothing more
        self._socket: socket.socket | _Secure | None = None
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._first = (0, 0)  # where in the buffer the body has begun to arrive behind the head

    def ask(self, method: str, target: str, headers: Mapping[str, str]) -> Answer:
        """Send a request without a body; the head of the answer. Read its body before the next `ask`."""
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        request = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        kept = self._socket is not None
        try:
            return self._ask(method, request)
        except Stalled:
            raise
        except OSError:
            # a server may close a kept connection at any time: that says nothing about the new request
            if not kept:
                raise
            return self._ask(method, request)

    def body(self, answer: Answer) -> Iterator[memoryview]:
        """The body in pieces of up to 1 MiB, each valid until the next; ended early, it closes.

        One that fits into the buffer behind its head comes in one piece: whoever takes it works once.
        """
        left, broken = answer.length or 0, None
        try:
            start, end = self._first
            stop = start + left
            try:
                while end < stop <= BUFFER_BYTES:
                    end += self._fill(self._buffer[end:stop])
            except OSError as e:
                broken = e  # what came before it counts
            if piece := self._buffer[start : min(end, stop)]:
                left -= len(piece)
                yield piece
            if broken:
                raise broken
            while left:
                count = self._fill(self._buffer[: min(left, BUFFER_BYTES)])
                left -= count
                yield self._buffer[:count]
        finally:
            if left or answer.length is None or answer.headers.get("connection", "").lower() == "close":
                self.close()

    def text(self, answer: Answer) -> str:
        """The beginning of a body, for messages; the connection is closed unless that is all of it."""
        found = b""
        with contextlib.suppress(OSError):
            if answer.length is None:
                start, end = self._first
                found = bytes(self._buffer[start:end])
            for piece in self.body(answer):
                found += piece
                if len(found) >= _HEAD_BYTES:
                    break
        return found[:_HEAD_BYTES].decode("utf-8", "replace")

    def close(self) -> None:
        """Close it; the next `ask` opens another."""
        if self._socket is not None:
            self._end()
            self._socket = None

    def _ask(self, method: str, request: bytes) -> Answer:
        try:
            if self._socket is None:
                self._socket = self._connected()
                # called by `close`, or when the thread that it belongs to has ended
                self._end = weakref.finalize(self, self._socket.close)
            self._socket.sendall(request)
            return self._head(method)
        except (BlockingIOError, TimeoutError):  # the first is the kernel's own time-out
            self.close()
            raise Stalled(f"no answer for {self._stall_s:g} s") from None
        except (OSError, ValueError) as e:
            self.close()
            if isinstance(e, OSError):
                raise
            raise ConnectionError(f"what it answers is not HTTP ({e})") from None

    def _connected(self) -> socket.socket | _Secure:
        origin = self._origin
        plain = socket.create_connection((origin.host, origin.port), timeout=self._connect_s)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.setblocking(True)  # with time-outs of the kernel's, a read may wait for a whole buffer
        limit = struct.pack("ll", int(self._wait_s), int(self._wait_s % 1 * 1e6))
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        try:
            return plain if origin.tls is None else _Secure(plain, origin.tls, origin.host)
        except BaseException:
            plain.close()
            raise

    def _head(self, method: str) -> Answer:
        assert self._socket is not None
        used, end = 0, -1
        while end < 0:
            if used >= _HEAD_BYTES:
                raise ConnectionError("the head of its answer does not end")
            try:
                count = self._socket.recv_into(self._buffer[used:])
            except BlockingIOError:
                count = self._socket.recv_into(self._buffer[used:])
            if not count:
                raise ConnectionError("it closed the connection without an answer")
            used += count
            end = bytes(self._buffer[: min(used, _HEAD_BYTES)]).find(b"\r\n\r\n")
        status, *rows = bytes(self._buffer[:end]).decode("latin-1").split("\r\n")
        self._first = (end + 4, used)
        headers = {n.strip().lower(): v.strip() for n, _, v in (row.partition(":") for row in rows)}
        return Answer(_status(status), headers, _length(method, headers))

    def _fill(self, view: memoryview) -> int:
        """Read until `view` is full or `stall_s` is over: how much came. Raises `Stalled`."""
        assert self._socket is not None
        got, until = 0, time.monotonic() + self._wait_s
        with contextlib.suppress(BlockingIOError):  # nothing more for a while: what came before it counts
            if isinstance(self._socket, socket.socket):
                got = self._socket.recv_into(view, 0, socket.MSG_WAITALL)
            else:
                while got < len(view) and (count := self._socket.recv_into(view[got:])):
                    got += count
                    if time.monotonic() > until:
                        break
        if got < min(SLOWEST_BYTES, len(view)) and time.monotonic() >= until:
            raise Stalled(f"{got} bytes in {self._wait_s:g} s")
        if not got:
            raise ConnectionError("the answer broke off")
        return got


def _status(line: str) -> int:
    protocol, _, rest = line.partition(" ")
    if not protocol.startswith("HTTP/1."):
        raise ConnectionError(f"what it answers is not HTTP/1.1: {line[:40]!r}")
    return int(rest[:3])


def _length(method: str, headers: Mapping[str, str]) -> int | None:
    """Bytes of the body; None where it ends with the connection, or comes in pieces of its own."""
    if method == "HEAD":
        return 0
    if "transfer-encoding" in headers or "content-length" not in headers:
        return None
    return int(headers["content-length"])
