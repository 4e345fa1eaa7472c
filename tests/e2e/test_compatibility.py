"""Releases and code that must fit each other, on a real cluster: needs of other channels, and labels."""

from __future__ import annotations

import pytest

from handlers.core.reasons import Reason
from hydra_cli.dev.demo.sight import Replica
from tests.e2e.scene import V1, V2, V3, Scene, until
from tests.e2e.test_why import await_why

pytestmark = pytest.mark.timeout(300)


def loads(scene: Scene, replica: Replica) -> int:
    """How often a replica has loaded something."""
    return int(scene.answer(replica)[1]["loads"])


def test_release_and_what_it_needs_are_taken_over_and_given_up_in_one_reload(scene: Scene) -> None:
    other = scene.sibling("needed")
    scene.publish(V1)
    other.publish(V1)
    scene.subscribe("--channel", f"other={other.channel}", "--drain-time", "3s")
    first, second = scene.start("n1", "n2", by_hand=False)
    scene.await_running(V1)
    before = {replica.id: loads(scene, replica) for replica in scene.replicas}
    with scene.audience() as audience:
        other.publish(V2, "--stage")
        scene.publish(V2, "--needs", f"{other.channel}@{V2}")

        why = await_why(scene, first, Reason.PASSED)
        assert f"{V2} needs {other.channel}@{V2} or newer, and the service targets {V1}" in why
        until("status tells why", lambda: f"needs {other.channel}@{V2}" in scene.troubles())
        scene.hydra("promote", other.channel)
        scene.await_running(V2)
        assert {r.id: loads(scene, r) - before[r.id] for r in scene.replicas} == {first.id: 1, second.id: 1}

        scene.hydra("rollback", other.channel, "--reason", "the other one is wrong")
        scene.await_running(V1)
        assert {r.id: loads(scene, r) - before[r.id] for r in scene.replicas} == {first.id: 2, second.id: 2}
    assert (audience.failed, audience.mixed, audience.late) == ([], [], [])


def test_node_that_has_only_one_of_two_moves_to_neither(scene: Scene) -> None:
    other = scene.sibling("needed")
    scene.publish(V1)
    other.publish(V1)
    scene.subscribe("--channel", f"other={other.channel}")
    first, second = scene.start("n1", "n2")
    scene.await_running(V1)
    begun = loads(scene, first)
    scene.hydra("node", "cordon", "n1")
    try:
        other.publish(V2)
        scene.publish(V2, "--needs", f"{other.channel}@{V2}")
        scene.await_running(V2, second)
        scene.s3.delete_object(Bucket=scene.space, Key=f"index/{V2}/value.json")
    finally:
        scene.hydra("node", "uncordon", "n1")

    until("the other is there", lambda: other.holds("n1", V2))
    assert scene.release(V2) in await_why(scene, first, Reason.NEEDS, Reason.NOT_LOADED)
    assert scene.runs(first, V1)
    scene.upload(V2)
    scene.await_running(V2)
    assert loads(scene, first) == begun + 1


def test_code_and_data_go_forward_and_back_independently(scene: Scene) -> None:
    scene.publish(V1, "--label", "format=4")
    scene.subscribe("--drain-time", "3s")
    (old,) = scene.start("n1", by_hand=False, reads="format<=4")
    scene.await_running(V1)
    with scene.audience() as audience:
        scene.publish(V2, "--label", "format=5")  # data forward: old code stays
        assert "only format<=4 is read" in await_why(scene, old, Reason.PASSED)
        assert "passes over" in scene.hydra("status", scene.service, role="reader")
        (new,) = scene.start("n2", by_hand=False, reads="format>=5")  # code forward: new code begins with it
        scene.await_running(V2, new)
        assert scene.runs(old, V1)
        scene.publish(V3, "--label", "format=5")
        scene.await_running(V3, new)
        scene.register(old, by_hand=False, reads="format<=5")  # the old code is taught to read both
        scene.await_running(V3, old)
        (none,) = scene.start("n3", by_hand=False, reads="format<=3")
        assert "only format<=3 is read" in await_why(scene, none, Reason.NONE_FITS)
        until("status tells why", lambda: "only format<=3 is read" in scene.troubles())
        scene.hydra("rollback", scene.channel, "--reason", "data back")
        scene.await_running(V2, old, new)
        scene.register(old, by_hand=False, reads="format<=4")  # code back
        scene.await_running(V1, old)
        assert scene.runs(new, V2)
    assert (audience.failed, audience.mixed, audience.late) == ([], [], [])
