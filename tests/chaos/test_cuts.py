"""How a node is cut off where no network can be made; the wires have tests of their own, tests/faults."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from hydra_cli.dev.cluster import Cluster
from tests.chaos import cuts
from tests.servers import wait_until


def is_stopped(process: subprocess.Popen[bytes]) -> bool:
    """By a signal, as the kernel says."""
    return Path(f"/proc/{process.pid}/stat").read_bytes().rpartition(b")")[2].split()[0] == b"T"


def test_where_no_network_can_be_made_an_agent_is_frozen_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuts, "_refusal", lambda: "unshare: not permitted")
    with subprocess.Popen(["sleep", "600"]) as agent:
        node = SimpleNamespace(running=[None, SimpleNamespace(process=agent)])
        cluster = cast(Cluster, SimpleNamespace(nodes=("n1",), node=lambda _: node))
        with cuts.Cuts(cluster) as made:
            assert made.how.startswith("by freezing its agent")
            assert "unshare: not permitted" in made.how
            with made.cut_off("n1"):
                wait_until(lambda: is_stopped(agent), what="it stands still")
            wait_until(lambda: not is_stopped(agent), what="it goes on")
        agent.kill()
