"""The machine: a recorded `/proc` and `/sys`, and the one that this runs on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from handlers.adapters import memory
from handlers.adapters.machine import in_memory, machine
from handlers.core.errors import Temporary
from handlers.core.model import DISK
from handlers.core.proposal import propose

MOUNTINFO = r"""
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:21 / /proc rw,nosuid - proc proc rw
30 22 259:1 / /mnt/with\040space rw,noatime - xfs /dev/nvme0n1p1 rw
31 22 0:40 / /mnt/ro ro - ext4 /dev/sdb ro
""".lstrip()


@pytest.fixture
def recorded(tmp_path: Path) -> tuple[Path, Path]:
    proc, sys = tmp_path / "proc", tmp_path / "sys"
    (proc / "self").mkdir(parents=True)
    (proc / "self/mountinfo").write_text(MOUNTINFO)
    (proc / "meminfo").write_text("MemTotal:       1000 kB\nMemAvailable:  600000 kB\n")
    for device, disk, turns in (("8:1", "sda", "1"), ("259:1", "nvme0n1", "0")):
        (sys / "block" / disk / "part").mkdir(parents=True)
        (sys / "block" / disk / "queue").mkdir()
        (sys / "block" / disk / "queue/rotational").write_text(f"{turns}\n")
        (sys / "dev/block").mkdir(parents=True, exist_ok=True)
        (sys / "dev/block" / device).symlink_to(sys / "block" / disk / "part")
    return proc, sys


def test_recorded_machine_is_described(recorded: tuple[Path, Path]) -> None:
    found = machine(Path("/var/lib/hydra"), *recorded, stat=lambda _: os.statvfs("/"))

    assert found.memory_bytes == 1_024_000
    described = {m.path: (m.kind, m.source, m.rotational, m.read_only) for m in found.mounts}
    assert described == {
        "/": ("ext4", "/dev/sda1", True, False),
        "/proc": ("proc", "proc", None, False),
        "/mnt/with space": ("xfs", "/dev/nvme0n1p1", False, False),
        "/mnt/ro": ("ext4", "/dev/sdb", None, True),
    }
    assert all(mount.total_bytes > 0 for mount in found.mounts)


def test_this_machine_gets_a_proposal_with_a_disk(tmp_path: Path) -> None:
    proposed = propose(machine(tmp_path))

    assert proposed[0].cls == DISK
    assert proposed[0].reserve_bytes > 0


def test_without_proc_there_is_a_reason(tmp_path: Path) -> None:
    with pytest.raises(Temporary, match="mountinfo"):
        machine(tmp_path, tmp_path)


def test_what_lies_in_memory_is_known() -> None:
    assert in_memory(Path("/dev/shm").stat().st_dev)
    assert not in_memory(Path("/usr").stat().st_dev)


def test_limits_of_control_groups_count(recorded: tuple[Path, Path], tmp_path: Path) -> None:
    proc, _ = recorded
    group = tmp_path / "cgroup"
    (group / "a/b").mkdir(parents=True)
    (group / "memory/pod").mkdir(parents=True)
    (proc / "self/cgroup").write_text("0::/a/b\n")
    free = 600_000 * 1024

    assert memory.available(proc, group) == free - memory.LEAST_BYTES
    (group / "a/memory.max").write_text("500000000\n")  # of the group above ours
    (group / "a/memory.current").write_text("300000000\n")
    (group / "a/memory.stat").write_text("anon 1\ninactive_file 100000000\n")
    (group / "a/b/memory.max").write_text("max\n")
    assert memory.available(proc, group) == 300_000_000 - memory.LEAST_OF_GROUP_BYTES
    (proc / "self/cgroup").write_text("4:memory:/pod\n0::/\n")  # version 1
    (group / "memory/pod/memory.limit_in_bytes").write_text("400000000\n")
    (group / "memory/pod/memory.usage_in_bytes").write_text("350000000\n")
    (group / "memory/pod/memory.stat").write_text("total_inactive_file 0\n")
    assert memory.available(proc, group) == 50_000_000 - memory.LEAST_OF_GROUP_BYTES
    assert memory.available() > 0
