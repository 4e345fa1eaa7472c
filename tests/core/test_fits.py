"""Whether a release fits on a node by what it said: what would go, what is too large, who is silent."""

from __future__ import annotations

from datetime import timedelta

import pytest
from msgspec.structs import replace

from handlers.core import codec, keys, model
from handlers.core.fits import Answer, Fit, fit
from handlers.core.holdings import Space
from tests.core.worlds import COMPLETE, NOW, PLACES, Cluster, rid, v


@pytest.fixture
def cluster() -> Cluster:
    """A node that runs release 3, keeps 2 for a rollback, and has 1 still; each takes 10 bytes."""
    made = Cluster()
    made.subscribe()
    made.node("n1", COMPLETE)
    for number in (1, 2, 3):
        made.publish(number)
        made.runs("n1", places=number)
        made.run()
        made.run()
    volumes = {"disk": model.VolumeInfo(cls=model.DISK), "ram": model.VolumeInfo(cls=model.RAM)}
    made.put(keys.info("n1"), model.NodeInfo(node="n1", volumes=volumes))
    made.applied("n1", 1)
    said(made)
    return made


def said(cluster: Cluster, free: int = 100, when: str = "2026-05-31T23:50:00Z", ram: int = 50) -> None:
    """The node says what it has."""
    holds = {rid(number): ("index",) for number in (1, 2, 3)}
    volumes = {
        "disk": model.VolumeUse(size=1000, free=free, files=100, holds=holds),
        "ram": model.VolumeUse(size=ram, free=ram, files=100),
    }
    cluster.put(keys.progress("n1"), model.Progress(node="n1", volumes=volumes, when=when))


def test_volumes_on_one_file_system_must_have_room_for_all_of_it(cluster: Cluster) -> None:
    infos = {"disk": model.VolumeInfo(cls=model.DISK), "fast": model.VolumeInfo(cls="nvme")}
    cluster.put(keys.info("n1"), model.NodeInfo(node="n1", volumes=infos))
    wanted = {"index": Space(60, 1), "more": Space(60, 1)}

    def answer(free: int) -> Fit:
        holds = {rid(number): ("index",) for number in (1, 2, 3)}
        volumes = {
            "disk": model.VolumeUse(size=1000, free=1000, files=100, holds=holds),
            "fast": model.VolumeUse(size=1000, free=1000, files=100),
        }
        joint = {"disk+fast": model.JointRoom(free=free, files=100)}
        document = model.Progress(node="n1", volumes=volumes, joint=joint, when="2026-05-31T23:50:00Z")
        cluster.put(keys.progress("n1"), document)
        world = cluster.world()
        header = world.channels[PLACES].by_version[v(3)]
        index = replace(header.datasets["index"], bytes=60)
        datasets = {"index": index, "more": replace(index, placement="nvme")}
        fresh = replace(header, version=v(9), sequence=9, datasets=datasets)
        return fit(world.nodes["n1"], world, fresh, wanted, NOW)

    assert answer(120).answer is Answer.FITS
    assert answer(110).evicts == (rid(1),)
    assert answer(99).answer is Answer.SHORT
    assert "more needs 60 bytes and 1 files on volume disk+fast" in answer(99).reason


def ask(cluster: Cluster, need: int = 100, placement: str = model.DISK) -> Fit:
    world = cluster.world()
    header = world.channels[PLACES].by_version[v(3)]
    dataset = replace(header.datasets["index"], bytes=need, placement=placement)
    fresh = replace(header, version=v(9), sequence=9, datasets={"index": dataset})
    return fit(world.nodes["n1"], world, fresh, {"index": Space(need, 1)}, NOW)


@pytest.mark.parametrize(
    ("free", "answer", "evicts"),
    [
        (100, Answer.FITS, ()),
        (95, Answer.EVICTS, (rid(1),)),
        (85, Answer.EVICTS, (rid(1), rid(2))),
        (79, Answer.SHORT, ()),
    ],
)
def test_answer_counts_what_may_go_and_never_what_is_needed(
    cluster: Cluster, free: int, answer: Answer, evicts: tuple[object, ...]
) -> None:
    said(cluster, free)

    found = ask(cluster)

    assert (found.answer, found.evicts) == (answer, evicts)
    if answer is Answer.SHORT:
        assert "needs 100 bytes" in found.reason
        assert f"are {free} bytes" in found.reason


def test_dataset_for_ram_must_fit_into_ram_alone(cluster: Cluster) -> None:
    assert ask(cluster, 50, model.RAM).answer is Answer.FITS
    assert ask(cluster, 51, model.RAM).reason == (
        "its datasets in RAM take 51 bytes, and the node's RAM volume has 50"
    )


def test_silent_nodes_are_unknown(cluster: Cluster) -> None:
    said(cluster, when=(NOW - timedelta(minutes=31)).isoformat())
    assert ask(cluster).answer is Answer.UNKNOWN
    assert "last said" in ask(cluster).reason

    cluster.put(keys.progress("n1"), model.Progress(node="n1", when=NOW.isoformat()))
    assert "has not said yet" in ask(cluster).reason

    said(cluster)
    cluster.drop(keys.alive("n1"))
    assert "not alive" in ask(cluster).reason


def test_releases_that_are_still_to_come_have_their_room(cluster: Cluster) -> None:
    said(cluster, free=105)
    assert ask(cluster).answer is Answer.FITS
    cluster.publish(4)
    cluster.run()
    assert rid(4) in codec.decode(model.Desired, cluster[keys.desired("n1")], "n1").releases
    assert ask(cluster).evicts == (rid(1),)
