"""What volumes must do, on a disk and in memory (tmpfs): one suite on both."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from handlers.adapters import measure, usage
from handlers.adapters.crew import Superseded
from handlers.adapters.download import Download
from handlers.adapters.folder import Folder
from handlers.adapters.link import Link
from handlers.adapters.part import part_name
from handlers.adapters.ports import Source
from handlers.adapters.rooms import Rooms
from handlers.adapters.volume import Volumes
from handlers.core.errors import HydraError, Integrity, Temporary
from handlers.core.holdings import Piece, footprint
from handlers.core.model import DISK, RAM, File, VolumeInfo
from handlers.core.names import Channel
from handlers.core.version import ReleaseId, Version
from tests.fakes_objects import FakeObjects

PLACES = Channel("prod/search/places")
RELEASE = ReleaseId.of(PLACES, Version("2026-01-01T00-00-00"))
OTHER = ReleaseId.of(PLACES, Version("2026-01-02T00-00-00"))
PIECE = Piece(RELEASE, "index")
INFOS = {"disk": VolumeInfo(cls=DISK), "fast": VolumeInfo(cls="nvme"), "ram": VolumeInfo(cls=RAM)}
SOURCE = Source("bucket", "p/")


@pytest.fixture(params=["disk", "tmpfs"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    if request.param == "disk":
        yield tmp_path / "root"
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="hydra-test-") as folder:
        yield Path(folder) / "root"


@pytest.fixture
def volumes(root: Path) -> Volumes:
    made = Volumes(root, INFOS)
    made.prepare()
    return made


def stage(volumes: Volumes, files: dict[str, bytes], piece: Piece = PIECE, volume: str = "disk") -> None:
    """Stage a dataset the way the handler does."""
    store = FakeObjects({"bucket": {f"p/{path}": body for path, body in files.items()}})
    fetch(volumes, store, files, piece=piece, volume=volume)


def listed(store: FakeObjects) -> tuple[File, ...]:
    return tuple(File(path=i.key[2:], size=i.size, etag=i.etag) for i in store.list(SOURCE))


def fetch(
    volumes: Volumes,
    store: FakeObjects,
    files: dict[str, bytes],
    *,
    piece: Piece = PIECE,
    volume: str = "disk",
    stop: threading.Event | None = None,
    on_bytes: Callable[[int], None] = lambda count: None,
    patience_s: float = 300.0,
) -> None:
    names = tuple(f for f in listed(store) if f.path in files)
    Download(
        store,
        SOURCE,
        names,
        volumes.stage(volume, piece),
        link=Link(4),
        on_bytes=on_bytes,
        stop=stop or threading.Event(),
        patience_s=patience_s,
    ).run()


def all_below(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


def test_a_dataset_goes_from_staging_to_data_to_its_public_name(root: Path, volumes: Volumes) -> None:
    stage(volumes, {"a": b"1", "sub/deep/b": b"22", "empty": b""})
    assert volumes.inventory().staged == {PIECE: "disk"}
    volumes.complete("disk", PIECE)
    assert volumes.inventory().complete == {PIECE: "disk"}
    volumes.publish(RELEASE, {"index": "disk"})

    public = root / "releases" / PLACES / RELEASE.version / "index"
    assert (public / "sub/deep/b").read_bytes() == b"22"
    assert (public / "empty").read_bytes() == b""
    assert not public.readlink().is_absolute()
    assert volumes.inventory().released == {RELEASE}
    assert all_below(root / "volumes/disk/staging") == {".trash"}


def test_deleting_leaves_no_trace(root: Path, volumes: Volumes) -> None:
    stage(volumes, {"sub/deep/b": b"22"})
    volumes.complete("disk", PIECE)
    volumes.publish(RELEASE, {"index": "disk"})
    copy = root / "volumes/ram/data" / PLACES / RELEASE.version / "index"
    copy.mkdir(parents=True)
    volumes.delete(RELEASE)
    volumes.delete(RELEASE)

    assert volumes.inventory().held == frozenset()
    assert all_below(root / "releases") == {".trash"}
    for name in INFOS:
        assert all_below(root / "volumes" / name) == {"data", "staging", "staging/.trash"}


def test_deleting_one_release_keeps_the_others(volumes: Volumes) -> None:
    for release in (RELEASE, OTHER):
        stage(volumes, {"a": b"1"}, Piece(release, "index"))
        volumes.complete("disk", Piece(release, "index"))
        volumes.publish(release, {"index": "disk"})
    volumes.delete(RELEASE)

    assert volumes.inventory().released == {OTHER}
    assert volumes.inventory().complete == {Piece(OTHER, "index"): "disk"}


def test_a_crash_leaves_only_trash_that_the_next_start_deletes(root: Path, volumes: Volumes) -> None:
    for trash in (root / "volumes/disk/staging/.trash/0", root / "releases/.trash/1"):
        (trash / "below").mkdir(parents=True)
        (trash / "below/file").write_bytes(b"x")
        (trash / "below").chmod(0o555)
    volumes.prepare()

    assert not any((root / "volumes/disk/staging/.trash").iterdir())
    assert not any((root / "releases/.trash").iterdir())


def test_sweeping_spares_what_is_wanted_and_the_cache_of_what_is_known(root: Path, volumes: Volumes) -> None:
    for release in (RELEASE, OTHER):
        for area in ("disk/staging", "ram/staging", "ram/data"):
            (root / "volumes" / area / PLACES / release.version / "index").mkdir(parents=True)
    (root / "volumes/disk/staging/not a release").mkdir()
    volumes.sweep([RELEASE], [RELEASE])

    left = {p.parts[-2] for p in (root / "volumes").rglob("index")}
    assert left == {RELEASE.version}
    assert (root / "volumes/disk/staging/not a release").exists()


def test_space_is_what_the_reserve_and_the_budget_leave(root: Path, volumes: Volumes) -> None:
    stage(volumes, {"a": b"x" * 100_000})
    free = os.statvfs(root).f_bavail * os.statvfs(root).f_frsize
    limited = Volumes(root, {"disk": VolumeInfo(cls=DISK, budget_bytes=1_000_000)})
    reserved = Volumes(root, {"disk": VolumeInfo(cls=DISK, reserve_bytes=free * 2)})

    # in RAM, what the machine has left counts as well
    assert 0 < Rooms(volumes).space("disk").bytes < free * 1.2
    assert 850_000 < Rooms(limited).space("disk").bytes <= 900_000
    assert Rooms(reserved).space("disk").bytes < 0
    assert Rooms(volumes).space("disk").files > 0


def test_a_footprint_counts_blocks_inodes_and_what_is_staged() -> None:
    files = [File(path=p, size=s, etag="e") for p, s in (("a", 1), ("d/b", 4096), ("d/c", 4097), ("z", 0))]

    fresh = footprint(files, lambda file: 0, 4096)
    later = footprint(files, lambda file: {"d/b": 4096, "d/c": 4096}.get(file.path, 0), 4096)

    assert (fresh.bytes - later.bytes, fresh.files - later.files) == (2 * 4096, 1)
    assert fresh.bytes >= 4 * 4096


@pytest.mark.parametrize("planted", ["volumes", "volumes/disk", "volumes/disk/staging", "volumes/disk/data"])
def test_links_in_the_way_are_refused(planted: str, root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / PLACES).mkdir(parents=True)
    (outside / PLACES / "precious").write_bytes(b"mine")
    (root / planted).parent.mkdir(parents=True)
    (root / planted).symlink_to(outside)

    with pytest.raises(HydraError, match="link"):
        Volumes(root, INFOS).prepare()
    assert (outside / PLACES / "precious").read_bytes() == b"mine"


@pytest.mark.parametrize("area", ["data", "staging"])
def test_links_below_a_volume_lead_nowhere(area: str, root: Path, volumes: Volumes, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "search/places" / RELEASE.version / "index").mkdir(parents=True)
    (root / "volumes/disk" / area / "prod").symlink_to(outside)
    before = all_below(outside)

    assert volumes.inventory().held == frozenset()
    for act in (
        lambda: volumes.stage("disk", PIECE),
        lambda: volumes.complete("disk", PIECE),
        lambda: volumes.delete(RELEASE),
        lambda: volumes.sweep([], []),
    ):
        with contextlib.suppress(HydraError):
            act()
    assert all_below(outside) == before


def test_a_link_among_the_data_is_deleted_not_followed(root: Path, volumes: Volumes, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"mine")
    stage(volumes, {"a": b"1"})
    volumes.complete("disk", PIECE)
    data = root / "volumes/disk/data" / PLACES / RELEASE.version / "index"
    data.chmod(0o755)
    (data / "link").symlink_to(outside)
    volumes.delete(RELEASE)

    assert (outside / "precious").read_bytes() == b"mine"
    assert not data.exists()


def test_a_link_in_place_of_a_staged_folder_or_part_is_refused(
    root: Path, volumes: Volumes, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    staged = root / "volumes/disk/staging" / PLACES / RELEASE.version / "index"
    staged.mkdir(parents=True)
    (staged / "sub").symlink_to(outside)

    with pytest.raises(HydraError, match="link"):
        stage(volumes, {"sub/b": b"22"})
    assert not any(outside.iterdir())


def test_a_root_behind_a_link_is_fine(root: Path, tmp_path: Path) -> None:
    root.mkdir(parents=True)
    link = tmp_path / "link"
    link.symlink_to(root)
    volumes = Volumes(link, INFOS)
    volumes.prepare()
    stage(volumes, {"a": b"1"})
    volumes.complete("disk", PIECE)

    assert volumes.inventory().complete == {PIECE: "disk"}


def test_large_files_come_in_ranges_side_by_side(
    root: Path, volumes: Volumes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handlers.adapters.download.RANGE_BYTES", 100_000)
    monkeypatch.setattr("handlers.adapters.part.CHUNK_BYTES", 50_000)
    body = os.urandom(1_234_567)
    store, counted = FakeObjects({"bucket": {"p/big": body}}, piece_bytes=30_000), [0]
    lock = threading.Lock()

    def count(number: int) -> None:
        with lock:
            counted[0] += number

    fetch(volumes, store, {"big": body}, on_bytes=count)

    staged = root / "volumes/disk/staging" / PLACES / RELEASE.version / "index/big"
    assert staged.read_bytes() == body
    assert staged.stat().st_mode & 0o777 == 0o444
    assert counted[0] == len(body)
    assert sorted(start for _, start, _ in store.reads) == list(range(0, len(body), 100_000))


def test_a_stuck_download_is_left_within_a_second_or_two(root: Path, volumes: Volumes) -> None:
    store, stop, stuck = FakeObjects({"bucket": {"p/a": b"x" * 10}}), threading.Event(), threading.Event()

    def hang(source: Source, at: int) -> None:
        stop.set()
        stuck.wait(60)

    store.before_piece = hang
    began = time.monotonic()

    with pytest.raises(Superseded):
        fetch(volumes, store, {"a": b""}, stop=stop)

    assert time.monotonic() - began < 15  # the network would keep it for longer
    stuck.set()


def test_the_part_of_a_broken_download_does_not_keep_room(root: Path, volumes: Volumes) -> None:
    store = FakeObjects({"bucket": {"p/a": b"x" * 50_000, "p/b": b"b"}}, piece_bytes=10_000)
    wrong = [File(path="a", size=50_000, etag="e"), *listed(store)[1:]]

    with pytest.raises(Integrity, match="s3://bucket/p/a"):
        Download(
            store,
            SOURCE,
            wrong,
            volumes.stage("disk", PIECE),
            link=Link(1),
            on_bytes=lambda count: None,
            stop=threading.Event(),
        ).run()

    parts = root / "volumes/disk/staging" / PLACES / RELEASE.version / ".parts/index"
    assert not (parts / part_name(wrong[0])).exists()


def test_patience_ends_when_nothing_comes(volumes: Volumes) -> None:
    store = FakeObjects({"bucket": {"p/a": b"x"}})

    def broken(source: Source, at: int) -> None:
        raise Temporary("the connection broke")

    store.before_piece = broken
    with pytest.raises(Temporary, match="the connection broke"):
        fetch(volumes, store, {"a": b"x"}, patience_s=3.0)
    assert len(store.reads) > 2


def test_many_faults_in_a_row_cost_few_requests(volumes: Volumes) -> None:
    store, faults = FakeObjects({"bucket": {f"p/{n}": b"x" for n in range(20)}}), iter(range(20))

    def busy(source: Source, at: int) -> None:
        if next(faults, None) is not None:
            raise Temporary("503 SlowDown")

    store.before_piece = busy
    fetch(volumes, store, {str(n): b"" for n in range(20)})

    assert len(store.reads) == 40


def test_no_descriptor_stays_open(volumes: Volumes) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    stage(volumes, {f"d{n}/f": b"x" for n in range(50)})
    volumes.complete("disk", PIECE)
    volumes.publish(RELEASE, {"index": "disk"})
    volumes.inventory()
    volumes.delete(RELEASE)

    assert len(list(Path("/proc/self/fd").iterdir())) <= before


def test_views_tell_which_releases_they_lead_to(root: Path, volumes: Volumes) -> None:
    assert usage.viewed(root) == frozenset()
    view = root / "views/prod/search/api/api-1"
    for number, release in enumerate((RELEASE, OTHER)):
        (view / f"..{number}").mkdir(parents=True)
        target = f"../../../../../../releases/{PLACES}/{release.version}"
        (view / f"..{number}" / "places").symlink_to(target)
    (view / "..data").symlink_to("..1")
    (view / "places").symlink_to("..data/places")
    (view / "state").write_text("ready")
    (view / "odd").symlink_to("/etc/passwd")

    assert usage.viewed(root) == {RELEASE, OTHER}
    shutil.rmtree(view / "..0")
    assert usage.viewed(root) == {OTHER}


def test_what_a_process_has_open_counts_for_its_own_root_only(
    root: Path, volumes: Volumes, tmp_path: Path
) -> None:
    other = Volumes(tmp_path / "other", INFOS)
    other.prepare()
    for each in (volumes, other):
        stage(each, {"a": b"1"})
        each.complete("disk", PIECE)
    held = root / "volumes/disk/data" / PLACES / RELEASE.version / "index/a"
    with (
        held.open() as file,
        subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[file.fileno()]) as cat,
    ):
        assert usage.opened(root, [RELEASE, OTHER])[0] == {RELEASE: f"process {cat.pid} has it open"}
        assert usage.opened(tmp_path / "other", [RELEASE])[0] == {}


@contextlib.contextmanager
def holding(path: Path, how: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has a file open, or only mapped."""
    script = (
        "import mmap, sys; file = open(sys.argv[1], 'rb')\n"
        "if sys.argv[2] == 'mapped': held = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ); file.close()\n"
        "print('here', flush=True); sys.stdin.read()"
    )
    args = [sys.executable, "-c", script, str(path), how]
    with subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        yield process


