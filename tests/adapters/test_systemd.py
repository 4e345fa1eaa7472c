"""`Systemd` against a real systemd: a user's manager with a runtime directory of its own.

A user's manager only starts on a machine that was booted with systemd, which it tells by a folder in /run;
here it sees a /run of its own that has that folder. So units, jobs, `systemctl` and what it says are the real
ones; the machine's own manager, which differs by its socket and by who may use it, is not tried.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from handlers.adapters.systemd import Systemd
from handlers.core.errors import HydraError
from tests.servers import wait_until

UNITS = {
    "places@.service": """
[Service]
ExecStart=/bin/sh -c 'trap "echo reloaded >> {folder}/%i" HUP; echo started >> {folder}/%i; \
while :; do sleep 0.05; done'
ExecReload=/bin/kill -HUP $MAINPID
""",
    "plain.service": "[Service]\nExecStart=/bin/sh -c 'echo started >> {folder}/plain; exec sleep 600'\n",
    "broken.service": "[Service]\nExecStart=/bin/sleep 600\nExecReload=/bin/false\n",
    "slow.service": "[Service]\nExecStart=/bin/sleep 600\nExecReload=/bin/sleep 60\n",
}
BOOTED = """
mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system && exec /usr/lib/systemd/systemd --user
"""


@dataclass
class Manager:
    """A running manager; what units wrote is in `folder`."""

    folder: Path

    def start(self, unit: str) -> None:
        subprocess.run(["systemctl", "--user", "start", unit], check=True, capture_output=True)

    def lines(self, name: str) -> list[str]:
        return (self.folder / name).read_text().split()


@pytest.fixture(scope="module")
def manager() -> Iterator[Manager]:
    with tempfile.TemporaryDirectory(prefix="hydra-") as short, pytest.MonkeyPatch.context() as patch:
        folder = Path(short)  # a socket's path must be short
        units = folder / "config" / "systemd" / "user"
        units.mkdir(parents=True)
        for name, text in UNITS.items():
            (units / name).write_text(text.replace("{folder}", short))
        runtime = folder / "run"
        runtime.mkdir(mode=0o700)
        patch.setenv("XDG_RUNTIME_DIR", str(runtime))
        patch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
        patch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
        rights = [] if os.geteuid() == 0 else ["--map-root-user"]
        command = ["unshare", *rights, "--mount"]  # not its own processes: it looks at who asks
        with (folder / "log").open("w") as log:
            running = subprocess.Popen([*command, "sh", "-c", BOOTED], stdout=log, stderr=log)
        try:
            wait_until(lambda: _answers(running, folder / "log"), what="systemd answers")
            yield Manager(folder)
        finally:
            running.terminate()  # it stops its units first
            running.wait()


def _answers(running: subprocess.Popen[bytes], log: Path) -> bool:
    assert running.poll() is None, f"systemd ended: {log.read_text()}"
    return subprocess.run(["systemctl", "--user", "list-units"], capture_output=True).returncode == 0


def test_unit_that_can_reload_is_reloaded_and_stays_the_same_process(manager: Manager) -> None:
    manager.start("places@one.service")
    wait_until((manager.folder / "one").exists)

    Systemd(60, user=True).reload("places@one.service")

    wait_until(lambda: manager.lines("one") == ["started", "reloaded"])


def test_unit_that_cannot_reload_is_restarted(manager: Manager) -> None:
    manager.start("plain.service")
    wait_until(lambda: (manager.folder / "plain").exists() and manager.lines("plain") == ["started"])

    Systemd(60, user=True).reload("plain.service")

    wait_until(lambda: manager.lines("plain") == ["started", "started"])


def test_unit_that_is_stopped_stays_so_and_is_named(manager: Manager) -> None:
    with pytest.raises(HydraError, match=r"unit places@two.service is inactive"):
        Systemd(60, user=True).reload("places@two.service")

    assert not (manager.folder / "two").exists()


def test_reload_that_fails_hangs_or_names_nothing_is_told_as_systemd_says_it(
    manager: Manager,
) -> None:
    manager.start("broken.service")
    manager.start("slow.service")

    with pytest.raises(HydraError, match=r"unit broken.service: Job for broken.service failed"):
        Systemd(60, user=True).reload("broken.service")
    with pytest.raises(HydraError, match=r"unit slow.service: not done within 0.5 s"):
        Systemd(0.5, user=True).reload("slow.service")
    with pytest.raises(HydraError, match=r"Unit nobody.service not found"):
        Systemd(60, user=True).reload("nobody.service")


def test_machine_without_systemctl_and_a_manager_that_is_away_are_named(
    manager: Manager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with pytest.raises(HydraError, match="Failed to connect"):
        Systemd(60, user=True).reload("plain.service")

    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HydraError, match="there is no systemctl"):
        Systemd(60, user=True).reload("plain.service")
