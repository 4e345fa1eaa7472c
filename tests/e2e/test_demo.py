"""`hydra dev demo`: the whole job under live traffic with not one failed request, and nothing left behind."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hydra_cli.dev import processes
from hydra_cli.dev.node import MARK

HYDRA = [sys.executable, "-I", "-m", "hydra_cli.main"]
LIMIT_S = 500

pytestmark = pytest.mark.timeout(LIMIT_S)


@contextmanager
def demo(folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """The demo, with its output in a pipe."""
    process = subprocess.Popen(
        [*HYDRA, "dev", "demo", "--dir", str(folder), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout
        process.stdout.close()


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """All output up to and with the line that has `text`."""
    assert process.stdout
    said = ""
    for line in process.stdout:
        said += line
        if text in line:
            return said
    raise AssertionError(f"the demo ended without saying {text!r}:\n{said}")


def mark(folder: Path) -> str:
    """What all processes of the cluster have in their environment."""
    return str(json.loads((folder / "pids").read_text())["mark"])


def figures(said: str) -> dict[str, str]:
    """The rows of the table."""
    table = said.partition("MEASURED")[2]
    pairs = (line.rstrip().rsplit("  ", 1) for line in table.splitlines() if "  " in line.strip())
    return {name.strip(): value.strip() for name, value in pairs}


def test_release_takes_over_under_traffic_without_a_failed_request(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    with demo(folder, "--keep", "--limit", "20") as process:  # that a machine pauses is not what fails
        told = read_until(process, "everything goes on until Ctrl-C")
        cluster = mark(folder)
        rows = figures(told)
        assert int(rows["requests"].split()[0]) > 200 * 30
        for what in ("failed", "mixed", "late after drain"):
            assert rows[what] == "0", told
        assert rows["most instances out by Hydra at a time"] == "1", told
        assert rows["moves of an instance from release to release"] == "14", told
        assert rows["instances that ever answered from the broken release"] == "1", told
        assert "the canary is bad: " in told
        assert "places_per_answer is" in told
        assert all(rows[name].endswith(" s") for name in rows if "→" in name), told
        assert "Consul UI: http://127.0.0.1:" in told

        shell = f". {shlex.quote(str(folder))}/env; {shlex.join(HYDRA)} status -o json"
        status = subprocess.run(["sh", "-c", shell], capture_output=True, text=True)
        assert status.returncode == 0, status.stderr
        assert "demo/search/completion" in status.stdout

        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 0
    assert processes.marked(MARK, cluster) == []
    assert left_in(folder) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_demo_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "demo"
    with demo(folder) as process:
        read_until(process, "requests/s")
        cluster = mark(folder)
        assert processes.marked(MARK, cluster)
        os.killpg(process.pid, number)
        assert process.wait(120) == 130
    assert processes.marked(MARK, cluster) == []
    assert left_in(folder) == []


def test_demo_without_its_libraries_says_what_to_install(tmp_path: Path) -> None:
    without = "import sys; sys.modules['keyvi'] = None; from hydra_cli.main import main; main()"
    command = [sys.executable, "-I", "-c", without, "dev", "demo", "--dir", str(tmp_path / "demo")]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 2
    assert "pip install" in answer.stderr
    assert "keyvi" in answer.stderr
    assert not (tmp_path / "demo").exists()


def left_in(folder: Path) -> list[str]:
    """Processes that have to do with the folder, which only the demo's own programs have."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if f"{folder}/".encode() in command:
            found.append(command.decode(errors="replace"))
    return found
