"""How a run of a handler begins and ends: cheap end, turns, tries, exit codes."""

from __future__ import annotations

import base64
import fcntl
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import IO

import pytest

from handlers import doorbell, main
from handlers.adapters.local import LocalState
from handlers.adapters.ports import Set
from handlers.context import AGENT_NAME, Context, node_name
from handlers.core import errors
from handlers.settings import Settings
from tests.fakes_kv import FakeKV
from tests.servers import Consul, wait_until

Run = Callable[[Context], str]
Plan = Callable[[Run], None]


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A root of its own, a Consul that is not there, no pauses between tries; logging as it was."""
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    monkeypatch.setenv("HYDRA_ROOT", str(tmp_path))
    monkeypatch.setenv("HYDRA_NODE", "n1")
    monkeypatch.setenv("CONSUL_HTTP_ADDR", "127.0.0.1:1")
    monkeypatch.setattr(main, "PAUSES_S", (0.0, 0.0, 0.0))
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)  # main sets one of its own
    yield tmp_path
    logger.handlers[:] = handlers
    logger.setLevel(level)


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Puts a function in the place of the handler `plan`."""

    def put(run: Run) -> None:
        module = ModuleType("handlers.plan")
        module.run = run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "handlers.plan", module)

    return put


def failing(error: Exception, times: int = 1_000) -> tuple[Run, list[Context]]:
    """A handler that fails so many times, and the list of its runs."""
    runs: list[Context] = []

    def run(ctx: Context) -> str:
        runs.append(ctx)
        if len(runs) <= times:
            raise error
        return "did it"

    return run, runs


def test_help_names_every_handler_and_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--help"]) == 0

    text = capsys.readouterr().out
    kinds = [errors.HydraError, errors.Usage, errors.Denied, errors.Conflict, errors.Timeout]
    kinds += [errors.Integrity, errors.Temporary]
    for name in main.HANDLERS:
        assert f"\n  {name} " in text
    for kind in kinds:
        assert f"\n  {kind.exit_code} " in text


@pytest.mark.parametrize("arguments", [[], ["nobody"], ["plan", "sync"], ["--fast"]])
def test_anything_but_one_handler_is_a_usage_error(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(arguments) == 2
    assert "plan, sync, reload, judge, retain, discover, enroll, record, resync" in capsys.readouterr().err


def test_handler_gets_its_surroundings_and_its_sentence_is_logged(
    plan: Plan, machine: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Context] = []
    monkeypatch.setenv("CONSUL_INDEX", "42")

    def run(ctx: Context) -> str:
        seen.append(ctx)
        return "wrote nothing"

    plan(run)
    assert main.main(["plan"]) == 0
    (ctx,) = seen
    assert (ctx.node, ctx.settings.root, ctx.index) == ("n1", machine, 42)
    assert "wrote nothing" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [errors.Temporary, errors.Denied, errors.Conflict, errors.Malformed])
def test_by_hand_a_failure_is_its_exit_code_at_once(plan: Plan, kind: type[errors.HydraError]) -> None:
    run, runs = failing(kind("no luck"))
    plan(run)

    assert main.main(["plan"]) == kind.exit_code
    assert len(runs) == 1


