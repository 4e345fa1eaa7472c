"""Hydra is taken away from under running services. Runs last: see `conftest`."""

from __future__ import annotations

from collections.abc import Callable

from handlers.core.pods import DATA_READY
from tests.kube.programs import until
from tests.kube.stage import V1, Scene, condition


def test_uninstalled_hydra_leaves_its_services_serving(
    scene: Callable[[str], Scene],
) -> None:
    stage = scene("left")
    stage.serve()
    hydra, before = stage.hydra, sorted(stage.ready_pods())

    with stage.audience() as audience:
        hydra.helm("uninstall", "hydra", "-n", hydra.namespace, "--wait")
        until("none of Hydra's pods is left", lambda: not hydra.cluster.items("pods", hydra.namespace))
        assert sorted(stage.ready_pods()) == before
        assert [condition(pod, DATA_READY) for pod in stage.pods()] == ["True"] * 3

    assert audience.failed == []
    assert audience.seen == {V1}

    # a container that ends is started again, and finds its data
    kill = ("exec", before[0], "-c", "reader", "--", "sh", "-c", "kill -TERM 1")
    stage.cluster.kubectl("-n", stage.namespace, *kill, check=False)  # it may be gone before its shell
    until("it was started again", lambda: stage.restarts() == [0, 0, 1])
    stage.await_ready(3)
    assert sorted(stage.ready_pods()) == before
