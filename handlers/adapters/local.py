"""The node's own memory below `<root>/state/`, and turns: one run at a time per handler, and one queued.

What is here lets a node work without Consul: applied desired, release bodies, its instances, its sessions.
Files appear by rename after fsync, so a reader sees the old or the new bytes, never half.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from handlers.core.errors import HydraError, Temporary


def write_atomic(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace `path` by `data` in one rename, durably, making folders. Raises `Temporary` on disk errors."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
        sync_folder(path.parent)
    except OSError as e:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise Temporary(f"cannot write {path}: {e.strerror}") from e


def sync_folder(path: Path) -> None:
    """Make renames and new names in `path` durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class LocalState:
    """Small files by name below `<root>/state/`."""

    def __init__(self, root: Path) -> None:
        self._folder = root / "state"

    def path(self, name: str) -> Path:
        """Where `name` (parts with `/` between) lives."""
        return self._folder / name

    def read(self, name: str) -> bytes | None:
        """The bytes, or None when nothing was written yet."""
        try:
            return self.path(name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as e:
            raise HydraError(f"cannot read {self.path(name)}: {e.strerror}") from e

    def write(self, name: str, data: bytes) -> None:
        """Replace the bytes durably; equal bytes are left alone."""
        if self.read(name) != data:
            write_atomic(self.path(name), data)

    def delete(self, name: str) -> None:
        """Forget; fine when absent."""
        self.path(name).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Delete unfinished files of processes that were killed while they wrote."""
        for path in self._folder.rglob(".*.tmp"):
            pid = path.name.split(".")[-2]
            if not pid.isdecimal() or not Path("/proc", pid).exists():
                path.unlink(missing_ok=True)

    def names(self, folder: str) -> list[str]:
        """The names in one folder, without unfinished files."""
        where = self.path(folder)
        return sorted(p.name for p in where.iterdir() if not p.name.startswith(".")) if where.is_dir() else []


@contextlib.contextmanager
def turn(root: Path, handler: str) -> Iterator[bool]:
    """Wait for this handler's turn on this node; yields False when another run is queued already.

    At most one run works and one waits. A third need not stay: the waiting one has not read yet, so it will
    see whatever woke the third. The locks end with the process, however it ends.
    """
    folder = root / "state" / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{handler}.queue").open("w") as queue, (folder / f"{handler}.run").open("w") as run:
        try:
            fcntl.flock(queue, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        fcntl.flock(run, fcntl.LOCK_EX)
        fcntl.flock(queue, fcntl.LOCK_UN)
        yield True