def linked(root: Path, volumes: Volumes) -> tuple[Path, Path]:
    """Two releases that share a file."""
    stage(volumes, {"a": b"x" * 50_000})
    volumes.complete("disk", PIECE)
    first = root / "volumes/disk/data" / PLACES / RELEASE.version / "index/a"
    second = root / "volumes/disk/data" / PLACES / OTHER.version / "index/a"
    second.parent.mkdir(parents=True)
    second.hardlink_to(first)
    return first, second


@pytest.mark.parametrize("how", ["open", "mapped"])
def test_shared_file_is_in_use_for_the_release_by_which_it_was_opened(
    root: Path, volumes: Volumes, how: str
) -> None:
    """Else an old release would stay for as long as a new one has one file of it."""
    _, second = linked(root, volumes)
    both = [RELEASE, OTHER]
    with holding(second, how) as process:
        assert usage.opened(root, both)[0] == {OTHER: f"process {process.pid} has it open"}
        assert usage.opened(root, [RELEASE], both)[0] == {}
        elsewhere = root / "elsewhere"
        elsewhere.hardlink_to(second)
        with holding(elsewhere, how):  # by whatever name: it is the same file
            assert set(usage.opened(root, both)[0]) == {RELEASE, OTHER}


@pytest.mark.parametrize("how", ["open", "mapped"])
def test_deleted_file_that_is_held_still_takes_its_room(root: Path, volumes: Volumes, how: str) -> None:
    volumes = Volumes(root, {**INFOS, "disk": VolumeInfo(cls=DISK, budget_bytes=10**6)})
    stage(volumes, {"a": b"x" * 500_000})
    volumes.complete("disk", PIECE)
    before = Rooms(volumes).space("disk").bytes
    with holding(root / "volumes/disk/data" / PLACES / RELEASE.version / "index/a", how):
        volumes.delete(RELEASE)

        assert abs(usage.deleted(root)["disk"] - 500_000) < 20_000
        assert abs(Rooms(volumes).space("disk").bytes - before) < 20_000
    assert usage.deleted(root) == {}
    assert Rooms(volumes).space("disk").bytes > 900_000


