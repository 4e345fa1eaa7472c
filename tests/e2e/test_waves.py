"""Waves on a real cluster under traffic: zone after zone, each after its pause."""

from __future__ import annotations

import pytest

from hydra_cli.dev.demo.figures import outages
from tests.e2e.scene import V1, V2, Scene

pytestmark = pytest.mark.timeout(300)
PAUSE_S = 3
ZONES = {"n1": "a", "n2": "b", "n3": "c"}


def test_zones_move_one_after_the_other_with_a_pause_before_each(scene: Scene) -> None:
    """By the times that the file systems have for each view: none of a zone before all of the one before."""
    scene.publish(V1)
    scene.subscribe("--drain-time", "3s", "--max-unavailable", "2", "--wave-by", "zone")
    scene.subscribe("--wave-pause", f"{PAUSE_S}s", "--drain-time", "3s")
    scene.start("n3", "n1", "n2", "n1", by_hand=False)
    scene.await_running(V1)

    with scene.audience() as audience:
        scene.publish(V2)
        scene.await_running(V2)

    assert (audience.failed, audience.mixed, audience.late) == ([], [], [])
    moves = outages(audience.world.seen.marks)
    zone_of = {replica.id: ZONES[replica.node] for replica in scene.replicas}
    of_zone = {zone: [move for move in moves if zone_of[move.replica] == zone] for zone in "abc"}
    assert {zone: len(found) for zone, found in of_zone.items()} == {"a": 2, "b": 1, "c": 1}
    for before, after in (("a", "b"), ("b", "c")):
        back = max(move.ready for move in of_zone[before])
        assert min(move.flipped for move in of_zone[after]) - back >= PAUSE_S
