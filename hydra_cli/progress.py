"""Progress of long work on S3: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from hydra_cli.output import Screen, size

EVERY_S = 15.0
Step = Callable[[int], None]


@contextlib.contextmanager
def progress(screen: Screen, what: str, total: int, unit: str = "bytes") -> Iterator[Step]:
    """A function to tell, from any thread, how much more of `total` is done; `unit`: `bytes` or a word."""
    if screen.live:
        with _bar(screen, what, total, unit) as step:
            yield step
    else:
        yield _Lines(screen, what, total, unit).step


@contextlib.contextmanager
def _bar(screen: Screen, what: str, total: int, unit: str) -> Iterator[Step]:
    from rich import progress as rich

    columns = [
        rich.DownloadColumn(binary_units=True),
        rich.TransferSpeedColumn(),
    ]
    counts = [rich.MofNCompleteColumn(), rich.TextColumn(unit)]
    with rich.Progress(
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        *(columns if unit == "bytes" else counts),
        rich.TimeRemainingColumn(),
        console=screen.console(),
        transient=True,
    ) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)


class _Lines:
    """Says how far it is every `EVERY_S`: what is quickly done needs no line."""

    def __init__(self, screen: Screen, what: str, total: int, unit: str) -> None:
        self._screen, self._what, self._total, self._unit = screen, what, total, unit
        self._lock = threading.Lock()
        self._done = 0
        self._due = time.monotonic() + EVERY_S

    def step(self, count: int) -> None:
        """So much more is done."""
        with self._lock:
            self._done += count
            if time.monotonic() < self._due:
                return
            self._due = time.monotonic() + EVERY_S
            self._screen.note(f"{self._what}: {self._text()}")

    def _text(self) -> str:
        if self._unit == "bytes":
            return f"{size(self._done)} of {size(self._total)}"
        return f"{self._done} of {self._total} {self._unit}"
