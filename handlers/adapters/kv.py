"""Consul's KV, transactions, sessions and blocking queries: the one client that every handler uses.

Standard library only, because a handler starts anew for every change: py-consul alone would cost more than
the rest of the run. What is off that path (agent, healthy services, ACL) is `adapters.catalog`.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self

from handlers import log
from handlers.adapters.consul_http import ANSWER_TIMEOUT_S, Address, Answer, Transport
from handlers.adapters.local import LocalState
from handlers.adapters.ports import KV, Cas, Entry, Listing, Lock, Op, Set, Unlock
from handlers.adapters.txn import check_size, plain, refusal, split
from handlers.core.errors import HydraError

__all__ = ["ConsulKV", "SessionKeeper", "split"]

LONGEST_WAIT_S = 300.0  # of one query; Consul itself allows 600
SPURIOUS_PAUSE_S = 0.05  # an empty prefix wakes at every write to the whole KV
_WRITES = (Set, Cas, Lock, Unlock)
_TXN_STATUSES = frozenset({200, 409})


class ConsulKV:
    """`ports.Consul` over HTTP. One object may be used by many threads."""

    def __init__(self, address: Address) -> None:
        self._http = Transport(address)
        # what was last answered for a path: index and fingerprint; tells real wake-ups from spurious ones
        self._seen: dict[str, tuple[int, int]] = {}

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> ConsulKV:
        """The agent that the CONSUL_ variables name; raises `Usage` on values that make no sense."""
        return cls(Address.from_env(environ))

    def get(self, key: str, *, after: int = 0, wait_s: float = 0) -> tuple[Entry | None, int]:
        """The entry (or None) and the index to block on."""
        answer = self._read(f"kv/{key}", {"consistent": ""}, after, wait_s)
        rows = json.loads(answer.body) if answer.status == 200 else []
        return (_entry(rows[0]) if rows else None), answer.index

    def list(self, prefix: str, *, after: int = 0, wait_s: float = 0) -> Listing:
        """All entries whose key begins with `prefix`."""
        answer = self._read(f"kv/{prefix}", {"recurse": "", "consistent": ""}, after, wait_s)
        rows = json.loads(answer.body) if answer.status == 200 else []
        return Listing({row["Key"]: _entry(row) for row in rows}, answer.index)

    def txn(self, ops: Sequence[Op]) -> Mapping[str, int]:
        """Apply all or nothing; the new ModifyIndex by written key."""
        check_size(ops)
        body = json.dumps([{"KV": plain(op)} for op in ops]).encode()
        answer = self._http.request("PUT", "txn", {}, body, accept=_TXN_STATUSES)
        said = json.loads(answer.body)
        if answer.status == 409:
            raise refusal(said.get("Errors") or [], ops)
        written = {op.key for op in ops if isinstance(op, _WRITES)}
        rows = [row["KV"] for row in said.get("Results") or []]
        return {row["Key"]: row["ModifyIndex"] for row in rows if row["Key"] in written}

    def create_session(
        self, name: str, *, ttl_s: int, behavior: Literal["release", "delete"], node: str = ""
    ) -> str:
        """A session without health checks and with lock-delay 0 on this agent's node (or `node`); its id."""
        wanted: dict[str, Any] = {
            "Name": name,
            "TTL": f"{ttl_s}s",
            "Behavior": behavior,
            "LockDelay": "0s",  # every step is fenced by the session, so a delay would protect nothing
            "Checks": [],  # a flap of the gossip must not end the session
        }
        if node:
            wanted["Node"] = node
        return str(self.put_json("session/create", wanted)["ID"])

    def renew_session(self, session: str) -> bool:
        """Renew; False when the session is gone."""
        return self._http.request("PUT", f"session/renew/{session}", {}).status == 200

    def destroy_session(self, session: str) -> None:
        """End the session; fine when it is gone."""
        self._http.request("PUT", f"session/destroy/{session}", {})

    def get_json(
        self, path: str, params: Mapping[str, str] | None = None, *, after: int = 0, wait_s: float = 0
    ) -> tuple[Any, int]:
        """`GET /v1/<path>`: the value (None for 404) and the index to block on."""
        answer = self._read(path, params or {}, after, wait_s)
        return (json.loads(answer.body) if answer.status == 200 else None), answer.index

    def put_json(self, path: str, body: object = None, params: Mapping[str, str] | None = None) -> Any:
        """`PUT /v1/<path>`; the parsed answer, None when it is empty."""
        raw = None if body is None else json.dumps(body).encode()
        answer = self._http.request("PUT", path, params or {}, raw, accept=frozenset({200}))
        return json.loads(answer.body) if answer.body.strip() else None

    def _read(self, path: str, params: Mapping[str, str], after: int, wait_s: float) -> Answer:
        """A read, which waits for a change since index `after` when `wait_s` is given.

        Returns when the content is another one than at `after`, or when the time is over. Wake-ups that bring
        the same content, also those with a lower index, are slept through.
        """
        name = path + "?" + "&".join(f"{k}={v}" for k, v in params.items())
        until = time.monotonic() + wait_s
        # After an outage the KV may be an older one, with lower indexes: blocking on the old index would
        # then sleep through the difference. So an index that is not remembered is compared first.
        index, known = self._seen.get(name, (0, 0))
        block = after if wait_s > 0 and after and index == after else 0
        while True:
            answer = self._query(path, params, block, until - time.monotonic())
            content = hash((answer.status, answer.body))
            self._seen[name] = (answer.index, content)
            same = content == known if block else answer.index == after
            if not (same and after and answer.index) or until - time.monotonic() <= 0:
                return answer
            if answer.index != block and block:
                time.sleep(min(SPURIOUS_PAUSE_S, max(0.0, until - time.monotonic())))
            block, known = answer.index, content

    def _query(self, path: str, params: Mapping[str, str], block: int, left_s: float) -> Answer:
        if not block:
            return self._request(path, params, ANSWER_TIMEOUT_S)
        wait_s = min(max(left_s, 0.001), LONGEST_WAIT_S)
        blocking = {**params, "index": str(block), "wait": f"{max(1, int(wait_s * 1000))}ms"}
        # Consul adds up to a sixteenth to the wait, so that not everybody comes back at once
        return self._request(path, blocking, wait_s * 17 / 16 + ANSWER_TIMEOUT_S)

    def _request(self, path: str, params: Mapping[str, str], timeout_s: float) -> Answer:
        try:
            return self._http.request("GET", path, params, timeout_s=timeout_s)
        except HydraError:
            self._seen.clear()
            raise


