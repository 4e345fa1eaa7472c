"""How many replicas are out at a time: a share of all, that may change while a rollout is under way."""

from __future__ import annotations

import pytest

from tests.e2e.scene import V1, V2, Scene, until

pytestmark = pytest.mark.timeout(300)


def test_share_that_changes_in_mid_rollout_changes_how_many_are_out(scene: Scene) -> None:
    scene.publish(V1)
    # a request may be sent by a health view that is 1 s old, and take 2 s
    scene.subscribe("--drain-time", "600s", "--max-unavailable", "25%")  # until there is another word
    replicas = scene.start("n1", "n1", "n2", "n2", "n3", "n3", by_hand=False)
    scene.await_running(V1)

    with scene.audience() as audience:
        scene.publish(V2)
        until("the next is refused", lambda: any("of 1 (25% of 6)" in scene.reason(r) for r in replicas))
        assert len(scene.slots().out) == 1
        scene.hydra("subscribe", scene.service, "--max-unavailable", "50%")
        until("more are out", lambda: len(scene.slots().out) == 3)
        scene.hydra("subscribe", scene.service, "--min-available", "6", "--drain-time", "3s")
        until("those that were out are back", lambda: not scene.slots().out)
        left = [replica for replica in replicas if not scene.runs(replica, V2)]
        # one that asked already under the budget before still says so until it asks again
        none = "of 0 (6 of 6 must be available) allowed"
        until("the next is refused", lambda: any(none in scene.reason(replica) for replica in left))
        assert not scene.slots().out
        scene.hydra("subscribe", scene.service, "--max-unavailable", "1")
        scene.await_running(V2)

    assert (audience.failed, audience.mixed) == ([], [])
    assert audience.most_out == 3
