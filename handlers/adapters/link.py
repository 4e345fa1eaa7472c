"""The line to the object stores that all downloads of a process share: streams, and bytes a second."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

_LOOK_S = 0.25  # how often somebody who waits for a stream looks whether it is still wanted
_EASE_S = 1.0  # one burst of refusals halves the streams once


class Link:
    """At most `streams` at a time over all datasets, and `bytes_per_s` in all (0 = as fast as it goes).

    Who waits longest for a stream gets the next one, so no dataset keeps another from its turn. A store that
    asks for fewer requests gets half the streams, and one more each time all of those went well.
    """

    def __init__(self, streams: int, bytes_per_s: int = 0) -> None:
        self.streams = max(1, streams)
        self._bytes_per_s = bytes_per_s
        self._changed = threading.Condition()
        self._allowed, self._taken = float(self.streams), 0
        self._waiting: deque[object] = deque()
        self._eased = 0.0
        self._free_at = 0.0

    @contextlib.contextmanager
    def stream(self, leaving: Callable[[], bool]) -> Iterator[None]:
        """Hold one of the streams; waits for its turn, or until `leaving` says that it is not wanted."""
        own = object()
        with self._changed:
            self._waiting.append(own)
            while (self._waiting[0] is not own or self._taken >= int(self._allowed)) and not leaving():
                self._changed.wait(_LOOK_S)
            self._waiting.remove(own)
            self._taken += 1
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._taken -= 1
                self._changed.notify_all()

    def went_well(self) -> None:
        """A stream brought all that it was asked for."""
        if self._allowed < self.streams:
            with self._changed:
                self._allowed = min(self.streams, self._allowed + 1 / self._allowed)
                self._changed.notify_all()

    def ease(self) -> None:
        """The store asked for fewer requests."""
        with self._changed:
            now = time.monotonic()
            if now - self._eased >= _EASE_S:
                self._eased, self._allowed = now, max(1.0, self._allowed / 2)

    def pace(self, count: int, stop: threading.Event) -> None:
        """Wait as long as `count` bytes that have come take at the most that is allowed; ends with `stop`."""
        if not self._bytes_per_s:
            return
        with self._changed:
            now = time.monotonic()
            self._free_at = max(self._free_at, now) + count / self._bytes_per_s
            wait_s = self._free_at - now
        stop.wait(wait_s)
