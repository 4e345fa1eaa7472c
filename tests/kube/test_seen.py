"""What people see of pods: conditions and Events in kubectl, pod names in Hydra's own commands."""

from __future__ import annotations

from collections.abc import Callable

from handlers.core.pods import DATA_READY
from tests.kube.programs import until
from tests.kube.stage import V1, V2, V3, Scene, condition


def test_pod_tells_why_it_is_out_and_what_it_runs(scene: Callable[[str], Scene]) -> None:
    stage = scene("told")
    stage.deploy(replicas=1)
    until("a pod waits for its data", stage.pods)
    name = stage.pods()[0]["metadata"]["name"]
    until("its state is known", lambda: name in stage.states())
    assert stage.ready_pods() == []
    stage.await_why(name, f"channel {stage.channel} does not exist")

    stage.publish(V1)
    stage.await_running(V1, 1)
    stage.publish(V2)
    stage.await_running(V2, 1)

    (pod,) = stage.pods()
    assert condition(pod, DATA_READY) == "True"
    status = stage.hydra.hydra("view", stage.service)
    assert name in status
    assert V2 in status
    stage.await_event([pod], "DataReloaded")
    described = stage.kubectl("describe", "pod", name).split()
    for word in ("DataReload", "DataReloaded", DATA_READY):
        assert word in described


def test_halt_is_a_warning_on_the_pod_that_did_not_come_back(scene: Callable[[str], Scene]) -> None:
    stage = scene("halted")
    stage.serve(replicas=2)

    stage.publish(V3, value="refuse")
    (halted,) = until("the rollout halts", stage.halted)
    assert "this data is not for me" in halted

    stage.await_running(V1, 2)
    told = stage.await_event(stage.pods(), "DataHalted")
    assert len(told) == 1
    described = stage.kubectl("describe", "pod", told[0])
    assert "this data is not for me" in described
    assert "halted" in stage.hydra.hydra("status", stage.service)


def test_budget_of_the_pods_is_hydras_and_one_that_lets_nobody_out_is_named(
    scene: Callable[[str], Scene],
) -> None:
    stage = scene("budget")
    stage.serve(replicas=2)
    pods = stage.ready_pods()
    stage.disruption(minAvailable=2)
    named = f"PodDisruptionBudget {stage.namespace}/{stage.name}: minAvailable 2"
    until("it is the budget", lambda: (s := stage.subscription()) and s.budget_by == named)

    stage.publish(V2)
    for pod in pods:
        stage.await_why(pod, named)
    until("the workload tells of it", lambda: named in stage.kubectl("describe", "deployment", stage.name))
    assert sorted(stage.running(V1)) == sorted(pods)

    stage.disruption(maxUnavailable=1)
    stage.await_running(V2, 2)
    assert sorted(stage.ready_pods()) == sorted(pods)
