"""`hydra node run`: what it writes, what it refuses, and what supervisord does with it without Consul."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from handlers.core.errors import HydraError, Temporary, Usage
from handlers.settings import Settings
from hydra_cli import node_run
from hydra_cli.dev.node import path_of_programs, supervisor_at
from hydra_cli.dev.ports import free_port
from hydra_cli.dev.servers import Running, start
from tests.servers import Consul, wait_until

COMMAND = [sys.executable, "-I", "-m", "hydra_cli.main", "node", "run"]


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """For a node n1 whose agent is away."""
    return {
        "PATH": path_of_programs(),
        "CONSUL_HTTP_ADDR": f"127.0.0.1:{free_port()}",
        "CONSUL_HTTP_TOKEN": "s3cret",
        "HYDRA_ROOT": str(tmp_path / "root"),
        "HYDRA_NODE": "n1",
    }


@pytest.fixture
def running(tmp_path: Path, environ: Mapping[str, str]) -> Iterator[Running]:
    """The command itself, as systemd would start it."""
    node = start("node n1", COMMAND, tmp_path / "run.log", environ)
    yield node
    node.stop()


def run(environ: Mapping[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *options], env=dict(environ), capture_output=True, text=True)


def own(environ: Mapping[str, str], node: str = "n1") -> Settings:
    return Settings(root=Path(environ["HYDRA_ROOT"]), node=node, config=Path("/none.toml"))


def test_missing_programs_are_all_named(environ: dict[str, str], tmp_path: Path) -> None:
    answer = run(environ | {"PATH": str(tmp_path)})

    assert answer.returncode == 2
    assert "consul, consul-template, setpriv" in answer.stderr
    assert not Path(environ["HYDRA_ROOT"]).exists()


def test_planner_needs_no_consul_template(environ: dict[str, str], tmp_path: Path) -> None:
    for name in ("consul", "setpriv"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)

    found = node_run.find_programs({"PATH": str(tmp_path)}, "cluster")

    assert (found.consul, found.consul_template) == (str(tmp_path / "consul"), "")
    with pytest.raises(Usage, match="consul-template"):
        node_run.find_programs({"PATH": str(tmp_path)}, "node")


def test_unknown_node_name_with_agent_away_is_unavailable(environ: dict[str, str]) -> None:
    """So that systemd tries again, instead of running under a wrong name."""
    del environ["HYDRA_NODE"]

    assert run(environ).returncode == 10


def test_name_of_the_agent_is_asked_for_and_remembered(environ: dict[str, str], consul: Consul) -> None:
    with pytest.raises(Temporary):
        node_run.name_of(own(environ, ""), environ)

    assert node_run.name_of(own(environ, ""), environ | consul.environment("")) == "server"
    assert node_run.name_of(own(environ, ""), environ) == "server"


def test_root_that_cannot_be_written_is_said(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(HydraError, match="file"):
        node_run.prepare(own(environ | {"HYDRA_ROOT": str(tmp_path / "file")}), environ, "node")


def test_second_start_keeps_what_reload_wrote_for_consul_template(environ: dict[str, str]) -> None:
    _, files = node_run.prepare(own(environ), environ, "node")
    assert files.template_instances.read_text() == ""
    files.template_instances.write_text("# two instances\n")

    node_run.prepare(own(environ), environ, "node")

    assert files.template_instances.read_text() == "# two instances\n"


def test_node_and_planner_may_not_share_a_root(environ: dict[str, str]) -> None:
    """Each would wait for the other's turn for ever: there is one resync per root."""
    node_run.prepare(own(environ), environ, "cluster")

    with pytest.raises(Usage, match="root of a planner"):
        node_run.prepare(own(environ), environ, "node")


def test_planner_has_a_default_root_of_its_own(environ: dict[str, str]) -> None:
    del environ["HYDRA_ROOT"]

    assert "HYDRA_ROOT=/var/lib/hydra-planner\n" in run(environ, "--planner", "--print-unit").stdout
    assert "HYDRA_ROOT=/var/lib/hydra\n" in run(environ, "--print-unit").stdout


def test_socket_of_a_long_root_is_in_a_private_folder(environ: dict[str, str], tmp_path: Path) -> None:
    environ |= {"HYDRA_ROOT": str(tmp_path / ("x" * 90)), "XDG_RUNTIME_DIR": str(tmp_path)}

    _, files = node_run.prepare(own(environ), environ, "node")

    assert files.socket.parent.parent == tmp_path
    assert stat.S_IMODE(files.socket.parent.stat().st_mode) == 0o700


def test_unit_is_printed_and_nothing_is_run(environ: dict[str, str]) -> None:
    answer = run(environ, "--planner", "--print-unit")

    assert answer.returncode == 0
    assert "node run --planner\n" in answer.stdout
    assert "s3cret" not in answer.stdout
    assert not Path(environ["HYDRA_ROOT"]).exists()


def test_programs_neither_give_up_nor_restart_in_vain_while_consul_is_away(
    running: Running, environ: Mapping[str, str]
) -> None:
    def states() -> dict[str, tuple[str, int]]:
        try:
            rows = supervisor_at(Path(environ["HYDRA_ROOT"]), "node", running).getAllProcessInfo()
        except (Temporary, OSError):
            return {}
        return {row["name"]: (row["statename"], row["pid"]) for row in rows}

    def all_run() -> dict[str, tuple[str, int]] | None:
        found = states()
        return found if found and {state for state, _ in found.values()} == {"RUNNING"} else None

    before = wait_until(all_run, what="all programs run, the watches waiting for Consul")
    log = Path(environ["HYDRA_ROOT"]) / "state/log/watch-desired.log"
    wait_until(lambda: "waiting for Consul" in log.read_text(), what="the watch says why it waits")

    assert all_run() == before

    running.stop()
    said = (Path(environ["HYDRA_ROOT"]) / "state/log/supervisord.log").read_text()
    ended = re.findall(r" stopped: (resync|watch|discover|consul-template)", said)
    # who acts before who tells others of it
    assert list(dict.fromkeys(ended)) == ["resync", "watch", "discover", "consul-template"]


def test_secrets_reach_the_programs_by_environment_only(
    running: Running, environ: Mapping[str, str], tmp_path: Path
) -> None:
    root = Path(environ["HYDRA_ROOT"])

    def pids() -> list[int]:
        try:
            rows = supervisor_at(root, "node", running).getAllProcessInfo()
        except (Temporary, OSError):
            return []
        return [row["pid"] for row in rows if row["statename"] == "RUNNING"]

    for pid in wait_until(pids, what="programs run"):
        assert b"CONSUL_HTTP_TOKEN=s3cret" in Path(f"/proc/{pid}/environ").read_bytes()
        assert b"s3cret" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    written = {Path(folder, name): b"" for folder, _, names in os.walk(tmp_path) for name in names}
    for path in written:
        with contextlib.suppress(OSError):  # a socket, or a file that was renamed meanwhile
            written[path] = path.read_bytes()
    assert any(written.values())
    assert [path for path, text in written.items() if b"s3cret" in text] == []


def test_runtime_folder_of_somebody_else_is_refused(
    environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder for all, anybody may have made it first, to own the socket that starts programs."""
    environ |= {"HYDRA_ROOT": str(tmp_path / ("x" * 90)), "XDG_RUNTIME_DIR": str(tmp_path)}
    node_run.prepare(own(environ), environ, "node")
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)

    with pytest.raises(HydraError, match="somebody else"):
        node_run.prepare(own(environ), environ, "node")
