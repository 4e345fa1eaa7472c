"""`Supervisor` against a real supervisord on its Unix socket."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from handlers.adapters.supervisor import Supervisor
from handlers.core.errors import Temporary, Usage
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
[program:one]
command=sleep 600
autorestart=true
[program:two]
command=sleep 600
autorestart=true
[program:off]
command=sleep 600
autostart=false
startsecs=0
[group:watch]
programs=one,two
"""


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    config = tmp_path / "supervisord.conf"
    config.write_text(CONFIG.format(folder=tmp_path))
    program = Path(sys.executable).with_name("supervisord")
    # its scripts come from pkg_resources, whose deprecation warning is not ours
    process = subprocess.Popen([program, "-c", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        supervisor = Supervisor(f"unix://{tmp_path}/socket")
        wait_until(lambda: running(supervisor, "watch:one") and running(supervisor, "watch:two"))
        yield supervisor
    finally:
        process.terminate()
        process.wait(30)


def running(supervisor: Supervisor, name: str) -> int:
    """The process of a program, once it is that: before, a signal would reach a copy of supervisord only."""
    try:
        pid = supervisor.pid(name)
        return pid if pid and Path(f"/proc/{pid}/comm").read_text().strip() == "sleep" else 0
    except (Temporary, FileNotFoundError):
        return 0


def test_signal_to_a_group_restarts_all_of_it(supervisor: Supervisor) -> None:
    before = {supervisor.pid("watch:one"), supervisor.pid("watch:two")}

    supervisor.signal_group("watch", "TERM")

    def renewed() -> bool:
        now = {supervisor.pid("watch:one"), supervisor.pid("watch:two")}
        return 0 not in now and not now & before

    wait_until(renewed)


def test_restart_gives_a_new_process_and_starts_a_stopped_one(supervisor: Supervisor) -> None:
    before = supervisor.pid("watch:one")

    supervisor.restart("watch:one")
    supervisor.restart("off")

    assert supervisor.pid("watch:one") not in (0, before)
    assert supervisor.pid("off") != 0


def test_signal_reaches_one_process(supervisor: Supervisor) -> None:
    one, two = supervisor.pid("watch:one"), supervisor.pid("watch:two")

    supervisor.signal("watch:one", "KILL")

    wait_until(lambda: supervisor.pid("watch:one") not in (0, one))
    assert supervisor.pid("watch:two") == two


def test_unknown_name_is_usage_and_a_stopped_process_temporary(supervisor: Supervisor) -> None:
    with pytest.raises(Usage, match="nobody"):
        supervisor.signal("nobody", "HUP")
    with pytest.raises(Usage, match="nobody"):
        supervisor.restart("nobody")
    with pytest.raises(Temporary, match="off"):
        supervisor.signal("off", "HUP")


def test_absent_supervisord_is_temporary(tmp_path: Path) -> None:
    with pytest.raises(Temporary):
        Supervisor(f"unix://{tmp_path}/socket").pid("one")


def test_strange_address_is_refused() -> None:
    with pytest.raises(Usage, match="ftp"):
        Supervisor("ftp://somewhere")
