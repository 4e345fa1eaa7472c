"""What `sync` deletes, when, and what it leaves for those who use it."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from handlers.adapters.local import LocalState
from handlers.adapters.volume import Volumes
from handlers.core.names import Channel
from handlers.core.version import ReleaseId
from tests.handlers.sync_node import PLACES, Node

NEWS = Channel("prod/search/news")


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "root")


def test_an_undesired_release_goes_after_its_grace(node: Node) -> None:
    old, new = node.publish(1), node.publish(2)
    node.desire(1, old, new)
    node.run()
    node.desire(2, new)
    node.run()
    node.now += 59
    node.run()
    assert node.complete(old)

    node.now += 2
    node.run()
    assert not node.folder(old).exists()
    assert not node.data(old).exists()
    assert LocalState(node.root).names(f"releases/{PLACES}") == [new.version]
    assert node.complete(new)
    assert not node.leftovers()


@pytest.mark.parametrize("left", ["the node", "as idle"])
def test_a_release_of_a_channel_without_instances_here_stays_for_hours(node: Node, left: str) -> None:
    old, new = node.publish(1), node.publish(2)
    node.desire(1, old, new)
    node.run()
    if left == "as idle":
        node.desire(2, new, idle=True)
    else:
        node.desire(2, new, local=[NEWS])
    node.run()
    node.now += 3500
    node.run()
    assert node.complete(old)

    node.now += 200
    node.run()
    assert not node.folder(old).exists()


def test_a_release_that_an_instance_begins_with_while_it_is_being_deleted_stays(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = node.publish(1), node.publish(2)
    node.desire(1, old, new)
    node.run()
    node.desire(2, new)
    node.run()
    node.now += 61
    withdraw = Volumes.withdraw

    def meanwhile(volumes: Volumes, release: ReleaseId) -> None:
        node.view(release)
        withdraw(volumes, release)

    monkeypatch.setattr(Volumes, "withdraw", meanwhile)
    node.run()

    assert node.complete(old)


@contextlib.contextmanager
def holder(folder: Path, script: str) -> Iterator[None]:
    """A process that has run `script` in `folder` lives during the block."""
    process = subprocess.Popen(
        [sys.executable, "-c", script + "print('holding', flush=True); input()"],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "holding\n"
        try:
            yield
        finally:
            process.communicate("\n")


def test_a_release_goes_though_a_file_that_it_shares_with_another_is_open_there(node: Node) -> None:
    same = {"index": {"a": b"all the same" * 300}}
    old, new = node.publish(1, same), node.publish(2, same)
    node.desire(1, old)
    node.run()
    node.desire(2, old, new)
    node.run()
    assert (node.folder(old) / "index/a").samefile(node.folder(new) / "index/a")
    node.desire(3, new)
    node.run()
    node.now += 61
    with holder(node.folder(new), "f = open('index/a'); "):
        node.run()

    assert not node.folder(old).exists()
    assert node.complete(new)


def test_a_release_that_a_view_points_to_or_pointed_to_just_before_stays(node: Node) -> None:
    now_used, before, other, new = (node.publish(day) for day in (1, 2, 3, 4))
    node.desire(1, now_used, before, other, new)
    node.run()
    node.view(before, number=1)
    shutil.copytree(node.root / "views", node.root / "kept", symlinks=True)
    shutil.rmtree(node.root / "views")
    node.view(now_used, number=2)
    folder = "prod/search/api/api-1/..1"
    shutil.copytree(node.root / "kept" / folder, node.root / "views" / folder, symlinks=True)
    node.desire(2, new)
    node.run()
    node.now += 4000
    node.run()

    assert node.complete(now_used)
    assert node.complete(before)
    assert not node.folder(other).exists()


@pytest.mark.parametrize("how", ["open", "mapped", "working folder"])
def test_a_release_that_a_process_uses_stays_until_it_ends(node: Node, how: str) -> None:
    old, new = node.publish(1), node.publish(2)
    node.desire(1, old, new)
    node.run()
    scripts = {
        "open": "f = open('index/a'); ",
        "mapped": "import mmap; f = open('index/a'); m = mmap.mmap(f.fileno(), 0, access=1); f.close(); ",
        "working folder": "",
    }
    leave = "" if how == "working folder" else "import os; os.chdir('/'); "
    with holder(node.folder(old), scripts[how] + leave):
        node.desire(2, new)
        node.run()
        node.now += 61
        node.run()
        assert node.complete(old)
    node.run()

    assert not node.folder(old).exists()


def test_many_releases_at_once_stay_for_hours_with_an_alarm(node: Node) -> None:
    node.limit(brake_share=0.5)
    releases = [node.publish(day) for day in (1, 2, 3, 4)]
    node.desire(1, *releases)
    node.run()
    node.desire(2, releases[3])
    node.run()
    node.now += 100
    node.run()
    assert all(node.complete(r) for r in releases)
    assert "3 of 4 releases" in node.actual().alarms[0]

    node.now += 3600
    node.run()
    assert [node.folder(r).exists() for r in releases] == [False, False, False, True]
    assert node.actual().alarms == ()


def test_leftovers_of_releases_that_are_not_wanted_are_swept(node: Node) -> None:
    release, other = node.publish(1), node.publish(2)
    for volume in ("disk", "ram"):
        stale = node.root / "volumes" / volume / "staging" / other.channel / other.version / "index"
        stale.mkdir(parents=True)
        (stale / "half").write_bytes(b"x")
    orphan = node.data(other, "ram") / "index"
    orphan.mkdir(parents=True)
    kept = node.data(release, "ram") / "index"
    kept.mkdir(parents=True)
    node.desire(1, release)
    node.run()

    assert not node.leftovers()
    assert not orphan.exists()
    assert kept.exists()
