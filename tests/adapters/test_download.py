"""The download of a dataset: every byte checked, nothing fetched that is here, nothing done twice."""

from __future__ import annotations

import base64
import hashlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from awscrt import checksums
from blake3 import blake3

from handlers.adapters.crew import Superseded
from handlers.adapters.download import Download
from handlers.adapters.link import Link
from handlers.adapters.patience import Patience
from handlers.adapters.ports import Source
from handlers.adapters.reuse import Complete, Reuse
from handlers.adapters.volume import Volumes
from handlers.core import integrity
from handlers.core.errors import Integrity, SlowDown, Temporary
from handlers.core.holdings import Piece
from handlers.core.model import DISK, File, Manifest, VolumeInfo
from handlers.core.names import Channel
from handlers.core.version import ReleaseId, Version
from tests.fakes_objects import FakeObjects
from tests.servers import wait_until

UNIT = 40_960  # whole pages: to the file system a smaller hole is none
SOURCE = Source("bucket", "p/")
CHANNEL = Channel.parse("prod/search/places")
LEVELS = ("blake3", "crc64nvme", "md5", "size")


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handlers.adapters.download.RANGE_BYTES", 2 * UNIT)
    monkeypatch.setattr("handlers.adapters.part.CHUNK_BYTES", UNIT)
    monkeypatch.setattr("handlers.adapters.download.FIRST_PAUSE_S", 0.001)


def check_of(body: bytes, level: str) -> str:
    if level == "blake3":
        chunks = [body[at : at + UNIT] for at in range(0, max(1, len(body)), UNIT)]
        return integrity.blake3_check([blake3(chunk).digest() for chunk in chunks], UNIT)
    if level == "crc64nvme":
        return "crc64nvme:" + base64.b64encode(checksums.crc64nvme(body).to_bytes(8, "big")).decode()
    return f"md5:{hashlib.md5(body).hexdigest()}" if level == "md5" else ""


def piece(day: int) -> Piece:
    return Piece(ReleaseId.of(CHANNEL, Version(f"2026-01-{day:02}T00-00-00")), "index")


@dataclass
class Desk:
    """A node's volume and an object store; `take` brings one dataset here as sync does."""

    root: Path
    level: str = "blake3"
    store: FakeObjects = field(default_factory=lambda: FakeObjects({"bucket": {}}, piece_bytes=15_000))
    lists: dict[Piece, tuple[File, ...]] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.volumes = Volumes(self.root, {"disk": VolumeInfo(cls=DISK)})
        self.volumes.prepare()

    def files(self, bodies: dict[str, bytes]) -> tuple[File, ...]:
        """Put these on the store; what a release would say of them."""
        self.store.buckets["bucket"] = {f"p/{path}": body for path, body in bodies.items()}
        return tuple(
            File(path, len(body), hashlib.md5(body).hexdigest(), check_of(body, self.level))
            for path, body in bodies.items()
        )

    def download(
        self,
        files: tuple[File, ...],
        day: int = 1,
        reuse: Reuse | None = None,
        link: Link | None = None,
        **more: float,
    ) -> Download:
        return Download(
            self.store,
            SOURCE,
            files,
            self.volumes.stage("disk", piece(day)),
            link=link or Link(3),
            on_bytes=lambda count: None,
            stop=self.stop,
            reuse=reuse,
            **more,
        )

    def take(self, bodies: dict[str, bytes], day: int = 1) -> int:
        """Download and complete a dataset; bytes that the store sent."""
        files = self.files(bodies)
        others = [self.complete(p, "disk", self.lists[p]) for p in sorted(self.lists, reverse=True)]
        download = self.download(files, day, Reuse("index", files, others))
        download.run()
        self.volumes.complete("disk", piece(day))
        self.lists[piece(day)] = files
        return download.fetched

    def complete(self, other: Piece, volume: str, files: tuple[File, ...]) -> Complete:
        """A dataset that is here, as sync offers it for others."""
        manifest = Manifest(files={"index": files})
        return Complete(other, volume, partial(self.volumes.data, volume, other), lambda: manifest)

    def path(self, day: int, name: str) -> Path:
        return self.root / "volumes/disk/data" / CHANNEL / f"2026-01-{day:02}T00-00-00" / "index" / name

    def staged(self, name: str) -> Path:
        return self.root / "volumes/disk/staging" / CHANNEL / "2026-01-01T00-00-00" / "index" / name

    def parts(self) -> list[Path]:
        folder = self.root / "volumes/disk/staging" / CHANNEL / "2026-01-01T00-00-00" / ".parts" / "index"
        return sorted(folder.iterdir())


