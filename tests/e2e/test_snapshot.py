"""A KV that is older than the nodes, or empty: nothing is deleted, nobody is drained, and it is said."""

from __future__ import annotations

import pytest

from handlers.adapters.ports import Delete
from handlers.adapters.txn import split
from handlers.core import keys
from handlers.core.model import Alarms
from tests.e2e.scene import V1, V2, Scene, until

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


def test_kv_restored_from_an_older_snapshot_changes_nothing_on_nodes_and_raises_an_alarm(harm: Scene) -> None:
    harm.publish(V1)
    harm.subscribe()
    harm.start("n1", "n2", by_hand=False)
    harm.await_running(V1)
    older = harm.cluster.snapshot()
    harm.publish(V2)
    harm.await_running(V2)
    loads = {replica.id: harm.answer(replica)[1]["loads"] for replica in harm.replicas}

    harm.cluster.restore(older)

    until("an alarm tells of it", lambda: "restored from an older state" in harm.troubles())
    harm.run_handlers()
    assert all_is_well(harm, loads)
    alarms = harm.document(Alarms, keys.ALARMS)
    assert alarms
    assert any("generation_floor" in alarm.text for alarm in alarms.alarms)


def test_kv_that_was_wiped_changes_nothing_on_nodes_and_raises_an_alarm(harm: Scene) -> None:
    loads = two_releases(harm)
    kv = harm.cluster.kv()

    for batch in split([Delete(key) for key in kv.list(keys.ROOT).entries]):
        kv.txn(batch)

    until("status says it", lambda: "meta: is missing" in harm.troubles())
    harm.run_handlers()
    assert all_is_well(harm, loads)


def test_prefixes_that_vanish_one_by_one_change_nothing_on_nodes(harm: Scene) -> None:
    loads = two_releases(harm)
    kv = harm.cluster.kv()

    for prefix in (keys.SERVICES, keys.RELEASES, keys.CHANNELS, keys.DESIRED, keys.STATES, keys.ACTUAL):
        for batch in split([Delete(key) for key in kv.list(prefix).entries]):
            kv.txn(batch)
        harm.run_handlers()
        assert all_is_well(harm, loads), prefix

    assert harm.troubles()
