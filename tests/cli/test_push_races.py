"""Two pushes of one version with different content: one wins, the other is told, the manifest fits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from handlers.adapters import send
from handlers.adapters.ports import Body, Source
from handlers.core import pushed
from handlers.core.errors import Conflict
from handlers.core.model import File, Pushed
from handlers.core.stored import Stored
from hydra_cli import push as push_command
from hydra_cli import push_turn
from hydra_cli.push_turn import Turn
from tests.cli.desk import v
from tests.cli.test_push import Bench
from tests.fakes_objects import FakeObjects
from tests.fakes_uploads import FakeUploads
from tests.servers import S3, wait_until

ELSEWHERE = Pushed(complete=False, who="bob", when="2026-06-01T11:59:00Z", push="1", at="elsewhere")
MINE, OTHER = {"a": b"mine", "b": b"mine too"}, {"a": b"other", "c": b"other too"}


@pytest.fixture
def bench(tmp_path: Path, s3: S3) -> Bench:
    made = Bench(tmp_path, s3, s3.bucket())
    for path, body in MINE.items():
        made.file(path, body)
    return made


@pytest.fixture
def rival(bench: Bench, tmp_path: Path, s3: S3) -> Bench:
    """Another folder that is pushed to the same place."""
    folder = tmp_path / "rival"
    folder.mkdir()
    made = Bench(folder, s3, bench.bucket)
    for path, body in OTHER.items():
        made.file(path, body)
    return made


def once_at(point: str, act: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Do it once when a push comes to a point; that push goes on afterwards."""
    owner, name = {
        "before the first object": (push_command._Push, "_send"),
        "while it reads the first object": (send, "_bytes"),
        "before the manifest": (push_command._Push, "_described"),
    }[point]
    real, done = getattr(owner, name), list[bool]()

    def hooked(*args: Any, **more: Any) -> Any:
        if not done:
            done.append(True)
            act()
        return real(*args, **more)

    monkeypatch.setattr(owner, name, hooked)


def assert_whole(bench: Bench, bodies: dict[str, bytes]) -> None:
    """The manifest is complete and says what lies there, which is `bodies`."""
    manifest, prefix = bench.manifest(), f"words/{v(1)}/"
    rows = bench.client.list_objects_v2(Bucket=bench.bucket, Prefix=prefix)["Contents"]
    there = {r["Key"]: File(r["Key"], r["Size"], r["ETag"].strip('"')) for r in rows}
    assert manifest.complete
    assert pushed.differences({prefix + f.path: f for f in manifest.files}, there) == []
    assert {key: bench.body(key) for key in there} == {prefix + p: b for p, b in bodies.items()}


POINTS = ("before the first object", "while it reads the first object", "before the manifest")


