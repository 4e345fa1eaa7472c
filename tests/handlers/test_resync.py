"""resync sees Consul go and come, and the KV go back; it runs the handlers from time to time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from handlers.adapters.ports import Delete, Set
from handlers.core import keys
from handlers.resync import PROBE_S, Eye, spread_s, wake, watched_keys
from handlers.runner import Runner, command, environment
from tests.fakes_kv import FakeKV
from tests.servers import Consul, consul_server, wait_until

NODE_KEYS = watched_keys("node", "n1")


def eye_on(consul: Consul) -> Eye:
    return Eye(consul.kv(), NODE_KEYS)


def test_quiet_consul_reports_nothing(consul: Consul) -> None:
    eye = eye_on(consul)
    consul.kv().txn([Set(keys.desired("n1"), b"1")])

    assert [eye.look(0.1) for _ in range(3)] == ["", "", ""]
    consul.kv().txn([Set(keys.desired("n1"), b"2"), Set(keys.states("n1"), b"1")])
    assert [eye.look(0.1) for _ in range(3)] == ["", "", ""]


def test_outage_is_seen_at_once_and_reported_once_when_it_is_over(tmp_path: Path) -> None:
    with consul_server(tmp_path) as consul:
        eye = eye_on(consul)
        assert eye.look(0) == ""
        consul.kill()
        began = time.monotonic()
        assert eye.look(60) == ""
        assert time.monotonic() - began < 30
        assert eye.away
        consul.start()

        assert wait_until(lambda: eye.look(0)) == "Consul is back"
        assert eye.look(0) == ""


def test_restored_snapshot_is_reported(tmp_path: Path, programs: Callable[[str], Path]) -> None:
    with consul_server(tmp_path / "consul") as consul:
        eye, kv = eye_on(consul), consul.kv()
        kv.txn([Set(keys.desired("n1"), b"1"), Set(keys.states("n1"), b"1")])
        saved = tmp_path / "saved"
        call = [str(programs("consul")), "snapshot", "save", str(saved)]
        environ = dict(os.environ) | consul.environment()
        subprocess.run(call, env=environ, check=True, capture_output=True)
        kv.txn([Set(keys.desired("n1"), b"2")])
        kv.txn([Set(keys.states("n1"), b"2")])
        assert eye.look(0) == ""
        call = [str(programs("consul")), "snapshot", "restore", str(saved)]
        subprocess.run(call, env=environ, check=True, capture_output=True)

        assert "went back" in wait_until(lambda: eye.look(0.1))
        assert eye.look(0) == ""


def test_vanished_document_is_reported(consul: Consul) -> None:
    eye = eye_on(consul)
    consul.kv().txn([Set(keys.desired("n1"), b"1")])
    assert eye.look(0) == ""
    consul.kv().txn([Delete(keys.desired("n1"))])

    assert keys.desired("n1") in eye.look(0)


def test_first_look_during_an_outage_is_no_news() -> None:
    fake = FakeKV(away=True)
    eye = Eye(fake, NODE_KEYS)

    assert eye.look(PROBE_S) == ""
    fake.away = False
    assert eye.look(0) == "Consul is back"


def test_handler_that_still_runs_is_left_alone() -> None:
    runner = Runner(("long", "short"), lambda name: ["sleep", "60"] if name == "long" else ["true"])
    try:
        assert runner.start() == ("long", "short")
        wait_until(lambda: runner._running["short"].poll() is not None)
        assert runner.start() == ("short",)
    finally:
        for process in runner._running.values():
            process.kill()
            process.wait()


def test_handler_that_has_ended_leaves_no_zombie_and_how_it_ended_is_known() -> None:
    runner = Runner(("good", "bad"), lambda name: ["true"] if name == "good" else ["false"])
    runner.start()

    folders = [Path(f"/proc/{process.pid}") for process in runner._running.values()]
    wait_until(lambda: not any(folder.exists() for folder in folders), what="nothing is left of them")
    assert runner.failed == {"bad": 1}


def test_handlers_do_not_believe_that_a_watch_started_them() -> None:
    assert environment({"CONSUL_INDEX": "7", "CONSUL_HTTP_ADDR": "a"}) == {"CONSUL_HTTP_ADDR": "a"}


def test_handlers_are_started_without_anything_of_the_current_folder() -> None:
    assert command("sync")[-5:] == [sys.executable, "-I", "-m", "handlers.main", "sync"]


def test_nodes_do_not_all_begin_anew_in_the_same_moment_but_the_planner_does_at_once() -> None:
    waits = [spread_s("node", 2.0) for _ in range(200)]

    assert 0 <= min(waits) < 0.5
    assert 1.5 < max(waits) <= 2.0
    assert spread_s("cluster", 2.0) == 0


@pytest.mark.parametrize("url", ["", "unix:///no/such/socket", "strange"])
def test_absent_supervisord_is_not_the_end(url: str, caplog: pytest.LogCaptureFixture) -> None:
    wake(url)

    assert "by themselves" in caplog.text


def test_process_runs_its_handlers_again_and_again_and_at_once_after_an_outage(tmp_path: Path) -> None:
    with consul_server(tmp_path / "consul") as consul:
        process, log = start_resync(tmp_path, consul, resync_s=1)
        try:
            wait_until(lambda: log.read_text().count(" sync ") >= 3, what="three runs")
        finally:
            process.kill()
            process.wait()
        process, log = start_resync(tmp_path, consul, resync_s=3600)
        try:
            wait_until(lambda: " sync " in log.read_text(), what="a run at the start")
            consul.kill()
            wait_until(lambda: "does not answer" in log.read_text(), what="the outage is seen")
            before = log.read_text().count(" sync ")
            consul.start()
            wait_until(lambda: "Consul is back" in log.read_text(), what="the end is seen")
            wait_until(lambda: log.read_text().count(" sync ") > before, what="a run at once")
        finally:
            process.kill()
            process.wait()


def start_resync(tmp_path: Path, consul: Consul, resync_s: int) -> tuple[subprocess.Popen[bytes], Path]:
    config, log = tmp_path / "node.toml", tmp_path / f"log-{resync_s}"
    config.write_text(f"[limits]\nresync_s = {resync_s}\n")
    environ = dict(os.environ) | consul.environment()
    environ |= {"HYDRA_ROOT": str(tmp_path / "root"), "HYDRA_NODE": "n1", "HYDRA_CONFIG": str(config)}
    with log.open("wb") as output:
        process = subprocess.Popen(command("resync"), env=environ, stderr=output)
    return process, log


def test_unknown_scope_is_a_usage_error(tmp_path: Path) -> None:
    environ = dict(os.environ) | {"HYDRA_SCOPE": "moon", "HYDRA_NODE": "n1", "HYDRA_ROOT": str(tmp_path)}
    done = subprocess.run(command("resync"), env=environ, capture_output=True, text=True)

    assert done.returncode == 2
    assert "moon" in done.stderr
