"""Staged releases: on all nodes, run by nobody, until they are promoted, by a command or by their time."""

from __future__ import annotations

from datetime import timedelta

import pytest

from handlers.core import keys, model
from handlers.core.retention import retention
from tests.core.worlds import COMPLETE, NOW, PLACES, Cluster, rid, texts, v

AT = (NOW + timedelta(hours=1)).isoformat()


@pytest.fixture
def cluster() -> Cluster:
    """Release 2 is published and staged; everybody runs 1."""
    cluster = Cluster()
    cluster.publish(2)
    cluster.publish(1)
    cluster.put(keys.staged(PLACES), model.Staged(version=v(2), at=AT))
    cluster.subscribe()
    cluster.node("n1", COMPLETE)
    cluster.runs("n1", places=1)
    cluster.run()
    return cluster


def test_staged_release_is_on_the_nodes_and_nobody_moves_to_it(cluster: Cluster) -> None:
    assert rid(2) in cluster.held()
    assert cluster.alias().target == v(1)
    assert cluster.desired("n1").releases[rid(2)].why == ("staged",)


def test_its_time_is_waited_for_and_then_makes_it_the_head(cluster: Cluster) -> None:
    before = cluster.plan(now=NOW)
    after = cluster.plan(now=NOW + timedelta(hours=1))

    assert (before.promotions, before.due) == ({}, NOW + timedelta(hours=1))
    assert (after.promotions, after.due) == ({PLACES: v(2)}, None)


def test_without_a_time_nothing_happens_by_itself(cluster: Cluster) -> None:
    cluster.put(keys.staged(PLACES), model.Staged(version=v(2)))

    made = cluster.plan(now=NOW + timedelta(days=9))

    assert (made.promotions, made.due) == ({}, None)


def test_what_stands_in_the_way_is_said(cluster: Cluster) -> None:
    later = NOW + timedelta(hours=2)
    cluster.reject(2)
    assert "it is rejected" in texts(made := cluster.plan(now=later))
    assert made.promotions == {}
    cluster.drop(keys.rejected(PLACES, v(2)))
    cluster.publish(3)
    assert "which is newer" in texts(made := cluster.plan(now=later))
    assert made.promotions == {}
    cluster.put(keys.staged(PLACES), model.Staged(version=v(9), at=AT))
    assert "no such release" in texts(cluster.plan(now=later))
    cluster.put(keys.staged(PLACES), model.Staged(version=v(2), at="soon"))
    assert "its time is not one" in texts(cluster.plan(now=later))


def test_retention_keeps_it(cluster: Cluster) -> None:
    cluster.settings(keep_releases=1)
    cluster.drop(keys.desired("n1"))

    gone = {key for removal in retention(cluster.world(), [], NOW).removals for key in removal.keys}

    assert keys.release(PLACES, v(2)) not in gone
