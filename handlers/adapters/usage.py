"""Which releases are in use on this node: by views, and by what running processes have open or mapped.

Asked before anything is deleted. What cannot be seen counts as in use, never as free.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import stat
from collections.abc import Collection, Iterator
from pathlib import Path

from handlers.adapters.folder import Folder, disk_errors, each
from handlers.adapters.volume import RELEASE_DEPTH, release_at
from handlers.core.version import ReleaseId

VIEW_DEPTH = 4  # env, namespace, name, instance
_FIRST_PID_NAMESPACE = "pid:[4026531836]"  # the kernel gives the machine's own namespace this fixed number
_KERNEL_THREAD = 0x00200000  # PF_KTHREAD in the flags of /proc/<pid>/stat


def viewed(root: Path) -> frozenset[ReleaseId]:
    """The releases that views point to now or pointed to just before (views keep their previous links).

    Raises `Temporary` when a view cannot be read.
    """
    with disk_errors(f"{root}/views"), Folder.of(root.resolve()) as top:
        views = top.find(["views"])
        if views is None:
            return frozenset()
        with views:
            found: set[ReleaseId] = set()
            for parts in each(views, VIEW_DEPTH):
                view = views.find(parts)
                if view is not None:
                    with view:
                        found.update(_targets(view, ["views", *parts], root.resolve()))
            return frozenset(found)


def _targets(folder: Folder, where: list[str], root: Path) -> Iterator[ReleaseId]:
    """The releases that links in a view, or in its folders `..<n>`, lead to."""
    for name in folder.names():
        info = folder.stat(name)
        if info is None:
            continue
        if stat.S_ISLNK(info.st_mode):
            with contextlib.suppress(FileNotFoundError):  # reload renames links at any time
                target = os.readlink(name, dir_fd=folder.fd)
                release = _release_in(posixpath.normpath(posixpath.join(*where, target)), root)
                if release is not None:
                    yield release
        elif stat.S_ISDIR(info.st_mode) and name.startswith("..") and len(where) == VIEW_DEPTH + 1:
            inner = folder.find([name])
            if inner is not None:
                with inner:
                    yield from _targets(inner, [*where, name], root)


def _release_in(path: str, root: Path) -> ReleaseId | None:
    """The release to which a normal path, relative to the root or absolute, belongs."""
    if path.startswith("/"):
        path = posixpath.relpath(path, root)
    match path.split("/"):
        case ["releases", *rest] | ["volumes", _, "data", *rest] if len(rest) >= RELEASE_DEPTH:
            return release_at(rest[:RELEASE_DEPTH])
    return None


def opened(
    root: Path, releases: Collection[ReleaseId], proc: Path = Path("/proc")
) -> tuple[dict[ReleaseId, str], str]:
    """Those of `releases` that a process has open, mapped, or as a working folder, with which process it is;
    and why some processes cannot be seen (empty when all can).

    A file is known by the end of its path and its inode, not by the whole path: a container may see the root
    under another name, and another root on this machine (a simulated node) may hold the same release.
    """
    marks = {f"/{r.channel}/{r.version}": r for r in releases}
    used: dict[ReleaseId, str] = {}
    blind = _namespace(proc)
    for process in proc.iterdir():
        if not process.name.isdecimal() or int(process.name) == os.getpid():
            continue
        try:
            for path, inode in _held(process, marks):
                for mark, release in marks.items():
                    _, found, rest = path.partition(mark)
                    if found and release not in used and _is_ours(root, mark + rest, inode):
                        used[release] = f"process {process.name} has it open"
        except PermissionError:
            if not _kernel_thread(process):
                blind = blind or f"process {process.name} cannot be looked into"
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
    return used, blind


def _is_ours(root: Path, path: str, inode: int) -> bool:
    """Whether the file with this path below a folder of releases or data, and this inode, is below `root`."""
    folders = [root / "releases", *(root / "volumes").glob("*/data")]
    for folder in folders:
        with contextlib.suppress(OSError):  # not there, or not a folder on the way: another file
            if os.lstat(f"{folder}{path}").st_ino == inode:
                return True
    return False


def _namespace(proc: Path) -> str:
    try:
        name = str((proc / "self" / "ns" / "pid").readlink())
    except OSError as e:
        return f"{proc} cannot be read ({e.strerror})"
    return "" if name == _FIRST_PID_NAMESPACE else "this process sees only its own container"


def _held(process: Path, marks: Collection[str]) -> Iterator[tuple[str, int]]:
    """Path and inode of what a process holds, as far as one of `marks` is in the path. Raises OSError."""
    with (process / "maps").open(errors="surrogateescape") as maps:
        for line in maps:
            if any(mark in line for mark in marks):
                *_, inode, path = line.rstrip("\n").split(maxsplit=5)
                yield path, int(inode)
    for link in (process / "cwd", process / "root", process / "exe", *(process / "fd").iterdir()):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile; kernel threads have none
            path = str(link.readlink())
            if any(mark in path for mark in marks):
                yield path, link.stat().st_ino


def _kernel_thread(process: Path) -> bool:
    """Kernel threads hold no files of ours, and nobody may look into them."""
    try:
        fields = (process / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return bool(int(fields[6]) & _KERNEL_THREAD)
