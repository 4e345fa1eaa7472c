"""D7: power cuts. The node's whole root is on a disk that forgets what was not made durable.

An ext4 on a loop device is shut down without flushing its journal (the ioctl with which xfstests play a
power cut), mounted again, and looked at. It is mounted with `data=writeback` and `noauto_da_alloc`, and
somebody makes metadata durable all the time: so names and sizes survive where data does not, unless it was
synced.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import servers
from tests.faults import mounts
from tests.faults.field import Field
from tests.faults.scenes import Change
from tests.faults.server import FaultyS3

CUTS = 5  # in each phase
SEED = 20260207


@contextlib.contextmanager
def metadata_hurried(path: Path) -> Iterator[None]:
    """Somebody else syncs a file of his own again and again: each time all metadata becomes durable."""
    over = threading.Event()

    def hurry() -> None:
        number = 0
        while not over.wait(0.004):
            number += 1
            try:
                fd = os.open(path / "hurried", os.O_WRONLY | os.O_CREAT)
                try:
                    os.pwrite(fd, b"%d" % number, 0)
                    os.fsync(fd)
                finally:
                    os.close(fd)
            except OSError:
                return

    thread = threading.Thread(target=hurry)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_the_disk_of_these_tests_forgets_what_was_not_synced(tmp_path: Path) -> None:
    """A program that renames without fsync loses its bytes; one that syncs keeps them."""
    with mounts.disk(tmp_path / "image", tmp_path / "disk") as disk:
        folder = os.open(disk.path, os.O_RDONLY)
        for name, careful in (("careless", False), ("careful", True)):
            fd = os.open(disk.path / "fresh", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.write(fd, b"x" * 100_000)
            if careful:
                os.fsync(fd)
            os.close(fd)
            (disk.path / "fresh").rename(disk.path / name)
        os.fsync(folder)
        (disk.path / "late").write_bytes(b"x")
        os.close(folder)
        disk.cut()
        disk.unmount()
        disk.mount()

        assert (disk.path / "careful").read_bytes() == b"x" * 100_000
        assert (disk.path / "careless").read_bytes() != b"x" * 100_000
        assert not (disk.path / "late").exists()


@pytest.mark.timeout(240)
@pytest.mark.parametrize("phase", ["stage", "fsync", "rename", "link", "report", "clean-up"])
def test_d7_after_a_power_cut_what_is_visible_is_whole(
    tmp_path: Path, consul: servers.Consul, server: FaultyS3, phase: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The power goes at random points of a phase: a visible release has all bytes, the next run finishes."""
    ready = tmp_path / "ready"
    with mounts.disk(tmp_path / "image", tmp_path / "disk") as disk:
        field = Field.at(tmp_path / "node" / "root", consul, server)
        field.root.symlink_to(disk.path / "root")
        (disk.path / "root").mkdir()
        change = Change.on(field)
        disk.unmount()
        (tmp_path / "image").rename(ready)
    change.want()
    chance = random.Random(f"{SEED} {phase}")
    calls, seen = 0, []
    for number in range(CUTS + 1):
        mounts.copy(ready, tmp_path / "image")
        disk.mount()
        change.as_before()
        with metadata_hurried(disk.path):
            nth = chance.randint(1, calls) if number else 0
            ran = change.killed(phase, nth, str(disk.path))
        if not number:
            assert ran.returncode == 0, ran.stderr
            calls = int(ran.stdout)
        else:
            seen.append(nth)
            assert ran.returncode in (-9, 0), ran.stderr
        disk.unmount()
        disk.mount()
        change.all_or_nothing()
        change.ends_well()
        disk.unmount()
        disk.check()
    with capsys.disabled():
        print(f"\nD7 {phase}: seed {SEED}, power cut at {seen} of {calls}")