def test_under_a_watch_what_may_pass_is_tried_again(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSUL_INDEX", "42")
    run, runs = failing(errors.Temporary("away"), times=2)
    plan(run)

    assert main.main(["plan"]) == 0
    assert len(runs) == 3


@pytest.mark.parametrize(
    ("error", "tries"),
    [
        (errors.Temporary("away"), 4),
        (errors.Conflict("lost"), 4),
        (errors.Denied("no"), 1),
        (KeyError("bug"), 1),
    ],
)
def test_under_a_watch_no_failure_ends_the_watch(
    plan: Plan,
    error: Exception,
    tries: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CONSUL_INDEX", "42")
    run, runs = failing(error)
    plan(run)

    assert main.main(["plan"]) == 0
    assert len(runs) == tries
    assert error.args[0] in capsys.readouterr().err


def test_bug_is_logged_with_its_place(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    run, _ = failing(KeyError("bug"))
    plan(run)

    assert main.main(["plan"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_interrupt_has_its_exit_code(plan: Plan) -> None:
    def run(_: Context) -> str:
        raise KeyboardInterrupt

    plan(run)
    assert main.main(["plan"]) == 130


def test_unfit_settings_are_a_usage_error(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HYDRA_CONFIG", "/no/such/file")
    plan(lambda _: "not reached")

    assert main.main(["plan"]) == 2
    assert "/no/such/file" in capsys.readouterr().err


def test_third_run_of_a_handler_leaves_it_to_the_one_that_waits(
    plan: Plan, machine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    locks = machine / "state" / "locks"
    locks.mkdir(parents=True)
    plan(lambda _: pytest.fail("it is not our turn"))
    with (locks / "plan.queue").open("w") as queued:
        fcntl.flock(queued, fcntl.LOCK_EX)

        assert main.main(["plan"]) == 0
    assert "queued already" in capsys.readouterr().err


def view(index: int, value: bytes) -> bytes:
    """What `consul watch -type=key` writes to its handler."""
    row = {"Key": "k", "ModifyIndex": index, "Value": base64.b64encode(value).decode()}
    return json.dumps(row).encode() + b"\n"


def handled(machine: Path, stdin: bytes) -> bool:
    LocalState(machine).write(doorbell.name("sync"), doorbell.text(7, b"value"))
    return doorbell.was_handled(machine, "sync", stdin)


def test_view_that_was_handled_needs_no_run(machine: Path) -> None:
    assert handled(machine, view(7, b"value"))


@pytest.mark.parametrize(
    "stdin",
    [
        view(8, b"value"),
        view(7, b"other"),
        b"null\n",
        b"",
        b"[]",
        b"{",
        b'{"ModifyIndex": 7}',
        b'{"ModifyIndex": "7", "Value": 3}',
        b'{"ModifyIndex": 7, "Value": "%%%"}',
        b"\xff\xfe",
        b"[" + view(7, b"value") + b"]",
    ],
)
def test_anything_else_needs_a_run(machine: Path, stdin: bytes) -> None:
    assert not handled(machine, stdin)


def test_view_without_a_note_needs_a_run(machine: Path) -> None:
    assert not doorbell.was_handled(machine, "sync", view(7, b"value"))


def sync_process(stdin: IO[bytes], **more: str) -> tuple[int, str]:
    """Exit code and stderr of a real run, with the time of each import."""
    command = [sys.executable, "-I", "-X", "importtime", "-m", "handlers.main", "sync"]
    environ = dict(os.environ) | more
    done = subprocess.run(command, env=environ, stdin=stdin, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr


def test_cheap_end_imports_nothing_heavy_and_asks_nobody(machine: Path) -> None:
    LocalState(machine).write(doorbell.name("sync"), doorbell.text(7, b"value"))

    rung = machine / "stdin"
    rung.write_bytes(view(7, b"value"))

    with rung.open("rb") as stdin:
        code, stderr = sync_process(stdin, CONSUL_INDEX="7")

    imported = {line.rpartition("|")[2].strip() for line in stderr.splitlines()}
    assert code == 0
    assert "handlers.doorbell" in imported
    assert not imported & {"http.client", "logging", "handlers.settings", "msgspec", "typing"}


def test_without_a_watch_nobody_waits_for_input() -> None:
    """By hand stdin is a terminal, under resync it is empty, from a script a pipe that may stay open."""
    read, write = os.pipe()
    try:
        with os.fdopen(read, "rb") as never_ending:
            code, stderr = sync_process(never_ending)
    finally:
        os.close(write)

    assert code == 10
    assert "Consul" in stderr


def test_node_name_is_asked_for_once(tmp_path: Path) -> None:
    fake, local = FakeKV(), LocalState(tmp_path)
    fake.answer("agent/self", {"Config": {"NodeName": "From Agent"}})
    settings = Settings(root=tmp_path, node="", config=Path("none"))

    assert node_name(settings, fake, local) == "From Agent"
    fake.away = True
    assert node_name(settings, fake, local) == "From Agent"
    assert local.read(AGENT_NAME) == b"From Agent"


def test_given_node_name_wins(tmp_path: Path) -> None:
    local = LocalState(tmp_path)
    local.write(AGENT_NAME, b"other")

    assert node_name(Settings(root=tmp_path, node="n1", config=Path("none")), FakeKV(), local) == "n1"


def test_unknown_node_name_is_temporary(tmp_path: Path) -> None:
    settings = Settings(root=tmp_path, node="", config=Path("none"))

    with pytest.raises(errors.Temporary, match="HYDRA_NODE"):
        node_name(settings, FakeKV(), LocalState(tmp_path))


@pytest.mark.parametrize(("environ", "code"), [({}, 1), ({"CONSUL_INDEX": "7"}, 0)])
def test_thread_that_breaks_off_ends_the_process(machine: Path, environ: dict[str, str], code: int) -> None:
    """The others would go on as if it still did its part; what is started again does."""
    (machine / "broken.py").write_text(
        "import sys, threading, types, handlers.main as main\n"
        "def look(): raise TypeError('no such answer')\n"
        "def run(ctx): threading.Thread(target=look, name='eye').start(); threading.Event().wait(60)\n"
        "sys.modules['handlers.plan'] = types.SimpleNamespace(run=run)\n"
        "sys.exit(main.main(['plan']))\n"
    )
    command = [sys.executable, str(machine / "broken.py")]
    ended = subprocess.run(
        command, env=dict(os.environ) | environ, capture_output=True, text=True, timeout=100
    )

    assert ended.returncode == code
    assert "error plan broke off" in ended.stderr
    assert "no such answer" in ended.stderr
    assert "thread=eye" in ended.stderr


def said(log: Path, count: int) -> bool:
    return log.read_text().count("no_such_limit") >= count


def test_real_watch_survives_a_handler_that_fails(
    consul: Consul, programs: Callable[[str], Path], machine: Path
) -> None:
    """The watch must stay, and ring again at the next change."""
    wrong = machine / "node.toml"
    wrong.write_text("[limits]\nno_such_limit = 1\n")
    log = machine / "log"
    command = [str(programs("consul")), "watch", "-shell=false", "-type=key", "-key=k"]
    command += [sys.executable, "-I", "-m", "handlers.main", "plan"]
    environ = dict(os.environ) | consul.environment() | {"HYDRA_CONFIG": str(wrong)}
    with log.open("wb") as output:
        watch = subprocess.Popen(command, env=environ, stdout=output, stderr=subprocess.STDOUT)
    try:
        for count in (1, 2, 3):
            wait_until(partial(said, log, count))
            consul.kv().txn([Set("k", b"%d" % count)])
        assert watch.poll() is None
    finally:
        watch.kill()
        watch.wait()
