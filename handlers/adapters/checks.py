"""Whether the bytes of an open file are what a release says: the checks of `core.integrity`, computed.

Used wherever a file is not verified while it arrives: staged files of an earlier run, files of another
release before they are linked, checksums of whole objects, `hydra verify`, `hydra push`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from typing import Any

from handlers.core.integrity import CHUNK_BYTES, Check, chunks
from handlers.core.spans import Span

_READ_BYTES = 1024**2
_STORED_BITS = {"crc64nvme": 64, "crc32c": 32, "crc32": 32}


def nothing(_count: int) -> None:
    """For whoever does not ask how far it is."""


def digests(
    fd: int, size: int, unit: int = CHUNK_BYTES, on_bytes: Callable[[int], None] = nothing
) -> list[bytes]:
    """The blake3 digests of the chunks of the first `size` bytes; `on_bytes` is told what was read.

    `on_bytes` may raise to end it. Raises OSError; a file that is shorter has other digests, not an error.
    """
    spans = ((n * unit, min((n + 1) * unit, size)) for n in range(chunks(size, unit)))
    return [chunk(fd, span, on_bytes) for span in spans]


def chunk(fd: int, span: Span, on_bytes: Callable[[int], None] = nothing) -> bytes:
    """The blake3 digest of a span of an open file."""
    return _hashed(blake3_hasher(), fd, span, on_bytes)


def wrong(fd: int, size: int, check: Check, on_bytes: Callable[[int], None] = nothing) -> list[Span]:
    """The parts of a file that are not what `check` says: chunks at level `digest`, else the whole file.

    Empty = right. `on_bytes` as in `digests`.
    """
    if os.fstat(fd).st_size != size:
        return [(0, size)]
    if check.kind == "blake3":
        found = digests(fd, size, check.unit, on_bytes)
        spans = [(n * check.unit, min((n + 1) * check.unit, size)) for n in range(len(found))]
        return [span for n, span in enumerate(spans) if found[n] != check.digest_of(n)]
    return [] if _value(fd, size, check, on_bytes) == check.value else [(0, size)]


def blake3_hasher() -> Any:
    """A hasher for one chunk; on one thread, as several chunks are hashed at once."""
    from blake3 import blake3

    return blake3(max_threads=1)


def _value(fd: int, size: int, check: Check, on_bytes: Callable[[int], None]) -> bytes:
    """What the whole file has for `check`."""
    if check.kind in _STORED_BITS:
        return _crc(fd, size, check.kind, on_bytes)
    if check.kind != "md5":
        return _hashed(hashlib.new(check.kind, usedforsecurity=False), fd, (0, size), on_bytes)
    if not check.parts:
        return _hashed(_md5(), fd, (0, size), on_bytes)
    whole = _md5()
    for start in range(0, size, check.unit):
        whole.update(_hashed(_md5(), fd, (start, min(start + check.unit, size)), on_bytes))
    return bytes(whole.digest())


def _md5() -> Any:
    return hashlib.md5(usedforsecurity=False)


def _crc(fd: int, size: int, kind: str, on_bytes: Callable[[int], None]) -> bytes:
    from awscrt import checksums

    update, value = getattr(checksums, kind), 0
    for view in read(fd, (0, size), on_bytes):
        value = update(view, value)
    return value.to_bytes(_STORED_BITS[kind] // 8, "big")


def _hashed(hasher: Any, fd: int, span: Span, on_bytes: Callable[[int], None]) -> bytes:
    for view in read(fd, span, on_bytes):
        hasher.update(view)
    return bytes(hasher.digest())


def read(fd: int, span: Span, on_bytes: Callable[[int], None]) -> Iterator[memoryview]:
    """The bytes of a span in pieces, each valid until the next; ends early where the file does."""
    at, end = span
    buffer = memoryview(bytearray(min(_READ_BYTES, max(1, end - at))))
    while at < end:
        count = os.preadv(fd, [buffer[: min(len(buffer), end - at)]], at)
        if not count:
            return
        yield buffer[:count]
        at += count
        on_bytes(count)
