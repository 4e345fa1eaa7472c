"""Progress: a bar where somebody looks on, elsewhere a line now and then, if it takes long."""

from __future__ import annotations

import io

import pytest

from hydra_cli import progress as module
from hydra_cli.output import Screen
from hydra_cli.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_a_bar_with_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out, err = io.StringIO(), Terminal()

    with progress(Screen(out=out, err=err), "push", 4 * 1024**2) as step:
        step(3 * 1024**2)
        step(1024**2)

    assert "push" in err.getvalue()
    assert "4.2 MB" in err.getvalue() or "4.0 MiB" in err.getvalue()
    assert out.getvalue() == ""


def test_what_is_quickly_done_says_nothing_elsewhere() -> None:
    err = io.StringIO()

    with progress(Screen(out=io.StringIO(), err=err), "push", 10) as step:
        step(10)

    assert err.getvalue() == ""


@pytest.mark.parametrize(
    ("unit", "said"), [("bytes", "look: 3 B of 10 B\n"), ("objects", "look: 3 of 10 objects\n")]
)
def test_what_takes_long_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch, unit: str, said: str) -> None:
    monkeypatch.setattr(module, "EVERY_S", 0.0)
    err = io.StringIO()

    with progress(Screen(out=io.StringIO(), err=err), "look", 10, unit) as step:
        step(3)

    assert err.getvalue() == said
