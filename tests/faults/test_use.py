"""D13: clean-up while somebody still uses the old version. N2: RAM is full, RAM and disk together."""

from __future__ import annotations

import mmap
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from handlers.adapters import usage
from handlers.cache import Cache
from handlers.core import codec, keys
from handlers.core.model import DISK, RAM, State, VolumeInfo
from handlers.core.version import ReleaseId
from tests import servers
from tests.faults import mounts
from tests.faults.field import DATASET, MIB, Field
from tests.faults.server import FaultyS3


@pytest.fixture
def small(tmp_path: Path, consul: servers.Consul, server: FaultyS3) -> Iterator[Field]:
    """A node whose disk holds one release of 20 MiB, but not two."""
    found = Field.at(
        tmp_path / "node" / "root", consul, server, volumes_set='[volumes.disk]\nclass = "DISK"\n'
    )
    with mounts.tmpfs(found.root / "volumes" / "disk", f"{36 * MIB}"):
        yield found


def test_d13_a_version_that_is_open_or_mapped_stays_and_counts_as_used(small: Field) -> None:
    """A service has a file of the old version open, then mapped: kept, and its room is not given away."""
    old, new = (small.put_files(n, {"big": os.urandom(20 * MIB), "a": b"%d" % n}) for n in (1, 2))
    small.desire(1, old)
    small.synced(old)
    small.desire(2, new)
    place = small.data(old) / DATASET / "big"

    with place.open("rb") as reader:
        ran = small.sync()
        assert ran.code == 0, ran.said
        assert small.complete(old)
        assert small.status(new).state is not State.SUCCESS
        assert small.status(new).reason
        with mmap.mmap(reader.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            reader.close()
            small.sync()
            assert small.complete(old)
            assert mapped[:10] == small.bodies[old][DATASET]["big"][:10]
    assert small.server.bytes_sent(small.key(new, "big")) == 0

    small.synced(new)

    assert not small.folder(old).exists()
    assert not small.data(old).exists()


def test_d13_a_version_that_a_view_points_to_stays(field: Field) -> None:
    """A view of a service points to the old version: kept, however new the desired state is."""
    old, new = field.put_files(1, {"a": b"old"}), field.put_files(2, {"a": b"new"})
    field.desire(1, old)
    field.synced(old)
    field.view(old)
    field.desire(2, new)

    field.synced(new)

    assert field.complete(old)


def test_d13_it_goes_once_nobody_holds_it(field: Field) -> None:
    """The counterpart: the last user closes it, and the next run deletes it."""
    old, new = field.put_files(1, {"a": b"old"}), field.put_files(2, {"a": b"new"})
    field.desire(1, old)
    field.synced(old)
    field.desire(2, new)
    with (field.data(old) / DATASET / "a").open("rb"):
        field.synced(new)
        assert field.complete(old)

    field.synced(new)

    assert not field.data(old).exists()


def test_d13_a_deleted_file_counts_that_a_container_holds_under_another_name(field: Field) -> None:
    """A pod mounts the root where it likes, and the kernel tells its files by the names that it has there."""
    release = field.put_files(1, {"a": os.urandom(MIB)})
    field.desire(1, release)
    field.synced(release)
    file, seen = field.data(release) / DATASET / "a", field.root.parent / "seen"
    seen.mkdir()
    script = 'mount --bind "$0" "$1" && exec 3< "$1/$2" && echo held && read -r _'
    there = [str(field.root), str(seen), str(file.relative_to(field.root))]
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", script, *there], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as container:
        assert container.stdout
        assert container.stdout.readline() == b"held\n"
        assert usage.deleted(field.root) == {}
        file.unlink()

        assert usage.deleted(field.root) == {"disk": MIB}
    assert usage.deleted(field.root) == {}


class Memory:
    """The RAM of a node: a small file system in memory, filled as `reload` does it."""

    def __init__(self, field: Field) -> None:
        self.field = field
        self.wake = threading.Event()
        volumes = {"disk": VolumeInfo(cls=DISK), "ram": VolumeInfo(cls=RAM)}
        self.cache = Cache(field.root, volumes, self.wake, time.monotonic)

    def want(self, generation: int, release: ReleaseId, *held: ReleaseId) -> None:
        """Desire releases on disk, one of them in RAM."""
        self.desired = replace(
            self.field.desire(generation, release, *held),
            ram={f"{release.channel}/{DATASET}": release.version},
        )
        self.field.put(keys.desired("node-1"), codec.encode(self.desired))

    def round(self) -> None:
        """Rounds until nothing is under way."""
        for _ in range(20):
            self.wake.clear()
            if self.cache.round(self.desired, {}) is None:
                return
            self.wake.wait(1)

    def target(self, release: ReleaseId) -> Path:
        """Where the public name leads."""
        return (self.field.folder(release) / DATASET).resolve()


@pytest.fixture
def memory(field: Field) -> Iterator[Memory]:
    with mounts.tmpfs(field.root / "volumes" / "ram", f"{24 * MIB}"):
        yield Memory(field)


def test_n2_ram_that_is_full_leaves_the_disk_copy_in_use_until_there_is_room(memory: Memory) -> None:
    """Somebody else fills RAM: readers keep the disk copy, nothing half is in RAM, later it is filled."""
    field = memory.field
    release = field.put_files(1, {"big": os.urandom(16 * MIB)}, placement=RAM)
    memory.want(1, release)
    field.synced(release)
    filler = field.root / "volumes" / "ram" / "somebody-else"
    filler.write_bytes(bytes(12 * MIB))

    memory.round()

    assert memory.target(release).is_relative_to(field.data(release).resolve())
    assert field.complete(release)
    assert not [p for p in (field.root / "volumes" / "ram").rglob("*") if p.is_file() and p != filler]
    filler.unlink()
    memory.round()
    assert memory.target(release).is_relative_to(field.data(release, "ram").resolve())
    assert field.complete(release)
    assert (field.data(release) / DATASET / "big").exists(), "the disk copy stays"


def test_n2_one_version_in_ram_and_both_on_disk(memory: Memory) -> None:
    """A new version takes the place of the old one in RAM; on disk are both."""
    field = memory.field
    one, two = (field.put_files(n, {"big": os.urandom(16 * MIB)}, placement=RAM) for n in (1, 2))
    memory.want(1, one)
    field.synced(one)
    memory.round()
    assert memory.target(one).is_relative_to(field.data(one, "ram").resolve())
    memory.want(2, two, one)
    field.synced(one, two)

    memory.round()

    assert memory.target(two).is_relative_to(field.data(two, "ram").resolve())
    assert memory.target(one).is_relative_to(field.data(one).resolve())
    assert not field.data(one, "ram").exists()
    assert field.complete(one)
    assert field.complete(two)


def test_n2_ram_that_is_empty_after_a_boot_is_filled_again_without_consul_or_s3(memory: Memory) -> None:
    """The machine was booted: the public name leads to the disk copy at once, and to RAM after the refill."""
    field = memory.field
    release = field.put_files(1, {"big": os.urandom(4 * MIB)}, placement=RAM)
    memory.want(1, release)
    field.synced(release)
    memory.round()
    mounts.unmount(field.root / "volumes" / "ram")
    with mounts.tmpfs(field.root / "volumes" / "ram", f"{24 * MIB}"):
        field.server.forget()
        after = Memory(field)
        after.desired = memory.desired

        after.cache.repair()
        assert memory.target(release).is_relative_to(field.data(release).resolve())
        after.round()

        assert memory.target(release).is_relative_to(field.data(release, "ram").resolve())
        assert field.complete(release)
        assert not field.server.seen
