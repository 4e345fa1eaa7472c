"""A Deployment under steady traffic takes over releases one pod at a time, whatever is restarted meanwhile.

The client never asks again. Nobody but Hydra takes a pod out here, so the pods that it has out at a time are
all that there are.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from handlers.core.enrolment import ORIGIN
from handlers.core.pods import READS
from tests.kube.images import HYDRA, NEXT, NEXT_VERSION
from tests.kube.installed import MEMORY_MI, NODES, PLANNERS
from tests.kube.programs import Failed, until
from tests.kube.stage import V1, V2, V3, Scene

BALLAST = 160 << 20  # loaded in 4 s, as the nodes are configured


@contextlib.contextmanager
def undisturbed(stage: Scene) -> Iterator[None]:
    """No request fails or sees two releases, and no more than the budget is out by Hydra, in this block."""
    with stage.audience() as audience, stage.lookout() as lookout:
        yield
    assert audience.failed == []
    assert audience.mixed == []
    assert (lookout.most_out, lookout.deleted) == (1, set())


def test_two_releases_and_a_rollback_are_taken_over_without_a_lost_request(
    scene: Callable[[str], Scene],
) -> None:
    stage = scene("rollout")
    stage.serve(replicas=4)
    subscription = stage.subscription()
    assert subscription is not None
    assert (subscription.origin, subscription.reload) == (ORIGIN, "http://:/reload")

    with stage.audience() as audience, stage.lookout() as lookout:
        stage.publish(V2, "--wait", "--timeout", "180s")
        stage.await_running(V2, 4)
        stage.publish(V3, "--wait", "--timeout", "180s")
        stage.await_running(V3, 4)
        stage.hydra.hydra("rollback", stage.channel, "--reason", "three is one too many")
        stage.await_running(V2, 4)

    assert audience.failed == []
    assert audience.mixed == []
    assert audience.seen == {V1, V2, V3}
    assert (lookout.most_out, lookout.deleted) == (1, set())


def test_api_server_is_restarted_in_mid_rollout(scene: Callable[[str], Scene]) -> None:
    stage = scene("api")
    stage.serve()

    with undisturbed(stage):
        stage.publish(V2)
        stage.moving()
        stage.cluster.restart_api_server()
        stage.await_running(V2, 3)


def test_hydra_is_upgraded_in_mid_rollout_planners_first_or_nodes_first(
    scene: Callable[[str], Scene],
) -> None:
    stage = scene("upgraded")
    stage.serve()
    hydra = stage.hydra
    (old,) = hydra.versions()

    try:
        with undisturbed(stage):
            stage.publish(V2)
            stage.moving()
            hydra.replace(PLANNERS, NEXT)
            hydra.await_rollout()
            stage.await_running(V2, 3)
            stage.await_rest()
            assert hydra.versions() == {old}

            stage.publish(V3)
            stage.moving()
            hydra.replace(PLANNERS, HYDRA)
            hydra.replace(NODES, NEXT)
            hydra.await_rollout()
            stage.await_running(V3, 3)
            until("all nodes run the other version", lambda: hydra.versions() == {NEXT_VERSION})
            stage.await_rest()

            hydra.hydra("rollback", stage.channel, "--reason", "in the middle of an upgrade too")
            stage.moving()
            hydra.image = NEXT  # also from here on: other tests upgrade other values of the chart
            hydra.upgrade()
            hydra.await_rollout()
            stage.await_running(V2, 3)
    finally:
        hydra.upgrade()
        hydra.await_rollout()


def test_download_goes_on_after_its_pod_was_killed(scene: Callable[[str], Scene]) -> None:
    stage = scene("killed")
    stage.serve(replicas=2)
    ballast = os.urandom(1 << 20) * (BALLAST >> 20)
    staging = stage.cluster.nodes["n1"].root / "volumes" / "disk" / "staging"

    def loaded() -> int:
        found = 0
        for folder, _, names in os.walk(staging):  # passes over folders that go meanwhile
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    found += (Path(folder) / name).lstat().st_blocks * 512
        return found

    with undisturbed(stage):
        stage.publish(V2, ballast=ballast)
        until("a good part of the download is there", lambda: loaded() > BALLAST // 4)
        pod = stage.hydra.pod("node", "n1")["metadata"]["name"]
        stage.hydra.kubectl("delete", "pod", pod, "--force", "--grace-period=0")
        assert loaded() < BALLAST
        stage.await_running(V2, 2)

    release = stage.cluster.nodes["n1"].root / "releases" / stage.channel / V2
    with (release / "right" / "ballast").open("rb") as file:
        found = hashlib.file_digest(file, "sha256").digest()
    assert found == hashlib.sha256(ballast).digest()


def test_dataset_in_ram_may_be_larger_than_what_the_programs_may_take(scene: Callable[[str], Scene]) -> None:
    stage = scene("ram")
    ballast = os.urandom(1 << 20) * (MEMORY_MI + 16)
    stage.publish(V1, right="RAM")
    stage.deploy(replicas=2)
    stage.await_running(V1, 2)
    before = stage.hydra.node_restarts()

    with undisturbed(stage):
        stage.publish(V2, right="RAM", ballast=ballast)
        stage.await_running(V2, 2)

    view = f"/data/views/{stage.service}"
    for pod in stage.ready_pods():
        read = stage.kubectl("exec", pod, "-c", "reader", "--", "readlink", "-f", f"{view}/{pod}/data/right")
        assert read.strip() == f"/data/volumes/ram/data/{stage.channel}/{V2}/right"
        # as root, and not by the pod's own mount, which says nothing of what is mounted below it
        for folder in ("/data/volumes/ram", read.strip()):
            with pytest.raises(Failed, match="Read-only file system"):
                stage.kubectl("exec", pod, "-c", "reader", "--", "touch", f"{folder}/written")
    # its pages are charged to the pod that wrote them, which nothing has ended for that
    assert stage.hydra.node_restarts() == before


def test_pods_of_a_restricted_namespace_read_through_its_claim(scene: Callable[[str], Scene]) -> None:
    stage = scene("restricted")
    stage.confine()
    stage.serve(replicas=2)

    with undisturbed(stage):
        stage.publish(V2)
        stage.await_running(V2, 2)


def test_pods_without_the_gate_are_drained_by_a_probe_of_their_state(scene: Callable[[str], Scene]) -> None:
    stage = scene("probe")
    stage.gate = False
    stage.serve(replicas=2)

    with stage.audience() as audience, stage.lookout() as lookout:
        stage.publish(V2)
        stage.await_running(V2, 2)

    assert audience.failed == []
    assert audience.mixed == []
    assert lookout.least_ready(2) == 1
    assert audience.seen == {V1, V2}


def test_old_and_new_pods_each_get_what_they_can_read(scene: Callable[[str], Scene]) -> None:
    stage = scene("reads")
    stage.notes = {READS: "format<=4"}
    stage.publish(V1, "--label", "format=4")
    stage.deploy(replicas=2)
    stage.await_running(V1, 2)

    with stage.audience() as audience:
        stage.publish(V2, "--label", "format=5")
        old = stage.ready_pods()
        for pod in old:
            stage.await_why(pod, "format<=4")
        assert sorted(stage.running(V1)) == sorted(old)
        stage.notes = {READS: "format<=5"}
        stage.deploy(replicas=2)
        stage.await_running(V2, 2)

    assert set(old) & set(stage.ready_pods()) == set()
    assert audience.failed == []
    assert audience.mixed == []
