"""`FakeKV`: Consul's KV and sessions in memory, with a clock that the test moves and faults on demand.

It passes the same contract suite as the real one (`tests/contract/test_kv.py`).
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from msgspec import structs

from handlers.adapters.ports import (
    Cas,
    CheckIndex,
    CheckSession,
    Delete,
    DeleteCas,
    Entry,
    Listing,
    Lock,
    Op,
    Set,
    Unlock,
)
from handlers.adapters.txn import check_size
from handlers.core.errors import Conflict, Denied, Temporary

Keys = dict[str, Entry]


@dataclass
class _Session:
    ttl_s: int
    behavior: str
    renewed: float


@dataclass(frozen=True)
class Snapshot:
    """What `FakeKV.restore` goes back to."""

    entries: Mapping[str, Entry]
    deleted: Mapping[str, int]
    index: int


@dataclass
class FakeKV:
    """`ports.Consul` in memory.

    `away`: every call raises `Temporary`. `denied`: key prefixes that may be neither read nor written.
    `before_txn` and `after_txn` are called around each transaction and may raise, to lose a race, to crash
    before a write, or to lose the answer after it. `txns` is every transaction that was applied.
    `answers` are what `get_json` returns by path; `puts` what `put_json` was called with.
    """

    away: bool = False
    denied: set[str] = field(default_factory=set)
    before_txn: Callable[[Sequence[Op]], None] = lambda _: None
    after_txn: Callable[[Sequence[Op]], None] = lambda _: None
    txns: list[tuple[Op, ...]] = field(default_factory=list)
    answers: dict[str, Any] = field(default_factory=dict)
    puts: list[tuple[str, Any, Mapping[str, str]]] = field(default_factory=list)
    now: float = 0.0
    _entries: Keys = field(default_factory=dict)
    _deleted: dict[str, int] = field(default_factory=dict)
    _sessions: dict[str, _Session] = field(default_factory=dict)
    _index: int = 1
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def get(self, key: str, *, after: int = 0, wait_s: float = 0) -> tuple[Entry | None, int]:
        self._permit(key)
        with self._changed:
            self._block(lambda: self._key_index(key), after, wait_s)
            return self._entries.get(key), self._key_index(key)

    def list(self, prefix: str, *, after: int = 0, wait_s: float = 0) -> Listing:
        self._permit(prefix)
        with self._changed:
            self._block(lambda: self._prefix_index(prefix), after, wait_s)
            found = {k: e for k, e in sorted(self._entries.items()) if k.startswith(prefix)}
            return Listing(found, self._prefix_index(prefix))

    def txn(self, ops: Sequence[Op]) -> Mapping[str, int]:
        check_size(ops)
        for op in ops:
            self._permit(op.key)
        self.before_txn(ops)
        with self._changed:
            fresh, index = dict(self._entries), self._index + 1
            for op in ops:
                self._apply(op, fresh, index)
            self._commit(fresh, index)
            self.txns.append(tuple(ops))
        self.after_txn(ops)
        return {op.key: fresh[op.key].index for op in ops if isinstance(op, (Set, Cas, Lock, Unlock))}

    def create_session(
        self, name: str, *, ttl_s: int, behavior: Literal["release", "delete"], node: str = ""
    ) -> str:
        self._permit("")
        session = str(uuid.uuid4())
        self._sessions[session] = _Session(ttl_s, behavior, self.now)
        return session

    def renew_session(self, session: str) -> bool:
        self._permit("")
        if session in self._sessions:
            self._sessions[session].renewed = self.now
        return session in self._sessions

    def destroy_session(self, session: str) -> None:
        self._permit("")
        with self._changed:
            ended = self._sessions.pop(session, None)
            if ended is None:
                return
            held = {k: e for k, e in self._entries.items() if e.session == session}
            fresh, index = dict(self._entries), self._index + 1
            for key, entry in held.items():
                if ended.behavior == "delete":
                    del fresh[key]
                else:
                    fresh[key] = structs.replace(entry, session="", index=index)
            self._commit(fresh, index)

    def get_json(
        self, path: str, params: Mapping[str, str] | None = None, *, after: int = 0, wait_s: float = 0
    ) -> tuple[Any, int]:
        self._permit("")
        with self._changed:
            seen = self.answers.get(path)
            if after and wait_s:
                self._changed.wait_for(lambda: self.answers.get(path) != seen, wait_s)
            return self.answers.get(path), 1

    def put_json(self, path: str, body: object = None, params: Mapping[str, str] | None = None) -> Any:
        self._permit("")
        self.puts.append((path, body, params or {}))
        return None

    def answer(self, path: str, value: Any) -> None:
        """Let `get_json(path)` return `value` from now on, and wake who waits for it."""
        with self._changed:
            self.answers[path] = value
            self._changed.notify_all()

    def advance(self, seconds: float) -> None:
        """Move the clock; sessions end after twice their TTL without a renewal, as Consul does it."""
        self.now += seconds
        for session, info in list(self._sessions.items()):
            if self.now - info.renewed >= 2 * info.ttl_s:
                self.destroy_session(session)

    def put(self, key: str, value: bytes) -> None:
        """Write without a transaction of the code under test: not recorded in `txns`, never refused."""
        with self._changed:
            fresh = dict(self._entries)
            self._apply(Set(key, value), fresh, self._index + 1)
            self._commit(fresh, self._index + 1)

    def snapshot(self) -> Snapshot:
        """What `restore` takes."""
        return Snapshot(dict(self._entries), dict(self._deleted), self._index)

    def restore(self, to: Snapshot) -> None:
        """Go back, indexes included, as a restored Consul does; every waiting read returns."""
        with self._changed:
            self._entries, self._deleted, self._index = dict(to.entries), dict(to.deleted), to.index
            self._changed.notify_all()

    def _permit(self, key: str) -> None:
        if self.away:
            raise Temporary("no answer from Consul")
        for prefix in self.denied:
            if key.startswith(prefix):
                raise Denied(f"{key}: Permission denied")

    def _block(self, index: Callable[[], int], after: int, wait_s: float) -> None:
        if after and wait_s > 0:
            self._changed.wait_for(lambda: index() != after, wait_s)

    def _key_index(self, key: str) -> int:
        entry = self._entries.get(key)
        return entry.index if entry else self._deleted.get(key, 1)

    def _prefix_index(self, prefix: str) -> int:
        seen = [e.index for k, e in self._entries.items() if k.startswith(prefix)]
        return max([1, *seen, *(i for k, i in self._deleted.items() if k.startswith(prefix))])

    def _commit(self, fresh: Keys, index: int) -> None:
        if fresh != self._entries:
            self._deleted |= dict.fromkeys(self._entries.keys() - fresh.keys(), index)
            self._entries, self._index = fresh, index
            self._changed.notify_all()

    def _apply(self, op: Op, keys: Keys, index: int) -> None:
        old = keys.get(op.key)
        match op:
            case Set(key, value):
                keys[key] = _written(old, key, value, index, old.session if old else "")
            case Cas(key, value, expected):
                _require((old.index if old else 0) == expected, key, "index is stale")
                keys[key] = _written(old, key, value, index, old.session if old else "")
            case Delete(key):
                keys.pop(key, None)
            case DeleteCas(key, expected):
                _require(old is None or old.index == expected, key, "index is stale")
                keys.pop(key, None)
            case CheckIndex(key, expected):
                _require((old.index if old else 0) == expected, key, "failed index check")
            case CheckSession(key, session):
                _require(old is not None and old.session == session, key, "failed session check")
            case Lock(key, value, session):
                _require(session in self._sessions, key, "invalid session")
                _require(old is None or old.session in ("", session), key, "lock is already held")
                keys[key] = _written(old, key, value, index, session)
            case Unlock(key, value, session):
                _require(old is not None and old.session == session, key, "lock isn't held")
                keys[key] = _written(old, key, value, index, "")


def _require(true: bool, key: str, what: str) -> None:
    if not true:
        raise Conflict(f"{key}: {what}")


def _written(old: Entry | None, key: str, value: bytes, index: int, session: str) -> Entry:
    """The entry after a write; one that changes nothing keeps its index."""
    fresh = Entry(key=key, value=value, index=index, session=session)
    return old if old and structs.replace(fresh, index=old.index) == old else fresh
