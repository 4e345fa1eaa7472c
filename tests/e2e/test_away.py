"""Consul, planners and nodes go away, at the worst moments. Services do not notice."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from functools import partial

import pytest

from handlers.core import keys
from handlers.core.model import Ready, Step
from handlers.core.names import InstanceKey
from handlers.core.version import Version
from hydra_cli.dev.access import PLANNER_NODE
from hydra_cli.dev.cluster import Cluster
from hydra_cli.dev.demo.sight import Replica
from hydra_cli.dev.node import path_of_programs, supervised
from tests.e2e.scene import V1, V2, V3, Scene, until
from tests.e2e.standing import frozen

pytestmark = pytest.mark.timeout(600)


def test_node_lost_while_it_holds_a_slot_stops_nobody_and_comes_back_clean(harm: Scene) -> None:
    harm.publish(V1)
    harm.subscribe("--drain-time", "600s")
    harm.start("n1", "n2", by_hand=False)
    harm.await_running(V1)
    harm.publish(V2)
    out = until("one drains", lambda: harm.slots().out)
    (entry,) = out.values()
    lost = next(r for r in harm.replicas if r.node == entry.node)
    left = next(r for r in harm.replicas if r.node != entry.node)
    assert harm.serves(left, V1)

    harm.cluster.kill_node(lost.node)

    harm.subscribe("--drain-time", "0s")
    harm.await_running(V2, left)
    assert lost.node not in {entry.node for entry in harm.slots().out.values()}
    harm.cluster.start_node(lost.node)
    harm.await_running(V2)
    until("no slot is taken", lambda: not harm.slots().out)
    assert not harm.verdicts().releases


def test_consul_server_that_restarts_takes_nobody_out(harm: Scene) -> None:
    harm.publish(V1)
    harm.subscribe("--drain-time", "1s")
    replicas = harm.start("n1", "n2", by_hand=False)
    harm.await_running(V1)
    loads = {replica.id: harm.answer(replica)[1]["loads"] for replica in replicas}

    harm.cluster.stop_server(kill=True)
    for replica in replicas:
        assert harm.serves(replica, V1)
    harm.cluster.start_server()

    harm.await_running(V1)
    harm.publish(V2)
    harm.await_running(V2)
    assert all(harm.answer(replica)[1]["loads"] == loads[replica.id] + 1 for replica in replicas)
    drains = [
        line for node in ("n1", "n2") for line in harm.log(node).splitlines() if "reload out for" in line
    ]
    assert len(drains) == 2


def test_c2_service_that_restarts_while_all_of_consul_is_away_serves_from_its_view(harm: Scene) -> None:
    harm.publish(V1)
    harm.subscribe()
    (replica,) = harm.start("n1", by_hand=False)
    harm.await_running(V1)
    harm.cluster.stop_server()
    for name in harm.cluster.nodes:
        harm.cluster.node(name).stop_agent()
    before = harm.answer(replica)[1]["pid"]
    fresh = harm.cluster.root("n1") / "fresh"
    until("its node says that Consul is away", lambda: fresh.read_text().startswith("away"))

    os.kill(before, signal.SIGKILL)  # its supervisord starts it again

    until("another one answers", lambda: harm.answer(replica)[1].get("pid", before) != before)
    until("it serves again", lambda: harm.serves(replica, V1))
    assert (replica.view / "state").read_text().strip() == Ready.READY
    harm.cluster.start_server()
    for name in harm.cluster.nodes:
        harm.cluster.node(name).start_agent()
    harm.publish(V2)
    harm.await_running(V2)
    until("its node is fresh again", lambda: fresh.read_text() == "fresh\n")
    until("and says so", lambda: "Hydra is" not in harm.troubles())


def test_planner_that_dies_is_followed_by_the_next_run_and_two_planners_do_not_disturb_each_other(
    harm: Scene,
) -> None:
    harm.publish(V1)
    harm.subscribe()
    harm.start("n1", "n2", "n3")
    harm.await_running(V1)
    with second_planner(harm.cluster):
        for version in (V2, V3):
            harm.publish(version)
            until("a planner runs, or is done", partial(_runs_or_is_done, harm, version))
            for process in harm.running(PLANNER_NODE, "plan"):
                process.send(signal.SIGKILL)

        harm.await_running(V3)

        until("nothing is wrong", lambda: harm.troubles() == "")


def _runs_or_is_done(scene: Scene, version: Version) -> bool:
    return bool(scene.running(PLANNER_NODE, "plan")) or scene.wanted("n1", version)


@contextlib.contextmanager
def second_planner(cluster: Cluster) -> Iterator[None]:
    """Another planner, as on a second machine: a root of its own, the same role."""
    folder = cluster.folder / "planner2"
    (folder / "root").mkdir(parents=True)
    own = {
        "PATH": path_of_programs(),
        "HYDRA_ROOT": str(folder / "root"),
        "HYDRA_NODE": PLANNER_NODE,
        "HYDRA_CONFIG": str(cluster.planner_config),
    }
    running = supervised(
        "planner2", folder, {**cluster.env("planner"), **cluster._backbone.marks, **own}, "--planner"
    )
    try:
        yield
        assert running.alive
    finally:
        running.stop()


def slot_is_locked(scene: Scene, replica: Replica) -> bool:
    """A session holds the replica's slot."""
    key = InstanceKey.of(scene.service, replica.id)
    lock, _ = scene.cluster.kv().get(keys.slot(replica.node, key))
    return lock is not None and bool(lock.session)


def test_c4_frozen_reload_does_nothing_when_it_wakes_up(harm: Scene) -> None:
    """Stopped while its replica loads, its session ends: what it writes then must fail."""
    harm.publish(V1)
    harm.subscribe()
    (replica,) = harm.start("n1")
    harm.await_running(V1)
    loaded = harm.gate("loaded")
    harm.publish(V2, loads_by=str(loaded))
    until("it loads", lambda: harm.step(replica) is Step.RELOAD)

    with frozen(harm, "n1", "handlers.main reload"):
        until("its session has ended", lambda: not slot_is_locked(harm, replica))
        loaded.touch()  # the first that it sees when it wakes up

    harm.await_running(V2)
    assert not harm.verdicts().releases
    assert not harm.slots().out
