"""How many replicas are out at a time: a share of all, that may change while a rollout is under way."""

from __future__ import annotations

import pytest

from tests.e2e.scene import V1, V2, Scene, until

pytestmark = pytest.mark.timeout(300)


def test_share_that_changes_in_mid_rollout_changes_how_many_are_out(scene: Scene) -> None:
    scene.publish(V1)
    # a request may be sent by a health view that is 1 s old, and take 1 s
    scene.subscribe("--drain-time", "2s", "--max-unavailable", "25%")
    replicas = scene.start("n1", "n1", "n2", "n2", "n3", "n3", by_hand=False)
    scene.await_running(V1)

    with scene.audience() as audience:
        scene.publish(V2)
        until("the first has moved", lambda: any(scene.runs(replica, V2) for replica in replicas))
        assert audience.world.seen.most_out == 1  # a quarter of six, rounded down
        scene.hydra("subscribe", scene.service, "--max-unavailable", "50%")
        until("more are out", lambda: audience.world.seen.most_out > 1, limit_s=60)
        scene.hydra("subscribe", scene.service, "--min-available", "6")
        until("those that were out are back", lambda: not scene.slots().out)
        left = [replica for replica in replicas if not scene.runs(replica, V2)]
        # one that asked already under the budget before still says so until it asks again
        none = "of 0 (6 of 6 must be available) allowed"
        until("the next is refused", lambda: any(none in scene.reason(replica) for replica in left))
        assert not scene.slots().out
        scene.hydra("subscribe", scene.service, "--max-unavailable", "1")
        scene.await_running(V2)

    assert (audience.failed, audience.mixed) == ([], [])
    assert audience.most_out <= 3
