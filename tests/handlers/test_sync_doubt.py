"""`sync` while what Consul says is missing, wrong or away: it keeps what it has."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from handlers.adapters.local import LocalState
from handlers.adapters.ports import Delete, Op, Source
from handlers.core import codec, keys
from handlers.core.errors import Temporary
from handlers.core.model import State
from handlers.core.names import Channel
from tests.handlers.sync_node import NODE, Node, value_of

NEWS = Channel("prod/search/news")


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "root")


def test_desired_is_kept_locally_before_actual_says_so(node: Node) -> None:
    release = node.publish(1)
    desired = node.desire(4, release)
    seen = []

    def look(ops: Sequence[Op]) -> None:
        seen.append(LocalState(node.root).read("desired"))

    node.fake_kv.before_txn = look
    node.run()

    assert set(seen) == {codec.encode(desired)}


def test_an_overwritten_actual_is_repaired(node: Node) -> None:
    release = node.publish(1)
    node.desire(1, release)
    node.run()
    right = value_of(node, keys.actual(NODE))
    node.put(keys.actual(NODE), b"garbage")
    node.run()

    assert value_of(node, keys.actual(NODE)) == right


def hold_cases() -> list[tuple[str, str]]:
    return [
        ("missing", "is missing"),
        ("malformed", "not JSON"),
        ("other node", "is for node 'node-2'"),
        ("behind", "generation 2 is behind 7"),
        ("same generation", "generation 7 was applied here with another content"),
        ("wiped", "meta is missing"),
    ]


@pytest.mark.parametrize(("case", "alarm"), hold_cases())
def test_a_bad_desired_is_held_off_with_an_alarm_and_nothing_is_deleted(
    node: Node, case: str, alarm: str
) -> None:
    old, new = node.publish(1), node.publish(2)
    node.desire(6, old, new)
    node.run()
    node.desire(7, new)
    node.run()
    match case:
        case "missing":
            node.kv.txn([Delete(keys.desired(NODE))])
        case "malformed":
            node.put(keys.desired(NODE), b"{")
        case "other node":
            node.desire(8, node="node-2")
        case "behind":
            node.desire(2, old)
        case "same generation":
            node.desire(7, old)
        case "wiped":
            for key in node.kv.list("").entries:
                node.kv.txn([Delete(key)])
    node.now += 100_000
    said = node.run()

    assert alarm in said
    actual = node.actual()
    assert alarm in actual.alarms[0]
    assert actual.generation == 7
    assert actual.releases[new].state is State.SUCCESS
    assert node.complete(old)
    assert node.complete(new)


def test_a_good_desired_ends_the_hold(node: Node) -> None:
    old, new = node.publish(1), node.publish(2)
    node.desire(7, old)
    node.run()
    node.put(keys.desired(NODE), b"{")
    node.run()
    node.desire(8, old, new)
    node.run()

    assert node.actual().alarms == ()
    assert node.complete(new)


def test_same_generation_is_taken_over_where_the_last_one_is_damaged(node: Node) -> None:
    """Whether it differs cannot be told; a node that knows nothing would hold off for ever."""
    release = node.publish(1)
    node.desire(7, release)
    node.run()
    LocalState(node.root).write("desired", b"{")
    node.run()

    assert node.actual().alarms == ()
    assert node.complete(release)


def test_lost_data_comes_back_while_desired_is_held_off(node: Node) -> None:
    release = node.publish(1)
    node.desire(7, release)
    node.run()
    node.put(keys.desired(NODE), b"{")
    shutil.rmtree(node.root / "volumes")
    node.run()

    assert node.complete(release)


def test_a_fresh_node_without_desired_writes_nothing(node: Node) -> None:
    said = node.run()

    assert "is missing" in said
    assert node.kv.get(keys.actual(NODE))[0] is None


def test_consul_away_leaves_data_and_state_untouched(node: Node) -> None:
    release = node.publish(1)
    node.desire(1, release)
    node.run()
    node.now += 100_000
    node.fake_kv.away = True

    with pytest.raises(Temporary):
        node.run()

    assert node.complete(release)


def test_a_download_survives_consul_going_away(node: Node) -> None:
    release = node.publish(1, {"index": {"big": b"x" * 50_000}})
    node.desire(1, release)

    def go_away(source: Source, at: int) -> None:
        node.fake_kv.away = True

    node.fake_objects.before_piece = go_away
    with pytest.raises(Temporary):
        node.run()
    assert node.complete(release)

    node.fake_kv.away = False
    node.run()
    assert node.status(release).state is State.SUCCESS
