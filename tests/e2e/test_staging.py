"""A release that is on every node before anybody moves to it, and moves everybody on a word or at a time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from handlers.core import keys
from tests.e2e.scene import V1, V2, V3, Scene, until

pytestmark = pytest.mark.timeout(300)


def test_staged_release_is_everywhere_and_moves_nobody_until_it_is_promoted(scene: Scene) -> None:
    scene.publish(V1)
    scene.subscribe()
    replicas = scene.start("n1", "n2", "n3")
    scene.await_running(V1)

    scene.publish(V2, "--stage")

    until("all nodes hold it", lambda: all(scene.holds(node, V2) for node in ("n1", "n2", "n3")))
    assert all(scene.runs(replica, V1) for replica in replicas)
    scene.hydra("promote", scene.channel, "--reason", "all nodes have it", role="publisher")
    scene.await_running(V2)
    scene.publish(V3, "--stage")
    at = datetime.now(UTC) + timedelta(seconds=8)
    scene.hydra("promote", scene.channel, "--at", at.isoformat(), role="publisher")
    scene.await_running(V3)
    flips = [(replica.view / "..data").lstat().st_ctime for replica in replicas]
    assert min(flips) >= at.timestamp()
    assert not scene._exists(keys.staged(scene.channel))
