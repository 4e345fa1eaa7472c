"""What `sync` remembers between runs: node and generation, failures, and since when releases are unused.

Files of `LocalState`; one that cannot be read counts as empty, which only makes deletion later and a retry
earlier. Times are seconds since the epoch; one from the future (the clock was set back) counts as now.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict

from handlers.adapters.local import LocalState
from handlers.core.errors import Usage
from handlers.core.holdings import LONGEST_RETRY_S, Failure, retry_delay_s
from handlers.core.version import ReleaseId

_NODE, _FAILURES, _UNDESIRED, _VIEWED = "node", "sync/failures", "sync/undesired", "sync/viewed"


class _Failed(Struct, frozen=True):
    """One row of the failures; `digest` is that of the header which failed."""

    digest: str
    tries: int
    next_try: float
    reason: str


class Ledger:
    """The memory of the `sync` handler on one node."""

    def __init__(self, local: LocalState, retry_s: float) -> None:
        self._local = local
        self._retry_s = retry_s

    def generation(self) -> int:
        """The highest generation of `desired` that was taken over here, 0 before the first."""
        found = self._read(_NODE).get("generation", 0)
        return found if isinstance(found, int) else 0

    def took_over(self, node: str, generation: int) -> None:
        """Remember it; under another name as well (a node that was renamed keeps its data)."""
        self._write(_NODE, {"node": node, "generation": generation})

    def failures(self, wanted: Mapping[ReleaseId, str], now: float) -> dict[ReleaseId, Failure]:
        """The failures of releases, where `wanted` (digest by release) still names what failed."""
        result = {}
        for release, row in self._failed().items():
            if wanted.get(release) == row.digest:
                next_try = row.next_try if row.next_try <= now + LONGEST_RETRY_S else now
                result[release] = Failure(row.reason, next_try, timestamp(next_try))
        return result

    def failed(self, release: ReleaseId, digest: str, reason: str, now: float, chance: float) -> float:
        """Remember a failure; returns when to try again: minutes, then hours. `chance` is in 0..1."""
        rows = self._failed()
        before = rows.get(release)
        tries = before.tries + 1 if before and before.digest == digest else 1
        next_try = now + retry_delay_s(tries, self._retry_s, chance)
        rows[release] = _Failed(digest, tries, next_try, reason)
        self._write(_FAILURES, {r: asdict(row) for r, row in rows.items()})
        return next_try

    def forget_failures(self, keep: Collection[ReleaseId]) -> None:
        """Forget the failures of all other releases: they came through, or nobody wants them."""
        rows = self._failed()
        kept = {r: asdict(row) for r, row in rows.items() if r in keep}
        if len(kept) != len(rows):
            self._write(_FAILURES, kept)

    def undesired(self, releases: Collection[ReleaseId], now: float) -> dict[ReleaseId, float]:
        """Since when each of these was seen to be no longer desired; others are forgotten."""
        known = self._read(_UNDESIRED)
        result = {r: _past(known.get(r, now), now) for r in sorted(releases)}
        self._write(_UNDESIRED, result)
        return result

    def viewed(self, current: Collection[ReleaseId], keep_s: float, now: float) -> dict[ReleaseId, float]:
        """Releases that no view points to any more, but one did within `keep_s`; with the time it ceased."""
        known = self._read(_VIEWED)
        left = {r: _past(t, now) for r, t in known.items()}
        kept = {r: t for r, t in left.items() if r not in current and (t == 0 or now - t <= keep_s)}
        gone = {r: t or now for r, t in kept.items()}
        self._write(_VIEWED, {**gone, **dict.fromkeys(current, 0.0)})
        return {ReleaseId(r): t for r, t in gone.items()}

    def _failed(self) -> dict[ReleaseId, _Failed]:
        rows = {}
        for release, row in self._read(_FAILURES).items():
            try:
                rows[ReleaseId.parse(release)] = _Failed(**row)
            except (TypeError, Usage):
                continue
        return rows

    def _read(self, name: str) -> dict[str, Any]:
        try:
            value = json.loads(self._local.read(name) or b"{}")
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}

    def _write(self, name: str, value: Mapping[Any, Any]) -> None:
        self._local.write(name, json.dumps(value, sort_keys=True, indent=1).encode() + b"\n")


def timestamp(moment: float) -> str:
    """A time for people: ISO 8601 in UTC, in whole seconds."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _past(value: object, now: float) -> float:
    return min(float(value), now) if isinstance(value, (int, float)) else now
