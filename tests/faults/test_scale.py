"""D11: a release of 100,000 objects, and an object of 1 TiB: memory stays bounded, progress grows."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from handlers.core.model import State
from tests import servers
from tests.bench import usage
from tests.faults import mounts
from tests.faults.field import DATASET, MIB, Field
from tests.faults.server import FaultyS3
from tests.faults.store import Zeros
from tests.servers import wait_until

OBJECTS = 100_000
AIM_MIB = 200
TIB = 1024**4
ENOUGH = 1024 * MIB  # of the 1 TiB


@pytest.fixture
def roomy(tmp_path: Path, consul: servers.Consul, server: FaultyS3) -> Iterator[Field]:
    """A node whose disk is in memory."""
    found = Field.at(tmp_path / "node" / "root", consul, server)
    with mounts.tmpfs(found.root, "4G"):
        yield found


@pytest.fixture
def vast(tmp_path: Path, consul: servers.Consul, server: FaultyS3) -> Iterator[Field]:
    """A node whose disk says that it has 2 TiB."""
    found = Field.at(tmp_path / "node" / "root", consul, server)
    with mounts.sparse(tmp_path / "disk.img", found.root, 2 * TIB):
        yield found


@pytest.mark.timeout(400)
def test_d11_100000_objects_take_at_most_200_mib(roomy: Field, capsys: pytest.CaptureFixture[str]) -> None:
    """100,000 objects in one release: it comes whole, and the command never needs more than 200 MiB."""
    release = roomy.put_files(1, {f"d{n % 100:02}/f{n:05}": b"%d" % n for n in range(OBJECTS)}, beside=True)
    roomy.desire(1, release)

    used = usage.measured([sys.executable, "-m", "handlers.main", "sync"], roomy.environment)

    assert used.code == 0, used.said
    assert roomy.status(release).state is State.SUCCESS
    found = roomy.folder(release) / DATASET
    assert sum(1 for path in found.rglob("f*") if path.is_file()) == OBJECTS
    assert (found / "d42/f00042").read_bytes() == b"42"
    with capsys.disabled():
        print(f"\nD11: {OBJECTS} objects in {used.wall_s:.0f} s with {used.peak_bytes / MIB:.0f} MiB")
    assert used.peak_bytes <= AIM_MIB * MIB


@pytest.mark.timeout(300)
def test_d11_an_object_of_1_tib_comes_steadily_in_little_memory(
    vast: Field, capsys: pytest.CaptureFixture[str]
) -> None:
    """The beginning of an object of 1 TiB: progress only grows, 200 MiB are enough; then it is cancelled."""
    release = vast.put_files(1, {"huge": Zeros(TIB)}, unit=8 * MIB, beside=True)
    vast.desire(1, release)
    seen: list[int] = []
    peak = 0
    with vast.running() as process:
        while vast.server.bytes_sent(vast.key(release, "huge")) < ENOUGH:
            assert process.poll() is None, process.communicate()
            peak = max(peak, usage.peak_of(process.pid))
            progress = vast.progress()
            seen += [row.done for row in progress.downloads.values()] if progress else []
            time.sleep(0.2)  # between two looks
        assert vast.status(release).state is State.DOWNLOADING
        assert not vast.folder(release).exists()
        began = time.monotonic()
        vast.desire(2)
        process.wait(30)
        ended_s = time.monotonic() - began
    with capsys.disabled():
        print(f"\nD11: 1 of 1,024 GiB with {peak / MIB:.0f} MiB; ended within {ended_s:.1f} s")
    assert seen == sorted(seen)
    assert peak <= AIM_MIB * MIB
    vast.sync()
    wait_until(lambda: not vast.staged(), 30, "what was staged is swept")
