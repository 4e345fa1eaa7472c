"""Errors become exit codes in one place; data and messages keep to their streams; starting is quick."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from handlers.core import errors, keys
from tests.cli.desk import PLACES, Desk
from tests.servers import S3, Consul, wait_until

HYDRA = (sys.executable, "-m", "hydra_cli.main")


@pytest.mark.parametrize(
    "error", [errors.HydraError, *errors.HydraError.__subclasses__(), errors.Timeout, errors.Malformed]
)
def test_every_error_of_ours_ends_with_its_exit_code(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, error: type[errors.HydraError]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error("this is wrong")

    monkeypatch.setattr(desk.kv, "list", fail)

    text, as_json = desk.run("channel", "list"), desk.run("channel", "list", "-o", "json")

    assert (text.code, text.out, text.err) == (error.exit_code, "", "error: this is wrong\n")
    said = {"kind": error.__name__, "message": "this is wrong", "exit_code": error.exit_code}
    assert json.loads(as_json.err) == {"schema_version": 1, "error": said}


def test_interrupt_ends_with_130(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(desk.kv, "list", interrupt)

    assert desk.run("channel", "list").code == 130


def test_interrupt_that_breaks_a_lock_ends_so_too(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        try:
            raise KeyboardInterrupt
        finally:
            threading.Lock().release()  # as leaving a condition does whose wait was interrupted

    monkeypatch.setattr(desk.kv, "list", interrupt)

    assert desk.run("channel", "list").code == 130


def test_defect_is_one_line_unless_asked_for_more(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("oops")

    monkeypatch.setattr(desk.kv, "list", fail)
    with pytest.raises(RuntimeError):
        desk.run("channel", "list")
    desk.environ["HYDRA_DEBUG"] = ""

    answer = desk.run("channel", "list")

    assert (answer.code, answer.err.startswith("error: RuntimeError: oops (a defect;")) == (1, True)


def test_options_may_stand_before_or_after_the_command(desk: Desk) -> None:
    assert desk.ok("-o", "json", "channel", "list").json == desk.ok("channel", "list", "-o", "json").json


def test_help_needs_none_of_the_heavy_libraries() -> None:
    code = (
        "import sys; from hydra_cli.main import cli; cli.main(['--help'], standalone_mode=False); "
        "print(sorted({'boto3', 'rich', 'consul', 'yaml', 'jinja2', 'obstore'} & set(sys.modules)))"
    )

    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert answer.stdout.splitlines()[-1] == "[]"


def test_no_consul_at_all_is_unavailable_without_a_traceback(tmp_path: Path) -> None:
    environ = os.environ | {"CONSUL_HTTP_ADDR": "127.0.0.1:1", "HOME": str(tmp_path)}

    answer = subprocess.run([*HYDRA, "status"], capture_output=True, text=True, env=environ)

    assert (answer.returncode, answer.stdout) == (10, "")
    assert answer.stderr.startswith("error: ")
    assert "no answer from Consul" in answer.stderr


def test_ctrl_c_while_waiting_ends_at_once_with_130_and_keeps_the_release(
    consul: Consul, s3: S3, tmp_path: Path
) -> None:
    environ = os.environ | consul.environment() | s3.environment() | {"HOME": str(tmp_path)}
    bucket = s3.bucket()
    s3.put(bucket, {"a/2026-01-01T00-00-00/f": b"x"})
    template = tmp_path / "t.json"
    source = f"s3://{bucket}/a/{{VERSION_PLACEHOLDER}}/f"
    template.write_text(json.dumps({"a": {"SourcePath": source, "Placement": 0}}))
    for words in (
        ("init", "--env", "prod"),
        ("channel", "set", PLACES),
        ("subscribe", "prod/a/b", "--channel", PLACES),
    ):
        subprocess.run([*HYDRA, *words], env=environ, check=True, capture_output=True)
    instances = b'{"format":1,"instances":{"prod/a/b/i":{"service":"prod/a/b","id":"i","incarnation":"1"}}}'
    kv = consul.kv()
    kv.put_json("kv/" + keys.alive("n1"), {})
    kv.put_json("kv/" + keys.instances("n1"), json.loads(instances))
    process = subprocess.Popen(
        [*HYDRA, "publish", str(template), "--channel", PLACES, "--wait"],
        env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stderr is not None
    wait_until(lambda: "planned" in (process.stderr.readline() if process.stderr else ""))

    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)

    assert process.returncode == 130, err
    assert out.startswith("published 2026-01-01T00-00-00")
    assert err.splitlines()[-1] == "error: interrupted"


def test_reader_that_goes_away_is_no_traceback(consul: Consul, tmp_path: Path) -> None:
    environ = os.environ | consul.environment() | {"HOME": str(tmp_path)}
    reader, writer = os.pipe()
    os.close(reader)

    answer = subprocess.run([*HYDRA, "status"], env=environ, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)

    assert (answer.returncode, answer.stderr) == (1, "")
