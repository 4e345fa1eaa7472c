"""A cluster that many tests share, and how parts of it are made to stand still."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from hydra_cli.dev.cluster import Cluster
from hydra_cli.dev.processes import Process
from tests import servers
from tests.e2e.scene import Scene


@contextlib.contextmanager
def three_nodes(folder: Path, s3: servers.S3, limits: Mapping[str, float]) -> Iterator[Cluster]:
    """Three nodes with these limits and this S3 server for the block."""
    cluster = Cluster(folder, nodes=3, limits=limits)
    try:
        with pytest.MonkeyPatch.context() as patch:  # the cluster takes the S3 that its maker names
            for name, value in s3.environment().items():
                patch.setenv(name, value)
            cluster.up()
        yield cluster
    finally:
        cluster.down()


@contextlib.contextmanager
def frozen(scene: Scene, node: str, program: str = "") -> Iterator[None]:
    """The processes of a program of a node, or of all of Hydra there, stand still for the block."""
    found: set[Process] = set()
    try:
        while more := {p for p in scene.programs(node) if program in scene.command(p)} - found:
            for process in more:
                process.send(signal.SIGSTOP)
            found |= more  # look again: one of them may have started another before it stood still
        assert found, f"nothing like {program} runs on {node}"
        yield
    finally:
        for process in found:
            process.send(signal.SIGCONT)
