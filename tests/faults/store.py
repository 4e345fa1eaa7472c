"""What the misbehaving S3 server holds: objects by bucket and key, each with its versions."""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

_ZEROS = memoryview(bytes(1024**2))


class Body(Protocol):
    """The bytes of an object, which need not all exist at once."""

    @property
    def size(self) -> int: ...

    def pieces(self, start: int, end: int) -> Iterator[memoryview]:
        """The bytes from `start` to before `end`, about 1 MiB at a time."""


@dataclass(frozen=True)
class Plain:
    """Bytes in memory."""

    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    def pieces(self, start: int, end: int) -> Iterator[memoryview]:
        view = memoryview(self.data)
        for at in range(start, end, len(_ZEROS)):
            yield view[at : min(at + len(_ZEROS), end)]


@dataclass(frozen=True)
class Zeros:
    """As many zeros as one likes: an object of 1 TiB that nobody has to store."""

    size: int

    def pieces(self, start: int, end: int) -> Iterator[memoryview]:
        for at in range(start, end, len(_ZEROS)):
            yield _ZEROS[: min(len(_ZEROS), end - at)]


@dataclass(frozen=True)
class Stored:
    """One version of an object. `part_bytes`: of a multipart upload; `checksums`: as S3 stored them."""

    body: Body
    etag: str
    version: str
    part_bytes: int = 0
    checksums: Mapping[str, str] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return self.body.size


class Store:
    """All buckets; used by many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._buckets: dict[str, dict[str, list[Stored]]] = {}
        self.versioned: set[str] = set()

    def make(self, bucket: str, *, versioned: bool = False) -> None:
        """A bucket, which may keep versions."""
        self._buckets.setdefault(bucket, {})
        if versioned:
            self.versioned.add(bucket)

    def put(
        self,
        bucket: str,
        key: str,
        body: bytes | Body,
        *,
        etag: str = "",
        part_bytes: int = 0,
        checksums: Mapping[str, str] | None = None,
    ) -> Stored:
        """Write or replace an object; its ETag is the one that S3 would give it, unless one is named."""
        held = Plain(body) if isinstance(body, bytes) else body
        stored = Stored(
            held, etag or etag_of(held, part_bytes), f"v{next(self._numbers)}", part_bytes, checksums or {}
        )
        with self._lock:
            versions = self._buckets[bucket].setdefault(key, [])
            if bucket not in self.versioned:
                versions.clear()
            versions.append(stored)
        return stored

    def get(self, bucket: str, key: str, version: str = "") -> Stored | None:
        """The newest version, or the one that is asked for."""
        with self._lock:
            versions = self._buckets[bucket].get(key, [])
            return next((v for v in reversed(versions) if version in ("", v.version)), None)

    def delete(self, bucket: str, key: str) -> None:
        """Remove an object with all its versions."""
        with self._lock:
            self._buckets[bucket].pop(key, None)

    def has(self, bucket: str) -> bool:
        """Whether there is such a bucket."""
        return bucket in self._buckets

    def keys(self, bucket: str) -> list[str]:
        """All keys in the order in which S3 lists them: by their UTF-8 bytes."""
        with self._lock:
            return sorted(self._buckets[bucket], key=str.encode)


def etag_of(body: Body, part_bytes: int = 0) -> str:
    """The ETag that S3 gives: the MD5, or that of the MD5s of its parts and their number."""
    if isinstance(body, Zeros):
        return f"{body.size:032x}"  # nobody wants to wait for the MD5 of 1 TiB
    starts = range(0, body.size, part_bytes) if part_bytes else ()
    if not starts:
        return _md5(body, 0, body.size).hex()
    parts = [_md5(body, at, min(at + part_bytes, body.size)) for at in starts]
    return f"{hashlib.md5(b''.join(parts), usedforsecurity=False).hexdigest()}-{len(parts)}"


def _md5(body: Body, start: int, end: int) -> bytes:
    digest = hashlib.md5(usedforsecurity=False)
    for piece in body.pieces(start, end):
        digest.update(piece)
    return digest.digest()
