"""How far a published release is taken over, and what is in its way."""

from __future__ import annotations

import pytest
from msgspec import structs

from handlers.core import codec, keys, model
from handlers.core.model import State, Step
from handlers.core.names import Channel, InstanceKey
from handlers.core.takeover import Stage, Takeover, taken_over
from tests.core.worlds import COMPLETE, PLACES, ROUTE, STREETS, Cluster, rid, v


@pytest.fixture
def cluster() -> Cluster:
    """Two nodes with one instance each, which run release 1; release 2 was just published."""
    made = Cluster()
    made.publish(1)
    made.publish(2)
    made.subscribe()
    for node in ("n1", "n2"):
        made.node(node, COMPLETE)
        made.runs(node, places=1)
    return made


def look(cluster: Cluster, number: int = 2, channel: Channel = PLACES) -> Takeover:
    return taken_over(cluster.world(), channel, v(number))


def stages(take: Takeover) -> dict[str, Stage]:
    return {one.node: one.stage for one in take.instances}


def status(cluster: Cluster, node: str, state: State, reason: str = "") -> None:
    releases = {rid(2): model.ReleaseStatus(state=state, reason=reason)}
    cluster.put(keys.actual(node), model.Actual(node=node, generation=1, releases=releases))


def change(cluster: Cluster, node: str, **fields: object) -> None:
    """Change what the one instance of a node says."""
    key = keys.states(node)
    old = codec.decode(model.States, cluster[key], key)
    found = {k: structs.replace(i, **fields) for k, i in old.instances.items()}
    cluster.put(key, structs.replace(old, instances=found))


def test_all_run_it_is_complete(cluster: Cluster) -> None:
    for node in ("n1", "n2"):
        cluster.runs(node, places=2)

    take = look(cluster)

    assert (take.complete, take.settled, take.running, take.services) == (True, True, 2, (COMPLETE,))


@pytest.mark.parametrize(
    ("state", "stage"),
    [
        (State.WAITING, Stage.PLANNED),
        (State.DOWNLOADING, Stage.DOWNLOADING),
        (State.FAILED, Stage.FAILED),
        (State.SUCCESS, Stage.COMPLETE),
    ],
)
def test_stage_follows_what_the_node_measured(cluster: Cluster, state: State, stage: Stage) -> None:
    status(cluster, "n1", state, "because")

    take = look(cluster)

    assert stages(take) == {"n1": stage, "n2": Stage.PLANNED}
    assert not take.settled


def test_download_shows_bytes_and_speed(cluster: Cluster) -> None:
    status(cluster, "n1", State.DOWNLOADING)
    downloads = {rid(2): model.Download(done=3, total=10, speed=2)}
    cluster.put(keys.progress("n1"), model.Progress(node="n1", downloads=downloads))

    first = look(cluster).instances[0]

    assert (first.done_bytes, first.total_bytes, first.speed) == (3, 10, 2)


def test_instance_that_moves_is_not_there_before_it_is_back_in_service(cluster: Cluster) -> None:
    status(cluster, "n1", State.SUCCESS)
    cluster.runs("n1", places=2)
    change(cluster, "n1", step=Step.RETURN, state=model.Ready.READY)
    assert stages(look(cluster))["n1"] is Stage.MOVING

    change(cluster, "n1", step=Step.IDLE)
    assert stages(look(cluster))["n1"] is Stage.RUNS


def test_dead_node_is_not_waited_for(cluster: Cluster) -> None:
    cluster.runs("n1", places=2)
    del cluster[keys.alive("n2")]

    assert look(cluster).complete


def test_instance_that_was_registered_a_moment_ago_counts(cluster: Cluster) -> None:
    for node in ("n1", "n2"):
        cluster.runs(node, places=2)
    place = InstanceKey.of(COMPLETE, "late")
    late = model.Instance(service=COMPLETE, id="late", incarnation="x", health="none")
    cluster.put(keys.registrations("n2"), model.Instances(instances={place: late}))

    take = look(cluster)

    assert (take.complete, [i.instance for i in take.instances if i.stage is Stage.PLANNED]) == (
        False,
        ["late"],
    )


