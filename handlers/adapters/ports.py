"""What handlers may ask of the outside: the shapes that the real adapters and the fakes both have.

One contract suite per port (`tests/contract/`) runs on the fake and on the real thing.
All methods raise the errors of `core.errors`: `Temporary` (away, worth another try), `Denied`, `Conflict`, ….
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

from msgspec import Struct

from handlers.core import source
from handlers.core.stored import Stored

Source = source.Source  # what the ports speak of


class Entry(Struct, frozen=True):
    """One key as Consul has it; `index` is its ModifyIndex, `session` the holder of its lock or empty."""

    key: str
    value: bytes
    index: int
    session: str = ""


class Listing(Struct, frozen=True):
    """All keys below a prefix, and the index to block on for the next change."""

    entries: Mapping[str, Entry]
    index: int


class Set(Struct, frozen=True):
    """Write whatever is there."""

    key: str
    value: bytes


class Cas(Struct, frozen=True):
    """Write only if the key's ModifyIndex is `index`; 0 = only if the key does not exist."""

    key: str
    value: bytes
    index: int


class Delete(Struct, frozen=True):
    """Delete if there."""

    key: str


class DeleteCas(Struct, frozen=True):
    """Delete only if the key's ModifyIndex is `index`."""

    key: str
    index: int


class CheckIndex(Struct, frozen=True):
    """Fail the transaction unless the key's ModifyIndex is `index`; 0 = unless it does not exist."""

    key: str
    index: int


class CheckSession(Struct, frozen=True):
    """Fail the transaction unless `session` holds the lock on the key: the fence of invariant 5."""

    key: str
    session: str


class Lock(Struct, frozen=True):
    """Acquire the key's lock for `session` and write; fails when another session holds it."""

    key: str
    value: bytes
    session: str


class Unlock(Struct, frozen=True):
    """Release the key's lock held by `session` and write."""

    key: str
    value: bytes
    session: str


Op = Set | Cas | Delete | DeleteCas | CheckIndex | CheckSession | Lock | Unlock

MAX_OPS = 60
MAX_TXN_BYTES = 380_000


class KV(Protocol):
    """Consul's KV, sessions and blocking queries. Reads are `consistent`.

    A blocking read passes the last seen index as `after` and returns when it moved or `wait_s` is over (with
    the current state in both cases). Indexes that go backwards, and empty prefixes that wake on everything,
    are dealt with inside. A listing that ACLs filtered raises `Denied`.
    """

    def get(self, key: str, *, after: int = 0, wait_s: float = 0) -> tuple[Entry | None, int]:
        """The entry (or None) and the index to block on."""

    def list(self, prefix: str, *, after: int = 0, wait_s: float = 0) -> Listing:
        """All entries whose key begins with `prefix`; empty is a legal answer (of a readable prefix)."""

    def txn(self, ops: Sequence[Op]) -> Mapping[str, int]:
        """Apply all or nothing; raises `Conflict` that names the first failed key, `Denied`, `Temporary`.

        Returns the new ModifyIndex of each written key. `Temporary` may also mean that the answer was lost:
        the writes may have happened, so read again before deciding. Deleting an absent key is no conflict.
        At most MAX_OPS operations and MAX_TXN_BYTES of keys and values, else `Usage`; see `kv.split`.
        """

    def create_session(
        self, name: str, *, ttl_s: int, behavior: Literal["release", "delete"], node: str = ""
    ) -> str:
        """A session without health checks and with lock-delay 0 on this agent's node (or `node`); its id."""

    def renew_session(self, session: str) -> bool:
        """Renew; False when the session is gone."""

    def destroy_session(self, session: str) -> None:
        """End the session; fine when it is gone."""