@pytest.fixture(params=["blake3"])
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path / "root", request.param)
    yield desk
    desk.stop.set()


def every_level(test: Callable[..., None]) -> Callable[..., None]:
    marked: Callable[..., None] = pytest.mark.parametrize("desk", LEVELS, indirect=True)(test)
    return marked


@every_level
def test_files_of_all_sizes_arrive(desk: Desk) -> None:
    sizes = (0, 1, UNIT - 1, UNIT, UNIT + 1, 2 * UNIT, 5 * UNIT + 7)
    bodies = {f"sub{n % 2}/f{n}": os.urandom(size) for n, size in enumerate(sizes)}

    assert desk.take(bodies) == sum(sizes)

    for name, body in bodies.items():
        assert desk.path(1, name).read_bytes() == body
        assert desk.path(1, name).stat().st_mode & 0o777 == 0o444


def flipped(body: bytes, at: int) -> bytes:
    changed = bytearray(body)
    changed[at] ^= 1 << at % 8
    return bytes(changed)


class Liar(FakeObjects):
    """A store that tells the right sizes and ETags, and flips a bit in some of its answers."""

    lies = 1
    at = 0

    def read_range(
        self, source: Source, etag: str, start: int, length: int, version_id: str = ""
    ) -> Iterator[memoryview]:
        lies = start <= self.at < start + length and self.lies > 0
        self.lies -= lies
        here = start
        for view in super().read_range(source, etag, start, length, version_id):
            if lies and here <= self.at < here + len(view):
                view[self.at - here] ^= 4
            here += len(view)
            yield view


@pytest.mark.parametrize("desk", LEVELS[:3], indirect=True)
@pytest.mark.parametrize("times", [1, 2])
def test_a_flip_on_the_wire_is_mended_once_and_refused_twice(desk: Desk, times: int) -> None:
    body, chance = os.urandom(5 * UNIT + 7), random.Random(3)
    for number in range(30):
        desk.store = Liar({"bucket": {}}, piece_bytes=15_000)
        files = desk.files({"f": body})
        desk.store.at, desk.store.lies = chance.randrange(len(body)), times
        if times == 1:
            desk.download(files, number + 1).run()
        else:
            with pytest.raises(Integrity, match=r"s3://bucket/p/f.*twice"):
                desk.download(files, number + 1).run()


def test_a_wrong_chunk_alone_is_fetched_again(desk: Desk) -> None:
    desk.store = store = Liar({"bucket": {}}, piece_bytes=15_000)
    store.at, body = 3 * UNIT + 5, os.urandom(5 * UNIT)

    assert desk.take({"f": body}) == 6 * UNIT
    assert store.reads[-1][1:] == (3 * UNIT, UNIT) or ("p/f", 3 * UNIT, UNIT) in store.reads


def begin(desk: Desk, files: tuple[File, ...], after: int) -> None:
    """A download that is given up when a range comes to the position `after`."""

    def interrupt(_source: Source, at: int) -> None:
        if at >= after:
            desk.stop.set()

    desk.store.before_piece = interrupt
    with pytest.raises(Superseded):
        desk.download(files).run()
    desk.stop = threading.Event()
    desk.store.before_piece = lambda source, at: None
    desk.store.reads.clear()


@pytest.mark.parametrize("desk", LEVELS[:3], indirect=True)
def test_the_next_run_goes_on_from_the_chunks_that_are_here(desk: Desk) -> None:
    body = os.urandom(40 * UNIT)
    files = desk.files({"f": body})
    begin(desk, files, 20 * UNIT)

    fetched = desk.take({"f": body})

    assert fetched <= 40 * UNIT - 14 * UNIT
    assert desk.path(1, "f").read_bytes() == body


