"""What this machine has to keep data on: mounts, and the disks behind them.

Read from `/proc/self/mountinfo`, `/sys/dev/block` and `statvfs`; `core.proposal` decides what to make
of it.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from handlers.core.errors import Temporary
from handlers.core.proposal import Machine, Mount

MEMORY = frozenset({"tmpfs", "ramfs"})
_ESCAPED = re.compile(r"\\([0-7]{3})")


def machine(
    root: Path,
    proc: Path = Path("/proc"),
    sys: Path = Path("/sys"),
    stat: Callable[[Path], os.statvfs_result] = os.statvfs,
) -> Machine:
    """The machine as it is now. Raises `Temporary` when `/proc` cannot be read."""
    mounts = []
    for device, path, kind, source, options in _rows(proc):
        with contextlib.suppress(OSError):  # not ours to look at, or gone meanwhile
            space = stat(Path(path))
            mounts.append(
                Mount(
                    path=path,
                    kind=kind,
                    source=source,
                    device=device,
                    read_only="ro" in options.split(","),
                    rotational=_rotational(sys, device),
                    total_bytes=space.f_blocks * space.f_frsize,
                    free_bytes=space.f_bavail * space.f_frsize,
                    total_files=space.f_files,
                )
            )
    return Machine(root=str(root), memory_bytes=_memory(proc), mounts=tuple(mounts))


def in_memory(device: int, proc: Path = Path("/proc")) -> bool:
    """Whether what has this `st_dev` lies in memory."""
    name = f"{os.major(device)}:{os.minor(device)}"
    return any(row[0] == name and row[2] in MEMORY for row in _rows(proc))


def _rows(proc: Path) -> Iterator[tuple[str, str, str, str, str]]:
    """Device, mount point, file system, source and options of every mount; the last one at a path counts."""
    try:
        lines = (proc / "self" / "mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError as e:
        raise Temporary(f"{proc}/self/mountinfo: {e.strerror}") from e
    for line in lines:
        left, _, right = line.partition(" - ")
        device, _, path, options = left.split()[2:6]
        kind, source, *_ = right.split()
        yield device, _ESCAPED.sub(lambda m: chr(int(m[1], 8)), path), kind, source, options


def _rotational(sys: Path, device: str) -> bool | None:
    """Whether the disk below a device turns; of a partition, that of its disk. None = it is no disk."""
    folder = sys / "dev" / "block" / device
    for place in (folder / "queue", folder.resolve().parent / "queue"):
        with contextlib.suppress(OSError):
            return (place / "rotational").read_text().strip() == "1"
    return None


def _memory(proc: Path) -> int:
    try:
        found = re.search(r"^MemTotal:\s+(\d+) kB", (proc / "meminfo").read_text(), re.MULTILINE)
    except OSError as e:
        raise Temporary(f"{proc}/meminfo: {e.strerror}") from e
    return int(found[1]) * 1024 if found else 0
