"""C2 of the fault catalogue: whatever is away, services serve, restart and are created anew.

On a cluster with the limits that Hydra is shipped with. The outage lasts until each watch is in a back-off
that would go on for longer than the time in which all must be well again: `resync` has to wake them.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from handlers.core.model import Ready
from handlers.core.version import Version
from hydra_cli.dev.demo.sight import Replica
from tests import servers
from tests.e2e.scene import V1, V2, V3, Scene, until

# `consul watch` tries again after 5, 25, 70 s and so on: `OUTAGE_S=600` makes it ten minutes
OUTAGE_S = float(os.environ.get("OUTAGE_S", "30"))
pytestmark = pytest.mark.timeout(900 + 2 * OUTAGE_S)
CONVERGED_S = 30.0


def end(scene: Scene, replica: Replica) -> None:
    """Kill the program of a replica; its supervisord starts it again."""
    before = scene.answer(replica)[1]["pid"]
    os.kill(before, signal.SIGKILL)
    until("it runs again", lambda: scene.answer(replica)[1].get("pid", before) != before)


def created_anew(scene: Scene, replica: Replica) -> Replica:
    """End a replica and start another in its place, under a new name, as a platform does."""
    scene.remove(replica)
    (fresh,) = scene.start(replica.node, by_hand=False)
    return fresh


def is_ready(replica: Replica) -> bool:
    """The view says that the replica should take traffic."""
    return (replica.view / "state").read_text().strip() == Ready.READY


def all_go_on(scene: Scene, version: Version) -> None:
    """Restart one replica and put another in the place of the second: both serve what the node has."""
    first, second = scene.replicas
    end(scene, first)
    until("the restarted one serves", lambda: scene.serves(first, version))
    fresh = created_anew(scene, second)
    until("the new one serves", lambda: scene.serves(fresh, version))
    for replica in scene.replicas:
        assert is_ready(replica)
        assert scene.holds(replica.node, version)


def two_replicas(scene: Scene) -> None:
    scene.publish(V1)
    # whoever goes away while nobody can be told counts as sick until it is dropped, a minute after the return
    scene.subscribe("--max-unavailable", "2")
    scene.start("n1", "n2", by_hand=False)
    scene.await_running(V1)


def converges_after(scene: Scene, outage: Callable[[Version], None]) -> None:
    """After an outage, through which all serve a version, the next release is served everywhere in time.

    The quicker of two counts: what else the machine had to do is not Hydra's.
    """
    took_s: list[float] = []
    for served, following in pairwise((V1, V2, V3)):
        outage(served)
        since = time.monotonic()
        scene.publish(following)
        scene.await_running(following)
        took_s.append(time.monotonic() - since)
        print(f"converged {took_s[-1]:.1f} s after the return")
        if took_s[-1] <= CONVERGED_S:
            return
    raise AssertionError(f"converged only {took_s} s after the return")


def test_c2_while_consul_servers_planner_and_s3_are_all_away_services_go_on_and_soon_after_all_is_well(
    scene: Scene, shipped_s3: servers.S3
) -> None:
    two_replicas(scene)

    def outage(served: Version) -> None:
        shipped_s3.stop()
        scene.cluster.stop_planner()
        scene.cluster.stop_server(kill=True)
        over = time.monotonic() + OUTAGE_S
        try:
            all_go_on(scene, served)
            until("the watches are in a long back-off", lambda: time.monotonic() > over, OUTAGE_S + 1)
            assert all(scene.serves(replica, served) for replica in scene.replicas)
        finally:
            scene.cluster.start_server()
            scene.cluster.start_planner()
            shipped_s3.start()

    converges_after(scene, outage)


def test_c2_while_there_is_no_planner_and_no_s3_services_go_on(scene: Scene, shipped_s3: servers.S3) -> None:
    two_replicas(scene)

    def outage(served: Version) -> None:
        shipped_s3.stop()
        scene.cluster.stop_planner()
        try:
            all_go_on(scene, served)
        finally:
            scene.cluster.start_planner()
            shipped_s3.start()

    converges_after(scene, outage)


def test_c2_rebooted_node_fills_its_ram_again_and_serves_while_consul_and_s3_are_away(
    scene: Scene, shipped_s3: servers.S3
) -> None:
    scene.publish(V1)
    scene.subscribe()
    (replica,) = scene.start("n3", by_hand=False)
    scene.await_running(V1)
    until("it is in RAM", partial(reads_from_ram, scene, replica))
    node = scene.cluster.node("n3")
    shipped_s3.stop()
    scene.cluster.stop_server(kill=True)
    try:
        node.kill()
        assert not list(node.ram.iterdir())

        node.start_hydra()

        until("its RAM is filled", partial(reads_from_ram, scene, replica))
        until("it serves", lambda: scene.serves(replica, V1))
        assert is_ready(replica)
    finally:
        shipped_s3.start()
        scene.cluster.start_server()
        node.start_agent()

    scene.publish(V2)
    scene.await_running(V2)


def reads_from_ram(scene: Scene, replica: Replica) -> bool:
    """What is placed in RAM is read from there by whoever opens it now."""
    copy = Path(scene.cluster.node(replica.node).ram, "data", scene.channel, V1, "ranking").resolve()
    return (scene.folder(replica.node, V1) / "ranking").resolve() == copy and copy.is_dir()
