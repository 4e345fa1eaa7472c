"""Which volumes are proposed for which machine: recorded descriptions of real kinds of machines."""

from __future__ import annotations

import pytest

from handlers.core.model import DISK, RAM
from handlers.core.proposal import GIB, Machine, Mount, propose

ROOT = "/var/lib/hydra"
TIB = 1024 * GIB


def disk(path: str, source: str, total: int, free: int, **more: object) -> Mount:
    fields: dict[str, object] = {"kind": "ext4", "device": source[-5:], "rotational": False, **more}
    return Mount(path=path, source=source, total_bytes=total, free_bytes=free, **fields)  # type: ignore[arg-type]


SYSTEM = (
    Mount(path="/proc", kind="proc"),
    Mount(path="/dev/shm", kind="tmpfs", total_bytes=32 * GIB, free_bytes=32 * GIB),
    Mount(path="/run", kind="tmpfs", total_bytes=6 * GIB, free_bytes=6 * GIB),
    disk("/boot", "/dev/sda15", 100 * GIB, 90 * GIB),
    Mount(path="/snap/core/1", kind="squashfs", source="/dev/loop0", read_only=True),
)
PLAIN = Machine(
    root=ROOT, memory_bytes=64 * GIB, mounts=(*SYSTEM, disk("/", "/dev/sda1", 500 * GIB, 400 * GIB))
)
BIG = Machine(
    root=ROOT,
    memory_bytes=256 * GIB,
    mounts=(
        *SYSTEM,
        disk("/", "/dev/sda1", 100 * GIB, 60 * GIB),
        disk("/mnt/nvme0", "/dev/nvme0n1", 2 * TIB, 2 * TIB),
        disk("/mnt/nvme1", "/dev/nvme1n1", 2 * TIB, 2 * TIB),
        disk("/srv/cold", "/dev/sdb1", 8 * TIB, 7 * TIB, rotational=True, kind="xfs"),
        disk("/srv/cold/bind", "/dev/sdb1", 8 * TIB, 7 * TIB, rotational=True, kind="xfs"),
        disk("/media/ro", "/dev/sdc1", 8 * TIB, 7 * TIB, read_only=True),
        disk("/media/stick", "/dev/sdd1", 8 * GIB, 7 * GIB),
        Mount(path="/home", kind="nfs4", source="nas:/home", total_bytes=9 * TIB, free_bytes=9 * TIB),
    ),
)
READY = Machine(
    root=ROOT,
    memory_bytes=64 * GIB,
    mounts=(
        *SYSTEM,
        disk("/", "/dev/sda1", 100 * GIB, 60 * GIB),
        disk(f"{ROOT}/volumes/disk", "/dev/nvme0n1", TIB, TIB),
        disk(f"{ROOT}/volumes/slow", "/dev/sdb", TIB, TIB, rotational=True),
        Mount(path=f"{ROOT}/volumes/memory", kind="tmpfs", total_bytes=8 * GIB, free_bytes=8 * GIB),
    ),
)


@pytest.mark.parametrize(
    ("machine", "volumes"),
    [
        pytest.param(PLAIN, {"disk": DISK, "ram": RAM}, id="one disk"),
        pytest.param(
            BIG, {"disk": DISK, "ram": RAM, "hdd": "hdd", "nvme": "nvme", "nvme2": "nvme"}, id="many disks"
        ),
        pytest.param(READY, {"disk": DISK, "memory": RAM, "slow": "hdd"}, id="mounted already"),
        pytest.param(Machine(root=ROOT, memory_bytes=0, mounts=()), {}, id="nothing to see"),
    ],
)
def test_machine_gets_volumes(machine: Machine, volumes: dict[str, str]) -> None:
    proposed = propose(machine)

    assert {volume.name: volume.cls for volume in proposed} == volumes
    assert proposed == propose(machine)
    assert all(volume.path == f"{ROOT}/volumes/{volume.name}" for volume in proposed)


@pytest.mark.parametrize("machine", [PLAIN, BIG, READY])
def test_reserves_stay_clear_of_what_makes_the_kubelet_evict(machine: Machine) -> None:
    mounts = {mount.path: mount for mount in machine.mounts}
    for volume in propose(machine):
        if volume.cls == RAM:
            assert volume.reserve_bytes > 100 * 1024**2
            assert volume.budget_bytes <= machine.memory_bytes / 4
            continue
        mount = mounts.get(volume.path) or next(
            m for m in mounts.values() if volume.what.endswith(f" {m.path}")
        )
        shared = mount.path != volume.path
        assert volume.reserve_bytes > (0.15 if shared else 0.04) * mount.total_bytes
        assert volume.budget_bytes + volume.reserve_bytes <= mount.total_bytes


def test_what_is_missing_in_fstab_is_said() -> None:
    rows = {volume.name: volume.fstab for volume in propose(BIG)}

    assert rows["disk"] == ""
    assert rows["nvme2"] == f"/mnt/nvme1/hydra {ROOT}/volumes/nvme2 none bind,x-mount.mkdir 0 0"
    assert rows["ram"].startswith(f"hydra-ram {ROOT}/volumes/ram tmpfs size=")
    assert {volume.fstab for volume in propose(READY)} == {""}
