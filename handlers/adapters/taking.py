"""What the handlers of a node are about to take of its file systems: no two take the same last bytes.

    state/taking/<handler>     bytes still to come by file system (its st_dev), as JSON; it counts for as long
                               as whoever wrote it lives and holds the lock on it
    state/taking/.lock         held while one decides by what is free and says what it takes

One file system may carry several volumes, which `sync` and `reload` fill at the same time. Bytes that have
come are not free any more, so they are taken off here.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from handlers.adapters.folder import disk_errors

_LOCK = ".lock"
Bytes = Mapping[int, int]
"""Bytes by file system, which is its st_dev."""


class Taking:
    """What others are about to take, and for a handler with a `name` what it takes itself.

    Raises `Temporary` when the disk of the root fails.
    """

    def __init__(self, root: Path, name: str = "") -> None:
        self._folder, self._name = root / "state" / "taking", name
        self._own, self._said = -1, dict[int, int]()

    def others(self) -> dict[int, int]:
        """Bytes that the other handlers are about to take."""
        with self._alone() as there:
            return self._others() if there else {}

    def claim(self, wanted: Bytes, free: Callable[[int], int]) -> bool:
        """Say what is taken from now on, unless others take so much that it would not fit any more.

        `free` tells what a file system has. Nothing changes where the answer is no.
        """
        self._begin()
        with self._alone():
            others = self._others()
            fits = all(size <= free(device) - others.get(device, 0) for device, size in wanted.items())
            self._say(wanted if fits else self._said)
            return fits

    def left(self, wanted: Bytes) -> None:
        """Say that it is less by now."""
        if self._own >= 0 and wanted != self._said:
            with self._alone():
                self._say(wanted)

    def end(self) -> None:
        """Nothing is taken any more; so it is also when the process dies."""
        if self._own >= 0:
            os.close(self._own)
            self._own = -1

    def _begin(self) -> None:
        """Take our own file, before the common lock: who still has it needs that to end."""
        if self._own >= 0:
            return
        with disk_errors(str(self._folder)):
            self._folder.mkdir(parents=True, exist_ok=True)
            own = os.open(self._folder / self._name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            fcntl.flock(own, fcntl.LOCK_EX)
            self._own, self._said = own, {}

    def _say(self, wanted: Bytes) -> None:
        os.ftruncate(self._own, 0)
        os.pwrite(self._own, json.dumps(wanted).encode(), 0)
        self._said = dict(wanted)

    def _others(self) -> dict[int, int]:
        found: dict[int, int] = {}
        for path in sorted(self._folder.iterdir()):
            if path.name in (_LOCK, self._name):
                continue
            with path.open("rb") as file:
                if _is_locked(file.fileno()):
                    for device, size in json.loads(file.read() or b"{}").items():
                        found[int(device)] = found.get(int(device), 0) + int(size)
        return found

    @contextlib.contextmanager
    def _alone(self) -> Iterator[bool]:
        """While nobody else changes anything; False where nobody ever has."""
        with disk_errors(str(self._folder)), contextlib.ExitStack() as stack:
            there = self._folder.is_dir()
            if there:
                flags = os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC
                lock = os.open(self._folder / _LOCK, flags, 0o644)
                stack.callback(os.close, lock)
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield there


def _is_locked(fd: int) -> bool:
    """Whether whoever wrote the file still holds it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
