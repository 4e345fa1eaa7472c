"""Every way to tell a replica of a new release, to take it out of traffic, and to see that it has it."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import pytest

from handlers.core.model import Ready, Step
from tests.e2e.scene import V1, V2, V3, Scene, until

pytestmark = pytest.mark.timeout(300)
VERSION_FIELD = "http://:/version#version"


class Way(NamedTuple):
    """Options of the subscription, and of the replica's program."""

    reload: str
    confirm: str
    program: tuple[str, ...] = ()


WAYS = {
    "http-health": Way("http://:/reload", "health"),
    "http-maps": Way("http://:/reload", "maps"),
    "signal-pidfile": Way(
        "signal:HUP@pidfile:{folder}/{{id}}.pid", VERSION_FIELD, ("--pidfile={folder}/{id}.pid",)
    ),
    "signal-supervisor": Way("signal:HUP@supervisor:{{id}}", "maps"),
    "restart": Way("restart:supervisor:{{id}}", VERSION_FIELD),
    "none": Way("none", VERSION_FIELD, ("--follow",)),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_replica_takes_a_release_over_in_this_way(scene: Scene, way: Way) -> None:
    scene.publish(V1)
    folder = str(scene.cluster.node("n1").folder)
    scene.subscribe("--confirm", way.confirm, reload=way.reload.format(folder=folder))
    (replica,) = scene.start("n1", options=tuple(word.replace("{folder}", folder) for word in way.program))
    scene.await_running(V1)
    before = scene.answer(replica)[1]

    scene.publish(V2)

    scene.await_running(V2)
    after = scene.answer(replica)[1]
    assert (after["pid"] != before["pid"]) == way.reload.startswith("restart")
    assert not scene.verdicts().releases
    assert not scene.slots().out


def test_replica_is_taken_out_by_maintenance_mode_and_comes_back(scene: Scene) -> None:
    scene.publish(V1)
    scene.subscribe("--drain", "maintenance", "--drain-time", "600s")
    (replica,) = scene.start("n1", by_hand=False)
    scene.await_running(V1)

    def in_maintenance() -> bool:
        checks, _ = scene.cluster.kv().get_json(f"health/checks/{scene.space}")
        return any(check["CheckID"].startswith("_service_maintenance") for check in checks)

    scene.publish(V2)
    until("it is in maintenance", in_maintenance)
    scene.hydra("subscribe", scene.service, "--drain-time", "2s")

    scene.await_running(V2)
    until("it has traffic", lambda: replica.id in {row["Service"]["ID"] for row in scene.healthy()})
    assert not in_maintenance()


def test_frozen_replica_keeps_its_release_until_another_one_takes_its_place(scene: Scene) -> None:
    scene.publish(V1)
    scene.subscribe(reload="frozen")
    (replica,) = scene.start("n1")
    scene.await_running(V1)

    scene.publish(V2)

    until("the node has the release", lambda: scene.holds("n1", V2))
    until("it is said why nothing moves", lambda: "keep what they started with" in scene.reason(replica))
    assert scene.runs(replica, V1)
    (fresh,) = scene.start("n2")
    scene.await_running(V2, fresh)
    assert scene.runs(replica, V1)


def test_replica_that_never_confirms_goes_back_with_what_was_seen_instead(scene: Scene) -> None:
    """Its reload says that it is done, but it still uses the old release."""
    scene.publish(V1)
    scene.subscribe("--confirm", "maps", reload="none")
    (replica,) = scene.start("n1")
    scene.await_running(V1)
    scene.hydra("subscribe", scene.service, "--deadline", "5s")

    scene.publish(V2)

    until("a verdict is there", lambda: scene.verdicts().releases)
    (verdict,) = scene.verdicts().releases.values()
    assert "still has files of" in verdict.reason or "has no file of" in verdict.reason
    scene.await_running(V1)
    state = scene.state(replica)
    assert state
    assert (state.state, state.step) == (Ready.READY, Step.IDLE)


def is_in_ram(scene: Scene) -> bool:
    """The first node has the second release, and in RAM what is placed there."""
    ranking = (scene.folder("n1", V2) / "ranking").resolve()
    return scene.holds("n1", V2) and ranking.is_relative_to(scene.cluster.node("n1").ram.resolve())


def test_replica_of_several_channels_moves_to_all_of_them_in_one_flip(scene: Scene) -> None:
    other = scene.sibling("more")
    scene.publish(V1)
    other.publish(V1)
    both = ("--channel", f"more={other.channel}", "--confirm", VERSION_FIELD)
    scene.subscribe(*both, "--max-unavailable", "0")  # while rollouts are paused, RAM keeps what it has
    (replica,) = scene.start("n1")
    until("it has both", lambda: scene.releases(replica) == {"data": V1, "more": V1})
    scene.publish(V2)
    other.publish(V2)
    until("both are there", lambda: is_in_ram(scene) and is_in_ram(other))
    flips = (replica.view / "..data").readlink()

    scene.hydra("subscribe", scene.service, "--max-unavailable", "1")

    until("it moved to both", lambda: scene.releases(replica) == {"data": V2, "more": V2})
    number = int(str(flips).strip("."))
    assert str((replica.view / "..data").readlink()) == f"..{number + 1}"
    scene.hydra("rollout", "pause", scene.service)
    for each in (scene, other):
        each.publish(V3)
        until("it is there", partial(each.holds, "n1", V3))  # but not in RAM, which keeps what it has
    scene.hydra("rollout", "resume", scene.service)
    until("it moved to both", lambda: scene.releases(replica) == {"data": V3, "more": V3})
    assert str((replica.view / "..data").readlink()) == f"..{number + 2}"
