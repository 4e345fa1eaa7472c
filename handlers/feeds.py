"""What `reload` waits for: threads that block on Consul, or poll an endpoint, and wake it when it moved."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from handlers.core.errors import Denied, HydraError

WAIT_S = 30.0
AWAY_S = 0.5  # between tries while the other side is away
Fetch = Callable[[int, float], tuple[Any, int]]
"""(index to block on, longest wait) -> (value, index)."""


class Seen(Struct, frozen=True):
    """The last answer of a feed; without `known`, there is none now."""

    known: bool = False
    value: Any = None
    error: str = ""


class Feed:
    """One thread that fetches again and again; `wake` is set at the first answer and whenever it changes."""

    def __init__(self, name: str, fetch: Fetch, wake: threading.Event, pause_s: float) -> None:
        self.seen = Seen()
        self._fetch, self._wake, self._pause_s = fetch, wake, pause_s
        self._closed = threading.Event()
        # a daemon: a blocking query must not keep the process from ending
        threading.Thread(target=self._run, name=f"feed {name}", daemon=True).start()

    def close(self) -> None:
        """Stop after the current fetch."""
        self._closed.set()

    def _run(self) -> None:
        index = 0
        while not self._closed.is_set():
            try:
                value, index = self._fetch(index, WAIT_S)
                fresh, pause_s = Seen(True, value), self._pause_s
            except HydraError as e:
                # what was seen before may be wrong by now
                fresh, index, pause_s = Seen(error=str(e)), 0, AWAY_S
            if fresh != self.seen:
                self.seen = fresh
                self._wake.set()
            if pause_s:
                self._closed.wait(pause_s)


class Feeds:
    """Feeds by name: made when first asked for, ended when a whole round did not ask for them."""

    def __init__(self, wake: threading.Event) -> None:
        self._wake = wake
        self._feeds: dict[str, Feed] = {}
        self._asked: set[str] = set()

    def see(self, name: str, fetch: Fetch, pause_s: float = 0.0) -> Seen:
        """The last answer; unknown at first, and `wake` is set as soon as it is known."""
        self._asked.add(name)
        if name not in self._feeds:
            self._feeds[name] = Feed(name, fetch, self._wake, pause_s)
        return self._feeds[name].seen

    def end_round(self) -> None:
        """Close what nobody asked for since the last call."""
        for name in self._feeds.keys() - self._asked:
            self._feeds.pop(name).close()
        self._asked.clear()

    def close(self) -> None:
        """Close all."""
        self._asked.clear()
        self.end_round()


class Task:
    """Something slow beside the decisions; `result` is None until it ended, then empty or how it failed;
    `denied`: for want of rights, which another try would not have either.
    """

    def __init__(self, name: str, work: Callable[[], None], wake: threading.Event) -> None:
        self.result: str | None = None
        self.denied = False
        self._work, self._wake = work, wake
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def _run(self) -> None:
        try:
            self._work()
            self.result = ""
        except HydraError as e:
            self.denied = isinstance(e, Denied)
            self.result = str(e) or type(e).__name__
        except Exception as e:  # noqa: BLE001 - whatever it is, who waits for the result must hear of it
            self.result = f"{type(e).__name__}: {e}"
        self._wake.set()
