"""What trees take on disk, file by file: each inode once, however many names it has."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator

from handlers.adapters.folder import Folder
from handlers.core.holdings import NOTHING, Space
from handlers.core.version import ReleaseId

_BLOCK = 512  # the unit of st_blocks, whatever the file system's own is


def taken(folders: Iterable[Folder]) -> int:
    """Bytes that trees of one file system take together."""
    return sum(dict(found for folder in folders for found in _files(folder)).values())


def shares_files(folder: Folder) -> bool:
    """Whether a file in a tree has other names, in the tree or elsewhere."""
    return any(info.st_nlink > 1 for info in _stats(folder))


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
    for info in _stats(folder):
        yield info.st_ino, info.st_blocks * _BLOCK


def _stats(folder: Folder) -> Iterator[os.stat_result]:
    for *_, names, fd in os.fwalk(dir_fd=folder.fd, follow_symlinks=False):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # a download renames its files meanwhile
                yield os.stat(name, dir_fd=fd, follow_symlinks=False)
