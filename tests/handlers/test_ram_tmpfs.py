"""RAM on a real, small tmpfs: what fits, what does not, and a boot, with nothing but this node."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from handlers.adapters.ram import RamCache
from handlers.cache import Cache
from handlers.core.holdings import Piece
from handlers.core.model import DISK, RAM, AliasPlan, Desired, InstanceState, Ready, ServicePlan, VolumeInfo
from handlers.core.names import Channel, InstanceKey, Service
from handlers.core.version import ReleaseId, Version
from tests.servers import wait_until

PLACES, API = Channel("prod/search/places"), Service("prod/search/api")
V1, V2 = Version("2026-01-01T00-00-00"), Version("2026-01-02T00-00-00")
SIZE = 1_200_000
VOLUMES = {"disk": VolumeInfo(cls=DISK), "ram": VolumeInfo(cls=RAM)}


def mount(where: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "hydra-test", str(where)], check=True)


def unmount(where: Path) -> None:
    subprocess.run(["umount", str(where)], check=True)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A node with two complete releases, each more than half of its memory."""
    for version in (V1, V2):
        data = Path("volumes/disk/data", PLACES, version, "table")
        (tmp_path / data).mkdir(parents=True)
        (tmp_path / data / "file").write_bytes(version.encode() * (SIZE // len(version)))
        release = tmp_path / "releases" / PLACES / version
        release.mkdir(parents=True)
        (release / "table").symlink_to(f"../../../../../{data}")
    ram = tmp_path / "volumes/ram"
    ram.mkdir()
    mount(ram)
    yield tmp_path
    unmount(ram)


class Node:
    """A cache, and the instances that are pretended to read from it."""

    def __init__(self, root: Path) -> None:
        self.root, self.wake = root, threading.Event()
        self.states: dict[InstanceKey, InstanceState] = {}
        self.begin()

    def begin(self) -> None:
        """A new run of reload."""
        self.cache = Cache(self.root, VOLUMES, self.wake, time.monotonic)
        self.cache.repair()

    def settle(self, version: Version) -> None:
        """Rounds, until RAM is as it should be for this version."""
        plan = ServicePlan(aliases={"places": AliasPlan(channel=PLACES, target=version, start=version)})
        desired = Desired(node="n1", generation=1, ram={f"{PLACES}/table": version}, services={API: plan})
        wait_until(lambda: self.cache.round(desired, self.states) is None)

    def loads(self, name: str, version: Version) -> InstanceState:
        """An instance loads a release from where its link points."""
        media = self.cache.media({"places": ReleaseId.of(PLACES, version)})
        state = InstanceState(
            service=API,
            id=name,
            incarnation="1",
            state=Ready.READY,
            releases={"places": version},
            media=media,
        )
        self.states[InstanceKey.of(API, name)] = state
        return state

    def in_ram(self, version: Version) -> bool:
        where = (self.root / "releases" / PLACES / version / "table").resolve()
        assert (where / "file").stat().st_size == SIZE // len(version) * len(version)
        return where.is_relative_to(self.root / "volumes/ram")


@pytest.fixture
def node(root: Path) -> Node:
    return Node(root)


def test_copy_shared_by_two_instances_stays_until_both_have_left_it(node: Node) -> None:
    node.settle(V1)
    for name in ("a", "b"):
        assert node.loads(name, V1).media == {"places/table": RAM}

    node.settle(V2)
    assert (node.in_ram(V1), node.in_ram(V2)) == (True, False)
    numbers, later = node.cache.crowded([ReleaseId.of(PLACES, V2)])
    assert "bytes of RAM" in numbers
    assert later

    assert node.loads("a", V2).media == {}  # by way of the disk
    node.settle(V2)
    assert (node.in_ram(V1), node.in_ram(V2)) == (True, False)
    node.loads("b", V2)
    node.settle(V2)
    assert (node.in_ram(V1), node.in_ram(V2)) == (False, True)
    assert node.loads("a", V2).media == {"places/table": RAM}


def test_of_two_versions_that_are_run_one_is_in_ram_and_the_other_is_read_from_disk(node: Node) -> None:
    node.settle(V2)

    assert node.loads("pinned", V1).media == {}
    assert node.loads("newest", V2).media == {"places/table": RAM}
    node.settle(V2)
    assert (node.in_ram(V1), node.in_ram(V2)) == (False, True)


def test_after_a_boot_memory_is_filled_again_from_the_disk_alone(node: Node) -> None:
    node.settle(V1)
    assert node.in_ram(V1)
    ram = node.root / "volumes/ram"
    unmount(ram)
    mount(ram)
    assert not (node.root / "releases" / PLACES / V1 / "table" / "file").exists()

    node.begin()
    assert not node.in_ram(V1)  # readable at once, from disk
    node.settle(V1)

    assert node.in_ram(V1)


def test_what_is_larger_than_the_memory_stays_on_disk_with_the_numbers(node: Node) -> None:
    more = node.root / "volumes/disk/data" / PLACES / V1 / "table/more"
    more.write_bytes(b"x" * SIZE)

    node.settle(V1)

    assert not node.in_ram(V1)
    numbers, later = node.cache.crowded([ReleaseId.of(PLACES, V1)])
    assert "are free" in numbers
    assert not later


def test_memory_that_a_process_still_maps_is_not_free(root: Path) -> None:
    cache = RamCache(root, VOLUMES)
    piece = Piece(ReleaseId.of(PLACES, V1), "table")
    empty = cache.room()
    cache.fill(piece)
    with (root / "releases" / PLACES / V1 / "table/file").open("rb"):
        cache.drop(piece)
        assert cache.room() < empty - SIZE // 2
    assert cache.room() == empty
