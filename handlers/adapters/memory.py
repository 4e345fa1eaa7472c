"""How much memory this machine, or the control group that we run in, can still give.

A tmpfs takes memory: what it may grow to (`size=`) says nothing about what is there. Used by `volume`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

LEAST_BYTES = 256 * 1024**2  # stays available on the machine: the kubelet evicts pods below 100 MiB
# and in a group with a limit, beside what its programs take now: 181 MiB at rest, 236 at the most were seen
LEAST_OF_GROUP_BYTES = 64 * 1024**2
_UNLIMITED = 2**62


def available(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that may still be taken: `MemAvailable`, and what the limits of our control groups leave.

    Page cache of a group counts as available, as far as the kernel may drop it. Raises OSError.
    """
    fields = dict(line.split(":", 1) for line in (proc / "meminfo").read_text().splitlines() if ":" in line)
    free = int(fields["MemAvailable"].split()[0]) * 1024
    groups = (left - LEAST_OF_GROUP_BYTES for left in _groups(proc, cgroups))
    return min([free - LEAST_BYTES, *groups])


def _groups(proc: Path, cgroups: Path) -> Iterator[int]:
    """What each of our groups, and of those above, has left: of version 2, and of version 1."""
    for line in (proc / "self" / "cgroup").read_text().splitlines():
        _, controllers, name = line.split(":", 2)
        if not controllers:
            yield from _left(cgroups, name, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            files = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            yield from _left(cgroups / "memory", name, *files)


def _left(top: Path, name: str, limit: str, usage: str, cache: str) -> Iterator[int]:
    group = top / name.lstrip("/")
    for folder in (group, *group.parents):
        if not folder.is_relative_to(top):
            return
        with contextlib.suppress(OSError, ValueError):  # no limit here ("max"), or another name space
            most = int((folder / limit).read_text())
            if most < _UNLIMITED:
                rows = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                yield most - int((folder / usage).read_text()) + int(rows.get(cache, 0))
