"""`hydra dev demo`: the command, from the first check to the last process ended."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from handlers.core.errors import HydraError
from hydra_cli.context import Context
from hydra_cli.dev.demo.figures import Figures
from hydra_cli.dev.demo.show import open_show
from hydra_cli.dev.demo.stage import Stage, check_extras
from hydra_cli.dev.demo.story import Story
from hydra_cli.dev.demo.traffic import LIMIT_S
from hydra_cli.options import command
from hydra_cli.output import Block, Cell, Line, Table, Tone

EXAMPLES = """
hydra dev demo
hydra dev demo --keep
hydra dev demo --dir /tmp/demo | tee demo.log
"""


@dataclass(frozen=True)
class Result:
    """What was measured, and what is wrong with it."""

    figures: Figures

    def data(self) -> Mapping[str, Any]:
        """The figures by name, and the shortcomings."""
        return {**vars(self.figures), "shortcomings": self.figures.shortcomings()}

    def blocks(self) -> Iterator[Block]:
        """The table, then the verdict."""
        yield Line("")
        rows = [(Cell(what), Cell(how_much, Tone.HEAD)) for what, how_much in self.figures.rows()]
        yield Table(("MEASURED", ""), rows)
        wrong = self.figures.shortcomings()
        if not wrong:
            yield Line(
                "No request failed, none was mixed, none came late, never more than one was out.", Tone.GOOD
            )
        for text in wrong:
            yield Line(f"NOT GOOD: {text}", Tone.BAD)


@dataclass(frozen=True)
class Hints:
    """What to look at and to try while everything is left running."""

    lines: Sequence[str]

    def data(self) -> Mapping[str, Any]:
        """The lines."""
        return {"hints": list(self.lines)}

    def blocks(self) -> Iterator[Block]:
        """The lines."""
        yield from (Line(text) for text in ("", *self.lines, ""))


@command("demo", examples=EXAMPLES)
@click.pass_obj
@click.option("--keep", is_flag=True, help="Leave everything running until Ctrl-C, and say what to try.")
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for everything; it is kept.  [default: a temporary one]",
)
@click.option(
    "--limit",
    "limit_s",
    metavar="SECONDS",
    type=click.FloatRange(0.1, 20),
    default=LIMIT_S,
    show_default=True,
    help="How long the client waits for an answer: more where the machine has other work.",
)
def demo(context: Context, keep: bool, folder: Path | None, limit_s: float) -> int:
    """Watch a release take over a running service on three nodes, under live traffic.

    Everything is real: Consul agents, supervisord, an S3 server, a service in four replicas, a client that
    sends 220 requests a second and tries none twice. Ends with a table of what was measured, and fails
    unless no request failed, none was answered from two releases, none came to a replica after its drain,
    and never more than one replica was out because of Hydra.
    """
    check_extras()
    with _folder(context, folder) as home, _ended_in_order(), _stage(home, limit_s) as stage:
        figures = _told(context, stage)
        context.screen.show(Result(figures))
        if keep:
            _keep(context, stage)
    return 1 if figures.shortcomings() else 0


def _told(context: Context, stage: Stage) -> Figures:
    show = open_show(context.screen)
    try:
        return Story(stage, show).tell()
    finally:
        show.close()


@contextlib.contextmanager
def _folder(context: Context, given: Path | None) -> Iterator[Path]:
    """The folder of the demo. A temporary one is deleted, unless something went wrong: it has the logs."""
    if given:
        yield given.absolute()
        return
    made = Path(tempfile.mkdtemp(prefix="hydra-demo-"))
    try:
        yield made
    except HydraError:
        context.screen.note(f"what happened is in the logs below {made}")
        raise
    except BaseException:
        _remove(made)
        raise
    _remove(made)


def _remove(folder: Path) -> None:
    """Delete a folder with complete data in it, which is read-only."""
    for path, _, _ in os.walk(folder):
        Path(path).chmod(0o755)
    shutil.rmtree(folder)


@contextlib.contextmanager
def _stage(folder: Path, limit_s: float) -> Iterator[Stage]:
    stage = Stage(folder, limit_s)
    try:
        yield stage
    finally:
        stage.down()


@contextlib.contextmanager
def _ended_in_order() -> Iterator[None]:
    """Being asked to end (SIGTERM, a closed terminal) takes everything down, as Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _keep(context: Context, stage: Stage) -> None:
    """Say what to try, and go on with the traffic until Ctrl-C."""
    context.screen.show(Hints(stage.hints()))
    show = open_show(context.screen)
    try:
        show.scene("everything goes on until Ctrl-C")
        show.look_at(stage.world)
        stage.start_traffic()
        threading.Event().wait()
    except KeyboardInterrupt:
        show.note("ending")
    finally:
        show.close()
