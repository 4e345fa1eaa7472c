"""Threads that work off the tasks of one download; a task may bring more. Used by `download`.

Whoever asked for the work is never kept by it: it is given up within a second, even where a thread is stuck
in the network.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable

_LEAVE_S = 0.8  # how long threads may take to notice that they are not wanted any more
_LOOK_S = 0.25

Task = Callable[[], None]


class Superseded(Exception):
    """The work was given up because it is not wanted any more; what is staged is kept."""


class Crew:
    """`run` it once. Setting `stop`, from any thread, ends it.

    `at_end` is called by the last one that leaves, when nobody works any more.
    """

    def __init__(self, stop: threading.Event, at_end: Callable[[], None]) -> None:
        self._stop, self._at_end = stop, at_end
        self._tasks: deque[Task] = deque()
        self._changed = threading.Condition()
        self._threads, self._busy = 1, 0  # `run` itself; threads that may still find more to do
        self._error: Exception | None = None

    def run(self, threads: int, begin: Callable[[], Iterable[Task]]) -> None:
        """Do all tasks that `begin` brings. Raises `Superseded`, or the first error of a task."""
        try:
            self._tasks.extend(begin())
            for n in range(threads):
                # daemons: one that is stuck in the network must not keep the process from ending
                self._threads += 1
                threading.Thread(target=self._work, name=f"download-{n}", daemon=True).start()
            self._wait()
            if self._error is not None:
                raise self._error
            if self._stop.is_set():
                raise Superseded
        finally:
            self._leave()

    def leaving(self) -> bool:
        """Whether nothing more is wanted."""
        return self._stop.is_set() or self._error is not None

    def first(self, tasks: list[Task]) -> None:
        """These come before all others, in their order."""
        with self._changed:
            self._tasks.extendleft(reversed(tasks))
            self._changed.notify_all()

    def _wait(self) -> None:
        """Until all threads are done; after a stop or an error only for a moment."""
        with self._changed:
            while self._threads > 1 and not self.leaving():
                self._changed.wait(_LOOK_S)
            self._changed.wait_for(lambda: self._threads == 1, timeout=_LEAVE_S)

    def _work(self) -> None:
        """One thread: tasks until there are none and nobody is at one that may bring more."""
        try:
            while (task := self._next()) is not None:
                try:
                    task()
                finally:
                    with self._changed:
                        self._busy -= 1
                        self._changed.notify_all()
        except Superseded:
            return
        except Exception as e:  # noqa: BLE001 - raised again by `run`, in the thread that asked for the data
            with self._changed:
                self._error = self._error or e
        finally:
            self._leave()

    def _next(self) -> Task | None:
        with self._changed:
            while not self.leaving():
                if self._tasks:
                    self._busy += 1
                    return self._tasks.popleft()
                if not self._busy:
                    return None
                self._changed.wait(_LOOK_S)
            return None

    def _leave(self) -> None:
        with self._changed:
            self._threads -= 1
            self._changed.notify_all()
            if self._threads:
                return
        self._at_end()
