"""What `[notify]` tells, once each, whenever it is looked."""

from __future__ import annotations

from datetime import timedelta

import pytest
from msgspec import structs

from handlers.core import keys
from handlers.core.events import noticed
from handlers.core.model import Told
from tests.core.worlds import COMPLETE, NOW, PLACES, Cluster, rid, v

STUCK_S = 600.0


@pytest.fixture
def cluster() -> Cluster:
    made = Cluster()
    made.publish(1)
    made.subscribe()
    made.node("n1", COMPLETE)
    made.runs("n1", places=1)
    made.run()
    return made


def look(cluster: Cluster, before: Told | None, minutes: float = 0) -> Told:
    now = NOW + timedelta(minutes=minutes)
    return noticed(before, cluster.world(), lambda _: "waits for something", now, STUCK_S)


def told(after: Told) -> list[tuple[str, str]]:
    return [(event.kind, event.text) for event in after.pending]


def test_first_look_tells_nothing_and_the_next_nothing_that_is_not_new(cluster: Cluster) -> None:
    first = look(cluster, None)

    assert told(first) == []
    assert look(cluster, first) == first


def test_new_head_new_verdict_and_the_way_back_are_told(cluster: Cluster) -> None:
    first = look(cluster, None)
    cluster.publish(2)
    cluster.judge(2)
    second = look(cluster, first)

    assert told(second) == [
        ("published", f"{PLACES}: {v(2)} is published, 10 bytes"),
        ("halted", f"{COMPLETE}: {rid(2)} is halted on n1: does not load"),
        ("returned", f"{COMPLETE}: no instance runs {rid(2)} any more"),
    ]
    assert told(look(cluster, second)) == told(second)  # until it has arrived

    cluster.runs("n1", places=2)
    moved = look(cluster, structs.replace(second, pending=()))
    assert told(moved) == []
    cluster.runs("n1", places=1)
    assert told(look(cluster, moved)) == [
        ("returned", f"{COMPLETE}: all instances are back on {v(1)} of {PLACES}, from {v(2)}")
    ]


@pytest.mark.parametrize("verdict", ["bad", "halted"])
def test_way_back_of_a_canary_is_told_once_it_is_over(cluster: Cluster, verdict: str) -> None:
    cluster.node("n2", COMPLETE)
    cluster.runs("n2", places=1)
    cluster.publish(2)
    first = look(cluster, None)
    cluster.runs("n1", places=2)
    cluster.judge(2, verdict)
    judged = look(cluster, first)
    assert [kind for kind, _ in told(judged)] == ["halted"]

    cluster.runs("n1", places=1, moving={"places": v(2)})
    moving = look(cluster, structs.replace(judged, pending=()))
    assert told(moving) == []
    cluster.runs("n1", places=1)
    back = look(cluster, moving)
    assert told(back) == [("returned", f"{COMPLETE}: no instance runs {rid(2)} any more")]
    assert told(look(cluster, structs.replace(back, pending=()))) == []


def test_way_back_is_not_told_of_a_check_that_found_nothing_or_of_what_was_retried(cluster: Cluster) -> None:
    cluster.publish(2)
    first = look(cluster, None)
    cluster.judge(2, "inconclusive")
    assert [kind for kind, _ in told(look(cluster, first))] == ["halted"]
    cluster.judge(2)
    cluster.control(retry=("id2",))
    assert [kind for kind, _ in told(look(cluster, first))] == ["halted"]


def test_instance_that_is_not_on_its_target_for_too_long_is_stuck_once(cluster: Cluster) -> None:
    cluster.publish(2)
    cluster.run()
    first = look(cluster, None)
    assert told(look(cluster, first, 9)) == []

    late = look(cluster, first, 11)
    assert told(late) == [("stuck", f"{COMPLETE}: i0 on n1 waits for something")]
    again = look(cluster, structs.replace(late, pending=()), 20)
    assert told(again) == []

    cluster.runs("n1", places=2)
    freed = look(cluster, again, 21)
    assert (freed.stuck, freed.waiting) == ((), {})


def test_paused_rollout_is_not_stuck(cluster: Cluster) -> None:
    cluster.publish(2)
    cluster.control(paused=True)
    cluster.run()
    first = look(cluster, None)

    assert told(look(cluster, first, 60)) == []
    cluster.drop(keys.head(PLACES))
    assert told(look(cluster, first)) == []
