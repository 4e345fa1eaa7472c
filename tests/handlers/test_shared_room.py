"""Disk and RAM volume on one small file system: `sync` and `reload` never take the same last bytes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from handlers.adapters.ports import Source
from handlers.adapters.ram import RamCache
from handlers.adapters.taking import Taking
from handlers.core import codec, keys
from handlers.core.errors import NoRoom, Temporary
from handlers.core.holdings import Piece
from handlers.core.model import Progress, State, VolumeInfo
from handlers.core.version import ReleaseId
from handlers.downloads import Downloads
from tests.fakes_objects import FakeObjects
from tests.faults import mounts
from tests.handlers.sync_node import VOLUMES, Node

HALF, NEW = 1_250_000, 4_000_000
"""Of 8 MiB: two halves are the release that is here, and no room is for its RAM copy beside the new one."""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with mounts.tmpfs(tmp_path / "root", "8m") as root:
        yield Node(root, objects=FakeObjects({"bucket": {}}, piece_bytes=100_000))


@pytest.fixture
def old(node: Node) -> ReleaseId:
    """A complete release."""
    release = node.publish(1, {"index": {"a": os.urandom(HALF), "b": os.urandom(HALF)}})
    node.desire(1, release)
    node.run()
    assert node.complete(release)
    return release


def test_a_copy_in_ram_leaves_the_room_that_a_download_still_takes(node: Node, old: ReleaseId) -> None:
    ram, refused = RamCache(node.root, VOLUMES), list[str]()
    new = node.publish(2, {"index": {"big": os.urandom(NEW)}})

    def fill(_source: Source, at: int) -> None:
        if at >= NEW // 2 and not refused:
            assert ram.size(Piece(old, "index")) < statvfs(node.root)  # type: ignore[operator]
            with pytest.raises(NoRoom) as e:
                ram.fill(Piece(old, "index"))
            refused.append(str(e.value))

    node.fake_objects.before_piece = fill
    node.desire(2, old, new)
    node.run()

    assert "others take what is free" in refused[0]
    assert node.complete(new)
    assert ram.room() == statvfs(node.root)


def test_a_download_leaves_the_room_that_a_copy_in_ram_still_takes(node: Node, old: ReleaseId) -> None:
    new = node.publish(2, {"index": {"big": os.urandom(NEW)}})
    node.desire(2, old, new)
    looks: list[State] = []

    def look() -> bool:
        staged = (p for p in (node.root / "volumes/ram/staging").rglob("*") if p.is_file())
        if any(staged) and not looks:  # between the two halves
            assert statvfs(node.root) > NEW * 1.05
            node.run()
            looks.append(node.status(new).state)
        return False

    ram = RamCache(node.root, VOLUMES)
    ram.fill(Piece(old, "index"), look)

    assert looks == [State.FAILED]
    assert node.fake_objects.reads[-1][0].startswith("prod/search/places/2026-01-01"), "no byte was fetched"
    assert ram.linked(Piece(old, "index"))
    ram.drop(Piece(old, "index"))
    node.run()
    assert node.complete(new)


def test_room_that_goes_between_the_look_and_the_download_is_looked_at_again(
    node: Node, old: ReleaseId, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = node.publish(2, {"index": {"big": os.urandom(NEW)}})
    node.desire(2, old, new)
    reload, start = Taking(node.root, "reload"), Downloads.start

    def late(downloads: Downloads, *args: Any) -> None:
        device = node.root.stat().st_dev
        assert reload.claim({device: 2 * HALF}, lambda _: statvfs(node.root))
        start(downloads, *args)

    monkeypatch.setattr(Downloads, "start", late)
    monkeypatch.setattr("handlers.sync.TICK_S", 0.01)
    node.run()

    assert node.status(new).state is State.FAILED
    assert "free above its reserve" in node.status(new).reason
    reload.end()
    monkeypatch.undo()
    node.run()
    assert node.complete(new)


def test_a_copy_that_is_given_up_takes_nothing_any_more(node: Node, old: ReleaseId) -> None:
    with pytest.raises(Temporary):
        RamCache(node.root, VOLUMES).fill(Piece(old, "index"), lambda: True)

    assert Taking(node.root).others() == {}


def test_a_node_says_what_its_volumes_on_one_file_system_have_together(node: Node, old: ReleaseId) -> None:
    node.volumes = {**VOLUMES, "fast": VolumeInfo(cls="nvme")}
    node.run()

    entry, _ = node.kv.get(keys.progress(node.name))
    assert entry
    said = codec.decode(Progress, entry.value, entry.key)

    left = statvfs(node.root)
    assert said.joint.keys() == {"disk+fast"}
    assert said.joint["disk+fast"].free == said.free["disk"] == said.free["fast"] == left
    assert said.volumes["disk"].free == said.volumes["fast"].free > left


def statvfs(root: Path) -> int:
    found = os.statvfs(root)
    return found.f_bavail * found.f_frsize
