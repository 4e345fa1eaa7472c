"""What else a node may give to Hydra: an agent of Consul that runs there anyway, in place of one in Hydra's
pods; and a look at all its processes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from handlers.adapters.usage import opened
from tests.kube.stage import V2, V3, Scene

LOOK = """
from pathlib import Path
from handlers.adapters.usage import opened
print(opened(Path("/data"), [])[1])
"""


def test_agent_and_processes_of_the_node_take_over_from_those_in_the_pod_and_back(
    scene: Callable[[str], Scene],
) -> None:
    stage = scene("host")
    stage.words = ["watch"]
    stage.serve(replicas=2)
    hydra = stage.hydra

    with stage.audience() as audience, stage.lookout() as lookout:
        with hydra.agents_of_nodes():
            assert [row["name"] for row in hydra.pod("node")["spec"]["containers"]] == ["hydra"]
            stage.publish(V2)
            stage.await_running(V2, 2)
            for node in stage.cluster.nodes:
                pod = hydra.pod("node", node)["metadata"]["name"]
                # as much as root of this machine may look into
                unseen = hydra.kubectl("exec", pod, "-c", "hydra", "--", "python3", "-I", "-c", LOOK)
                assert unseen.strip() == opened(Path("/nowhere"), [])[1]

            stage.reload_by("none", replicas=2, confirm="maps")
            stage.publish(V3)
            stage.await_running(V3, 2)
        stage.reload_by("http://:/reload", replicas=2)
        hydra.hydra("rollback", stage.channel, "--reason", "back to the other agent")
        stage.await_running(V2, 2)

    assert audience.failed == []
    assert audience.mixed == []
    assert (lookout.most_out, lookout.deleted) == (1, set())
