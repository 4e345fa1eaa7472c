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


def opened(releases: Collection[ReleaseId], proc: Path = Path("/proc")) -> tuple[dict[ReleaseId, str], str]:
    """Those of `releases` that a process has open, mapped, or as a working folder, with which process it is;
    and why some processes cannot be seen (empty when all can).

    Paths are compared by their end: a container may see the root under another name.
    """
    marks = {f"/{r.channel}/{r.version}": r for r in releases}
    used: dict[ReleaseId, str] = {}
    blind = _namespace(proc)
    for process in proc.iterdir():
        if not process.name.isdecimal() or int(process.name) == os.getpid():
            continue
        try:
            for text in _paths(process):
                for mark, release in marks.items():
                    if release not in used and mark in text:
                        used[release] = f"process {process.name} has it open"
        except PermissionError:
            if not _kernel_thread(process):
                blind = blind or f"process {process.name} cannot be looked into"
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
    return used, blind


def _namespace(proc: Path) -> str:
    try:
        name = str((proc / "self" / "ns" / "pid").readlink())
    except OSError as e:
        return f"{proc} cannot be read ({e.strerror})"
    return "" if name == _FIRST_PID_NAMESPACE else "this process sees only its own container"


def _paths(process: Path) -> Iterator[str]:
    """All that a process holds, as text with paths in it. Raises OSError."""
    with (process / "maps").open(errors="surrogateescape") as maps:
        yield from maps
    for link in ("cwd", "root", "exe"):
        with contextlib.suppress(FileNotFoundError):  # kernel threads have none
            yield str((process / link).readlink())
    for entry in (process / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            yield str(entry.readlink())


def _kernel_thread(process: Path) -> bool:
    """Kernel threads hold no files of ours, and nobody may look into them."""
    try:
        fields = (process / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return bool(int(fields[6]) & _KERNEL_THREAD)
