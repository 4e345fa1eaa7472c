"""What the demo's spectator sees: who is out at a time, when something was announced, what a view did."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from handlers.adapters.ports import Set
from handlers.core import codec, keys
from handlers.core.errors import Timeout
from handlers.core.model import (
    Actual,
    InstanceState,
    Ready,
    Rejected,
    ReleaseStatus,
    SlotEntry,
    Slots,
    State,
    States,
    Step,
    Verdict,
    Verdicts,
)
from handlers.core.names import Channel, InstanceKey, Service
from handlers.core.version import ReleaseId, Version
from hydra_cli.dev.demo.show import LiveShow, PlainShow
from hydra_cli.dev.demo.sight import Replica, bytes_of
from hydra_cli.dev.demo.world import World
from tests.fakes_kv import FakeKV

CHANNEL = Channel("demo/search/places")
SERVICE = Service("demo/search/completion")
OLD, NEW = Version("2019-12-15T00-00-00"), Version("2019-12-16T00-00-00")
LIMIT_S = 30.0


@pytest.fixture
def kv() -> FakeKV:
    return FakeKV()


@pytest.fixture
def world(kv: FakeKV, tmp_path: Path) -> Iterator[World]:
    replicas = []
    for name, node in (("c1", "n1"), ("c2", "n2")):
        view = tmp_path / node / "views" / InstanceKey.of(SERVICE, name)
        view.mkdir(parents=True)
        replicas.append(Replica(name, node, view, 1))
    seen = World(kv, CHANNEL, SERVICE, tuple(replicas), {n: tmp_path / n for n in ("n1", "n2")})
    seen.start()
    yield seen
    seen.stop()


def states(node: str, name: str, word: Ready, *, served: bool = True, step: Step = Step.IDLE) -> Set:
    """`states/<node>` with one instance."""
    state = InstanceState(
        service=SERVICE,
        id=name,
        incarnation="1",
        state=word,
        step=step,
        served=served,
        reason="" if word is Ready.READY else "for a reload",
        releases={"places": OLD},
    )
    doc = States(node=node, instances={InstanceKey.of(SERVICE, name): state})
    return Set(keys.states(node), codec.encode(doc))


def until(world: World, condition: Callable[[], object]) -> None:
    world.wait("what the test waits for", condition, LIMIT_S)


def test_two_that_drain_in_one_moment_are_two_out(kv: FakeKV, world: World) -> None:
    kv.txn([states("n1", "c1", Ready.DRAINING), states("n2", "c2", Ready.READY)])
    until(world, lambda: world.seen.most_out == 1)
    kv.txn([states("n2", "c2", Ready.DRAINING)])
    until(world, lambda: world.seen.most_out == 2)
    kv.txn([states("n1", "c1", Ready.READY), states("n2", "c2", Ready.READY)])
    until(world, lambda: world.runs(world.replicas[0], OLD))
    assert world.seen.most_out == 2


def test_new_instance_that_waits_for_data_is_not_out(kv: FakeKV, world: World) -> None:
    kv.txn([states("n1", "c1", Ready.WAITING, served=False), states("n2", "c2", Ready.READY)])
    until(world, lambda: world.runs(world.replicas[1], OLD))
    assert world.seen.most_out == 0


def test_slots_count_those_that_are_on_their_way_back_too(kv: FakeKV, world: World) -> None:
    out = {f"n{n}.c{n}": SlotEntry(node=f"n{n}", instance=f"c{n}", incarnation="1") for n in (1, 2)}
    kv.txn([Set(keys.slots(SERVICE), codec.encode(Slots(out=out)))])
    until(world, lambda: world.seen.most_out == 2)


def test_instance_on_its_way_does_not_run_its_release_yet(kv: FakeKV, world: World) -> None:
    kv.txn([states("n1", "c1", Ready.READY, step=Step.RETURN), states("n2", "c2", Ready.READY)])
    until(world, lambda: world.runs(world.replicas[1], OLD))
    assert not world.runs(world.replicas[0], OLD)


def test_canary_that_was_found_bad_is_seen_with_its_reason(kv: FakeKV, world: World) -> None:
    def verdict(word: str) -> Verdict:
        return Verdict(id=word, verdict=word, reason=f"{word} answers", node="planner", instance="c1")

    found = {ReleaseId.of(CHANNEL, NEW): verdict("bad"), ReleaseId.of(CHANNEL, OLD): verdict("good")}
    begin = time.time()
    kv.txn([Set(keys.verdicts(SERVICE), codec.encode(Verdicts(releases=found)))])
    until(world, lambda: world.seen.why_bad == {NEW: "bad answers"})
    assert list(world.seen.bad) == [NEW]
    assert begin <= world.seen.bad[NEW] <= time.time()


def test_announcement_and_rejection_have_the_time_of_their_first_sight(kv: FakeKV, world: World) -> None:
    begin = time.time()
    kv.txn([Set(keys.head(CHANNEL), f"{NEW}\n".encode())])
    until(world, lambda: NEW in world.seen.heads)
    kv.txn([Set(keys.rejected(CHANNEL, NEW), codec.encode(Rejected(why="a test")))])
    until(world, lambda: NEW in world.seen.rejected)
    assert begin <= world.seen.heads[NEW] <= world.seen.rejected[NEW] <= time.time()


def test_node_holds_a_release_when_sync_calls_it_a_success(kv: FakeKV, world: World) -> None:
    loading = {ReleaseId.of(CHANNEL, NEW): ReleaseStatus(state=State.DOWNLOADING)}
    done = {ReleaseId.of(CHANNEL, NEW): ReleaseStatus(state=State.SUCCESS)}
    kv.txn([Set(keys.actual("n1"), codec.encode(Actual(node="n1", generation=1, releases=loading)))])
    until(world, lambda: "n1" in world.seen.actual)
    assert not world.holds("n1", NEW)
    kv.txn([Set(keys.actual("n1"), codec.encode(Actual(node="n1", generation=1, releases=done)))])
    until(world, lambda: world.holds("n1", NEW))


def test_document_that_does_not_parse_is_passed_over(kv: FakeKV, world: World) -> None:
    kv.txn([Set(keys.states("n1"), b"{"), states("n2", "c2", Ready.READY)])
    until(world, lambda: world.runs(world.replicas[1], OLD))
    assert "n1" not in world.seen.states


def test_view_shows_words_and_flips_in_their_order(world: World) -> None:
    view = world.replicas[0].view

    def say(word: str) -> None:
        (view / ".state").write_text(word)
        (view / ".state").rename(view / "state")

    def flip(number: int) -> None:
        (view / f"..{number}").mkdir()
        (view / "..fresh").symlink_to(f"..{number}")
        (view / "..fresh").rename(view / "..data")

    for count, (word, number) in enumerate([("", 1), ("ready", 0), ("draining", 0), ("", 2), ("ready", 0)]):
        time.sleep(0.02)  # file times have ticks of up to 10 ms, and two words within one look like one
        flip(number) if number else say(word)
        until(world, lambda before=count: len(world.seen.marks) > before)  # type: ignore[misc]
    marks = sorted(world.seen.marks, key=lambda mark: mark.at)
    assert [mark.what for mark in marks] == ["flip", "ready", "draining", "flip", "ready"]
    assert {mark.replica for mark in marks} == {"c1"}


def test_first_byte_is_seen_in_staging(kv: FakeKV, world: World, tmp_path: Path) -> None:
    kv.txn([Set(keys.head(CHANNEL), NEW.encode())])
    until(world, lambda: NEW in world.seen.heads)
    staging = tmp_path / "n2" / "volumes" / "disk" / "staging" / CHANNEL / NEW / ".parts"
    staging.mkdir(parents=True)
    (staging / "places.kv").write_bytes(b"x" * 5000)
    until(world, lambda: "n2" in world.seen.first_bytes.get(NEW, {}))
    assert "n1" not in world.seen.first_bytes[NEW]
    assert bytes_of(tmp_path / "n2", CHANNEL, NEW) == 5000


def test_waiting_in_vain_says_for_what_and_what_the_nodes_complain_of(kv: FakeKV, world: World) -> None:
    failed = {ReleaseId.of(CHANNEL, NEW): ReleaseStatus(state=State.FAILED, reason="the disk is full")}
    actual = Actual(node="n1", generation=1, releases=failed, alarms=("the clock is wrong",))
    kv.txn([Set(keys.actual("n1"), codec.encode(actual)), states("n2", "c2", Ready.WAITING)])
    until(world, lambda: world.seen.actual and world.seen.states)
    with pytest.raises(Timeout, match="a miracle") as caught:
        world.wait("a miracle", lambda: False, 0.1)
    for complaint in ("the disk is full", "the clock is wrong", "for a reload"):
        assert complaint in str(caught.value)


def test_plain_show_is_a_line_per_event_without_control_characters() -> None:
    out = io.StringIO()
    show = PlainShow(out)
    show.scene("a scene")
    show.note("all \x1b[31mred")
    show.close()
    lines = out.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("== a scene")
    assert "\x1b" not in out.getvalue()


def test_live_show_leaves_all_that_happened_on_the_terminal(world: World) -> None:
    out = io.StringIO()
    show = LiveShow(Console(file=out, force_terminal=True, width=120, height=40))
    show.scene("first scene")
    show.look_at(world)
    for number in range(10):
        show.note(f"note {number}")
    show.scene("second scene")
    show.close()
    told = out.getvalue()
    assert all(f"note {number}" in told for number in range(10))
    assert told.index("first scene") < told.rindex("second scene")
    assert "c1" in told
