"""The other way to Consul: an agent that runs on the node anyway, in place of one in Hydra's pods."""

from __future__ import annotations

from collections.abc import Callable

from tests.kube.stage import V1, V2, Scene


def test_agent_of_the_node_takes_over_from_the_one_in_the_pod_and_back(scene: Callable[[str], Scene]) -> None:
    stage = scene("host")
    stage.serve(replicas=2)
    hydra = stage.hydra

    with stage.audience() as audience, stage.lookout() as lookout:
        with hydra.agents_of_nodes():
            assert [row["name"] for row in hydra.pod("node")["spec"]["containers"]] == ["hydra"]
            stage.publish(V2)
            stage.await_running(V2, 2)
        stage.hydra.hydra("rollback", stage.channel, "--reason", "back to the other agent")
        stage.await_running(V1, 2)

    assert audience.failed == []
    assert audience.mixed == []
    assert (lookout.most_out, lookout.deleted) == (1, set())
