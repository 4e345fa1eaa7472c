"""Canaries on a real cluster under traffic: good ones let all go, bad ones return, nothing never passes."""

from __future__ import annotations

from pathlib import Path

import pytest

from handlers.core import keys
from handlers.core.model import Rollout, Verdict
from handlers.core.version import Version
from tests import servers
from tests.e2e.scene import V1, V2, V3, V4, Scene, until
from tests.prometheus import prometheus

pytestmark = pytest.mark.timeout(300)

# a request may be sent by a health view that is 1 s old, and take 2 s
CANARY = (
    "--drain-time", "3s", "--canaries", "1", "--check", "http://:/stats#errors<=0.05",
    "--check-interval", "0.5s", "--check-time", "4s", "--check-least", "2",
)  # fmt: skip


def stage(scene: Scene) -> str:
    found = scene.document(Rollout, keys.rollout(scene.service))
    return found.stage if found else ""


def begin(scene: Scene) -> None:
    scene.publish(V1, errors=0.01)
    scene.subscribe(*CANARY)
    scene.start("n1", "n2", "n3", by_hand=False)
    scene.await_running(V1)


def verdict_on(scene: Scene, version: Version) -> Verdict:
    """What was found of a version, once it is there."""
    verdict: Verdict = until(
        "there is a verdict", lambda: scene.verdicts().releases.get(scene.release(version))
    )
    return verdict


def moved_to(scene: Scene, version: str) -> int:
    """How many replicas ever loaded a release."""
    return sum(version in scene.reader_log(replica) for replica in scene.replicas)


def test_good_canary_lets_all_others_go(scene: Scene) -> None:
    begin(scene)

    with scene.audience() as audience:
        scene.subscribe(*CANARY, "--check-time", "10m")
        scene.publish(V2, errors=0.02)
        until("the canary is checked", lambda: stage(scene) == "check")
        assert moved_to(scene, V2) == 1
        said = scene.hydra("rollout", "status", scene.service, role="reader")
        assert "those that went first are checked" in said
        scene.subscribe(*CANARY)
        scene.await_running(V2)

    assert (audience.failed, audience.mixed, audience.late) == ([], [], [])
    assert scene.verdicts().releases[scene.release(V2)].verdict == "good"
    until("nothing is left of the rollout", lambda: stage(scene) == "")


def test_bad_canary_returns_without_a_download_and_the_next_release_goes_ahead(
    scene: Scene, shared_s3: servers.S3
) -> None:
    begin(scene)

    with scene.audience() as audience:
        scene.hydra("rollout", "pause", scene.service)  # until nothing more is to be had
        scene.publish(V2, errors=0.5)
        until("all is there", lambda: all(scene.holds(node, V2) for node in scene.cluster.nodes))
        shared_s3.stop()
        try:
            scene.hydra("rollout", "resume", scene.service)
            until("there is a verdict", lambda: scene.verdicts().releases)
            scene.await_running(V1)
        finally:
            shared_s3.start()
        assert scene.verdicts().releases[scene.release(V2)].verdict == "bad"
        assert moved_to(scene, V2) == 1
        (late,) = scene.start("n1", by_hand=False)  # a new instance begins on the proven release
        scene.await_running(V1, late)
        scene.hydra(
            "publish", str(scene.template), "--channel", scene.channel, "--version", V2, "--wait", code=9
        )
        scene.publish(V3, errors=0.0)
        scene.await_running(V3)

    assert (audience.failed, audience.mixed, audience.late) == ([], [], [])
    assert V2 not in scene.reader_log(late)


def test_version_that_is_bad_for_one_service_is_bad_for_all_where_its_channel_says_so(scene: Scene) -> None:
    """The other service has no check of its own, and runs the version already."""
    begin(scene)
    other = scene.sibling("propagate")
    other.channel = scene.channel
    try:
        other.subscribe()
        other.start("n1", "n2")
        other.await_running(V1)
        scene.hydra("channel", "set", scene.channel, "--propagate")
        scene.subscribe(*CANARY, "--check-time", "10m", "--check-failures", "1000")
        scene.publish(V2, errors=0.5)
        other.await_running(V2)

        scene.subscribe(*CANARY, "--check-failures", "0")

        until("there is a verdict", lambda: scene.verdicts().releases)
        scene.await_running(V1)
        other.await_running(V1)
        assert other.verdicts().releases == {}
        (late,) = other.start("n3")
        other.await_running(V1, late)
    finally:
        other.close()


