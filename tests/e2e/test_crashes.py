"""Handlers are killed wherever it hurts; whoever comes after them goes on from what is there."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from handlers.core.model import State, Step
from hydra_cli.dev import processes
from hydra_cli.dev.processes import Process
from tests import servers
from tests.e2e.reader import DATASETS
from tests.e2e.scene import V1, V2, V3, Scene, until
from tests.e2e.standing import frozen

pytestmark = pytest.mark.timeout(600)
FEW, KILLS = 3, 25
FILES = 150


def kill(found: list[Process]) -> int:
    """End them as a crash does; how many there were."""
    for process in found:
        process.send(signal.SIGKILL)
    return len(found)


def phase(scene: Scene, root: Path) -> str:
    """How far sync is with V2, as its files say."""
    if scene.folder("n1", V2).exists():
        return "linked"
    if (root / "volumes" / "disk" / "data" / scene.channel / V2).exists():
        return "renamed"
    return "staging" if (root / "volumes" / "disk" / "staging" / scene.channel / V2).exists() else "before"


def says_success(scene: Scene) -> bool:
    """Node n1 reports V2 as complete."""
    actual = scene.actual("n1")
    status = actual.releases.get(scene.release(V2)) if actual else None
    return status is not None and status.state is State.SUCCESS


def test_sync_that_is_killed_again_and_again_ends_with_the_whole_release_and_never_shows_half(
    scene: Scene, shared_s3: servers.S3
) -> None:
    scene.publish(V1)
    scene.subscribe()
    (replica,) = scene.start("n1")
    scene.await_running(V1)
    for number in range(FILES):  # so that every phase takes a while
        key = f"index/{V2}/more/{number:03}.bin"
        scene.s3.put_object(Bucket=scene.space, Key=key, Body=random.Random(number).randbytes(20_000))
    root, node = scene.cluster.root("n1"), scene.cluster.node("n1")
    chance = random.Random(4)
    killed: list[str] = []

    store = processes.find(shared_s3.running.process.pid)
    assert store
    with frozen(scene, "n1"):
        scene.publish(V2)
        store.send(signal.SIGSTOP)  # until it was killed a few times, nothing can be completed
    try:
        for _ in itertools.count():
            until("sync runs, or is done", lambda: scene.running("n1", "sync") or scene.holds("n1", V2))
            if len(killed) >= KILLS or scene.holds("n1", V2):
                break
            time.sleep(chance.uniform(0, 0.05 * (1 + len(killed))))  # at its start, then ever further
            now = phase(scene, root)
            killed += [now] * bool(kill(scene.running("n1", "sync")))
            if len(killed) >= FEW:
                store.send(signal.SIGCONT)
            if scene.folder("n1", V2).exists():
                assert len(list((scene.folder("n1", V2) / "index" / "more").iterdir())) == FILES
            assert scene.answer(replica)[1]["version"] in (V1, V2)
            node.supervisor.signalProcessGroup(
                "watch", "TERM"
            )  # as resync does: do not wait for its back-off
    finally:
        store.send(signal.SIGCONT)

    scene.await_running(V2)
    assert len(killed) >= FEW, killed
    for name in DATASETS:
        assert json.loads((scene.folder("n1", V2) / name / "value.json").read_text())["version"] == V2
    for number in range(FILES):
        file = scene.folder("n1", V2) / "index" / "more" / f"{number:03}.bin"
        assert file.read_bytes() == random.Random(number).randbytes(20_000)
    until("its node says so", partial(says_success, scene))  # the sync that linked it may have been killed
    staging = [volume / "staging" / scene.channel / V2 for volume in (root / "volumes").iterdir()]
    until("nothing is left in staging", lambda: not any(files for s in staging for *_, files in os.walk(s)))


@pytest.mark.parametrize("step", [Step.DRAIN, Step.RELOAD, Step.CONFIRM, Step.RETURN], ids=str)
def test_reload_that_is_killed_while_its_replica_is_out_goes_on(scene: Scene, step: Step) -> None:
    scene.publish(V1)
    options = {
        Step.DRAIN: ("--drain-time", "600s"),
        Step.RELOAD: (),
        Step.CONFIRM: ("--confirm", "http://:/version#confirmed"),
        Step.RETURN: (),
    }[step]
    scene.subscribe(*options)
    first, second = scene.start("n1", "n2")
    scene.await_running(V1)
    over = scene.gate("over")
    fares: dict[str, Any] = {"loads_by" if step is Step.RELOAD else "settles_by": str(over)}
    scene.publish(V2, **fares)
    until("one is out", lambda: any(scene.step(r) is step for r in (first, second)))
    out, other = (first, second) if scene.step(first) is step else (second, first)

    assert scene.serves(other, V1)

    assert until("it is killed", lambda: kill(scene.running(out.node, "reload")))

    over.touch()
    scene.subscribe(*options, "--drain-time", "0s")
    scene.await_running(V2)
    assert not scene.verdicts().releases
    assert not scene.slots().out


def test_emptied_node_is_filled_again_and_its_replica_serves_on(scene: Scene) -> None:
    from hydra_cli.dev.demo.harm import wipe

    scene.publish(V1)
    scene.subscribe()
    (replica,) = scene.start("n3")
    scene.await_running(V1)

    wipe(scene.cluster.root("n3"), ["disk", "ram"])

    assert scene.serves(replica, V1)
    until("it is filled again", lambda: scene.holds("n3", V1))
    scene.publish(V2)
    scene.await_running(V2)
    scene.publish(V3)
    scene.await_running(V3)
