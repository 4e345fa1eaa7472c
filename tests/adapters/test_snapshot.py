"""What a run reads: all of KV by default, parts of it for questions that need no more."""

from __future__ import annotations

from handlers.adapters import snapshot
from handlers.core import keys, model
from tests.core.worlds import COMPLETE, PLACES, Cluster
from tests.fakes_kv import FakeKV


def filled() -> FakeKV:
    kv = FakeKV()
    cluster = Cluster()
    cluster.publish(1)
    cluster.subscribe()
    cluster.node("n1", COMPLETE)
    cluster.put(keys.slots(COMPLETE), model.Slots())
    for key, value in cluster.items():
        kv.put(key, value)
    return kv


def test_whole_world_with_the_index_of_every_key() -> None:
    kv = filled()
    world = snapshot.load(kv)

    assert set(world.channels) == {PLACES}
    assert set(world.services) == {COMPLETE}
    assert world.meta is not None
    assert world.indexes[keys.head(PLACES)] == kv.list(keys.head(PLACES)).entries[keys.head(PLACES)].index
    assert keys.slots(COMPLETE) not in world.indexes


def test_everything_includes_what_plan_does_not_need() -> None:
    assert keys.slots(COMPLETE) in snapshot.load(filled(), *snapshot.EVERYTHING).indexes


def test_part_of_the_world() -> None:
    world = snapshot.load(filled(), keys.CHANNELS, keys.RELEASES)

    assert len(world.channels[PLACES].releases) == 1
    assert (world.services, world.nodes) == ({}, {})
    assert world.meta is not None


def test_what_is_announced_last_is_read_first() -> None:
    """A release that appears between two reads must not look as if the head named none."""
    kv = filled()
    order: list[str] = []
    listed = kv.list

    def note(prefix: str, *, after: int = 0, wait_s: float = 0) -> object:
        order.append(prefix)
        return listed(prefix, after=after, wait_s=wait_s)

    kv.list = note  # type: ignore[assignment, method-assign]
    snapshot.load(kv)

    assert order.index(keys.SERVICES) < order.index(keys.CHANNELS) < order.index(keys.RELEASES)
    assert order.index(keys.ACTUAL) < order.index(keys.DESIRED)
