"""Pods come and go, nodes fall silent: what is lost is made good, and nothing else changes."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from handlers.core import codec, keys
from handlers.core.model import Desired
from handlers.core.pods import NOT_FILLED
from tests.kube.programs import until
from tests.kube.stage import V1, V2, V3, Scene

SECONDS = 10.0  # for which a pod may wait for a view of data that is on its node
A_MOVE_S = 20.0  # of one pod, on a machine that has much else to do
NODE_LOST_S = 16.0 + 20.0  # until the control plane here says so, and until nobody waits for it any more


def deleted(stage: Scene, pod: str) -> None:
    stage.kubectl("delete", "pod", pod, "--wait=false")


def evicted(stage: Scene, pod: str) -> None:
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
    path = f"/api/v1/namespaces/{stage.namespace}/pods/{pod}/eviction"
    stage.cluster.kubectl("create", "--raw", path, "-f", "-", given=json.dumps(eviction))


def idle_nodes(stage: Scene) -> set[str]:
    """The nodes that keep what the next pod of the service begins with, and none that has one."""
    entries = stage.hydra.kv().list(keys.DESIRED).entries.values()
    found = [codec.decode(Desired, entry.value, entry.key) for entry in entries]
    return {d.node for d in found if stage.service in d.services and d.services[stage.service].idle}


def test_pod_lost_in_mid_reload_halts_nothing_and_its_replacement_takes_over(
    scene: Callable[[str], Scene],
) -> None:
    stage = scene("lost")
    stage.serve(replicas=3)

    for version, lose in ((V2, deleted), (V3, evicted)):
        with stage.audience() as audience, stage.lookout() as lookout:
            stage.publish(version)
            moving = stage.moving()
            lose(stage, moving)
            stage.await_running(version, 3)
            stage.await_rest()

        assert moving not in stage.ready_pods()
        assert audience.failed == []
        assert audience.mixed == []
        assert lookout.deleted == {moving}
        assert lookout.most_out == 1  # beside the one that was lost
    assert stage.halted() == []


def test_service_scaled_to_zero_comes_back_on_its_release_and_its_views_end(
    scene: Callable[[str], Scene],
) -> None:
    stage = scene("scaled")
    stage.serve(replicas=2)
    data = [node.root / "volumes/disk/data" / stage.channel / V1 for node in stage.cluster.nodes.values()]
    held = {folder: folder.stat().st_ino for folder in data if folder.exists()}
    assert held

    stage.scale(0)
    until("no pod is left", lambda: not stage.pods())
    until("no state is left", lambda: not stage.states())
    views = [node.root / "views" / stage.service for node in stage.cluster.nodes.values()]
    until("its views are gone", lambda: not any(view.exists() for view in views))

    stage.scale(2)
    stage.await_running(V1, 2)
    assert {folder: folder.stat().st_ino for folder in held} == held  # nothing was loaded again
    assert stage.waited() < SECONDS


def test_service_scaled_to_zero_comes_back_on_a_node_that_never_had_its_data(
    scene: Callable[[str], Scene],
) -> None:
    stage = scene("morning")
    with stage.cluster.cordoned("n2"):
        stage.serve(replicas=2)
        stage.scale(0)
        until("no pod is left", lambda: not stage.pods())

    new = stage.cluster.nodes["n2"].root / "releases" / stage.channel
    assert not new.exists()
    with stage.cluster.cordoned("n1"), stage.lookout() as lookout:
        stage.scale(4)
        stage.await_running(V1, 4)
        until("all pods get traffic", lambda: len(stage.endpoints()) == 4)

    assert {pod["spec"]["nodeName"] for pod in stage.pods()} == {"n2"}
    assert (new / V1).is_dir()
    assert (lookout.most_out, lookout.deleted) == (0, set())


@pytest.mark.parametrize("left", [2, 0])
def test_new_pod_is_ready_within_seconds_without_planner_and_consul(
    scene: Callable[[str], Scene], left: int
) -> None:
    stage = scene(f"alone-{left}")
    stage.serve(replicas=2)
    hydra = stage.hydra
    if not left:
        homes = {pod["spec"]["nodeName"] for pod in stage.pods()}
        stage.scale(0)
        until("no state is left", lambda: not stage.states())
        until("its nodes keep its data for the next pod", lambda: idle_nodes(stage) == homes)

    hydra.kubectl("scale", "deployment/hydra-planner", "--replicas=0")
    try:
        with hydra.without_consul():
            older = stage.ready_pods()
            stage.scale(4)
            stage.await_ready(4)
            assert stage.waited(*older) < SECONDS
            until("all pods get traffic", lambda: len(stage.endpoints()) == 4)
    finally:
        hydra.kubectl("scale", "deployment/hydra-planner", "--replicas=2")
        hydra.await_rollout()
    stage.await_running(V1, 4)


def test_startup_taint_goes_from_a_node_that_has_its_data(scene: Callable[[str], Scene]) -> None:
    stage = scene("tainted")
    stage.serve(replicas=1)
    (name,) = (pod["spec"]["nodeName"] for pod in stage.pods())

    def taints() -> set[str]:
        return {taint["key"] for taint in stage.cluster.get("node", name)["spec"].get("taints", [])}

    stage.cluster.kubectl("taint", "node", name, f"{NOT_FILLED}=:NoSchedule", "mine=:PreferNoSchedule")
    try:
        until("Hydra takes its own one off", lambda: taints() == {"mine"})
    finally:
        for mark in (NOT_FILLED, "mine"):  # one by one: kubectl takes none off when one of them is not there
            stage.cluster.kubectl("taint", "node", name, f"{mark}-", check=False)
    assert len(stage.ready_pods()) == 1


def test_node_whose_kubelet_is_silent_holds_no_rollout(scene: Callable[[str], Scene]) -> None:
    stage = scene("silent")
    stage.serve(replicas=4)
    # where the only server of Consul is, nothing would be decided any more
    lost = next(n for n in stage.cluster.nodes if n != stage.hydra.pod("consul")["spec"]["nodeName"])
    here = {p["metadata"]["name"] for p in stage.pods() if p["spec"]["nodeName"] != lost}
    assert 0 < len(here) < 4

    stage.cluster.nodes[lost].stop_kubelet()
    try:
        stage.publish(V2)
        limit_s = NODE_LOST_S + len(here) * A_MOVE_S
        until("the pods of the other node run the release", lambda: here <= set(stage.running(V2)), limit_s)
        until("the others get no traffic", lambda: set(stage.endpoints()) == here, NODE_LOST_S)
    finally:
        stage.cluster.nodes[lost].start_kubelet()
    stage.await_running(V2, 4)