def test_state_of_an_earlier_incarnation_does_not_count(cluster: Cluster) -> None:
    cluster.runs("n1", places=2)
    cluster.runs("n2", places=2, incarnation="0")

    assert stages(look(cluster)) == {"n1": Stage.RUNS, "n2": Stage.PLANNED}


def test_nobody_subscribed_or_nobody_alive_is_complete(cluster: Cluster) -> None:
    assert look(cluster, channel=STREETS).complete
    for node in ("n1", "n2"):
        del cluster[keys.alive(node)]
    assert look(cluster).complete
    cluster.unsubscribe()
    assert look(cluster).services == ()


def test_one_service_that_will_not_does_not_hide_that_another_is_on_its_way(cluster: Cluster) -> None:
    cluster.subscribe(ROUTE, places=PLACES)
    cluster.node("n3", ROUTE)
    cluster.control(paused=True)

    take = look(cluster)

    assert stages(take) == {"n1": Stage.BLOCKED, "n2": Stage.BLOCKED, "n3": Stage.PLANNED}
    assert (set(take.blocked), take.settled) == ({COMPLETE}, False)


def pin(cluster: Cluster, number: int, key: str) -> None:
    cluster.put(key, model.Pin(version=v(number), why="event"))


FROZEN = model.Subscription(channels={"places": PLACES}, reload="frozen")
OBSTACLES = {
    "rejected": (lambda c: c.reject(2), "rejected by me: wrong"),
    "channel-pin": (lambda c: pin(c, 1, keys.channel_pin(PLACES)), f"the channel is pinned to {v(1)}: event"),
    "service-pin": (
        lambda c: pin(c, 1, keys.service_pin(COMPLETE, "places")),
        f"the service is pinned to {v(1)}: event",
    ),
    "halted": (lambda c: c.judge(2), "halted by x on n1: does not load"),
    "bad": (lambda c: c.judge(2, "bad"), "bad by x on n1: does not load"),
    "paused": (
        lambda c: c.control(paused=True, who="ann", why="peak"),
        "its rollouts are paused by ann: peak",
    ),
    "aborted": (lambda c: c.control(abort=(rid(2),), who="ann", why="slow"), "aborted by ann: slow"),
    "superseded": (lambda c: c.publish(3), f"the head is {v(3)} now"),
    "deleted": (lambda c: c.delete_channel(), "the channel is deleted"),
    "cordoned": (lambda c: (c.cordon("n1"), c.cordon("n2")), "node n1 is cordoned by me"),
    "bad-pin": (lambda c: c.update({keys.channel_pin(PLACES): b"oops"}), "the channel's pin cannot be read"),
    "frozen": (
        lambda c: c.put(keys.subscription(COMPLETE), FROZEN),
        "its instances are frozen",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OBSTACLES)
def test_obstacle_is_named(cluster: Cluster, name: str) -> None:
    put, reason = OBSTACLES[name]
    put(cluster)  # type: ignore[no-untyped-call]

    take = look(cluster)

    assert (take.complete, take.settled) == (False, True)
    assert take.blocked[COMPLETE].startswith(reason)


@pytest.mark.parametrize("name", OBSTACLES)
def test_who_runs_it_already_is_not_in_the_way(cluster: Cluster, name: str) -> None:
    for node in ("n1", "n2"):
        cluster.runs(node, places=2)
    OBSTACLES[name][0](cluster)  # type: ignore[no-untyped-call]

    assert look(cluster).complete


def test_overruled_verdict_and_pin_to_the_release_are_no_obstacles(cluster: Cluster) -> None:
    cluster.judge(2)
    cluster.control(retry=("id2",))
    pin(cluster, 2, keys.service_pin(COMPLETE, "places"))
    cluster.publish(3)

    assert look(cluster).blocked == {}
