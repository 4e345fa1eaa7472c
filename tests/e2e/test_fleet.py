"""Replicas and nodes come, go, move and are renamed; all mends by itself, and nothing stale stays."""

from __future__ import annotations

import dataclasses

import pytest

from handlers.adapters.catalog import Catalog
from handlers.core import keys
from handlers.core.model import Desired, States, Step
from handlers.core.names import InstanceKey
from hydra_cli.dev.access import Access
from hydra_cli.dev.cluster import Cluster
from hydra_cli.dev.node import Node
from tests.e2e.scene import V1, V2, V3, Scene, until

pytestmark = pytest.mark.timeout(600)


def test_replica_that_is_added_serves_and_one_that_is_removed_leaves_only_its_data(
    scene: Scene,
) -> None:
    scene.publish(V1)
    scene.subscribe()
    scene.start("n1", by_hand=False)
    scene.await_running(V1)
    assert not scene.holds("n2", V1)

    (second,) = scene.start("n2", by_hand=False)

    scene.await_running(V1)
    scene.remove(second)
    until("its view is gone", lambda: not second.view.exists())
    until("its state is gone", lambda: scene.state(second) is None)
    until("nobody is left there", lambda: not scene.planned("n2"))
    assert scene.holds("n2", V1)
    scene.publish(V2)
    scene.await_running(V2)
    until("the others begin with V2 now", lambda: not scene.wanted("n2", V1))
    data = [volume / "data" / scene.channel for volume in (scene.cluster.root("n2") / "volumes").iterdir()]
    until("nothing is left there", lambda: not any(folder.exists() for folder in data))
    assert not scene.wanted("n2", V2)


def test_replica_that_moves_to_another_node_is_served_there_and_forgotten_here(scene: Scene) -> None:
    scene.publish(V1)
    scene.subscribe()
    (before,) = scene.start("n1", by_hand=False)
    scene.await_running(V1)

    (after,) = scene.start("n3", by_hand=False)
    scene.remove(before)

    scene.await_running(V1, after)
    until("its view is gone", lambda: not before.view.exists())
    until("its state is gone", lambda: scene.state(before) is None)
    until("nobody is left here", lambda: not scene.planned("n1"))


def test_n3_replica_that_is_evicted_during_its_reload_frees_its_slot_and_the_next_proceeds(
    scene: Scene,
) -> None:
    scene.publish(V1)
    scene.subscribe("--confirm", "http://:/version#version", "--drain-time", "3s")
    scene.start("n1", "n2", "n3", by_hand=False)
    scene.await_running(V1)

    with scene.audience(rate=20) as audience:
        loaded = scene.gate("loaded")
        scene.publish(V2, loads_by=str(loaded))
        until("one loads", lambda: any(scene.step(r) is Step.RELOAD for r in scene.replicas))
        evicted = next(r for r in scene.replicas if scene.step(r) is Step.RELOAD)
        scene.remove(evicted)
        loaded.touch()
        scene.await_running(V2)
        until("it is forgotten", lambda: scene.state(evicted) is None)

    assert not scene.slots().out
    assert not scene.verdicts().releases
    assert audience.most_out == 1
    assert audience.failed == []


def test_service_scaled_to_zero_comes_back_on_the_newest_release_that_is_good(scene: Scene) -> None:
    scene.publish(V1)
    scene.subscribe()
    for replica in scene.start("n1", "n2"):
        scene.await_running(V1, replica)
    for replica in list(scene.replicas):
        scene.remove(replica)
    until("nobody is left", lambda: not any(scene.planned(node) for node in ("n1", "n2")))

    scene.publish(V2)
    scene.start("n1", "n2")

    scene.await_running(V2)


def test_cordoned_node_takes_no_release_until_it_is_uncordoned(scene: Scene) -> None:
    scene.publish(V1)
    scene.subscribe()
    first, second = scene.start("n1", "n2")
    scene.await_running(V1)
    scene.hydra("node", "cordon", "n2", "--reason", "its disk is being replaced")
    until("the node knows", lambda: (d := scene.document(Desired, keys.desired("n2"))) and d.cordoned)
    try:
        scene.publish(V2)
        scene.await_running(V2, first)
        assert scene.runs(second, V1)
        assert not scene.wanted("n2", V2)
        assert not scene.folder("n2", V2).exists()
    finally:
        scene.hydra("node", "uncordon", "n2")

    scene.await_running(V2)


def documents_of(scene: Scene, node: str) -> list[str]:
    """The keys of a node that are left, its tombstone included."""
    kv = scene.cluster.kv()
    own = (keys.desired(node), keys.actual(node), keys.states(node), keys.progress(node))
    return [*kv.list(keys.node(node)).entries, *(key for key in own if kv.get(key)[0])]


def test_lost_node_is_forgotten_only_when_it_is_dead_and_then_leaves_nothing(harm: Scene) -> None:
    harm.publish(V1)
    harm.subscribe()
    first, _ = harm.start("n1", "n2")
    harm.await_running(V1)
    harm.hydra("node", "forget", "n2", code=2)

    harm.cluster.kill_node("n2")

    until("it is dead", lambda: harm.cluster.kv().get(keys.alive("n2"))[0] is None)
    until("status says so", lambda: "node/n2: is dead" in harm.troubles())
    harm.publish(V2)
    harm.await_running(V2, first)  # nobody waits for the dead one
    harm.hydra("node", "forget", "n2", "--reason", "given back")
    until("no document of it is left", lambda: not documents_of(harm, "n2"))
    until("status is content", lambda: "n2" not in harm.troubles())
    node = harm.cluster.add_node()  # a new machine takes its place
    harm.start(node.name)
    harm.publish(V3)
    harm.await_running(V3, first, harm.replicas[-1])


def rename(cluster: Cluster, old: str, new: str) -> None:
    """Restart a machine under another name: same disk, same services, a token for the new name."""
    node = cluster.node(old)
    node_token, agent_token = Access(Catalog.from_env(cluster.env("management"))).node(new)
    node.kill()
    agent = dataclasses.replace(node.agent, node=new, token=agent_token)
    variables = {**node.variables, "CONSUL_HTTP_TOKEN": node_token}
    cluster._nodes[new] = Node(new, node.folder, agent, node.mark, variables)
    del cluster._nodes[old]
    cluster.start_node(new)


def test_node_under_a_new_name_goes_on_with_its_data_and_the_old_name_can_be_forgotten(harm: Scene) -> None:
    harm.publish(V1)
    harm.subscribe()
    first, second = harm.start("n1", "n2", by_hand=False)
    harm.await_running(V1)
    value = harm.folder("n2", V1) / "index" / "value.json"
    inode = value.stat().st_ino

    rename(harm.cluster, "n2", "renamed")

    until("it is known by its new name", lambda: harm.cluster.kv().get(keys.alive("renamed"))[0])
    key = InstanceKey.of(harm.service, second.id)

    def moved_along() -> bool:
        states = harm.document(States, keys.states("renamed"))
        return states is not None and key in states.instances

    until("its replica is known there", moved_along)
    assert value.stat().st_ino == inode
    until("the old name is dead", lambda: harm.cluster.kv().get(keys.alive("n2"))[0] is None)
    harm.hydra("node", "forget", "n2")
    harm.publish(V2)
    harm.await_running(V2, first)
    until("it serves the next release", lambda: harm.serves(second, V2))