@pytest.mark.parametrize("desk", LEVELS[:3], indirect=True)
def test_a_flip_in_a_part_between_two_runs_is_mended(desk: Desk) -> None:
    body = os.urandom(40 * UNIT)
    files = desk.files({"f": body})
    begin(desk, files, 20 * UNIT)
    (part,) = desk.parts()
    part.write_bytes(flipped(part.read_bytes(), 3 * UNIT + 9))

    desk.take({"f": body})

    assert desk.path(1, "f").read_bytes() == body


def test_without_a_check_a_part_begins_anew(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "root", "size")
    body = os.urandom(40 * UNIT)
    begin(desk, desk.files({"f": body}), 20 * UNIT)

    assert desk.take({"f": body}) == len(body)


@pytest.mark.parametrize("desk", LEVELS[:3], indirect=True)
def test_a_flip_in_a_finished_staged_file_is_mended(desk: Desk) -> None:
    bodies = {"a": os.urandom(3 * UNIT), "b": os.urandom(100)}
    files = desk.files(bodies)
    desk.download(files).run()
    desk.staged("a").chmod(0o644)
    desk.staged("a").write_bytes(flipped(bodies["a"], 2 * UNIT))

    assert desk.take(bodies) == 3 * UNIT
    assert desk.path(1, "a").read_bytes() == bodies["a"]


def test_parts_of_other_content_are_not_taken_up(desk: Desk) -> None:
    begin(desk, desk.files({"f": os.urandom(40 * UNIT)}), 20 * UNIT)
    body = os.urandom(40 * UNIT)

    assert desk.take({"f": body}) == len(body)
    assert not desk.staged("f").exists()


@pytest.mark.parametrize("desk", LEVELS[:3], indirect=True)
def test_what_another_release_has_is_linked(desk: Desk) -> None:
    bodies = {"a": os.urandom(3 * UNIT), "sub/b": os.urandom(100), "empty": b""}
    desk.take(bodies)

    assert desk.take({"moved/a": bodies["a"], "sub/b": bodies["sub/b"], "new": b"new"}, day=2) == 3
    assert desk.path(2, "moved/a").stat().st_ino == desk.path(1, "a").stat().st_ino


def test_without_a_check_nothing_is_linked(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "root", "size")
    desk.take({"a": b"12345"})

    assert desk.take({"a": b"12345"}, day=2) == 5


@pytest.mark.parametrize("desk", LEVELS[:3], indirect=True)
def test_damage_of_another_release_is_not_taken_over(desk: Desk) -> None:
    body = os.urandom(3 * UNIT)
    desk.take({"a": body})
    old = desk.path(1, "a")
    old.chmod(0o644)
    old.write_bytes(flipped(body, UNIT + 3))

    fetched = desk.take({"a": body}, day=2)

    assert fetched == (UNIT if desk.level == "blake3" else 3 * UNIT)
    assert desk.path(2, "a").read_bytes() == body
    assert desk.path(2, "a").stat().st_ino != old.stat().st_ino


def test_only_changed_chunks_of_a_file_are_fetched(desk: Desk) -> None:
    old = os.urandom(100 * UNIT)
    new = flipped(old, 50 * UNIT + 1) + b"appended"
    desk.take({"f": old})

    assert desk.take({"f": new}, day=2) == UNIT + len(b"appended")
    assert desk.path(2, "f").read_bytes() == new
    assert desk.path(1, "f").read_bytes() == old


