"""D2: bytes that are another than they should be, at each level that claims protection, wherever they lie.

None of 1,000 random flips of one bit is accepted: on the wire, in what an ended run left in staging, in the
list of files, in a file of another release that would be linked. The numbers are printed.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from handlers.core import keys
from handlers.core.model import State
from handlers.core.version import ReleaseId
from tests.faults import rules
from tests.faults.field import DATASET, MIB, Field, right_bytes
from tests.faults.marks import LEVELS
from tests.servers import wait_until

FLIPS = 1000
FILE_BYTES = 40_000
UNIT = 16 * 1024
SEED = 20260131


def dataset(count: int = FLIPS) -> dict[str, bytes]:
    return {f"d{n % 10}/f{n:04}": os.urandom(FILE_BYTES) for n in range(count)}


def flip_on_disk(path: Path, at: int, bit: int) -> None:
    """Change one bit as a failing disk would: past the modes, without a trace in size or time."""
    before = path.stat()
    fd = os.open(path, os.O_RDWR)
    try:
        byte = os.pread(fd, 1, at)[0]
        os.pwrite(fd, bytes([byte ^ 1 << bit]), at)
        os.fsync(fd)
    finally:
        os.close(fd)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def accepted(field: Field, release: ReleaseId) -> int:
    """How many files with wrong content a reader would find."""
    if not field.folder(release).exists():
        return 0
    found, right = field.content(release)[DATASET], field.bodies[release][DATASET]
    return sum(found.get(path) != body for path, body in right.items())


@pytest.mark.parametrize("kind", LEVELS)
def test_d2_none_of_1000_flips_on_the_wire_is_accepted(
    field: Field, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each of 1,000 files comes with one wrong bit at first: each is fetched once more, and then right."""
    chance = random.Random(SEED)
    files = dataset()
    release = field.put_files(1, files, kind=kind, unit=UNIT)
    field.desire(1, release)
    for path in files:
        at = chance.randrange(FILE_BYTES)
        field.server.rule(rules.flip(at, chance.randrange(8)), field.key(release, path))

    ran = field.sync()

    assert ran.code == 0, ran.said
    wrong = accepted(field, release)
    asked = field.server.requests()
    again = sum(asked[field.key(release, path)] - 1 for path in files)
    with capsys.disabled():
        print(f"\nD2 wire, {kind}: {wrong} of {FLIPS} flips accepted, {again} requests made again")
    assert wrong == 0
    assert field.complete(release), field.status(release)
    assert again == FLIPS, "each file once more"
    size = FILE_BYTES if LEVELS[kind] != "digest" else UNIT
    assert field.server.bytes_sent() <= FLIPS * (FILE_BYTES + size)


@pytest.mark.parametrize("kind", LEVELS)
def test_d2_a_byte_that_stays_wrong_fails_the_release_with_file_and_chunk(field: Field, kind: str) -> None:
    """The flip comes each time: fetched once more, then failed, with the file (and chunk) in the reason."""
    field.limits_set["retry_s"] = 60  # the same run does not try again, however long it takes
    good, bad = field.put_files(1, {"a": b"good"}), field.put_files(2, dataset(20), kind=kind, unit=UNIT)
    field.desire(1, good, bad)
    key = field.key(bad, "d3/f0013")
    field.server.rule(rules.flip(UNIT + 77), key, times=None)

    ran = field.sync()

    assert ran.code == 0, ran.said
    reason = field.failed(bad)
    assert "f0013" in reason
    if LEVELS[kind] == "digest":
        assert f"{UNIT}" in reason or "chunk 1" in reason, reason
    assert field.server.requests()[key] == 2
    assert field.complete(good)


def killed_when(field: Field, staged: Callable[[], bool]) -> None:
    """Kill a run of the command once `staged` says that enough is in staging."""
    with field.running() as process:
        wait_until(staged, what="enough is staged")
        process.kill()
    field.server.forget()


def finished(field: Field) -> list[Path]:
    """The staged files that a run has finished."""
    return [path for path in field.staged() if len(path.name) == len("f0000")]