class SessionKeeper:
    """One session of this node and role, renewed by a thread for as long as the block runs.

    The session's id is kept in `sessions/<role>`: a restarted handler goes on with the session, and so with
    the locks, of the run that died. `lost` is set when Consul says that the session is gone, or when it could
    not be renewed for a whole TTL. Whoever holds locks needs no more than that as a hint: the fence is
    `CheckSession` in each transaction. At the end of the block the session is destroyed, unless `keep`.
    """

    def __init__(
        self,
        kv: KV,
        local: LocalState,
        role: str,
        *,
        ttl_s: int,
        behavior: Literal["release", "delete"] = "release",
        keep: bool = False,
    ) -> None:
        self.session = ""
        self.adopted = False
        self.lost = threading.Event()
        self._kv, self._local, self._name = kv, local, f"sessions/{role}"
        self._role, self._ttl_s, self._behavior, self._keep = role, ttl_s, behavior, keep
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._renew, name=f"session-{role}", daemon=True)

    def __enter__(self) -> Self:
        """Go on with the session of the run before, or create one; raises `Temporary` and `Denied`."""
        before = (self._local.read(self._name) or b"").decode(errors="replace").strip()
        self.adopted = bool(before) and self._kv.renew_session(before)
        if self.adopted:
            self.session = before
        else:
            self.session = self._kv.create_session(
                f"hydra {self._role}", ttl_s=self._ttl_s, behavior=self._behavior
            )
            self._local.write(self._name, self.session.encode())
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop renewing, and end the session unless it is to be kept for the next run."""
        self._end.set()
        if self._keep:
            return
        # when Consul is away the TTL ends the session; the error of the block is the one to report
        with contextlib.suppress(HydraError):
            self._kv.destroy_session(self.session)
            self._local.delete(self._name)

    def forget(self) -> None:
        """Nothing depends on the session any more: end it with the block, in spite of `keep`."""
        self._keep = False

    def _renew(self) -> None:
        good = time.monotonic()
        while not self._end.wait(self._ttl_s / 3):
            asked = time.monotonic()
            try:
                if not self._kv.renew_session(self.session):
                    self.lost.set()
                    return
                good = asked
            except HydraError as e:
                if time.monotonic() - good >= self._ttl_s:
                    log.warning("session", "could not be renewed for its whole TTL", role=self._role, error=e)
                    self.lost.set()
                    return


def _entry(row: Mapping[str, Any]) -> Entry:
    value = base64.b64decode(row["Value"] or "")
    return Entry(key=row["Key"], value=value, index=row["ModifyIndex"], session=row.get("Session", ""))
