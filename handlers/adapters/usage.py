"""Which releases are in use on this node: by views, and by what running processes have open or mapped.

Asked before anything is deleted. What cannot be seen counts as in use, never as free.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import stat
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from handlers.adapters.folder import RELEASE_DEPTH, Folder, disk_errors, each, release_at
from handlers.core.version import ReleaseId

VIEW_DEPTH = 4  # env, namespace, name, instance
_FIRST_PID_NAMESPACE = "pid:[4026531836]"  # the kernel gives the machine's own namespace this fixed number
_DELETED = " (deleted)"  # how the kernel marks such a path
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


Inode = tuple[int, int]  # st_dev, st_ino


def opened(
    root: Path,
    releases: Collection[ReleaseId],
    held: Collection[ReleaseId] = (),
    proc: Path = Path("/proc"),
) -> tuple[dict[ReleaseId, str], str]:
    """Those of `releases` that a process has open, mapped, or as a working folder, with which process it is;
    and why some processes cannot be seen (empty when all can).

    A file is known by its device and inode: a container may see the root under another name, and another root
    on this machine (a simulated node) may hold the same release. Releases may share a file (hard links); then
    it counts for the one that its path names, of all that are `held` here, else for each that has it.
    """
    index = _index(root, releases)
    numbers = {number for _, number in index}
    used: dict[ReleaseId, str] = {}
    blind = _namespace(proc)
    marks = {release: f"/{release.channel}/{release.version}/" for release in {*releases, *held}}
    for process in _processes(proc):
        try:
            for path, inode in (*_maps(process, lambda _, number: number in numbers), *_links(process)):
                found = index.get(inode, frozenset())
                named = {r for r, mark in marks.items() if mark in f"{path}/"} if found else set()
                for release in (found & named if named else found) - used.keys():
                    used[release] = f"process {process.name} has it open"
        except PermissionError:
            if not _kernel_thread(process):
                blind = blind or f"process {process.name} cannot be looked into"
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
    return used, blind


def deleted(root: Path, proc: Path = Path("/proc")) -> dict[str, int]:
    """By volume, bytes of files that are deleted but still open or mapped: they take room until they are not.

    Files of processes that cannot be looked into are not seen.
    """
    here = f"{root.resolve()}/volumes/"
    volumes = {path.name: path.stat().st_dev for path in (root / "volumes").glob("*/")}
    found: dict[Inode, tuple[str, int]] = {}
    for process in _processes(proc):
        with contextlib.suppress(OSError):  # it ended meanwhile, or may not be looked into
            container = not (process / "ns" / "mnt").samefile(proc / "self" / "ns" / "mnt")
            gone = _maps(process, lambda path, _: path.endswith(_DELETED))
            for path, inode in (*gone, *_links(process, _DELETED)):
                for name, device in volumes.items() if inode not in found else ():
                    # a container has a name of its own for the root
                    there = container and inode[0] == device and f"/volumes/{name}/" in path
                    if there or path.startswith(f"{here}{name}/"):
                        found[inode] = name, _bytes_of(process, path, inode)
    result: dict[str, int] = {}
    for volume, size in found.values():
        result[volume] = result.get(volume, 0) + size
    return result


def _index(root: Path, releases: Collection[ReleaseId]) -> dict[Inode, frozenset[ReleaseId]]:
    """Which of `releases` each file and folder belongs to."""
    index: dict[Inode, frozenset[ReleaseId]] = {}
    areas = [root / "releases", *(root / "volumes").glob("*/data")]
    for release in releases:
        for area in areas:
            for inode in inodes(area / release.channel / release.version):
                index[inode] = index.get(inode, frozenset()) | {release}
    return index


def inodes(folder: Path) -> Iterator[Inode]:
    """The folder, and every file and folder below it; nothing when it is not there."""
    if not folder.is_dir():
        return
    for *_, names, fd in os.fwalk(folder, follow_symlinks=False):
        info = os.fstat(fd)
        yield info.st_dev, info.st_ino
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # a download renames its files meanwhile
                info = os.stat(name, dir_fd=fd, follow_symlinks=False)
                yield info.st_dev, info.st_ino


def _processes(proc: Path) -> Iterator[Path]:
    for process in proc.iterdir():
        if process.name.isdecimal() and int(process.name) != os.getpid():
            yield process


def _maps(process: Path, wanted: Callable[[str, int], bool]) -> Iterator[tuple[str, Inode]]:
    """Path and inode of the files that a process has mapped, as far as `wanted` by path and inode number."""
    for line in (process / "maps").read_text(errors="surrogateescape").splitlines():
        if "/" in line:
            where, _, _, device, number, path = line.split(maxsplit=5)
            if wanted(path, int(number)):
                yield path, _mapped(process, where, device, int(number))


def _links(process: Path, mark: str = "") -> Iterator[tuple[str, Inode]]:
    """Path and inode of what a process has open, or as a folder; of those with `mark` in the path."""
    for link in (process / "cwd", process / "root", process / "exe", *(process / "fd").iterdir()):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile; kernel threads have none
            path = str(link.readlink())
            if mark in path and path.startswith("/"):  # no socket, no pipe
                info = link.stat()
                yield path, (info.st_dev, info.st_ino)


def _mapped(process: Path, where: str, device: str, number: int) -> Inode:
    """The inode as `stat` tells it: some file systems (btrfs, overlays) show another device in `maps`."""
    try:
        info = (process / "map_files" / where).stat()
    except OSError:  # only root may
        major, minor = device.split(":")
        return os.makedev(int(major, 16), int(minor, 16)), number
    return info.st_dev, info.st_ino


def _bytes_of(process: Path, path: str, inode: Inode) -> int:
    """What a deleted file takes on disk."""
    for link in (*(process / "fd").iterdir(), *(process / "map_files").iterdir()):
        with contextlib.suppress(OSError):
            info = link.stat() if str(link.readlink()) == path else None
            if info and (info.st_dev, info.st_ino) == inode:
                return info.st_blocks * 512
    return 0


def _namespace(proc: Path) -> str:
    try:
        name = str((proc / "self" / "ns" / "pid").readlink())
    except OSError as e:
        return f"{proc} cannot be read ({e.strerror})"
    return "" if name == _FIRST_PID_NAMESPACE else "this process sees only its own container"


def _kernel_thread(process: Path) -> bool:
    """Kernel threads hold no files of ours, and nobody may look into them."""
    try:
        fields = (process / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return bool(int(fields[6]) & _KERNEL_THREAD)