@pytest.mark.parametrize("kind", LEVELS)
def test_d2_none_of_1000_flips_in_finished_staged_files_is_accepted(
    field: Field, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run ends before its dataset is whole, then each staged file loses a bit: all are fetched again."""
    chance = random.Random(SEED)
    files = dataset() | {"z/last": os.urandom(1000)}
    release = field.put_files(1, files, kind=kind, unit=UNIT)
    field.desire(1, release)
    field.server.rule(rules.silence(), field.key(release, "z/last"), times=None)
    killed_when(field, lambda: len(finished(field)) == FLIPS)
    staged = finished(field)
    for path in staged:
        flip_on_disk(path, chance.randrange(FILE_BYTES), chance.randrange(8))

    ran = field.sync()

    assert ran.code == 0, ran.said
    wrong = accepted(field, release)
    with capsys.disabled():
        print(f"\nD2 staged files, {kind}: {wrong} of {len(staged)} flips accepted")
    assert len(staged) == FLIPS
    assert wrong == 0
    assert field.complete(release), field.status(release)


def test_d2_none_of_1000_flips_in_a_staged_partial_is_accepted(
    field: Field, capsys: pytest.CaptureFixture[str]
) -> None:
    """A partial of a killed run loses a bit in each of up to 1,000 chunks: exactly those come again."""
    chance = random.Random(SEED)
    body = os.urandom(32 * MIB)
    release = field.put_files(1, {"big": body}, unit=UNIT)
    field.desire(1, release)
    field.server.rule(rules.stall(30 * MIB), field.key(release, "big"), times=None)
    killed_when(field, lambda: sum(path.stat().st_blocks * 512 for path in field.staged()) >= 18 * MIB)
    (partial,) = [path for path in field.staged() if path.stat().st_size >= 18 * MIB]
    held = partial.read_bytes()
    good = [at for at in range(0, len(body), UNIT) if held[at : at + UNIT] == body[at : at + UNIT]]
    hit = chance.sample(good, FLIPS)
    for at in hit:
        flip_on_disk(partial, at + chance.randrange(UNIT), chance.randrange(8))
    right = right_bytes(partial, body, UNIT)

    ran = field.sync()

    assert ran.code == 0, ran.said
    wrong = accepted(field, release)
    with capsys.disabled():
        print(f"\nD2 partial: {wrong} of {len(hit)} flips accepted; {field.server.bytes_sent()} bytes again")
    assert wrong == 0
    assert field.complete(release), field.status(release)
    assert field.server.bytes_sent() <= len(body) - right


@pytest.mark.parametrize("kind", LEVELS)
def test_d2_none_of_1000_flips_in_the_source_of_a_hard_link_is_accepted(
    field: Field, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The release on the node has the same files, each with a wrong bit by now: none is passed on."""
    chance = random.Random(SEED)
    files = dataset()
    old = field.put_files(1, files, kind=kind, unit=UNIT)
    field.desire(1, old)
    field.synced(old)
    for path in files:
        place = field.data(old) / DATASET / path
        flip_on_disk(place, chance.randrange(FILE_BYTES), chance.randrange(8))
    field.server.forget()
    new = field.put_files(2, files, kind=kind, unit=UNIT)
    field.desire(2, old, new)

    ran = field.sync()

    assert ran.code == 0, ran.said
    wrong = accepted(field, new)
    with capsys.disabled():
        print(f"\nD2 hard links, {kind}: {wrong} of {FLIPS} flips accepted")
    assert wrong == 0
    assert field.complete(new), field.status(new)


@pytest.mark.parametrize("kind", LEVELS)
def test_d2_what_is_right_is_linked_and_moves_no_byte(field: Field, kind: str) -> None:
    """The counterpart: the same files, unharmed, move 0 bytes by the server's own count."""
    files = dataset(50)
    old = field.put_files(1, files, kind=kind, unit=UNIT)
    field.desire(1, old)
    field.synced(old)
    field.server.forget()
    new = field.put_files(2, files, kind=kind, unit=UNIT)
    field.desire(2, old, new)

    field.synced(old, new)

    assert field.server.bytes_sent() == 0


@pytest.mark.timeout(300)
@pytest.mark.parametrize("beside", [False, True], ids=["in KV", "beside the data"])
def test_d2_none_of_1000_flips_in_the_list_of_files_is_accepted(
    field: Field, beside: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """One bit of the list of files is another: nothing of it is taken."""
    chance = random.Random(SEED)
    releases = [field.put_files(n, {"a": b"%d" % n}, beside=beside) for n in range(1, 29)]
    raw = {release: listed(field, release, beside) for release in releases}
    flipped = taken = generation = 0
    while flipped < FLIPS:
        generation += 1
        for release, body in raw.items():
            changed = bytearray(body)
            changed[chance.randrange(len(body))] ^= 1 << chance.randrange(8)
            put_list(field, release, beside, bytes(changed))
        flipped += len(raw)
        field.desire(generation, *releases)
        field.context.local.delete("sync/failures")  # or it would not even be looked at for a while
        ran = field.sync()
        assert ran.code == 0, ran.said
        taken += sum(field.folder(release).exists() for release in releases)
        assert {field.status(release).state for release in releases} == {State.FAILED}
    with capsys.disabled():
        print(f"\nD2 list of files: {taken} of {flipped} flips accepted")
    assert taken == 0
    assert field.server.requests().keys().isdisjoint({field.key(release, "a") for release in releases})
    for release, body in raw.items():
        put_list(field, release, beside, body)
    field.context.local.delete("sync/failures")
    field.desire(generation + 1, *releases)
    field.synced(*releases)


def place_of(release: ReleaseId) -> str:
    return f"{release.channel}/{release.version}/manifest.json"


def listed(field: Field, release: ReleaseId, beside: bool) -> bytes:
    if beside:
        stored = field.server.store.get("bucket", place_of(release))
        assert stored is not None
        return b"".join(bytes(piece) for piece in stored.body.pieces(0, stored.size))
    entry, _ = field.kv.get(keys.manifest(release.channel, release.version))
    assert entry is not None
    return entry.value


def put_list(field: Field, release: ReleaseId, beside: bool, body: bytes) -> None:
    if beside:
        field.server.put({place_of(release): body})
    else:
        field.put(keys.manifest(release.channel, release.version), body)
