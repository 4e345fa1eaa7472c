"""RAM is a cache of the disk copy: filled before the move where it fits, by way of the disk where not."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from handlers.core.reasons import Reason
from hydra_cli.dev.demo.sight import Replica
from tests.e2e.scene import V1, V2, V3, Scene, until
from tests.e2e.standing import frozen
from tests.e2e.test_why import Recorder, await_why

pytestmark = pytest.mark.timeout(600)
BIG = 6 * 1024**2
BUDGET = 10 * 1024**2  # room for one release, not for two


def ram_copy(scene: Scene, version: str) -> Path:
    """The RAM copy of the dataset that is placed there."""
    return scene.cluster.node("n1").ram / "data" / scene.channel / version / "ranking"


def link(scene: Scene, version: str) -> Path:
    """What services read as that dataset."""
    return (scene.cluster.root("n1") / "releases" / scene.channel / version / "ranking").resolve()


def fill_up(scene: Scene, version: str, size: int = BIG) -> None:
    """Make the dataset in RAM big."""
    key = f"ranking/{version}/ballast.bin"
    scene.s3.put_object(Bucket=scene.space, Key=key, Body=version.encode() * (size // len(version)))


def test_release_is_in_ram_before_a_replica_moves_to_it(scene: Scene) -> None:
    scene.publish(V1)
    scene.subscribe()
    (replica,) = scene.start("n1")
    scene.await_running(V1)
    assert link(scene, V1).is_relative_to(ram_copy(scene, V1).resolve())
    loads = scene.answer(replica)[1]["loads"]

    scene.publish(V2)
    scene.await_running(V2)

    assert link(scene, V2).is_relative_to(ram_copy(scene, V2).resolve())
    until("the old copy left RAM", lambda: not ram_copy(scene, V1).exists())
    assert link(scene, V1).exists()  # on disk, for a rollback
    assert scene.answer(replica)[1]["loads"] == loads + 1


def test_release_that_does_not_fit_beside_the_old_one_is_taken_by_way_of_the_disk(harm: Scene) -> None:
    config = harm.cluster.node("n1").config
    config.write_text(config.read_text().replace('class = "RAM"', f'class = "RAM"\nbudget_bytes = {BUDGET}'))
    fill_up(harm, V1)
    fill_up(harm, V2)
    harm.publish(V1)
    harm.subscribe("--confirm", "http://:/version#version")
    first, second = harm.start("n1", "n1")
    harm.await_running(V1)
    until("it is in RAM", lambda: link(harm, V1).is_relative_to(ram_copy(harm, V1).resolve()))

    harm.publish(V2)

    harm.await_running(V2)
    until("it is in RAM", lambda: link(harm, V2).is_relative_to(ram_copy(harm, V2).resolve()))
    until("the old one is not", lambda: not ram_copy(harm, V1).exists())
    for replica in (first, second):
        until("it reads from RAM", partial(reads_from_ram, harm, replica))
    harm.await_running(V2)  # one that has just loaded it from RAM is still on its way back


def test_node_is_drained_for_a_service_that_must_not_read_from_disk(harm: Scene) -> None:
    """It waits for another service that reads the old copy, then for the budget, and says so."""
    config = harm.cluster.node("n1").config
    config.write_text(config.read_text().replace('class = "RAM"', f'class = "RAM"\nbudget_bytes = {BUDGET}'))
    fill_up(harm, V1)
    fill_up(harm, V2)
    harm.publish(V1)
    harm.subscribe("--confirm", "http://:/version#version", "--ram", "drain-node")
    other = harm.sibling("other")
    other.channel = harm.channel
    other.subscribe("--confirm", "http://:/version#version")
    replicas = harm.start("n1", "n1")
    (reader,) = other.start("n1")
    harm.await_running(V1)
    other.await_running(V1)
    for replica in (*replicas, reader):
        until("it reads from RAM", partial(reads_from_ram, harm if replica in replicas else other, replica))
    other.hydra("rollout", "pause", other.service)

    harm.publish(V2)

    assert reader.id in await_why(harm, replicas[0], Reason.RAM_SHARED)
    other.hydra("rollout", "resume", other.service)
    assert "2 instances here must be out at once" in await_why(harm, replicas[0], Reason.TOGETHER)
    other.await_running(V2)
    # as long as one of the two has not let go of the old copy, the other cannot have the new one
    recorder = Recorder(harm)
    with frozen(harm, "n1", str(replicas[1].port)):
        harm.subscribe("--max-unavailable", "2")
        recorder.said(Reason.AWAITS_RAM)
    harm.await_running(V2)
    for replica in replicas:
        # as soon as it is back: it was never in service with what lies on disk
        assert reads_from_ram(harm, replica)
    assert link(harm, V2).is_relative_to(ram_copy(harm, V2).resolve())
    assert not ram_copy(harm, V1).exists()

    fill_up(harm, V3, BUDGET + BIG)
    harm.publish(V3, "--ignore-space")
    await_why(harm, replicas[0], Reason.TOO_LARGE)
    assert harm.runs(replicas[0], V2)


def reads_from_ram(scene: Scene, replica: Replica) -> bool:
    """The replica has loaded the dataset from memory."""
    state = scene.state(replica)
    return state is not None and "data/ranking" in state.media
