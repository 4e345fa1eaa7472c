"""A service that has left a node: its data waits there for a day, and the next instance needs no planner."""

from __future__ import annotations

from datetime import timedelta

import pytest

from handlers.core import keys, model
from tests.core.worlds import COMPLETE, NOW, PLACES, Cluster, rid, v

A_DAY = timedelta(days=1)
A_DAY_LATER = NOW + A_DAY


@pytest.fixture
def cluster() -> Cluster:
    """Scaled to zero on three nodes, with one release everywhere, which is proven."""
    made = Cluster()
    made.publish(2)
    made.subscribe()
    for name in ("n1", "n2", "n3"):
        made.node(name, COMPLETE)
        made.runs(name, places=2)
    made.run()
    for name in ("n1", "n2", "n3"):
        made.applied(name, 1, rid(2))
        made.leaves(name)
    return made


def test_node_is_told_what_a_new_instance_begins_with(cluster: Cluster) -> None:
    made = cluster.run()
    plan, hold = cluster.desired("n1").services[COMPLETE], cluster.desired("n1").releases[rid(2)]
    assert (plan.idle, plan.aliases["places"].start) == (True, v(2))
    assert (hold.why, hold.until) == ((f"kept for the next instance of {COMPLETE}",), "2026-06-02T00:00:00Z")
    assert cluster.held() == {rid(2)}
    assert (made.alarms.alarms, cluster.run().changed) == ((), ())


def test_nothing_new_is_loaded_there_and_the_next_instance_begins_with_what_is_proven(
    cluster: Cluster,
) -> None:
    cluster.run()
    cluster.publish(3)
    cluster.run(now=NOW + A_DAY / 2)
    assert (cluster.alias().target, cluster.alias().start) == (v(3), v(2))
    assert cluster.held() == {rid(2)}

    cluster.node("n1", COMPLETE)
    cluster.run(now=NOW + A_DAY / 2)
    desired = cluster.desired("n1")
    assert not desired.services[COMPLETE].idle
    assert (desired.releases[rid(2)].until, rid(3) in desired.releases) == ("", True)


def test_it_ends_after_a_day(cluster: Cluster) -> None:
    cluster.run()
    cluster.node("n1", COMPLETE)  # or the brake would keep it
    cluster.run(now=A_DAY_LATER - timedelta(seconds=1))
    assert cluster.held("n2") == {rid(2)}
    cluster.applied("n2", 1, rid(2))
    cluster.run(now=A_DAY_LATER, brake_share=1.0)
    assert (cluster.held("n2"), cluster.desired("n2").services) == (set(), {})


def test_it_ends_where_others_have_moved_on_and_the_brake_lets_it_pass(cluster: Cluster) -> None:
    cluster.node("n1", COMPLETE)
    cluster.runs("n1", places=2)
    cluster.run()
    cluster.publish(3)
    cluster.runs("n1", places=3)
    made = cluster.run(brake_share=0.1)
    assert (cluster.held("n2"), cluster.held("n3")) == (set(), set())
    assert made.alarms.alarms == ()


@pytest.mark.parametrize("end", ["reject", "unsubscribe", "selector", "data", "desired"])
def test_it_ends_where_there_is_nothing_to_begin_with(cluster: Cluster, end: str) -> None:
    cluster.run()
    if end == "reject":
        cluster.reject(2)
    elif end == "unsubscribe":
        cluster.unsubscribe()
    elif end == "selector":
        elsewhere = model.Subscription(channels={"places": PLACES}, nodes="pool=search")
        cluster.put(keys.subscription(COMPLETE), elsewhere)
    elif end == "data":
        cluster.applied("n1", 1, lacks=[rid(2)])
    else:
        cluster.drop(keys.DESIRED)
    cluster.run()
    assert cluster.desired("n1").services == {}


def test_it_stays_where_the_word_of_the_node_is_lost(cluster: Cluster) -> None:
    cluster.run()
    cluster.drop(keys.actual("n1"))
    cluster[keys.actual("n2")] = b"{"
    cluster.run()
    assert cluster.held("n1") == cluster.held("n2") == {rid(2)}


def test_node_whose_instances_are_lost_does_not_take_it_for_a_reader(cluster: Cluster) -> None:
    cluster.run()
    cluster.drop(keys.instances("n1"))
    cluster.publish(3)
    cluster.run()
    assert cluster.held("n1") == {rid(2)}
    assert cluster.desired("n1").services[COMPLETE].idle
