"""Workloads other than a Deployment, and data on nodes before any pod of its service is there."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from handlers.core.enrolment import ORIGIN
from handlers.core.pods import PREFIX
from tests.kube.programs import until
from tests.kube.stage import V1, V2, Scene
from tests.kube.test_life import SECONDS


def places(stage: Scene) -> list[str]:
    """The nodes of the pods, empty for one that has none yet."""
    return [pod["spec"].get("nodeName", "") for pod in stage.pods()]


@pytest.mark.parametrize("kind", ["StatefulSet", "DaemonSet"])
def test_service_is_called_after_the_owner_of_its_pods(scene: Callable[[str], Scene], kind: str) -> None:
    stage = scene(kind.lower())
    stage.kind = kind
    stage.serve(replicas=2)  # a DaemonSet has one on each node
    subscription = stage.subscription()
    assert subscription is not None
    assert subscription.origin == ORIGIN

    with stage.audience() as audience, stage.lookout() as lookout:
        stage.publish(V2)
        stage.await_running(V2, 2)

    assert audience.failed == []
    assert audience.mixed == []
    assert (lookout.most_out, lookout.deleted) == (1, set())


def test_selected_node_has_the_data_before_a_pod_moves_there(scene: Callable[[str], Scene]) -> None:
    stage = scene("selected")
    label = f"{PREFIX}{stage.namespace}"
    other = stage.cluster.nodes["n2"].root
    releases = other / "releases" / stage.channel
    stage.place = {"kubernetes.io/hostname": "n1"}
    stage.serve(replicas=1, nodes=f"{label}=yes")
    assert not releases.exists()

    stage.cluster.kubectl("label", "node", "n2", f"{label}=yes")
    until("the selected node has the data", (releases / V1).exists)
    stage.publish(V2)
    until("and that of the next release", (releases / V2).exists)
    assert not (other / "views" / stage.service).exists()
    stage.await_running(V2, 1)

    stage.place = {"kubernetes.io/hostname": "n2"}
    stage.deploy(replicas=1, nodes=f"{label}=yes")
    until("the only pod is on the other node", lambda: places(stage) == ["n2"])  # the old one runs V2, too
    stage.await_running(V2, 1)
    assert stage.waited() < SECONDS
