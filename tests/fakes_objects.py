"""`FakeObjects`: an object store in memory, with faults on demand.

It passes the same contract suite as the real one (`tests/contract/test_objects.py`).
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from handlers.adapters.ports import ObjectInfo, Source
from handlers.core.errors import Conflict, Denied, Integrity, SourceNotReady, Temporary


@dataclass
class FakeObjects:
    """`ports.Objects` in memory: bodies by bucket and key.

    `away`: every call raises `Temporary`. `denied`: buckets that may not be read. `before_piece` is called
    with the source and the position before each piece of a body; it may raise, wait, or replace the object.
    `reads` is every range that was asked for.
    """

    buckets: dict[str, dict[str, bytes]] = field(default_factory=dict)
    away: bool = False
    denied: set[str] = field(default_factory=set)
    before_piece: Callable[[Source, int], None] = lambda source, at: None
    piece_bytes: int = 1024**2
    reads: list[tuple[str, int, int]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def write(self, text: str, body: bytes) -> ObjectInfo:
        """Write or replace `s3://bucket/key`; what the store says of it."""
        source = Source.parse(text)
        self.buckets.setdefault(source.bucket, {})[source.key] = body
        return self.head(source)

    def head(self, source: Source) -> ObjectInfo:
        body = self._body(source)
        return ObjectInfo(source.key, len(body), _etag(body))

    def list(self, source: Source) -> Iterator[ObjectInfo]:
        for key, body in sorted(self._bucket(source).items()):
            if key.startswith(source.key):
                yield ObjectInfo(key, len(body), _etag(body))

    def folders(self, source: Source) -> Iterator[str]:
        names = {info.key[len(source.key) :].partition("/")[0] for info in self.list(source)}
        yield from sorted(filter(None, names))

    def read_range(
        self, source: Source, etag: str, start: int, length: int, version_id: str = ""
    ) -> Iterator[memoryview]:
        with self._lock:
            self.reads.append((source.key, start, length))
        body = self._body(source)
        if _etag(body) != etag:
            raise Integrity(f"{source}: was replaced since the release was published")
        if start + length > len(body):
            raise Integrity(f"{source}: has not the size that the release names")
        for at in range(start, start + length, self.piece_bytes):
            self.before_piece(source, at)
            if self.away:
                raise Temporary(f"{source}: the connection broke")
            piece = memoryview(bytearray(body[at : min(at + self.piece_bytes, start + length)]))
            yield piece
            piece[:] = bytes(len(piece))  # as the real one: valid only until the next

    def put(self, source: Source, body: bytes) -> None:
        there = self._bucket(source).setdefault(source.key, body)
        if there != body:
            raise Conflict(f"{source}: exists already with other content")

    def _bucket(self, source: Source) -> dict[str, bytes]:
        if self.away:
            raise Temporary(f"{source}: S3 does not answer")
        if source.bucket in self.denied:
            raise Denied(f"{source}: S3 refused")
        if source.bucket not in self.buckets:
            raise SourceNotReady(f"{source}: no such bucket")
        return self.buckets[source.bucket]

    def _body(self, source: Source) -> bytes:
        body = self._bucket(source).get(source.key)
        if body is None:
            raise SourceNotReady(f"{source}: no such object")
        return body


def _etag(body: bytes) -> str:
    return hashlib.md5(body, usedforsecurity=False).hexdigest()
