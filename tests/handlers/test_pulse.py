"""The pulse of a node with a real supervisord: what dies is seen, and mended again."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from handlers import pulse
from handlers.adapters.local import LocalState
from handlers.adapters.supervisor import Supervisor
from handlers.adapters.templates import STATES
from handlers.core import codec
from handlers.core.errors import Temporary
from handlers.core.freshness import OLDEST_S, PATIENCE_S
from handlers.core.model import InstanceState, Ready, States
from handlers.core.names import InstanceKey
from handlers.pulse import Pulse
from tests.core.worlds import COMPLETE
from tests.servers import wait_until

CONFIG = """
[supervisord]
nodaemon=true
pidfile={folder}/pid
logfile={folder}/log
[unix_http_server]
file={folder}/socket
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
[program:discover]
command=sh -c 'test -e {folder}/broken && exit 1; exec sleep 600'
autorestart=true
startretries=1000000
[program:by-operator]
command=sleep 600
autostart=false
"""


@dataclass
class Node:
    """A node's folder and its timer, whose clock and eyes the test moves."""

    root: Path
    url: str
    now: float = 0.0
    away: bool = False
    failed: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.local = LocalState(self.root)
        self.pulse = Pulse(
            self.root, self.local, self.url, lambda: self.away, lambda: self.failed, lambda: self.now
        )

    def beat(self) -> str:
        self.now += PATIENCE_S
        return self.pulse.beat()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    config = tmp_path / "conf"
    config.write_text(CONFIG.format(folder=tmp_path))
    command = [sys.executable, "-I", "-m", "supervisor.supervisord", "-c", str(config)]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"unix://{tmp_path}/socket"
    try:
        wait_until(lambda: _runs(url), what="discover runs")
        yield Node(tmp_path, url)
    finally:
        running.terminate()
        running.wait()


def _runs(url: str) -> int:
    try:
        return Supervisor(url).pid("discover")
    except Temporary:  # it does not listen yet
        return 0


def test_program_that_does_not_come_back_makes_the_node_stale_until_it_does(node: Node) -> None:
    assert node.beat() == "fresh"
    assert pulse.read(node.root) == "fresh"

    (node.root / "broken").touch()
    Supervisor(node.url).signal("discover", "KILL")
    wait_until(lambda: Supervisor(node.url).down() == ["discover"])
    first = node.pulse.beat()
    assert first == "fresh"  # it may be back in a moment
    wait_until(lambda: node.beat() == "stale discover does not run")
    assert pulse.read(node.root) == "stale discover does not run"

    (node.root / "broken").unlink()
    wait_until(lambda: node.beat() == "fresh")


def test_handlers_that_fail_and_consul_that_is_away_are_two_things(node: Node) -> None:
    node.failed = {"sync": 1}
    assert node.beat() == "stale sync ended with 1 when it ran last"
    node.away = True
    assert node.beat().startswith("away")


def test_state_file_that_is_not_rendered_makes_the_node_stale(node: Node) -> None:
    key = InstanceKey.of(COMPLETE, "one")
    state = InstanceState(service=COMPLETE, id="one", incarnation="1", state=Ready.DRAINING)
    node.local.write(STATES, codec.encode(States(node="n1", instances={key: state})))
    view = node.root / "views" / key
    view.mkdir(parents=True)
    (view / "state").write_text("ready")

    assert node.beat() == "fresh"
    assert node.beat() == f"stale consul-template does not render the files of {key}"
    (view / "state").write_text("draining")
    assert node.beat() == "fresh"


def test_beat_touches_the_file_and_an_old_file_is_stale(node: Node) -> None:
    node.beat()
    file = node.root / "fresh"
    old = time.time() - OLDEST_S - 5
    os.utime(file, (old, old))
    assert pulse.read(node.root) == "stale the node's timer is dead"

    node.beat()

    assert pulse.read(node.root) == "fresh"


@pytest.mark.parametrize(
    ("line", "age_s", "well"),
    [
        ("fresh", 0, True),
        ("away Consul does not answer; what is here stays as it is", 0, True),
        ("stale watch-desired does not run", 0, False),
        ("fresh", OLDEST_S + 5, False),
        ("", 0, False),  # there is no file
    ],
)
def test_command_of_the_readme_lets_a_probe_see_it(
    tmp_path: Path, line: str, age_s: float, well: bool
) -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text()
    (command,) = [row for row in text.splitlines() if row.startswith("[ -n") and "$HYDRA_ROOT/fresh" in row]
    if line:
        (tmp_path / "fresh").write_text(f"{line}\n")
        os.utime(tmp_path / "fresh", (time.time() - age_s,) * 2)

    ended = subprocess.run(
        ["sh", "-c", command], env={**os.environ, "HYDRA_ROOT": str(tmp_path)}, stderr=subprocess.DEVNULL
    )

    assert (ended.returncode == 0) == well


def test_supervisord_that_does_not_answer_is_named(tmp_path: Path) -> None:
    node = Node(tmp_path, f"unix://{tmp_path}/nothing")

    node.beat()

    assert node.beat() == "stale supervisord does not run"
