"""What trees take on disk, file by file: each inode once, however many names it has."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from handlers.adapters.folder import Folder
from handlers.core.holdings import NOTHING, Space
from handlers.core.version import ReleaseId

_BLOCK = 512  # the unit of st_blocks, whatever the file system's own is


def taken(folder: Folder) -> int:
    """Bytes that a tree takes."""
    return sum(dict(_files(folder)).values())


def passing(staging: Folder) -> dict[str, int]:
    """Bytes of files that have no name outside of a staging area: in all (""), and by namespace.

    The others were linked from complete data, and are counted there. One walk for all budgets of a volume:
    while 100,000 files are fetched it is taken every few seconds.
    """
    result, links = {"": 0}, Counter[int]()
    for where, _, names, fd in os.fwalk(dir_fd=staging.fd, follow_symlinks=False):
        here = 0
        for name in names:
            try:
                info = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:  # a download renames its files meanwhile
                continue
            if info.st_nlink > 1:
                links[info.st_ino] += 1
                if links[info.st_ino] < info.st_nlink:
                    continue
            here += info.st_blocks * _BLOCK
        for room in {"", "/".join(where.split("/")[1:3])}:
            result[room] = result.get(room, 0) + here
    return result


def shared(
    trees: Iterable[tuple[ReleaseId, Folder]], rooms: Callable[[ReleaseId], Iterable[str]]
) -> dict[frozenset[ReleaseId], dict[str, Space]]:
    """What trees of one file system share: by the exact set of releases, and by room of any of them."""
    holders: dict[int, frozenset[ReleaseId]] = {}
    sizes: dict[int, int] = {}
    for release, folder in trees:
        for inode, size in _files(folder):
            holders[inode] = holders.get(inode, frozenset()) | {release}
            sizes[inode] = size
    result: dict[frozenset[ReleaseId], dict[str, Space]] = {}
    for inode, names in holders.items():
        found = result.setdefault(names, {})
        for room in {room for name in names for room in rooms(name)}:
            found[room] = found.get(room, NOTHING) + Space(sizes[inode], 1)
    return result


def _files(folder: Folder) -> Iterator[tuple[int, int]]:
    """Inode and bytes of every file below a folder."""
    for *_, names, fd in os.fwalk(dir_fd=folder.fd, follow_symlinks=False):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # it may be deleted meanwhile
                info = os.stat(name, dir_fd=fd, follow_symlinks=False)
                yield info.st_ino, info.st_blocks * _BLOCK
