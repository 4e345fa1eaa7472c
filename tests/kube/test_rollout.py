"""A Deployment under steady traffic takes over releases, one pod at a time, and no request is lost."""

from __future__ import annotations

from collections.abc import Callable

from handlers.core.enrolment import ORIGIN
from tests.kube.cluster import until
from tests.kube.stage import V1, V2, V3, Scene


def test_two_releases_and_a_rollback_are_taken_over_without_a_lost_request(
    scene: Callable[[str], Scene],
) -> None:
    stage = scene("rollout")
    stage.publish(V1)
    stage.deploy(replicas=4)
    stage.await_ready(4)
    subscription = stage.subscription()
    assert subscription is not None
    assert (subscription.origin, subscription.reload) == (ORIGIN, "http://:/reload")
    until("all pods get traffic", lambda: len(stage.endpoints()) == 4)

    with stage.audience() as audience:
        stage.publish(V2, "--wait", "--timeout", "180s")
        stage.await_running(V2, 4)
        stage.publish(V3, "--wait", "--timeout", "180s")
        stage.await_running(V3, 4)
        stage.hydra.hydra("rollback", stage.channel, "--reason", "three is one too many")
        stage.await_running(V2, 4)

    assert audience.failed == []
    assert audience.mixed == []
    assert audience.seen == {V1, V2, V3}
