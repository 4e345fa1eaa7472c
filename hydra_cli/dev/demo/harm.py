"""What the demo does to a node: it kills the handler in mid-download, and deletes all data."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from handlers.adapters.volume import PARTS
from handlers.core.errors import HydraError, Timeout
from handlers.core.names import Channel
from hydra_cli.dev.demo.sight import bytes_of
from hydra_cli.dev.processes import Process, find

LOOK_S = 0.002  # the download of the demo takes about a second


@dataclass(frozen=True)
class Hit:
    """A handler that was killed while it had files of a release open for writing.

    `finished` are the files that were there already, by inode with their size: what a resumed download keeps.
    """

    pid: int
    program: str
    bytes: int
    finished: dict[int, int]

    def kept(self, root: Path, channel: Channel, version: str) -> int:
        """Bytes of the finished release that were there when the handler was killed: the same inodes."""
        there = {status.st_ino for status in data_files(root, channel, version, "data").values()}
        return sum(size for inode, size in self.finished.items() if inode in there)


def kill_download(root: Path, channel: Channel, version: str, least_files: int, limit_s: float) -> Hit:
    """Kill -9 whoever downloads the release, once some files of it are finished and others are not.

    Raises `HydraError` when the download was over before it could be hit, `Timeout` when it never began.
    """
    writer = _in_the_middle(root, channel, version, least_files, limit_s)
    program = _command(writer.pid)
    writer.send(signal.SIGKILL)
    _require_unfinished(root, channel, version)
    return Hit(writer.pid, program, bytes_of(root, channel, version), _finished(root, channel, version))


def _in_the_middle(root: Path, channel: Channel, version: str, least_files: int, limit_s: float) -> Process:
    """Who downloads the release, as soon as the files are there that were waited for."""
    until = time.monotonic() + limit_s
    staging = tuple(volume / "staging" / channel / version for volume in (root / "volumes").iterdir())
    writer = None
    while time.monotonic() < until:
        _require_unfinished(root, channel, version)
        # the search takes a while, so it comes first: then the file that is waited for is noticed at once
        writer = writer if writer and writer.alive else _writer(staging)
        if writer and len(_finished(root, channel, version)) >= least_files:
            return writer
        time.sleep(LOOK_S)
    raise Timeout(f"{limit_s:.0f} s are over, still waiting for the download of {version} to begin")


def _require_unfinished(root: Path, channel: Channel, version: str) -> None:
    if (root / "releases" / channel / version).exists():
        raise HydraError(f"the download of {version} was over before it could be killed")


def _finished(root: Path, channel: Channel, version: str) -> dict[int, int]:
    """The whole files of the release on the node, public or not yet: inode and size."""
    staged = data_files(root, channel, version, "staging").items()
    whole = [status for path, status in staged if PARTS not in path.parts]
    whole += data_files(root, channel, version, "data").values()
    return {status.st_ino: status.st_size for status in whole}


def _writer(folders: Collection[Path]) -> Process | None:
    """The process that has a file below one of the folders open."""
    wanted = tuple(f"{folder}/" for folder in folders)
    return next((find(pid) for pid, path in _open_files() if path.startswith(wanted)), None)


def _command(pid: int) -> str:
    """The last words of a process's command line, which name the handler; empty when it is gone."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ""
    return " ".join(line.decode(errors="replace").rstrip("\0").split("\0")[-2:])


def _open_files() -> Iterator[tuple[int, str]]:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            for descriptor in (process / "fd").iterdir():
                yield int(process.name), str(descriptor.readlink())
        except OSError:
            continue  # ended, or not ours


def data_files(root: Path, channel: Channel, version: str, stage: str) -> dict[Path, os.stat_result]:
    """The files of a release in `staging` or `data` of all volumes."""
    found: dict[Path, os.stat_result] = {}
    for volume in (root / "volumes").iterdir():
        found |= _files(volume / stage / channel / version)
    return found


def _files(folder: Path) -> dict[Path, os.stat_result]:
    """The files below a folder that somebody may be changing."""
    found = {}
    for above, _, names in os.walk(folder):
        for path in (Path(above, name) for name in names):
            with contextlib.suppress(FileNotFoundError):
                found[path] = path.stat()
    return found


def wipe(root: Path, volumes: Collection[str]) -> dict[str, int]:
    """Delete everything on all volumes and all links to it, as an emptied disk would; what was lost.

    The result has the files on `volumes` with their sizes, by path below the root.
    """
    lost = contents(root, volumes)
    for folder in (root / "releases", *(root / "volumes").iterdir()):
        _empty(folder)
    return lost


def _empty(folder: Path) -> None:
    """Rename all away, then delete it: sync begins to fill again while something is still being deleted."""
    entries = list(folder.iterdir())
    with tempfile.TemporaryDirectory(dir=folder, prefix=".wiped-") as gone:
        for entry in entries:
            entry.rename(Path(gone) / entry.name)
        for path, _, _ in os.walk(gone):
            Path(path).chmod(0o755)  # complete data is read-only, folders too


def refilled(
    root: Path, volumes: Collection[str], lost: Mapping[str, int], versions: Collection[str]
) -> bool:
    """Whether every lost file of these versions is back."""
    there = contents(root, volumes)
    wanted = {path: size for path, size in lost.items() if not set(versions).isdisjoint(path.split("/"))}
    return bool(wanted) and wanted.items() <= there.items()


def contents(root: Path, volumes: Collection[str]) -> dict[str, int]:
    """All finished files on the volumes, with their sizes, by path below the root."""
    found: dict[Path, os.stat_result] = {}
    for name in volumes:
        found |= _files(root / "volumes" / name / "data")
    return {str(path.relative_to(root)): status.st_size for path, status in found.items()}
