"""What happened when in Consul's KV: every value of some keys, with the moment it was read."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from tests.bench.watchers import Read, Watchers


@dataclass(frozen=True)
class Event:
    """One value of one key, read at `at` (seconds since the epoch)."""

    at: float
    key: str
    value: bytes


class Recorder:
    """Follows keys in a thread of its own; `with Recorder(…) as recorder: recorder.wait(…)`."""

    def __init__(self, address: str, token: str, keys: Sequence[str]) -> None:
        self._watchers = Watchers(address, token, keys, self._take)
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._end = asyncio.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="recorder")
        self._last_at = time.time()
        self.events: list[Event] = []
        self.last: dict[str, bytes] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    def wait(self, what: str, true: Callable[[], bool], limit_s: float) -> None:
        """Return once `true`, asked again after every change; raises TimeoutError with `what`."""
        until = time.monotonic() + limit_s
        with self._changed:
            while not true():
                if self._failure:
                    raise RuntimeError("a query failed") from self._failure
                if time.monotonic() > until:
                    raise TimeoutError(f"after {limit_s:g} s still not true: {what}")
                self._changed.wait(1.0)

    def rest(self, span_s: float, limit_s: float) -> None:
        """Return once nothing was read for `span_s`; raises TimeoutError when that never comes."""
        until = time.monotonic() + limit_s
        while (left_s := self._last_at + span_s - time.time()) > 0:
            if time.monotonic() > until:
                raise TimeoutError(f"after {limit_s:g} s there is still no rest")
            with self._changed:
                self._changed.wait(left_s)

    def since(self, moment: float) -> list[Event]:
        """What was read at `moment` or later, in order."""
        with self._changed:
            return [event for event in self.events if event.at >= moment]

    def _take(self, key: str, read: Read) -> None:
        with self._changed:
            self.events.append(Event(read.at, key, read.value))
            self.last[key] = read.value
            self._last_at = read.at
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._follow())
        except BaseException as e:  # noqa: BLE001 - it is raised where somebody waits
            with self._changed:
                self._failure = e
                self._changed.notify_all()
        finally:
            self._loop.close()

    async def _follow(self) -> None:
        await self._watchers.start()
        try:
            await self._watchers.until(self._end)
        finally:
            await self._watchers.stop()
