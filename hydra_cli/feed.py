"""Consul's KV as it changes: for commands that look on (`publish --wait`, `status --watch`).

One blocking query per prefix, each in a thread of its own; a change wakes the command, which gets the whole
world anew. When Consul is away the last world stays and the threads try again: looking on must outlive a
restart.
"""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

from handlers.adapters.ports import KV, Entry
from handlers.core import keys
from handlers.core.entries import read
from handlers.core.errors import HydraError, Temporary
from handlers.core.world import World

_WAIT_S = 60.0
_AGAIN_S = 1.0
_GATHER_S = 0.1  # one transaction changes several prefixes: look once, not once for each


class Feed:
    """The world below some prefixes (of `keys`), renewed at every change. Use as a context."""

    def __init__(self, kv: KV, *prefixes: str) -> None:
        self._kv = kv
        self._prefixes = prefixes
        self._changed = threading.Condition()
        self._entries: dict[str, dict[str, Entry]] = {}
        self._count = 0
        self._seen = 0
        self._error: HydraError | None = None
        self._trouble = ""
        self._ended = False

    def __enter__(self) -> Self:
        """Begin to look."""
        for prefix in self._prefixes:
            threading.Thread(target=self._follow, args=(prefix,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the threads; one that waits for Consul ends with the process."""
        self._ended = True

    @property
    def trouble(self) -> str:
        """Why nothing new can be seen for now; empty when all is well."""
        return self._trouble

    def next(self, timeout_s: float) -> World | None:
        """The world after the next change, or None after `timeout_s`; the first comes when all was read once.

        Raises what Consul says for good, for example `Denied`.
        """
        until = time.monotonic() + timeout_s
        with self._changed:
            while not (self._count > self._seen and len(self._entries) == len(self._prefixes)):
                if self._error:
                    raise self._error
                left = until - time.monotonic()
                if left <= 0:
                    return None
                self._changed.wait(left)
            self._changed.wait(_GATHER_S)
            self._seen = self._count
            entries = {key: entry for found in self._entries.values() for key, entry in found.items()}
        return read({k: e.value for k, e in entries.items()}, {k: e.index for k, e in entries.items()})

    def _follow(self, prefix: str) -> None:
        index = 0
        while not self._ended:
            try:
                found = self._kv.list(prefix, after=index, wait_s=_WAIT_S)
            except Temporary as e:
                self._trouble, index = str(e), 0
                time.sleep(_AGAIN_S)
                continue
            except HydraError as e:
                with self._changed:
                    self._error = e
                    self._changed.notify_all()
                return
            self._trouble = ""
            if found.index != index:
                index = found.index
                with self._changed:
                    self._entries[prefix] = dict(found.entries)
                    self._count += 1
                    self._changed.notify_all()


ROLLOUT = (
    keys.CHANNELS,
    keys.SERVICES,
    keys.VERDICTS,
    keys.NODES,
    keys.ACTUAL,
    keys.STATES,
    keys.PROGRESS,
)
"""What the course of a rollout can be told from."""
