"""Which volumes a machine could have: a proposal for `[volumes]` of its `/etc/hydra/node.toml`.

    the file system of the root     disk   DISK: every node has one, RAM is only a cache of it
    a tmpfs below the root          ram    RAM; without one, how to mount it
    other disks that are mounted    nvme, ssd, hdd: classes by name, for datasets that ask for them

Budgets and reserves stay clear of what makes the kubelet evict pods: less than 10 % free on its own file
system, 15 % on that of images, 5 % of inodes, 100 MiB of memory. `adapters.machine` describes the machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from msgspec import Struct
from msgspec.structs import replace

from handlers.core.model import DISK, RAM

GIB = 1024**3
LEAST_BYTES = 10 * GIB  # of a file system that is worth a volume
SHARED_RESERVE, OWN_RESERVE = 0.17, 0.05  # of the size: where others write too, and where nobody else does
SHARED_BUDGET = 0.8  # of what is free above the reserve now: others grow as well
MEMORY_BUDGET, MEMORY_RESERVE = 0.25, 0.05
_DISKS = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs"})
_MEMORY = frozenset({"tmpfs", "ramfs"})
_SYSTEM = ("/boot", "/efi", "/usr", "/etc", "/run", "/proc", "/sys", "/dev", "/snap", "/tmp")  # noqa: S108 - named to be left out


class Mount(Struct, frozen=True, kw_only=True):
    """One mounted file system. `rotational` None = it is no disk; `device` is `major:minor`."""

    path: str
    kind: str
    source: str = ""
    device: str = ""
    read_only: bool = False
    rotational: bool | None = None
    total_bytes: int = 0
    free_bytes: int = 0
    total_files: int = 0


class Machine(Struct, frozen=True, kw_only=True):
    """A machine; of several mounts at one path the last one counts."""

    root: str
    memory_bytes: int
    mounts: tuple[Mount, ...]


class Proposed(Struct, frozen=True, kw_only=True):
    """One volume; `what` it is, and the row of `/etc/fstab` that is still missing for it (empty: none)."""

    name: str
    cls: str
    path: str
    budget_bytes: int
    reserve_bytes: int
    what: str
    fstab: str = ""


def propose(machine: Machine) -> tuple[Proposed, ...]:
    """The volumes that the machine could have, the most ordinary first. Deterministic."""
    mounts = {mount.path: mount for mount in machine.mounts}
    below = f"{machine.root}/volumes/"
    found: list[Proposed] = []
    ours = [m for m in mounts.values() if m.path.startswith(below) and "/" not in m.path.removeprefix(below)]
    home = _holder(mounts, machine.root)
    if home is not None and not any(_disk(m) and m.path == f"{below}disk" for m in ours):
        found.append(_on_disk(machine, "disk", DISK, home, own=home.path == machine.root))
    for mount in sorted(ours, key=lambda m: m.path):
        name = mount.path.removeprefix(below)
        if mount.kind in _MEMORY:
            found.append(_in_memory(machine, name, mount))
        elif _disk(mount):
            cls = DISK if name == "disk" else _speed(mount)
            found.append(_on_disk(machine, name, cls, mount, own=True))
    if not any(volume.cls == RAM for volume in found) and machine.memory_bytes:
        found.append(_in_memory(machine, "ram", None))
    taken = {mount.device for mount in ours} | ({home.device} if home else set())
    found += _others(machine, mounts, taken, {volume.name for volume in found})
    return tuple(sorted(found, key=lambda volume: (volume.cls != DISK, volume.cls != RAM, volume.name)))


def _holder(mounts: dict[str, Mount], path: str) -> Mount | None:
    """The file system that a path is on."""
    above = [str(PurePosixPath(path)), *(str(p) for p in PurePosixPath(path).parents)]
    return next((mounts[p] for p in above if p in mounts), None)


def _disk(mount: Mount) -> bool:
    return mount.kind in _DISKS and not mount.read_only


def _speed(mount: Mount) -> str:
    """A class by name, after what the disk is."""
    if mount.source.startswith("/dev/nvme"):
        return "nvme"
    return "hdd" if mount.rotational else "ssd"


def _others(
    machine: Machine, mounts: dict[str, Mount], taken: set[str], names: set[str]
) -> Iterator[Proposed]:
    """Disks that are mounted elsewhere: each file system once, at its shortest path."""
    for mount in sorted(mounts.values(), key=lambda m: (len(m.path), m.path)):
        inside = any(f"{mount.path}/".startswith(f"{top}/") for top in (*_SYSTEM, machine.root))
        if inside or not _disk(mount) or mount.device in taken or mount.total_bytes < LEAST_BYTES:
            continue
        taken.add(mount.device)
        cls = _speed(mount)
        name = next(n for n in (cls, *(f"{cls}{i}" for i in range(2, 1000))) if n not in names)
        names.add(name)
        volume = _on_disk(machine, name, cls, mount, own=False)
        source = f"{mount.path.rstrip('/')}/hydra"
        yield replace(volume, fstab=f"{source} {volume.path} none bind,x-mount.mkdir 0 0")


def _on_disk(machine: Machine, name: str, cls: str, mount: Mount, *, own: bool) -> Proposed:
    reserve = int(mount.total_bytes * (OWN_RESERVE if own else SHARED_RESERVE))
    above = max(0, (mount.total_bytes if own else mount.free_bytes) - reserve)
    return Proposed(
        name=name,
        cls=cls,
        path=f"{machine.root}/volumes/{name}",
        budget_bytes=_even(above if own else int(above * SHARED_BUDGET)),
        reserve_bytes=_even(reserve),
        what=f"{mount.kind} on {mount.source or 'a disk'}, {_turns(mount)}, mounted at {mount.path}",
    )


def _turns(mount: Mount) -> str:
    if mount.source.startswith("/dev/nvme"):
        return "NVMe"
    return {True: "rotational", False: "not rotational", None: "no disk of its own"}[mount.rotational]


def _in_memory(machine: Machine, name: str, mount: Mount | None) -> Proposed:
    most = int(machine.memory_bytes * MEMORY_BUDGET)
    budget = _even(min(mount.total_bytes or most, most) if mount else most)
    path = f"{machine.root}/volumes/{name}"
    row = f"hydra-{name} {path} tmpfs size={budget},mode=0755,x-mount.mkdir 0 0"
    return Proposed(
        name=name,
        cls=RAM,
        path=path,
        budget_bytes=budget,
        reserve_bytes=_even(int(machine.memory_bytes * MEMORY_RESERVE)),
        what=f"{mount.kind} mounted at {mount.path}" if mount else "memory; its tmpfs is not mounted yet",
        fstab="" if mount else row,
    )


def _even(size: int) -> int:
    """Down to whole 16 MiB: numbers that people can compare."""
    return size - size % (16 * 1024**2)