def test_shared_file_counts_once_and_comes_free_with_its_last_release(root: Path, volumes: Volumes) -> None:
    linked(root, volumes)
    limits = VolumeInfo(cls=DISK, budget_bytes=10**6, namespaces={"prod/search": 200_000, "prod/maps": 50})
    limited = Volumes(root, {"disk": limits})

    rooms, shares = Rooms(limited).all(), Rooms(limited).shares()

    assert 900_000 < rooms["disk"].bytes < 950_000
    assert 100_000 < rooms["disk/prod/search"].bytes < 150_000
    assert rooms["disk/prod/maps"].bytes == 50
    assert set(shares) == {frozenset([RELEASE, OTHER])}
    (found,) = shares.values()
    assert found["disk"] == found["disk/prod/search"]
    assert 50_000 <= found["disk"].bytes < 60_000


def test_volumes_on_one_file_system_have_a_joint_room_above_the_larger_reserve(root: Path) -> None:
    reserve = 50 * 1024**2
    infos = {**INFOS, "fast": VolumeInfo(cls="nvme", reserve_bytes=reserve)}
    volumes = Volumes(root, infos)
    volumes.prepare()

    rooms = Rooms(volumes).all()

    assert set(rooms) == {"disk", "fast", "ram", "disk+fast"}
    assert min(rooms["disk"].bytes, rooms["fast"].bytes) > rooms["disk+fast"].bytes
    assert abs(Rooms(volumes).space("disk").bytes - rooms["disk+fast"].bytes - reserve) < reserve / 2


