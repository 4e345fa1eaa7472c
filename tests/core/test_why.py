"""What an instance waits for, seen from outside: the first thing that is not as it should be."""

from __future__ import annotations

import pytest
from msgspec import structs

from handlers.core import codec, keys, model
from handlers.core.reasons import Reason
from handlers.core.version import Version
from handlers.core.why import why
from tests.core.worlds import COMPLETE, PLACES, Cluster, rid, v


@pytest.fixture
def cluster() -> Cluster:
    """One instance on n1 that runs release 1 of two, as it should; everything is planned and applied."""
    made = Cluster()
    made.publish(1)
    made.subscribe()
    made.node("n1", COMPLETE)
    made.run()
    made.runs("n1", places=1)
    made.run()
    made.applied("n1", made.desired("n1").generation)
    return made


def said(cluster: Cluster, **targets: Version) -> str:
    world = cluster.world()
    (replica,) = world.replicas(COMPLETE)
    return why(world, replica, targets)


def change(cluster: Cluster, **fields: object) -> None:
    """Let the node say something else of its instance."""
    key = keys.states("n1")
    states = codec.decode(model.States, cluster[key], key)
    fresh = {k: structs.replace(state, **fields) for k, state in states.instances.items()}
    cluster.put(key, structs.replace(states, instances=fresh))


def test_instance_on_its_target_waits_for_nothing(cluster: Cluster) -> None:
    assert said(cluster, places=v(1)) == Reason.SETTLED.say(releases=f"places {v(1)}")


def test_pin_and_rejection_are_named_where_the_head_is_not_run(cluster: Cluster) -> None:
    cluster.publish(2)
    cluster[keys.channel_pin(PLACES)] = v(1).encode()
    cluster.run()
    cluster.applied("n1", cluster.desired("n1").generation)
    assert said(cluster, places=v(1)) == Reason.PINNED.say(releases=f"places {v(1)}", who="somebody by hand")

    cluster.drop(keys.channel_pin(PLACES))
    cluster.reject(2)
    cluster.run()
    cluster.applied("n1", cluster.desired("n1").generation)
    assert said(cluster, places=v(1)) == Reason.BARRED.say(releases=f"places {v(1)}", barred=v(2))


def test_dead_node_and_missing_meta_come_before_everything_else(cluster: Cluster) -> None:
    change(cluster, reason=Reason.PAUSED.say())

    cluster.drop(keys.alive("n1"))
    assert said(cluster) == Reason.NODE_DEAD.say(node="n1")
    cluster.drop(keys.META)
    assert said(cluster) == Reason.NO_META.say()


def test_node_that_holds_off_what_is_planned_says_why(cluster: Cluster) -> None:
    held = model.Actual(node="n1", generation=99, alarms=("the KV was restored",))
    cluster.put(keys.actual("n1"), held)

    assert said(cluster) == Reason.HOLDS_OFF.say(why="the KV was restored")


def test_head_that_is_not_planned_yet_waits_for_the_planner(cluster: Cluster) -> None:
    assert said(cluster, places=v(2)) == Reason.NOT_PLANNED.say(release=rid(2))


def test_planned_move_that_nobody_begins_and_an_instance_that_nobody_took_up(cluster: Cluster) -> None:
    cluster.publish(2)
    cluster.run()
    cluster.applied("n1", cluster.desired("n1").generation)
    assert said(cluster, places=v(2)) == Reason.NOT_BEGUN.say(release=rid(2))

    cluster.put(keys.states("n1"), model.States(node="n1"))
    assert said(cluster, places=v(2)) == Reason.NOT_TAKEN_UP.say()


def test_subscription_that_is_not_there_means_no_plan() -> None:
    cluster = Cluster()
    cluster.node("n1", COMPLETE)
    cluster.run()

    assert said(cluster) == Reason.NO_PLAN.say()


@pytest.mark.parametrize(
    ("status", "done", "sentence"),
    [
        (model.ReleaseStatus(state=model.State.WAITING), None, Reason.INCOMPLETE.say(release=rid(2))),
        (
            model.ReleaseStatus(state=model.State.FAILED, reason="no such object"),
            None,
            Reason.NOT_LOADED.say(release=rid(2), why="no such object"),
        ),
        (
            model.ReleaseStatus(state=model.State.DOWNLOADING),
            model.Download(done=5, total=10),
            Reason.LOADING.say(release=rid(2), done=5, total=10),
        ),
    ],
    ids=["waiting", "failed", "downloading"],
)
def test_download_that_is_waited_for_says_how_far_it_is(
    cluster: Cluster, status: model.ReleaseStatus, done: model.Download | None, sentence: str
) -> None:
    cluster.publish(2)
    cluster.run()
    generation = cluster.desired("n1").generation
    cluster.put(keys.actual("n1"), model.Actual(node="n1", generation=generation, releases={rid(2): status}))
    cluster.put(keys.progress("n1"), model.Progress(node="n1", downloads={rid(2): done} if done else {}))
    change(cluster, reason=Reason.INCOMPLETE.say(release=rid(2)))

    assert said(cluster, places=v(2)) == sentence


def test_cordoned_node_is_named_instead_of_a_paused_rollout(cluster: Cluster) -> None:
    cluster.publish(2)
    cluster.cordon("n1")
    cluster.run()
    cluster.applied("n1", cluster.desired("n1").generation)
    change(cluster, reason=Reason.PAUSED.say())

    assert said(cluster) == Reason.CORDONED.say(who="me", why="no reason given")


def test_what_the_node_says_of_its_instance_is_repeated(cluster: Cluster) -> None:
    change(cluster, reason=Reason.CONFIRMING.say(seen="version is 7"))

    assert said(cluster) == "waits for its confirmation: version is 7"
