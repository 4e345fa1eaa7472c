"""Folders by file descriptor: every step below a root refuses symbolic links.

A path is walked part by part from an open folder, so neither a planted link nor a rename in between leads
out of the root. Used by everything that writes or deletes data on a node.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Self

from handlers.core.errors import HydraError, NoRoom, Temporary, Usage
from handlers.core.names import Channel
from handlers.core.version import ReleaseId, Version

RELEASE_DEPTH = 4  # env, namespace, name, version
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextlib.contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Turn disk errors into ours: a full disk and failing hardware are `Temporary`, a planted link is not."""
    try:
        yield
    except OSError as e:
        if e.errno in (errno.ELOOP, errno.ENOTDIR):
            raise HydraError(f"{what}: a link or file stands where a folder belongs; remove it") from e
        if e.errno in _FULL:
            raise NoRoom(f"{what}: no room left on the volume ({e.strerror})") from e
        raise Temporary(f"{what}: {e.strerror}") from e


class Folder:
    """An open folder, for a `with` block. Methods raise OSError, which `disk_errors` words for people."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @classmethod
    def of(cls, path: Path) -> Folder:
        """Open `path`, of which only the last part must be no link (a root may be reached through one)."""
        return cls(os.open(path, _FOLDER))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def open(self, parts: Sequence[str], *, make: bool = False) -> Folder:
        """The folder at `parts` below this one; with `make`, missing ones are made durably."""
        fd = os.dup(self.fd)
        try:
            for part in parts:
                below = self._step(fd, part, make)
                os.close(fd)
                fd = below
        except BaseException:
            os.close(fd)
            raise
        return Folder(fd)

    def find(self, parts: Sequence[str]) -> Folder | None:
        """Like `open`, None when there is no such folder."""
        try:
            return self.open(parts)
        except FileNotFoundError:
            return None

    @staticmethod
    def _step(fd: int, part: str, make: bool) -> int:
        if make:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, 0o755, dir_fd=fd)
                os.fsync(fd)
        return os.open(part, _FOLDER, dir_fd=fd)

    def names(self) -> list[str]:
        """All names in here, sorted."""
        with os.scandir(self.fd) as entries:
            return sorted(e.name for e in entries)

    def folders(self) -> list[str]:
        """The names of the folders in here (links to folders are none), without hidden ones."""
        with os.scandir(self.fd) as entries:
            return sorted(
                e.name for e in entries if e.is_dir(follow_symlinks=False) and not e.name.startswith(".")
            )

    def has(self, name: str) -> bool:
        """Whether `name` is a folder in here."""
        info = self.stat(name)
        return info is not None and stat.S_ISDIR(info.st_mode)

    def stat(self, name: str) -> os.stat_result | None:
        """What `name` is, links not followed; None when it is not there."""
        try:
            return os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def sync(self) -> None:
        """Make new names and renames in here durable."""
        os.fsync(self.fd)

    def move(self, name: str, target: Folder, new_name: str) -> None:
        """Rename `name` to `new_name` in `target`, then make both sides durable."""
        os.rename(name, new_name, src_dir_fd=self.fd, dst_dir_fd=target.fd)
        target.sync()
        self.sync()

    def discard(self, name: str, trash: Folder) -> None:
        """Rename `name` away into `trash`, then delete it: a crash leaves only what a sweep deletes."""
        fresh = secrets.token_hex(8)
        info = self.stat(name)
        if info is None:
            return
        if stat.S_ISDIR(info.st_mode):
            self.writable(name)  # a read-only folder cannot be moved to another parent
        self.move(name, trash, fresh)
        trash.remove(fresh)

    def writable(self, name: str) -> None:
        """Let the owner change the folder `name`."""
        with self.open([name]) as inner:
            os.fchmod(inner.fd, 0o755)

    def unseal(self) -> None:
        """Let the owner change this folder and all below it."""
        os.fchmod(self.fd, 0o755)
        for name in self.folders():
            with self.open([name]) as inner:
                inner.unseal()

    def remove(self, name: str) -> None:
        """Delete `name` and all below it; links are deleted, never followed. Fine when it is absent."""
        info = self.stat(name)
        if info is None:
            return
        with contextlib.suppress(FileNotFoundError):  # two handlers may empty the same trash
            if not stat.S_ISDIR(info.st_mode):
                os.unlink(name, dir_fd=self.fd)
                return
            with self.open([name]) as inner:
                os.fchmod(inner.fd, 0o700)
                for child in inner.names():
                    inner.remove(child)
            os.rmdir(name, dir_fd=self.fd)

    def prune(self, parts: Sequence[str]) -> None:
        """Delete the folder at `parts` and those above it, as far as they are empty."""
        for depth in range(len(parts), 0, -1):
            above = self.find(parts[: depth - 1])
            if above is None:
                continue
            with above:
                try:
                    os.rmdir(parts[depth - 1], dir_fd=above.fd)
                except FileNotFoundError:
                    continue
                except OSError:  # not empty: somebody else's data is below it, and so it stays
                    return


def each(top: Folder, depth: int) -> Iterator[tuple[str, ...]]:
    """The parts of every folder `depth` levels below `top`."""
    if depth == 0:
        yield ()
        return
    for name in top.folders():
        inner = top.find([name])
        if inner is not None:
            with inner:
                for rest in each(inner, depth - 1):
                    yield (name, *rest)


def release_at(parts: Collection[str]) -> ReleaseId | None:
    """The release whose folder has these parts; None for names that are no release (somebody else's)."""
    *channel, version = parts
    try:
        return ReleaseId.of(Channel.parse("/".join(channel)), Version.parse(version))
    except Usage:
        return None


def drop_empty(top: Folder, depth: int) -> None:
    """Delete empty folders up to `depth` levels below `top`: what a killed `prune` left."""
    for name in top.folders():
        if depth > 1:
            with top.open([name]) as inner:
                drop_empty(inner, depth - 1)
        with contextlib.suppress(OSError):  # not empty: it stays
            os.rmdir(name, dir_fd=top.fd)
