"""A KV that is older than the nodes, or empty: nothing is deleted, nobody is drained, and it is said."""

from __future__ import annotations

import json
import time
from functools import partial

import pytest

from handlers.adapters.ports import Delete, Set
from handlers.adapters.txn import split
from handlers.core import codec, keys
from handlers.core.model import Alarms, Desired, Meta
from tests.e2e.conftest import QUICK
from tests.e2e.scene import V1, V2, V3, Scene, until

pytestmark = pytest.mark.timeout(600)


def all_is_well(scene: Scene, loads: dict[str, int]) -> bool:
    """Every replica serves V2 and was not touched; nothing is gone from the nodes."""
    return all(
        scene.serves(replica, V2)
        and scene.answer(replica)[1]["loads"] == loads[replica.id]
        and scene.holds(replica.node, V1)
        and scene.holds(replica.node, V2)
        for replica in scene.replicas
    )


def two_releases(scene: Scene) -> dict[str, int]:
    """Publish two and run the second; how often each replica has loaded."""
    scene.publish(V1)
    scene.subscribe()
    scene.start("n1", "n2", by_hand=False)
    scene.await_running(V1)
    scene.publish(V2)
    scene.await_running(V2)
    return {replica.id: scene.answer(replica)[1]["loads"] for replica in scene.replicas}


def test_c7_kv_restored_from_an_older_snapshot_changes_nothing_on_nodes_and_raises_an_alarm(
    harm: Scene,
) -> None:
    harm.publish(V1)
    harm.subscribe()
    harm.start("n1", "n2", by_hand=False)
    harm.await_running(V1)
    older = harm.snapshot()
    harm.publish(V2)
    harm.await_running(V2)
    loads = {replica.id: harm.answer(replica)[1]["loads"] for replica in harm.replicas}

    harm.cluster.restore(older)

    until("an alarm tells of it", lambda: "restored from an older state" in harm.troubles())
    harm.run_handlers()
    assert all_is_well(harm, loads)
    until("plan says what to do", partial(alarm_of_plan, harm))
    recovered(harm, loads)


def alarm_of_plan(scene: Scene) -> bool:
    """Whether an alarm names the command that ends the hold."""
    alarms = scene.document(Alarms, keys.ALARMS)
    return alarms is not None and any("hydra recover" in alarm.text for alarm in alarms.alarms)


def test_kv_that_was_wiped_changes_nothing_on_nodes_and_raises_an_alarm(harm: Scene) -> None:
    loads = two_releases(harm)
    kv = harm.cluster.kv()

    for batch in split([Delete(key) for key in kv.list(keys.ROOT).entries]):
        kv.txn(batch)

    until("status says it", lambda: "meta: is missing" in harm.troubles())
    harm.run_handlers()
    assert all_is_well(harm, loads)
    recovered(harm, loads)


def test_kv_of_another_cluster_changes_nothing_on_nodes_until_it_is_recovered(harm: Scene) -> None:
    """All that the nodes find there is a `meta`, as `hydra init` writes it; one replica is known by hand."""
    loads = two_releases(harm)
    (by_hand,) = harm.start("n2")
    harm.await_running(V2)
    loads[by_hand.id] = harm.answer(by_hand)[1]["loads"]
    kv = harm.cluster.kv()
    fresh = codec.encode(Meta(environments=("dev",)))

    for batch in split([Delete(key) for key in kv.list(keys.ROOT).entries if key != keys.META]):
        kv.txn(batch)
    kv.txn([Set(keys.META, fresh)])

    until("an alarm tells of it", lambda: "hydra recover" in harm.troubles())
    harm.run_handlers()
    time.sleep(2 * QUICK["drop_after_s"])  # in which an instance that nobody registers is dropped
    assert all_is_well(harm, loads)
    recovered(harm, loads, "n2")


def recovered(scene: Scene, loads: dict[str, int], node: str = "n1") -> None:
    """`hydra recover` ends the hold; nobody was touched meanwhile, and the next release goes ahead."""
    root = str(scene.cluster.root(node))
    until("the KV is seen to be behind", partial(_holds, scene))
    shown = scene.hydra("recover", "--from", root, code=3)
    assert V2 in shown
    scene.hydra("recover", "--from", root, "--yes")
    assert "the KV has all that this node knows" in scene.hydra("recover", "--from", root)
    assert "hold" in scene.hydra("recover", code=3)
    scene.hydra("recover", "--yes")

    until("nodes take over what is planned", partial(_is_planned, scene))
    assert "the KV is not behind the nodes" in scene.hydra("recover")
    assert all_is_well(scene, loads)
    until("nobody asks for it any more", lambda: "hydra recover" not in scene.troubles())
    scene.publish(V3)
    scene.await_running(V3)
    assert all(scene.answer(r)[1]["loads"] == loads[r.id] + 1 for r in scene.replicas)


def _holds(scene: Scene) -> bool:
    """All nodes have said what they applied."""
    seen = json.loads(scene.hydra("recover", "-o", "json", code=3))
    return bool(seen["holds"] and seen["generation"]["nodes"] and not seen["silent"])


def _is_planned(scene: Scene) -> bool:
    for node in {replica.node for replica in scene.replicas}:
        desired, actual = scene.document(Desired, keys.desired(node)), scene.actual(node)
        if not (desired and actual and scene.service in desired.services):
            return False
        if actual.generation != desired.generation or actual.alarms:
            return False
    return True


def test_prefixes_that_vanish_one_by_one_change_nothing_on_nodes(harm: Scene) -> None:
    loads = two_releases(harm)
    kv = harm.cluster.kv()

    for prefix in (keys.SERVICES, keys.RELEASES, keys.CHANNELS, keys.DESIRED, keys.STATES, keys.ACTUAL):
        for batch in split([Delete(key) for key in kv.list(prefix).entries]):
            kv.txn(batch)
        harm.run_handlers()
        assert all_is_well(harm, loads), prefix

    until("status says that something is wrong", harm.troubles)
