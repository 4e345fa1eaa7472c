"""Pods come and go, nodes fall silent: what is lost is made good, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable

from handlers.core.model import Step
from tests.kube.cluster import until
from tests.kube.stage import V1, V2, Installed, Scene, condition

RESTING = (Step.IDLE, Step.ADMIT, Step.FILL)


def test_pod_deleted_in_mid_reload_halts_nothing_and_its_replacement_takes_over(
    scene: Callable[[str], Scene],
) -> None:
    stage = scene("deleted")
    stage.publish(V1)
    stage.deploy(replicas=3)
    stage.await_ready(3)

    stage.publish(V2)
    moving = until("a pod moves", lambda: [k for k, s in stage.states().items() if s.step not in RESTING])
    stage.kubectl("delete", "pod", moving[0], "--wait=false")

    stage.await_running(V2, 3)
    assert moving[0] not in stage.ready_pods()


def test_service_scaled_to_zero_comes_back_on_its_release_and_its_views_end(
    scene: Callable[[str], Scene],
) -> None:
    stage = scene("scaled")
    stage.publish(V1)
    stage.deploy(replicas=2)
    stage.await_running(V1, 2)

    stage.scale(0)
    until("no pod is left", lambda: not stage.pods())
    until("no state is left", lambda: not stage.states())
    for node in stage.cluster.nodes.values():
        assert not (node.root / "views" / stage.service).exists()

    stage.scale(2)
    stage.await_running(V1, 2)


def test_gate_and_events_tell_why_a_pod_is_out(scene: Callable[[str], Scene]) -> None:
    stage = scene("told")
    stage.deploy(replicas=1)
    until("the pod waits for its data", lambda: len(stage.pods()) == 1)
    assert stage.ready_pods() == []

    stage.publish(V1)
    stage.await_ready(1)
    stage.publish(V2, "--wait", "--timeout", "180s")

    pod = stage.pods()[0]
    assert condition(pod, "hydra.datasets/data-ready") == "True"
    events = stage.kubectl(
        "get", "events", "--field-selector", f"involvedObject.uid={pod['metadata']['uid']}"
    )
    assert "DataReload" in events


def test_node_whose_kubelet_is_silent_holds_no_rollout(scene: Callable[[str], Scene]) -> None:
    stage = scene("silent")
    stage.publish(V1)
    stage.deploy(replicas=4)
    stage.await_running(V1, 4)
    by_node = {p["metadata"]["name"]: p["spec"]["nodeName"] for p in stage.pods()}
    here = {name for name, node in by_node.items() if node == "n1"}
    node = stage.cluster.nodes["n2"]
    assert here
    assert len(here) < 4

    node.stop_kubelet()
    try:
        stage.publish(V2)
        until("the pods of the other node run the release", lambda: here <= set(stage.running(V2)), 180)
        assert set(stage.endpoints()) == here
    finally:
        node.start_kubelet()
    stage.await_running(V2, 4)


def test_service_accounts_may_do_nothing_else(hydra: Installed) -> None:
    def may(role: str, verb: str, what: str, *more: str) -> bool:
        account = f"system:serviceaccount:{hydra.namespace}:hydra-{role}"
        words = ("auth", "can-i", verb, what, f"--as={account}", "-A", *more)
        return hydra.cluster.kubectl(*words, check=False).strip() == "yes"

    assert may("node", "list", "pods")
    assert may("node", "patch", "pods", "--subresource=status")
    assert may("planner", "watch", "deployments.apps")
    forbidden = [
        ("delete", "pods"),
        ("patch", "pods"),
        ("create", "pods"),
        ("get", "secrets"),
        ("list", "secrets"),
        ("list", "configmaps"),
        ("patch", "nodes"),
        ("patch", "deployments.apps"),
        ("create", "pods", "--subresource=exec"),
    ]
    assert [(role, row) for role in ("node", "planner") for row in forbidden if may(role, *row)] == []
    assert not may("planner", "list", "pods")
    assert not may("node", "list", "deployments.apps")