def test_check_without_evidence_pauses_until_somebody_promotes(scene: Scene) -> None:
    begin(scene)

    with scene.audience() as audience:
        scene.publish(V2)  # it has no number to tell
        until("there is a verdict", lambda: scene.verdicts().releases)
        assert scene.verdicts().releases[scene.release(V2)].verdict == "inconclusive"
        until("status tells why", lambda: "inconclusive" in scene.troubles())
        assert moved_to(scene, V2) == 1
        waiting = [replica for replica in scene.replicas if V2 not in scene.reader_log(replica)]
        scene.await_running(V1, *waiting)
        first = scene.verdicts().releases[scene.release(V2)].id
        scene.hydra("rollout", "retry", scene.service, "--reason", "there should be traffic now")
        until("it was looked at again", lambda: scene.verdicts().releases[scene.release(V2)].id != first)
        assert scene.verdicts().releases[scene.release(V2)].verdict == "inconclusive"
        assert moved_to(scene, V2) == 1
        scene.hydra("rollout", "promote", scene.service, "--reason", "looked at it by hand")
        scene.await_running(V2)

    assert (audience.failed, audience.mixed, audience.late) == ([], [], [])


def test_prometheus_that_scrapes_the_replicas_lets_good_canaries_pass_and_bad_ones_return(
    scene: Scene, tmp_path: Path
) -> None:
    begin(scene)
    ports = {replica.id: replica.port for replica in scene.replicas}
    config = scene.cluster.planner_config
    before = config.read_text()
    with prometheus(tmp_path, ports, every_s=1) as url:
        config.write_text(f'{before}\n[prometheus]\nurl = "{url}"\n')
        try:
            query = 'prometheus:avg(errors{instance=~"{instances}"})<=0.05'
            scene.subscribe(*CANARY, "--check", query)
            scene.publish(V2, errors=0.02)
            scene.await_running(V2)
            assert scene.verdicts().releases[scene.release(V2)].verdict == "good"

            scene.subscribe(*CANARY, "--check", query, "--check-time", "1m")  # one bad look ends it
            scene.publish(V3, errors=0.5)

            verdict = verdict_on(scene, V3)
            assert (verdict.verdict, "is 0.5 (wanted <=0.05)" in verdict.reason) == ("bad", True)
            scene.await_running(V2)
            assert moved_to(scene, V3) == 1
        finally:
            config.write_text(before)


def test_canary_is_compared_with_those_that_have_not_moved_a_command_judges_and_a_pin_beats_both(
    scene: Scene,
) -> None:
    begin(scene)
    config, bad = scene.cluster.planner_config, scene.gate("bad")
    before = config.read_text()
    config.write_text(f'{before}\n[commands]\njudge = ["test", "!", "-e", "{bad}"]\n')
    try:
        many = ("--drain-time", "0s", "--check-time", "1m")  # one bad look ends it
        scene.subscribe(*CANARY, *many, "--check-compare", "2")
        scene.publish(V2, errors=0.04)
        verdict = verdict_on(scene, V2)
        assert verdict.verdict == "bad"
        assert "errors is 0.04, 0.01 where nobody has moved" in verdict.reason
        scene.await_running(V1)
        assert moved_to(scene, V2) == 1

        scene.hydra("pin", scene.channel, V2, "--reason", "that is good enough")
        scene.await_running(V2)
        assert scene.verdicts().releases[scene.release(V2)].verdict == "bad"

        judge = (*CANARY, "--drain-time", "0s", "--check", "command:judge", "--check-compare", "0")
        scene.subscribe(*judge)
        scene.publish(V3)
        scene.hydra("unpin", scene.channel)
        scene.await_running(V3)
        assert scene.verdicts().releases[scene.release(V3)].verdict == "good"
        bad.touch()
        scene.publish(V4)
        verdict = verdict_on(scene, V4)
        assert (verdict.verdict, "command judge ended with 1" in verdict.reason) == ("bad", True)
        scene.await_running(V3)
        assert moved_to(scene, V4) == 1
    finally:
        config.write_text(before)


def test_abort_sends_the_canary_back(scene: Scene) -> None:
    begin(scene)
    scene.subscribe(*CANARY, "--check-time", "10m")
    scene.publish(V2, errors=0.01)
    until("the canary is checked", lambda: stage(scene) == "check")

    scene.hydra("rollout", "abort", scene.service, "--reason", "found by hand")

    scene.await_running(V1)
    assert moved_to(scene, V2) == 1


def test_pause_after_the_canary_ends_by_time(scene: Scene) -> None:
    """No node has this label: all are in the last wave, which begins after a pause."""
    begin(scene)
    scene.subscribe("--canaries", "1", "--check", "", "--wave-by", "rack", "--wave-pause", "10m")
    scene.publish(V2)
    until("it pauses", lambda: stage(scene) == "pause")
    assert moved_to(scene, V2) == 1
    scene.subscribe("--wave-pause", "3s")
    scene.publish(V3)

    scene.await_running(V3)

    assert moved_to(scene, V2) == 1
    first, second, _ = sorted((replica.view / "..data").lstat().st_ctime for replica in scene.replicas)
    assert second - first >= 3
