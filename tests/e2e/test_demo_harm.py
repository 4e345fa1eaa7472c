"""What the demo does to a node does what it says: it hits a download in the middle, and wipes all data."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from handlers.core.errors import HydraError, Timeout
from handlers.core.names import Channel
from hydra_cli.dev.demo.harm import contents, kill_download, wipe
from tests.servers import wait_until

CHANNEL = Channel("demo/search/places")
VERSION = "2019-12-17T00-00-00"
WRITER = """
import sys, time
with open(sys.argv[1], "wb", buffering=0) as file:
    file.write(b"x" * 100_000)
    time.sleep(600)
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for volume in ("disk", "ram"):
        (tmp_path / "volumes" / volume / "staging" / CHANNEL / VERSION / ".parts").mkdir(parents=True)
        (tmp_path / "volumes" / volume / "data" / CHANNEL / VERSION).mkdir(parents=True)
    (tmp_path / "releases" / CHANNEL).mkdir(parents=True)
    return tmp_path


@pytest.fixture
def writer(root: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program that has a part of the release open."""
    part = root / "volumes" / "disk" / "staging" / CHANNEL / VERSION / ".parts" / "0.bin"
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(part)])
    try:
        wait_until(lambda: part.exists() and part.stat().st_size == 100_000, what="the part is written")
        yield process
    finally:
        process.kill()
        process.wait()


def test_writer_is_killed_and_what_was_finished_is_remembered(
    root: Path, writer: subprocess.Popen[bytes]
) -> None:
    staged = root / "volumes" / "disk" / "staging" / CHANNEL / VERSION / "ballast" / "1.bin"
    staged.parent.mkdir()
    staged.write_bytes(b"y" * 5000)
    hit = kill_download(root, CHANNEL, VERSION, 1, 30)
    assert writer.wait(30) == -signal.SIGKILL
    assert hit.pid == writer.pid
    assert hit.bytes >= 100_000
    assert hit.kept(root, CHANNEL, VERSION) == 0
    staged.rename(root / "volumes" / "disk" / "data" / CHANNEL / VERSION / "1.bin")
    assert hit.kept(root, CHANNEL, VERSION) == 5000


@pytest.mark.usefixtures("writer")
def test_download_that_is_over_is_not_called_hit(root: Path) -> None:
    (root / "releases" / CHANNEL / VERSION).mkdir()
    with pytest.raises(HydraError, match="over before"):
        kill_download(root, CHANNEL, VERSION, 1, 30)


def test_download_that_never_begins_is_said(root: Path) -> None:
    with pytest.raises(Timeout, match=VERSION):
        kill_download(root, CHANNEL, VERSION, 1, 0.1)


def test_wiped_node_has_no_data_and_what_it_lost_is_known(root: Path) -> None:
    data = root / "volumes" / "disk" / "data" / CHANNEL / VERSION
    (data / "index").mkdir()
    (data / "index" / "places.kv").write_bytes(b"z" * 10)
    (data / "index").chmod(0o555)
    (root / "releases" / CHANNEL / VERSION).symlink_to(data)
    lost = wipe(root, ["disk"])
    assert lost == {f"volumes/disk/data/{CHANNEL}/{VERSION}/index/places.kv": 10}
    assert contents(root, ["disk"]) == {}
    assert list((root / "releases").iterdir()) == []
