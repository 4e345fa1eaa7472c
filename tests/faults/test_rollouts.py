"""C3, C5 and C10 of the fault catalogue, on a whole cluster with the limits that Hydra is shipped with."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Self

import pytest
from msgspec.structs import replace

from handlers.adapters.ports import Cas, Set
from handlers.core import codec, keys
from handlers.core.model import Desired, Manifest, Ready, Release, Step
from handlers.core.reasons import Reason
from handlers.core.version import Version
from handlers.settings import Limits
from hydra_cli.dev.demo.sight import Replica
from tests.e2e.scene import V1, V2, V3, Scene, until
from tests.faults.partition import apart, outside

pytestmark = pytest.mark.timeout(600)
FREE_S = 45.0  # until a slot of a node that is cut off counts no more: README
HEADS, BURST_S, MOST_RUNS = 100, 10.0, 3


def test_c3_node_that_is_cut_off_with_a_slot_keeps_the_others_in_service_until_it_counts_as_dead(
    scene: Scene,
) -> None:
    """A partition: its agent lives, and neither gossip nor RPC goes through.

    Nobody else goes out beside it before it counts as dead; then somebody does, in time. The node changes
    nothing meanwhile, and comes back in order.
    """
    with apart(scene.cluster, "n1") as wires:
        scene.publish(V1)
        scene.subscribe("--drain-time", "600s")
        lost, *others = scene.start("n1", "n2", "n3", by_hand=False)
        wires.stream(lost.port, wires.inside, outside, cluster=False)  # for its health check
        scene.await_running(V1)
        with cordoned(scene, "n2", "n3"):
            scene.publish(V2)
            until("the one of n1 is out", lambda: out(scene) == ["n1"])
        for replica in others:
            until("the others are refused", partial(is_refused, scene, replica))

        with wires.cut():
            began, serving, found = time.monotonic(), True, ["n1"]
            while found == ["n1"]:
                assert serving
                assert time.monotonic() - began <= FREE_S
                serving = all(scene.serves(replica, V1) for replica in others)
                found = out(scene)  # after them: whoever goes out takes the slot first
            assert len(found) == 1
            assert "n1" not in found
            assert scene.answer(lost)[1]["version"] == V1  # its view was not touched
        scene.subscribe("--drain-time", "0s")

        scene.await_running(V2)
        assert not scene.slots().out
        assert not scene.verdicts().releases


def out(scene: Scene) -> list[str]:
    """The nodes of the instances that are out for a reload."""
    return [entry.node for entry in scene.slots().out.values()]


def is_refused(scene: Scene, replica: Replica) -> bool:
    """It asked to go out, and the budget does not allow it."""
    return Reason.BUDGET.told_in(scene.reason(replica))


@contextmanager
def cordoned(scene: Scene, *nodes: str) -> Iterator[None]:
    """No moves on these nodes for the block."""
    for node in nodes:
        scene.hydra("node", "cordon", node)
    try:
        yield
    finally:
        for node in nodes:
            scene.hydra("node", "uncordon", node)


def test_c5_hundred_heads_in_ten_seconds_end_on_the_last_one_and_few_are_begun(scene: Scene) -> None:
    """Announced as the README does it by hand: a transaction each. All have the data of the first one."""
    scene.publish(V1)
    scene.subscribe()
    replicas = scene.start("n1", "n2", "n3", by_hand=False)
    scene.await_running(V1)
    until("plan has nothing left to say", lambda: all(is_proven(scene, n) for n in scene.cluster.nodes))
    generations = {node: generation(scene, node) for node in scene.cluster.nodes}
    kv, versions = scene.cluster.kv(), [hour(number) for number in range(1, HEADS + 1)]
    header, files = documents(scene)

    began = time.monotonic()
    for number, version in enumerate(versions):
        fresh = replace(header, version=version, sequence=header.sequence + 1 + number)
        kv.txn(
            [
                Cas(keys.release(scene.channel, version), codec.encode(fresh), 0),
                Cas(keys.manifest(scene.channel, version), files, 0),
                Set(keys.head(scene.channel), version.encode()),
            ]
        )
        time.sleep(max(0.0, began + BURST_S * (number + 1) / HEADS - time.monotonic()))

    took_s = time.monotonic() - began
    told = {node: generation(scene, node) - before for node, before in generations.items()}
    for replica in replicas:
        until(f"{replica.id} runs the last", partial(runs, scene, replica.id, replica.node, versions[-1]))
        home = Path(scene.answer(replica)[1]["home"])
        assert home.name == versions[-1]
    # a machine that takes longer for the burst lets plan run more often
    most = MOST_RUNS + int((took_s - BURST_S) / Limits().plan_pause_s)
    assert max(told.values()) <= most, told
    for node in scene.cluster.nodes:
        assert begun(scene, node) <= most + 1, scene.log(node)  # with the first of all


def hour(number: int) -> Version:
    """Of a release every hour."""
    return Version.of(datetime(2026, 2, 1, tzinfo=UTC) + timedelta(hours=number))


def documents(scene: Scene) -> tuple[Release, bytes]:
    """The header of the first release, and its list of files as it lies in Consul."""
    header = scene.document(Release, keys.release(scene.channel, V1))
    files, _ = scene.cluster.kv().get(keys.manifest(scene.channel, V1))
    assert header
    assert files
    codec.decode(Manifest, files.value, files.key)
    return header, files.value


def generation(scene: Scene, node: str) -> int:
    """How often plan has changed what a node should hold or run."""
    entry, _ = scene.cluster.kv().get(keys.desired(node))
    return codec.decode(Desired, entry.value, entry.key).generation if entry else 0


def is_proven(scene: Scene, node: str) -> bool:
    """A node was told that the first release is proven, the last that there is to say of it."""
    desired = scene.document(Desired, keys.desired(node))
    hold = desired.releases.get(scene.release(V1)) if desired else None
    return hold is not None and f"proven for {scene.service}" in hold.why


def runs(scene: Scene, name: str, node: str, version: Version) -> bool:
    """A replica is at rest on a release, as its node says."""
    (replica,) = (r for r in scene.replicas if r.id == name)
    return set(scene.releases(replica).values()) == {version} and scene.answer(replica, "/healthz")[0] == 200


def begun(scene: Scene, node: str) -> int:
    """How many releases of the channel sync has begun to load on a node."""
    return sum(scene.channel in line and " download" in line for line in scene.log(node).splitlines())


@dataclass
class Glances:
    """Somebody who reads the readiness files of a view all the time."""

    view: Path
    seen: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)
    count: int = 0
    _end: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _look(self) -> None:
        words = {str(word) for word in Ready}
        while not self._end.is_set():
            try:
                word = (self.view / "state").read_text()
                about = json.loads((self.view / "readiness.json").read_text())
            except (OSError, ValueError) as e:
                self.wrong.append(str(e))
                continue
            self.count += 1
            self.seen.add(word.strip())
            if word.strip() not in words or about["state"] not in words or not about["releases"]:
                self.wrong.append(f"{word!r}, {about}")


def pid(scene: Scene, node: str, program: str) -> int:
    """The process of a program of a node; 0 while it does not run."""
    return int(scene.cluster.supervisor(node).getProcessInfo(program)["pid"])


def is_another(process: Callable[[], int], before: int) -> bool:
    """It runs, and is not the one of before."""
    return process() not in (0, before)


def is_told(replica: Replica, word: Ready) -> bool:
    """The replica's state file has this word."""
    return (replica.view / "state").read_text().strip() == word


def test_c10_readiness_files_are_whole_while_consul_template_dies_and_renders_again_and_again(
    scene: Scene,
) -> None:
    scene.publish(V1)
    scene.subscribe("--drain-time", "600s")  # until there is another word
    (replica,) = scene.start("n1", by_hand=False)
    scene.await_running(V1)
    template = partial(pid, scene, "n1", "consul-template")
    with Glances(replica.view) as glances:
        for version, harm in ((V2, signal.SIGKILL), (V3, signal.SIGHUP)):
            scene.publish(version)
            until("it is out", lambda: scene.step(replica) is Step.DRAIN)
            until("it says so", lambda: is_told(replica, Ready.DRAINING))
            before = until("consul-template runs", template)  # 0, between two lives, would be our own group
            os.kill(before, harm)  # HUP lets it read its configuration and render all once more
            if harm == signal.SIGKILL:
                until("it runs again", partial(is_another, template, before))
            scene.hydra("subscribe", scene.service, "--drain-time", "0s")
            scene.await_running(version)
            scene.hydra("subscribe", scene.service, "--drain-time", "600s")

    assert not glances.wrong
    assert glances.count > 1000
    assert {Ready.READY, Ready.DRAINING} <= glances.seen