def test_equal_files_on_another_volume_are_copied_not_fetched(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "root")
    body = os.urandom(3 * UNIT)
    desk.take({"a": body})
    files = desk.files({"a": body})

    def refuse(*_: object, **__: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    reuse = Reuse("index", files, [desk.complete(piece(1), "disk", files)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "link", refuse)
        download = desk.download(files, 2, reuse)
        download.run()

    assert download.fetched == 0


def test_slow_down_is_obeyed_and_waited_out(desk: Desk) -> None:
    refusals = [20]
    lock = threading.Lock()

    def busy(source: Source, at: int) -> None:
        with lock:
            refusals[0] -= 1
            if refusals[0] >= 0:
                raise SlowDown(f"{source}: 503")

    desk.store.before_piece = busy
    body = os.urandom(60 * UNIT)

    assert desk.take({"f": body}) == len(body)
    assert len(desk.store.reads) <= 30 + 20 + 1


def test_cut_answers_go_on_where_they_were_cut(desk: Desk) -> None:
    cuts = iter(range(100))

    def cut(source: Source, at: int) -> None:
        if next(cuts, 100) % 3 == 2:
            raise Temporary(f"{source}: cut")

    desk.store.before_piece = cut
    body = os.urandom(60 * UNIT)

    assert desk.take({"f": body}) == len(body)
    assert desk.path(1, "f").read_bytes() == body


def test_an_object_replaced_on_the_way_is_named(desk: Desk) -> None:
    body = os.urandom(40 * UNIT)
    files = desk.files({"f": body})

    def replace(_source: Source, at: int) -> None:
        if at >= 10 * UNIT:
            desk.store.buckets["bucket"]["p/f"] = body[::-1]

    desk.store.before_piece = replace
    with pytest.raises(Integrity, match="s3://bucket/p/f"):
        desk.download(files).run()
    assert desk.parts() == [], "what cannot be right does not keep its room"


def test_bytes_a_second_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0.0)
            return False

    link, stop = Link(4, 1_000_000), Stop()
    began = time.monotonic()
    for _ in range(10):
        link.pace(500_000, stop)

    took_s = time.monotonic() - began
    assert waits[-1] == pytest.approx(5.0, abs=0.2 + took_s)
    Link(4).pace(10**12, stop)
    assert len(waits) == 10


def test_refusals_halve_the_streams_and_success_brings_them_back() -> None:
    link = Link(4)
    link.ease()
    link.ease()  # of the same burst
    taken: list[int] = []
    leave = threading.Event()

    def hold() -> None:
        with link.stream(leave.is_set):
            taken.append(1)
            leave.wait(10)

    threads = [threading.Thread(target=hold) for _ in range(4)]
    for thread in threads:
        thread.start()
    while len(taken) < 2:
        leave.wait(0.01)
    assert not leave.wait(0.4)
    assert len(taken) == 2
    for _ in range(3):  # a little more than all that are allowed
        link.went_well()
    while len(taken) < 3:
        leave.wait(0.01)
    leave.set()
    for thread in threads:
        thread.join()


def test_who_waits_longest_for_a_stream_gets_it_next() -> None:
    """Or a dataset of many ranges would keep all others waiting for as long as it takes."""
    link, order, never = Link(1), list[int](), threading.Event()
    first = link.stream(never.is_set)
    first.__enter__()

    def take(number: int) -> None:
        with link.stream(never.is_set):
            order.append(number)

    threads = []
    for number in range(4):
        threads.append(threading.Thread(target=take, args=(number,)))
        threads[-1].start()
        wait_until(lambda: len(link._waiting) == len(threads))
    first.__exit__(None, None, None)
    take(4)
    for thread in threads:
        thread.join()

    assert order == [0, 1, 2, 3, 4]


def test_patience_runs_only_while_somebody_asks() -> None:
    now = [0.0]
    patience = Patience(10, clock=lambda: now[0])

    with patience.asking():
        now[0] += 9
    now[0] += 1000
    assert not patience.over()
    with patience.asking(), patience.asking():
        now[0] += 2
        assert patience.over()
        patience.came()
        now[0] += 9
        assert not patience.over()
    with patience.asking():
        now[0] += 2
    assert patience.over()


def test_waiting_for_a_stream_does_not_use_up_the_patience(desk: Desk) -> None:
    """Other datasets have all streams for longer than a store may be silent; then one answer fails."""
    files, link, faults = desk.files({"f": b"late"}), Link(1), iter([True])
    others = link.stream(desk.stop.is_set)
    others.__enter__()
    download = desk.download(files, link=link, patience_s=0.5)

    def fail_once(_source: Source, _at: int) -> None:
        if next(faults, False):
            raise Temporary("the line broke")

    desk.store.before_piece = fail_once
    run = threading.Thread(target=download.run)
    run.start()
    wait_until(lambda: link._waiting)
    desk.stop.wait(1.0)  # twice its patience
    others.__exit__(None, None, None)
    run.join()

    assert download.fetched == 4
    assert desk.staged("f").read_bytes() == b"late"