def test_complete_data_is_measured_once_and_again_when_other_data_is_there(
    root: Path, volumes: Volumes, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = VolumeInfo(cls=DISK, budget_bytes=10**6, namespaces={"prod/search": 500_000})
    limited = Volumes(root, {"disk": limits})
    walked, walk = [0], measure.taken

    def counted(folder: Folder) -> int:
        found = walk(folder)
        walked[0] += found > 10_000  # folders alone take less
        return found

    monkeypatch.setattr(measure, "taken", counted)
    for day, release in enumerate((RELEASE, OTHER), start=1):
        stage(volumes, {"a": os.urandom(100_000), "sub/b": b"x"}, Piece(release, "index"))
        volumes.complete("disk", Piece(release, "index"))
        walked[0] = 0
        rooms = Rooms(limited).all()
        for again in range(3):
            found = Rooms(limited).all()  # as in a process of its own
            assert {name: room.bytes for name, room in found.items()} == {
                name: room.bytes for name, room in rooms.items()
            }
            assert walked[0] == 2, f"once for the volume and once for the namespace, not at {again}"
        assert rooms["disk"].bytes // 100_000 == 9 - day
        assert rooms["disk/prod/search"].bytes // 100_000 == 4 - day

    volumes.delete(OTHER)
    assert Rooms(limited).all()["disk"].bytes // 100_000 == 8
    shutil.rmtree(root / "state")
    assert Rooms(limited).all()["disk"].bytes // 100_000 == 8


def test_a_file_that_is_linked_into_staging_counts_once(root: Path, volumes: Volumes) -> None:
    stage(volumes, {"a": b"x" * 100_000})
    volumes.complete("disk", PIECE)
    limited = Rooms(Volumes(root, {"disk": VolumeInfo(cls=DISK, budget_bytes=10**6)}))
    before = limited.space("disk").bytes
    staged = root / "volumes/disk/staging" / PLACES / OTHER.version / "index/a"
    staged.parent.mkdir(parents=True)
    staged.hardlink_to(root / "volumes/disk/data" / PLACES / RELEASE.version / "index/a")

    assert limited.space("disk").bytes == before
    volumes.delete(RELEASE)
    assert limited.space("disk").bytes == before, "it is only in staging now"
    staged.with_name("b").hardlink_to(staged)
    assert limited.space("disk").bytes == before


def test_a_process_that_cannot_be_seen_is_told(tmp_path: Path) -> None:
    proc = tmp_path / "proc"
    (proc / "self/ns").mkdir(parents=True)
    (proc / "self/ns/pid").symlink_to("pid:[1234]")

    assert usage.opened(tmp_path, [RELEASE], proc=proc) == ({}, "this process sees only its own container")
    assert "cannot be read" in usage.opened(tmp_path, [RELEASE], proc=tmp_path)[1]


def test_a_process_of_somebody_else_makes_blind(volumes: Volumes) -> None:
    """As an ordinary user, who may not look into the processes of root."""
    script = (
        "import os, pathlib; from handlers.adapters import usage; "
        "os.getuid() or (os.setgid(65534), os.setuid(65534)); print(usage.opened(pathlib.Path('/'), [])[1])"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=Path.cwd()
    )

    assert re.search("cannot be looked into|only its own container", found.stdout)


def test_folders_are_made_and_pruned_as_far_as_empty(tmp_path: Path) -> None:
    with Folder.of(tmp_path) as top:
        top.open(["a", "b", "c"], make=True).close()
        (tmp_path / "a/file").write_bytes(b"x")
        top.prune(["a", "b", "c"])

        assert all_below(tmp_path) == {"a", "a/file"}
        assert top.find(["a", "b"]) is None
