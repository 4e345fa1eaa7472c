"""What can go wrong with an answer of S3, and with which ones it does.

A fault takes the answer that a good server would give and returns the one that is sent. A rule says which
requests it befalls: of which keys, which of them, how often.
"""

from __future__ import annotations

import fnmatch
import gzip
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum


class End(Enum):
    """What becomes of the connection after an answer."""

    KEEP = "it stays open"
    CLOSE = "it is closed in order"
    RESET = "it is reset"
    HANG = "nothing more comes, and it stays open until the client closes it"


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An answer: `pieces` are sent after the head, which says `Content-Length: length`.

    `start` is where in the object the first byte lies, `whole` brings any other part of the object.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    pieces: Iterator[memoryview] = field(default_factory=lambda: iter(()))
    length: int = 0
    start: int = 0
    end: End = End.KEEP
    silent: bool = False
    whole: Callable[[int, int], Iterator[memoryview]] = lambda _start, _end: iter(())
    size: int = 0


Fault = Callable[[Reply], Reply]


def cut(after: int, *, reset: bool = False) -> Fault:
    """The body ends after so many bytes; with `reset` as if the server's machine had crashed."""
    end = End.RESET if reset else End.CLOSE
    return lambda reply: replace(reply, pieces=_first(reply.pieces, after), end=end)


def stall(after: int = 0) -> Fault:
    """After so many bytes of the body nothing more comes."""
    return lambda reply: replace(reply, pieces=_first(reply.pieces, after), end=End.HANG)


def silence() -> Fault:
    """Not even a head comes."""
    return lambda reply: replace(reply, silent=True, end=End.HANG)


def trickle(bytes_per_s: float, piece_bytes: int = 4096) -> Fault:
    """The body comes slowly but steadily."""

    def slowly(pieces: Iterator[memoryview]) -> Iterator[memoryview]:
        began, sent = time.monotonic(), 0
        for piece in pieces:
            for at in range(0, len(piece), piece_bytes):
                part = piece[at : at + piece_bytes]
                yield part
                sent += len(part)
                # the speed of the line that is played; what a busy machine slept too long is made up for
                time.sleep(max(0.0, began + sent / bytes_per_s - time.monotonic()))

    return lambda reply: replace(reply, pieces=slowly(reply.pieces))


def answer(status: int, code: str = "", **headers: str) -> Fault:
    """Another status, with the error document of S3; `Retry_After="2"` is a header."""
    text = f"<Error><Code>{code or status}</Code><Message>it was told to</Message></Error>".encode()

    def fault(reply: Reply) -> Reply:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        body = iter((memoryview(text),))
        return Reply(
            status=status,
            headers={"Content-Type": "application/xml", **named},
            pieces=body,
            length=len(text),
        )

    return fault


def flip(at: int, bit: int = 0) -> Fault:
    """One bit of the byte `at` of the object is another, where the answer has that byte."""

    def flipped(reply: Reply) -> Iterator[memoryview]:
        here = reply.start
        for piece in reply.pieces:
            if here <= at < here + len(piece):
                changed = bytearray(piece)
                changed[at - here] ^= 1 << bit
                yield memoryview(changed)
            else:
                yield piece
            here += len(piece)

    return lambda reply: replace(reply, pieces=flipped(reply))


def meanwhile(act: Callable[[], object], after: int = 0) -> Fault:
    """Something happens once `after` bytes of the body are sent: the object is replaced, say."""

    def acting(pieces: Iterator[memoryview]) -> Iterator[memoryview]:
        left: int | None = after
        for piece in pieces:
            if left is not None and len(piece) > left:
                yield piece[:left]
                act()
                yield piece[left:]
                left = None
            else:
                yield piece
                left = left - len(piece) if left is not None else None

    return lambda reply: replace(reply, pieces=acting(reply.pieces))


def whole() -> Fault:
    """The whole object with status 200 instead of the range that was asked for."""
    return lambda reply: replace(
        reply,
        status=200,
        headers={k: v for k, v in reply.headers.items() if k != "Content-Range"},
        pieces=reply.whole(0, reply.size),
        length=reply.size,
        start=0,
    )


def shifted(by: int = 1) -> Fault:
    """Another range of the same length than the one that was asked for, and it says so."""

    def fault(reply: Reply) -> Reply:
        start = (
            reply.start + by if reply.start + by + reply.length <= reply.size else max(0, reply.start - by)
        )
        last = min(reply.size, start + reply.length) - 1
        return replace(
            reply,
            headers={**reply.headers, "Content-Range": f"bytes {start}-{last}/{reply.size}"},
            pieces=reply.whole(start, last + 1),
            length=last + 1 - start,
            start=start,
        )

    return fault


def altered(**headers: str) -> Fault:
    """Headers of a good answer are others: `ETag='"x"'`; the body is right."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda reply: replace(reply, headers={**reply.headers, **named})


def gzipped() -> Fault:
    """A proxy packs the body on its way."""

    def fault(reply: Reply) -> Reply:
        packed = gzip.compress(b"".join(reply.pieces), compresslevel=1)
        headers = {**reply.headers, "Content-Encoding": "gzip"}
        return replace(reply, headers=headers, pieces=iter((memoryview(packed),)), length=len(packed))

    return fault


@dataclass
class Rule:
    """A fault and the requests that it befalls: of `method` and a key like `key`.

    Of those, `skip` pass first, then `times` are hit (None: all). With `each`, every key is counted for
    itself. `byte`: only answers that have this byte of the object.
    """

    fault: Fault
    key: str = "*"
    method: str = "GET"
    skip: int = 0
    times: int | None = 1
    each: bool = False
    byte: int | None = None
    hits: int = 0
    _seen: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def applies(self, method: str, key: str, start: int, end: int) -> bool:
        """Count the request; whether it is hit."""
        if method != self.method or not (key == self.key or self._is_like(key)):
            return False
        if self.byte is not None and not start <= self.byte < end:
            return False
        with self._lock:
            name = key if self.each else ""
            number = self._seen.get(name, 0)
            self._seen[name] = number + 1
            hit = number >= self.skip and (self.times is None or number < self.skip + self.times)
            self.hits += hit
        return hit

    def _is_like(self, key: str) -> bool:
        return "*" in self.key and fnmatch.fnmatchcase(key, self.key)


def _first(pieces: Iterator[memoryview], count: int) -> Iterator[memoryview]:
    """So many bytes of them; the rest of the piece in which they end is lost."""
    while count > 0 and (piece := next(pieces, None)) is not None:
        yield piece[:count]
        count -= len(piece)
