"""`sync` killed: before each of its writes, and as a real process against a real Consul and S3 server."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from handlers.adapters.objects import S3Objects
from handlers.core.model import State
from handlers.core.version import ReleaseId
from tests import servers
from tests.handlers.sync_node import NODE, Node
from tests.servers import wait_until

KILLS = 12
SEED = 20260124


@pytest.mark.timeout(600)
def test_killed_before_any_write_the_next_run_ends_the_work() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="hydra-test-") as folder:  # hundreds of nodes
        done = subprocess.run(
            [sys.executable, "-m", "tests.handlers.crash_points", folder], capture_output=True, text=True
        )

    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100


class RealNode:
    """A node whose `sync` is the real command, with real servers around it."""

    def __init__(self, root: Path, consul: servers.Consul, s3: servers.S3) -> None:
        self.bucket = s3.bucket()
        self.node = Node(root, kv=consul.kv(), objects=S3Objects(environ=s3.environment()))
        config = root.parent / "node.toml"
        config.write_text(
            '[volumes.disk]\nclass = "DISK"\n[volumes.ram]\nclass = "RAM"\n'
            "[limits]\nunused_grace_s = 0\nidle_grace_s = 0\nbrake_share = 0.9\nretry_s = 0\n"
        )
        self.environment = {
            **os.environ,
            **consul.environment(),
            **s3.environment(),
            "HYDRA_ROOT": str(root),
            "HYDRA_NODE": NODE,
            "HYDRA_CONFIG": str(config),
        }

    def publish(self, day: int, files: dict[str, bytes]) -> ReleaseId:
        return self.node.publish(day, {"index": files}, bucket=self.bucket)

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "handlers.main", "sync"],
            env=self.environment,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self) -> str:
        """One run to its end; what it logged."""
        with self.start() as process:
            _, said = process.communicate(timeout=100)
        assert process.returncode == 0, said
        return said


@pytest.fixture
def real(tmp_path: Path, consul: servers.Consul, s3: servers.S3) -> RealNode:
    (tmp_path / "node").mkdir()
    return RealNode(tmp_path / "node" / "root", consul, s3)


def files(day: int) -> dict[str, bytes]:
    return {"big": os.urandom(24_000_000), **{f"d{n % 7}/f{n}": bytes([day]) * n for n in range(120)}}


def test_the_real_command_fills_a_node(real: RealNode) -> None:
    release = real.publish(1, files(1))
    real.node.desire(1, release)

    said = real.run()

    assert "generation 1: 1 success" in said
    assert real.node.complete(release)
    assert real.node.status(release).state is State.SUCCESS
    assert not real.node.leftovers()


@pytest.mark.timeout(300)
def test_killed_at_random_points_the_real_command_converges(real: RealNode) -> None:
    old, new = real.publish(1, files(1)), real.publish(2, files(2))
    real.node.desire(1, old)
    began = time.monotonic()
    real.run()
    whole_s = time.monotonic() - began
    chance = random.Random(SEED)
    for kill in range(KILLS):
        # there and back, so that each kill hits a download, a deletion, or what lies between
        wanted = (new, old)[kill % 2]
        real.node.desire(2 + kill, wanted)
        with real.start() as process:
            time.sleep(chance.uniform(0.1, whole_s))  # the point of the kill, not a wait for anything
            process.kill()
        for release in (old, new):
            if real.node.folder(release).exists():
                assert real.node.complete(release)
        real.run()
        assert real.node.complete(wanted)
        real.run()
        assert not real.node.folder(old if wanted == new else new).exists()
        assert not real.node.leftovers()


@pytest.mark.parametrize("trouble", ["refuses", "hangs"])
def test_a_rollback_ends_a_download_that_gets_nowhere(real: RealNode, trouble: str) -> None:
    old, new = real.publish(1, {"a": b"a"}), real.publish(2, files(2))
    real.node.desire(1, old)
    real.run()
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        if trouble == "hangs":
            nobody.listen()  # connections open, and nothing ever comes
        real.environment["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        real.node.desire(2, old, new)
        with real.start() as process:
            wait_until(lambda: real.node.actual().generation == 2)
            wait_until(lambda: real.node.status(new).state is State.DOWNLOADING)
            began = time.monotonic()
            real.node.desire(3, old)
            wait_until(lambda: real.node.actual().generation == 3)
            taken_over_s = time.monotonic() - began
            _, said = process.communicate(timeout=60)
            ended_s = time.monotonic() - began
    assert process.returncode == 0, said
    # one that hangs would be noticed after 30 s only
    assert taken_over_s < 20
    assert ended_s < 28
    assert real.node.status(old).state is State.SUCCESS
