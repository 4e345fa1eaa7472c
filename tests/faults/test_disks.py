"""What disks do to a download: D8 (full), D9 (inodes gone, read-only, I/O errors), on mounts of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from handlers.core.model import State
from tests import servers
from tests.faults import mounts, rules
from tests.faults.field import MIB, Field
from tests.faults.server import FaultyS3

SMALL = 64 * MIB
TWO_DISKS = """
[volumes.disk]
class = "DISK"
[volumes.other]
class = "other"
"""


@pytest.fixture
def small(tmp_path: Path, consul: servers.Consul, server: FaultyS3) -> Iterator[Field]:
    """A node with a small file system in memory as its volume `disk`, and a volume `other` beside it."""
    found = Field.at(tmp_path / "node" / "root", consul, server, volumes_set=TWO_DISKS)
    with mounts.tmpfs(found.root / "volumes" / "disk", f"{SMALL}", inodes=3000):
        yield found


def disk(field: Field) -> Path:
    return field.root / "volumes" / "disk"


def test_d8_what_cannot_fit_is_refused_before_the_first_byte(small: Field) -> None:
    """A release larger than the disk: refused with the numbers, no byte is fetched, others come."""
    big, fits = small.put_files(1, {"big": os.urandom(80 * MIB)}), small.put_files(2, {"a": b"fits"})
    small.desire(1, big, fits)

    ran = small.sync()

    assert ran.code == 0, ran.said
    reason = reason_of(small, big)
    assert "needs 839" in reason
    assert "on volume disk" in reason
    assert small.complete(fits)
    assert small.server.bytes_sent(small.key(big, "big")) == 0


def test_d8_full_in_mid_download_fails_alone_and_comes_when_there_is_room(small: Field) -> None:
    """Somebody else fills the disk meanwhile: failed with the reason, the others stay, later it comes."""
    kept = small.put_files(1, {"a": os.urandom(MIB)})
    aside = small.put_files(3, {"b": os.urandom(MIB)}, placement="other")
    small.desire(1, kept)
    small.synced(kept)
    body = os.urandom(40 * MIB)
    late = small.put_files(2, {"big": body})
    filler = disk(small) / "somebody-else"
    small.desire(2, kept, late, aside)
    small.server.rule(rules.meanwhile(lambda: fill(filler, 30 * MIB), after=4 * MIB), small.key(late, "big"))

    ran = small.sync()

    assert ran.code == 0, ran.said
    assert "no room" in reason_of(small, late)
    assert not small.folder(late).exists()
    assert small.complete(kept)
    assert small.complete(aside)
    asked = sum(small.server.requests().values())
    assert asked < 30, f"{asked} requests: a busy loop"
    filler.unlink()
    small.synced(kept, late, aside)


def test_d8_the_last_bytes_are_not_given_twice(small: Field) -> None:
    """Two releases of which only one fits: one comes, the other waits for room, and nothing is half there."""
    one, two = (small.put_files(n, {"big": os.urandom(36 * MIB)}) for n in (1, 2))
    small.desire(1, one, two)

    ran = small.sync()

    assert ran.code == 0, ran.said
    states = sorted(small.status(release).state for release in (one, two))
    assert State.SUCCESS in states
    assert sum(small.folder(release).exists() for release in (one, two)) == 1
    assert small.server.bytes_sent() <= 37 * MIB


def test_d9_too_few_inodes_are_refused_before_the_first_byte(small: Field) -> None:
    """More files than the disk has inodes left: refused, nothing is fetched."""
    files = {f"f{n}": b"x" for n in range(4000)}
    many, fits = small.put_files(1, files, beside=True), small.put_files(2, {"a": b"a"})
    small.desire(1, many, fits)

    ran = small.sync()

    assert ran.code == 0, ran.said
    assert "files" in reason_of(small, many)
    assert small.complete(fits)
    assert not [key for key in small.server.requests() if key.startswith(small.key(many, ""))]


def test_d9_inodes_gone_in_mid_download_fail_it_with_the_reason(small: Field) -> None:
    """Somebody else takes the last inodes: failed with the reason, the old version stays."""
    small.limits_set["streams"] = 1  # nothing else comes while somebody takes the inodes
    old = small.put_files(1, {"a": b"old"})
    small.desire(1, old)
    small.synced(old)
    new = small.put_files(2, {f"f{n:04}": b"y" * 100 for n in range(1500)})
    small.desire(2, old, new)
    litter = disk(small) / "litter"
    litter.mkdir()

    def take_all() -> None:
        for n in range(5000):
            try:
                (litter / f"{n}").touch()
            except OSError:
                return

    small.server.rule(rules.meanwhile(take_all), small.key(new, "f0100"))

    ran = small.sync()

    assert ran.code == 0, ran.said
    assert "room" in reason_of(small, new)
    assert small.complete(old)
    assert not small.folder(new).exists()
    assert len(small.server.gets()) < 1500
    for path in litter.iterdir():
        path.unlink()
    small.synced(old, new)


def test_d9_a_disk_that_became_read_only_fails_with_the_reason_and_mends(small: Field) -> None:
    """The disk is read-only: failed with the reason, no loop, the old version serves, later it comes."""
    old, new = small.put_files(1, {"a": b"old"}), small.put_files(2, {"b": os.urandom(8 * MIB)})
    small.desire(1, old)
    small.synced(old)
    small.desire(2, old, new)
    mounts.remount(disk(small), "ro")
    try:
        ran = small.sync()
        watched = small.sync(CONSUL_INDEX="1")
        assert small.complete(old)
        assert small.status(old).state is State.SUCCESS
        assert "ead-only" in "\n".join((*small.actual().alarms, small.status(new).reason)), small.actual()
    finally:
        mounts.remount(disk(small), "rw")
    assert ran.code in (0, 10), ran.said
    assert watched.code == 0, "a watch must not end because a disk fails"
    assert watched.took_s < 20
    small.synced(old, new)


def test_d9_a_disk_that_cannot_write_fails_with_the_reason(
    tmp_path: Path, consul: servers.Consul, server: FaultyS3
) -> None:
    """Writing fails with EIO, reading works: failed with the reason, the old version serves.

    An ext4 in a sparse file on a full file system: the block device has no room, which is EIO for whoever
    syncs. (No device mapper is needed for that; errors of reading are the next test.)
    """
    node = Field.at(tmp_path / "node" / "root", consul, server)
    volume = node.root / "volumes" / "disk"
    with (
        mounts.tmpfs(tmp_path / "store", f"{96 * MIB}") as store,
        mounts.disk(store / "image", volume) as device,
    ):
        old, new = node.put_files(1, {"a": b"old"}), node.put_files(2, {"b": os.urandom(48 * MIB)})
        node.desire(1, old)
        node.synced(old)
        os.sync()
        fill(store / "filler", 90 * MIB)
        node.desire(2, old, new)

        ran = node.sync()

        said = "\n".join((*node.actual().alarms, node.status(new).reason))
        assert "nput/output" in said or "ead-only" in said, (said, ran.said)
        assert node.complete(old)
        assert not node.folder(new).exists()
        watched = node.sync(CONSUL_INDEX="1")
        assert watched.code == 0
        assert watched.took_s < 30
        (store / "filler").unlink()
        device.unmount()
        device.mount()
        node.synced(old, new)


def test_d9_a_disk_that_died_in_mid_download_fails_with_the_reason(
    tmp_path: Path, consul: servers.Consul, server: FaultyS3
) -> None:
    """All access fails with EIO from some moment on: failed with the reason, other volumes go on."""
    node = Field.at(tmp_path / "node" / "root", consul, server, volumes_set=TWO_DISKS)
    with mounts.disk(tmp_path / "image", node.root / "volumes" / "disk") as device:
        aside = node.put_files(1, {"a": b"aside"}, placement="other")
        node.desire(1, aside)
        node.synced(aside)
        lost = node.put_files(2, {"b": os.urandom(32 * MIB)})
        node.desire(2, aside, lost)
        server.rule(rules.meanwhile(device.cut, after=8 * MIB), node.key(lost, "b"))

        ran = node.sync()

        said = "\n".join((*node.actual().alarms, node.status(lost).reason))
        assert "nput/output" in said, (said, ran.said)
        assert node.complete(aside)
        assert node.status(aside).state is State.SUCCESS
        assert len(server.gets(node.key(lost, "b"))) < 20
        device.unmount()
        device.mount()
        node.synced(aside, lost)


def fill(path: Path, count: int) -> None:
    """Write until there is no room, or so many bytes are written."""
    with path.open("wb", buffering=0) as file:
        try:
            for _ in range(count // MIB):
                file.write(bytes(MIB))
        except OSError:
            return


def reason_of(field: Field, release: object) -> str:
    """Why a release is not there."""
    status = next(s for r, s in field.actual().releases.items() if r == release)
    assert status.state is not State.SUCCESS
    return status.reason
