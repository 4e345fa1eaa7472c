"""Timing whole processes in turns."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.bench.processes import Command, rounds


def test_commands_take_turns_and_the_first_rounds_do_not_count(tmp_path: Path) -> None:
    log = tmp_path / "log"
    commands = [Command(name, ["/bin/sh", "-c", f"echo {name} >>{log}"]) for name in ("a", "b")]

    times = rounds(commands, 2, warm=2)

    assert {name: len(values) for name, values in times.items()} == {"a": 2, "b": 2}
    assert all(took > 0 for values in times.values() for took in values)
    assert log.read_text().split() == ["a", "b", "b", "a"] * 2


def test_command_gets_its_stdin_and_only_its_own_environment(tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.write_text("rung")
    code = "import os, sys; assert sys.stdin.read() == 'rung'; assert os.environ['A'] == '1'"
    code += "; assert 'HOME' not in os.environ"

    assert Command("x", [sys.executable, "-c", code], {"A": "1"}, given).run() > 0


def test_command_that_fails_is_an_error_with_its_output() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)x ended with 3.*why"):
        Command("x", ["/bin/sh", "-c", "echo why >&2; exit 3"]).run()