class Agent(Protocol):
    """The rest of the local agent's HTTP API as JSON: health, catalog, agent."""

    def get_json(
        self, path: str, params: Mapping[str, str] | None = None, *, after: int = 0, wait_s: float = 0
    ) -> tuple[Any, int]:
        """The answer to `GET /v1/<path>` and the index to block on (0 where the endpoint has none).

        `Denied` when ACLs refused or filtered it; None as the value when there is no such thing (404).
        """

    def put_json(self, path: str, body: object = None, params: Mapping[str, str] | None = None) -> Any:
        """`PUT /v1/<path>` with `body` as JSON; the parsed answer, None when it is empty."""


class Consul(KV, Agent, Protocol):
    """What a handler gets: one client for the KV and for the rest of the agent's API."""


class ObjectInfo(Struct, frozen=True):
    """One object as S3 has it; `etag` without quotes, `version_id` where `head` finds that there are any."""

    key: str
    size: int
    etag: str
    version_id: str = ""


class Objects(Protocol):
    """An object store. `Temporary` when it is away, `SourceNotReady` when an object is missing, `Denied`."""

    def head(self, source: Source) -> ObjectInfo:
        """The object's size and ETag."""

    def list(self, source: Source) -> Iterator[ObjectInfo]:
        """All objects below the prefix, in key order, page by page."""

    def folders(self, source: Source) -> Iterator[str]:
        """The first path part below the prefix of everything there (delimiter listing), without slashes.

        Names of objects directly below the prefix count too.
        """

    def read_range(
        self, source: Source, etag: str, start: int, length: int, version_id: str = ""
    ) -> Iterator[memoryview]:
        """The bytes of one range in pieces of up to 1 MiB, each valid only until the next is asked for.

        `Integrity` when `etag` is not the object's, `Temporary` when the body ends early or stalls: what was
        yielded until then is right. `SlowDown` when the store asks for fewer requests.
        """

    def put(self, source: Source, body: bytes) -> None:
        """Write a small object; `Conflict` when it exists with other content, nothing when it is the same."""


Body = bytes | bytearray


class PartOf(Struct, frozen=True):
    """One part of an unfinished upload; `crc` is its CRC64NVME in base64, empty where the store has none."""

    number: int
    size: int
    etag: str
    crc: str = ""


class Uploads(Protocol):
    """What publishers do with an object store besides reading; errors as in `Objects`.

    `crc` is the CRC64NVME of what is sent, in base64: the store compares it, and keeps that of the whole
    object. What arrived in other bytes is `Temporary`.
    """

    def stored(self, source: Source) -> Stored:
        """What the store knows of an object, its checksums included; `SourceNotReady` when there is none."""

    def part(self, source: Source, number: int) -> int:
        """Bytes of one part of an object that was uploaded in parts; 0 where the store does not tell."""

    def write(self, source: Source, body: Body, crc: str, *, over: str | None = None) -> Stored:
        """Write or replace an object in one request; what there is then.

        `over`: only in place of the object with this ETag, where it is empty only if there is none; else
        `Conflict`. That may also mean that the answer was lost: look what is there.
        """

    def begun(self, source: Source) -> tuple[str, Sequence[PartOf]]:
        """The id and the parts of the newest unfinished upload of this very key; an empty id = none."""

    def begin(self, source: Source) -> str:
        """Begin an upload in parts; its id."""

    def write_part(self, source: Source, upload: str, number: int, body: Body, crc: str) -> PartOf:
        """Upload one part, or replace it; parts are numbered from 1."""

    def finish(
        self, source: Source, upload: str, parts: Sequence[PartOf], crc: str, *, over: str | None = None
    ) -> Stored:
        """Make the object of its parts; what there is then. `crc` is that of the whole object, `over` as for
        `write`.
        """


def read_object(objects: Objects, source: Source, info: ObjectInfo) -> bytes:
    """The whole of a small object, as it was when `info` was asked for."""
    if not info.size:
        return b""
    pieces = objects.read_range(source, info.etag, 0, info.size, info.version_id)
    return b"".join(bytes(piece) for piece in pieces)
