"""The main job: a release reaches every node and takes over one replica at a time; and the way back."""

from __future__ import annotations

import json
from functools import partial

import pytest

from handlers.core import keys
from handlers.core.model import Ready, Step
from handlers.core.version import Version
from hydra_cli.dev.demo.sight import Replica
from tests import servers
from tests.e2e.scene import V1, V2, V3, Scene, until

pytestmark = pytest.mark.timeout(300)


def test_published_release_is_served_by_replicas_on_all_nodes(scene: Scene) -> None:
    scene.publish(V1)
    scene.subscribe()
    replicas = scene.start("n1", "n2", "n3", by_hand=False)

    scene.await_running(V1)

    for replica in replicas:
        assert (replica.view / "state").read_text().strip() == Ready.READY
        until("its readiness is told", partial(tells_of, scene, replica, V1))
    answer = scene.publish(V2, "--wait", "--timeout", "120s")
    assert V2 in answer
    assert all(scene.runs(replica, V2) for replica in replicas)


def tells_of(scene: Scene, replica: Replica, version: Version) -> bool:
    """The second readiness file says what a replica is and runs; it is rendered beside the first one."""
    ready = json.loads((replica.view / "readiness.json").read_text())
    about = (ready["service"], ready["id"], ready["releases"])
    return about == (scene.service, replica.id, {"data": version})


def test_release_takes_over_one_by_one_under_traffic_with_nothing_failed_mixed_or_late(scene: Scene) -> None:
    scene.publish(V1)
    # a request may be sent by a health view that is 1 s old, and take 2 s
    scene.subscribe("--drain-time", "3s", "--confirm", "http://:/version#version")
    scene.start("n1", "n1", "n2", "n3", by_hand=False)
    scene.await_running(V1)

    with scene.audience() as audience:
        scene.publish(V2)
        scene.await_running(V2)
        scene.hydra("rollback", scene.channel, "--reason", "trying the way back")
        scene.await_running(V1)

    assert len(audience.requests) > 500
    assert {v for request in audience.requests for v in request.versions} == {V1, V2}
    assert (audience.failed, audience.mixed, audience.late) == ([], [], [])
    assert audience.most_out == 1
    assert not scene.slots().out


def test_rollback_needs_no_download(scene: Scene, shared_s3: servers.S3) -> None:
    scene.publish(V1)
    scene.subscribe()
    replicas = scene.start("n1", "n2")
    scene.await_running(V1)
    scene.publish(V2)
    scene.await_running(V2)
    inodes = {r.id: (scene.folder(r.node, V1) / "index" / "value.json").stat().st_ino for r in replicas}

    shared_s3.stop()
    try:
        scene.hydra("rollback", scene.channel, "--reason", "V2 is no good")
        scene.await_running(V1)
    finally:
        shared_s3.start()

    for replica in replicas:
        value = scene.folder(replica.node, V1) / "index" / "value.json"
        assert value.stat().st_ino == inodes[replica.id]
        downloads = [
            line
            for line in scene.log(replica.node).splitlines()
            if scene.channel in line and "download" in line
        ]
        assert len(downloads) == 2, downloads


def test_rollback_mends_a_service_whose_every_replica_is_sick(scene: Scene) -> None:
    """Nobody is in service, so the budget allows nobody to go out: repair needs no permission."""
    scene.publish(V1)
    scene.subscribe()
    replicas = scene.start("n1", "n2", "n3")
    scene.await_running(V1)
    scene.publish(V2)
    scene.await_running(V2)
    for replica in replicas:  # the data turns out to be bad only after it was taken over
        scene.fall_sick(replica)
    until("all are sick", lambda: not any(scene.serves(replica, V2) for replica in replicas))

    scene.hydra("rollback", scene.channel, "--reason", "everything is down")

    scene.await_running(V1)
    assert not scene.slots().out


def test_reload_that_fails_brings_the_old_release_back_and_touches_nobody_else(scene: Scene) -> None:
    scene.publish(V1)
    scene.subscribe()
    replicas = scene.start("n1", "n2", "n3")
    scene.await_running(V1)
    loads = {replica.id: scene.answer(replica)[1]["loads"] for replica in replicas}

    scene.publish(V2, refuse="the index is damaged at byte 7")

    until("a verdict is there", lambda: scene.verdicts().releases)
    scene.await_running(V1)
    (verdict,) = scene.verdicts().releases.values()
    assert verdict.verdict == "halted"
    assert "the index is damaged at byte 7" in verdict.reason
    until("status tells why", lambda: "the index is damaged at byte 7" in scene.troubles())
    others = [replica for replica in replicas if replica.id != verdict.instance]
    assert len(others) == 2
    assert all(scene.answer(replica)[1]["loads"] == loads[replica.id] for replica in others)
    assert (
        scene.hydra("publish", str(scene.template), "--channel", scene.channel, "--wait", code=9) is not None
    )

    scene.publish(V3)

    scene.await_running(V3)
    assert scene.release(V2) in scene.verdicts().releases


def test_n4_release_that_makes_a_replica_sick_goes_no_further(scene: Scene) -> None:
    scene.publish(V1)
    scene.subscribe()
    replicas = scene.start("n1", "n2", "n3")
    scene.await_running(V1)
    scene.hydra("subscribe", scene.service, "--deadline", "5s")

    scene.publish(V2, sick=True)

    until("a verdict is there", lambda: scene.verdicts().releases)
    scene.await_running(V1)
    (verdict,) = scene.verdicts().releases.values()
    assert "not in service" in verdict.reason
    assert sum(V2 in scene.reader_log(replica) for replica in replicas) == 1


def test_order_that_is_taken_back_while_a_replica_drains_moves_nobody(scene: Scene) -> None:
    """A new desired state interrupts the wait: the replica returns with what it has."""
    scene.publish(V1)
    scene.subscribe("--drain-time", "600s")
    (replica,) = scene.start("n1")
    scene.await_running(V1)
    loads = scene.answer(replica)[1]["loads"]
    scene.publish(V2)
    until("it drains", lambda: scene.step(replica) is Step.DRAIN)

    scene.hydra("rollback", scene.channel)

    scene.await_running(V1)
    assert scene.answer(replica)[1]["loads"] == loads


def test_second_publish_of_the_same_changes_nothing(scene: Scene) -> None:
    scene.publish(V1)
    kv = scene.cluster.kv()
    before = {key: entry.index for key, entry in kv.list(keys.ROOT).entries.items() if scene.channel in key}

    scene.publish(V1)

    after = {key: entry.index for key, entry in kv.list(keys.ROOT).entries.items() if scene.channel in key}
    assert after == before
