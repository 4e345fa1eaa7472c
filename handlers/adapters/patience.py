"""How long a download has asked and nothing came. Used by `download`, from all of its threads."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator


class Patience:
    """Runs out after `limit_s` seconds in which somebody asked and nobody got a byte.

    Time in which all threads wait for a stream is not counted: others have them, and the store is not to
    blame.
    """

    def __init__(self, limit_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit_s, self._clock = limit_s, clock
        self._lock = threading.Lock()
        self._asking, self._since, self._passed_s = 0, 0.0, 0.0

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        """Around a request, and around the pause after one that failed."""
        with self._lock:
            if not self._asking:
                self._since = self._clock()
            self._asking += 1
        try:
            yield
        finally:
            with self._lock:
                self._asking -= 1
                if not self._asking:
                    self._passed_s += self._clock() - self._since

    def came(self) -> None:
        """Bytes have come."""
        with self._lock:
            self._since, self._passed_s = self._clock(), 0.0

    def over(self) -> bool:
        """Whether it has run out."""
        with self._lock:
            running_s = self._clock() - self._since if self._asking else 0.0
            return self._passed_s + running_s > self._limit_s