@pytest.mark.parametrize("point", POINTS)
def test_the_second_of_two_pushes_is_refused_wherever_the_first_is(
    bench: Bench, rival: Bench, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[Any] = []
    once_at(point, lambda: answers.append(rival.push()), monkeypatch)

    first = bench.push(1, "--streams", "1")

    assert (first.code, answers[0].code) == (0, 5), (first, answers)
    assert "eve is pushing this version now" in answers[0].err
    assert_whole(bench, MINE)
    again = rival.push()
    assert (again.code, "never changes" in again.err) == (5, True), again
    assert_whole(bench, MINE)


@pytest.mark.parametrize("point", POINTS)
def test_a_push_that_lost_its_turn_never_writes_a_manifest(
    bench: Bench, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that was frozen for so long that another machine took over."""
    key, taken = f"words/{v(1)}.hydra.json", pushed.seal(ELSEWHERE)
    once_at(point, lambda: bench.s3.put(bench.bucket, {key: taken}), monkeypatch)

    answer = bench.push()

    assert (answer.code, "somebody else has begun" in answer.err) == (5, True), answer
    assert bench.body(key) == taken


def test_a_lost_turn_is_noticed_before_everything_is_sent(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[Turn] = []

    class Watched(Turn):
        def __init__(self, *args: Any) -> None:
            turns.append(self)
            super().__init__(*args)

    def take_over() -> None:
        bench.s3.put(bench.bucket, {f"words/{v(1)}.hydra.json": pushed.seal(ELSEWHERE)})
        wait_until(turns[0]._lost.is_set)

    monkeypatch.setattr(push_command, "Turn", Watched)
    monkeypatch.setattr(push_turn, "RENEW_S", 0.02)
    once_at("while it reads the first object", take_over, monkeypatch)

    for number in range(50):
        bench.file(f"more/{number}", b"x")

    answer = bench.push(1, "--streams", "1")

    assert answer.code == 5, answer
    assert len(bench.names()) < 10


@pytest.mark.parametrize(("body", "code"), [(b"theirs", 5), (MINE["a"], 0)], ids=["other", "the same"])
def test_what_somebody_writes_meanwhile_is_not_replaced(
    bench: Bench, body: bytes, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = f"words/{v(1)}/a"
    crc = {"ChecksumCRC64NVME": send.crc64nvme(body)}
    once_at(
        "while it reads the first object",
        lambda: bench.client.put_object(Bucket=bench.bucket, Key=key, Body=body, **crc),
        monkeypatch,
    )

    answer = bench.push(1, "--streams", "1")

    assert answer.code == code, answer
    assert bench.body(key) == body
    assert bench.manifest().complete is (code == 0)
    if code:
        assert "written by somebody else meanwhile" in answer.err


def test_a_push_that_is_silent_elsewhere_is_taken_over(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push_turn, "SILENT_S", 0.2)
    monkeypatch.setattr(push_turn, "_LOOK_S", 0.05)
    bench.s3.put(bench.bucket, {f"words/{v(1)}.hydra.json": pushed.seal(ELSEWHERE)})

    answer = bench.push()

    assert (answer.code, "that bob began is still at work" in answer.err) == (0, True), answer
    assert_whole(bench, MINE)


def test_a_push_that_is_at_work_elsewhere_is_not(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    key = f"words/{v(1)}.hydra.json"
    bench.s3.put(bench.bucket, {key: pushed.seal(ELSEWHERE)})
    alive = pushed.seal(replace(ELSEWHERE, push="2"))
    monkeypatch.setattr("hydra_cli.push_turn.time.sleep", lambda _: bench.s3.put(bench.bucket, {key: alive}))

    answer = bench.push()

    assert (answer.code, "bob is pushing this version now" in answer.err) == (5, True), answer
    assert bench.names() == [key]
    assert bench.body(key) == alive


def test_a_turn_that_is_renewed_all_the_time_ends_well(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last write must not run into the renewal before it."""
    monkeypatch.setattr(push_turn, "RENEW_S", 0.0)
    for number in range(20):
        bench.file(f"more/{number}", b"x")

    assert bench.push().code == 0
    assert bench.manifest().complete


def test_a_push_that_failed_is_at_rest(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one, on whatever machine, need not find out whether it is still at work."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        once_at("before the manifest", interrupt, patch)
        assert bench.push().code == 130
    wait_until(lambda: not bench.manifest().push)

    monkeypatch.setattr(push_turn, "_is_alive", lambda at: None)
    assert bench.push().code == 0
    assert_whole(bench, MINE)


class Forgetful(FakeUploads):
    """A store that writes, and whose answers get lost: the request that is sent again is refused."""

    def write(self, source: Source, body: Body, crc: str, *, over: str | None = None) -> Stored:
        super().write(source, body, crc, over=over)
        raise Conflict("exists already")


def test_an_answer_that_is_lost_does_not_cost_the_turn() -> None:
    objects = FakeObjects({"data": {}})
    place = Source("data", "words.hydra.json")
    turn = Turn(objects, Forgetful(objects), place, "eve", "now")

    assert turn.take(lambda said: None) is None
    with turn.held() as check:
        check()
        turn.finish(Pushed(who="eve"))

    assert pushed.read(objects.buckets["data"][place.key], "").complete
