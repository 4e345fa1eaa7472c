"""Waking a handler in the middle of its work: a thread that blocks on one key."""

from __future__ import annotations

import random
import threading
from typing import Self

from handlers.adapters.ports import KV
from handlers.core.errors import HydraError

LONGEST_POLL_S = 60.0


class Bell:
    """Sets `wake` whenever the key moved; for a `with` block. Costs nothing until `listen` is called."""

    def __init__(self, kv: KV, key: str, wake: threading.Event) -> None:
        self._kv, self._key, self._wake = kv, key, wake
        self._closed, self._index = threading.Event(), 0
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()

    def rang(self, index: int) -> bool:
        """Whether the key moved since `index`."""
        return self._thread is not None and self._index != index

    def listen(self, index: int) -> None:
        """Start listening for changes after `index`, if not done yet."""
        if self._thread is None:
            self._index = index
            # a daemon: a blocking query must not keep the process from ending
            self._thread = threading.Thread(target=self._wait, name="bell", daemon=True)
            self._thread.start()

    def _wait(self) -> None:
        while not self._closed.is_set():
            try:
                _, index = self._kv.get(self._key, after=self._index, wait_s=LONGEST_POLL_S)
            except HydraError:
                self._closed.wait(random.uniform(0.5, 2.0))  # Consul is away: the work goes on without it
                continue
            if index != self._index:
                self._index = index
                self._wake.set()
