"""Tables, JSON and colours: the same message on a terminal, in a pipe and for a program."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from hydra_cli.output import Block, Cell, Line, Screen, Table, Tone, ago, size, span


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Fleet:
    """A message with a line and a table; one name tries to be markup and to move the cursor."""

    def data(self) -> Mapping[str, Any]:
        return {"nodes": ["n1"]}

    def blocks(self) -> Iterator[Block]:
        yield Line("two nodes", Tone.GOOD)
        rows: list[list[Cell | str]] = [
            ["n1", Cell("dead", Tone.BAD), "7"],
            ["[bold]n2\x1b[2J", "alive\nagain", "11"],
        ]
        yield Table(("NODE", "IS", "COUNT"), rows, title="Nodes", right=frozenset({"COUNT"}))
        yield Table(("A",), [], title="Others", empty="nobody")


def test_pipe_gets_plain_aligned_columns() -> None:
    out = io.StringIO()

    Screen(out=out).show(Fleet())

    assert out.getvalue() == (
        "two nodes\n\nNodes\nNODE          IS           COUNT\nn1            dead             7\n"
        "[bold]n2\ufffd[2J  alive again     11\n\nOthers\n  nobody\n"
    )


def test_terminal_gets_the_same_words_in_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = Terminal()

    Screen(out=out).show(Fleet())

    assert "\x1b[1;31mdead" in out.getvalue()
    assert "[bold]n2\ufffd[2J" in out.getvalue()
    assert "nobody" in out.getvalue()


@pytest.mark.parametrize("way", ["option", "variable"])
def test_no_colour_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    if way == "variable":
        monkeypatch.setenv("NO_COLOR", "1")
    out, err = Terminal(), Terminal()
    screen = Screen(out=out, err=err, colour=way == "variable")

    screen.show(Fleet())
    screen.warn("careful")

    assert "31m" not in out.getvalue()
    assert "33m" not in err.getvalue()


def test_json_has_the_version_of_its_shape() -> None:
    out = io.StringIO()

    Screen("json", out=out).show(Fleet())

    assert json.loads(out.getvalue()) == {"schema_version": 1, "nodes": ["n1"]}


def test_notes_and_errors_never_get_into_the_data() -> None:
    out, err = io.StringIO(), io.StringIO()
    screen = Screen("json", out=out, err=err)

    screen.note("one\ntwo \x07")
    screen.error("three", "Usage", 2)

    assert out.getvalue() == ""
    said, _, error = err.getvalue().partition("{")
    assert said == "one\ntwo \ufffd\n"
    assert json.loads("{" + error)["error"] == {"kind": "Usage", "message": "three", "exit_code": 2}


def test_picture_is_drawn_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    out = Terminal()
    screen = Screen(out=out)

    screen.redraw([Fleet()], Line("12:00:00"))

    assert screen.out_live
    assert out.getvalue().startswith("\x1b[H")
    assert out.getvalue().endswith("\x1b[J")


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1.5 * 1024**3, "1.5 GiB"), (2**60, "1024.0 PiB")],
)
def test_sizes(count: float, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0s"), (0.4, "0s"), (59.6, "1m"), (3661, "1h 1m"), (90061, "1d 1h")]
)
def test_spans(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_ages() -> None:
    now = datetime(2026, 6, 1, 12, tzinfo=UTC)

    assert [ago(t, now) for t in ("2026-06-01T11:00:00Z", "2026-06-01T11:59:00", "soon")] == ["1h", "1m", ""]
