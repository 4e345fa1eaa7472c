"""How the demo looks: scenes and what happens in them, live on a terminal, as plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from handlers.core.model import Ready, State, Step
from hydra_cli.dev.demo.world import Seen, World
from hydra_cli.output import Screen, safe

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

FRAMES_PER_S = 5
NOTES = 6  # of the present scene, so that the picture fits a small terminal
COLOURS = ("blue", "magenta", "red", "cyan")  # of the releases, in the order of their publishing


class Show(Protocol):
    """Where the story is told."""

    def scene(self, title: str) -> None:
        """What comes now; the scene before is over."""

    def note(self, text: str) -> None:
        """Something happened in this scene."""

    def look_at(self, world: World) -> None:
        """From now on there is something to see."""

    def close(self) -> None:
        """The story is over; what was shown stays readable."""


class PlainShow:
    """A line with the time for each event, as for a log."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._start = time.monotonic()

    def scene(self, title: str) -> None:
        """A headline."""
        self._line(f"== {title}")

    def note(self, text: str) -> None:
        """A line below it."""
        self._line(f"   {text}")

    def look_at(self, world: World) -> None:
        """Plain lines have no picture."""

    def close(self) -> None:
        """Nothing is open."""

    def _line(self, text: str) -> None:
        print(f"{time.monotonic() - self._start:5.1f}s {safe(text)}", file=self._out, flush=True)


@dataclass
class _Scene:
    title: str
    begin: float
    notes: list[str] = field(default_factory=list)


class LiveShow:
    """A picture that moves: the present scene, replicas, nodes, traffic. What is over stays above it."""

    def __init__(self, console: Console) -> None:
        from rich.live import Live

        self._start = time.monotonic()
        self._scene: _Scene | None = None
        self._world: World | None = None
        self._lock = threading.Lock()
        self._live = Live(
            console=console, refresh_per_second=FRAMES_PER_S, get_renderable=self._picture, transient=True
        )
        self._live.start()

    def scene(self, title: str) -> None:
        """Leave the scene before above the picture, and begin another."""
        self._leave()
        with self._lock:
            self._scene = _Scene(title, time.monotonic())

    def note(self, text: str) -> None:
        """Add to the scene."""
        with self._lock:
            if self._scene:
                self._scene.notes.append(text)

    def look_at(self, world: World) -> None:
        """Show this cluster from now on."""
        self._world = world

    def close(self) -> None:
        """Leave the last scene on the terminal, without the picture."""
        self._leave()
        self._live.stop()

    def _leave(self) -> None:
        with self._lock:
            over, self._scene = self._scene, None
        if over:
            self._live.console.print(_told(over, over=True))

    def _picture(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        head = Text(f"\nhydra dev demo   {time.monotonic() - self._start:.0f} s", style="bold")
        with self._lock:
            told = _told(self._scene, over=False) if self._scene else Text()
        if self._world is None:
            return Group(told, head)
        seen = self._world.seen
        tables = (_replicas(self._world, seen), _nodes(self._world, seen))
        return Group(told, head, *tables, _traffic(seen.traffic))


def _told(scene: _Scene, *, over: bool) -> Text:
    """A scene with what happened in it."""
    from rich.text import Text

    text = Text()
    text.append("✓ " if over else "▶ ", style="green" if over else "cyan")
    text.append(safe(scene.title), style="bold")
    text.append(f"  {time.monotonic() - scene.begin:.1f} s", style="dim")
    for note in scene.notes if over else scene.notes[-NOTES:]:
        text.append(f"\n    {safe(note)}", style="cyan" if note.startswith("$") else "dim" if over else "")
    return text


def _replicas(world: World, seen: Seen) -> RenderableType:
    table = _table("replica", "node", "for the client", "state", "step", "answers from")
    passing, serves = seen.traffic.get("passing", ()), seen.traffic.get("serves", {})
    for replica in world.replicas:
        state = seen.instance(replica, world.service)
        word = state.state if state else "-"
        table.add_row(
            replica.id,
            replica.node,
            "[green]in service[/]" if replica.id in passing else "[yellow]out[/]",
            f"[{'green' if word == Ready.READY else 'yellow'}]{word}[/]",
            "" if state is None or state.step is Step.IDLE else str(state.step),
            _version(serves.get(replica.id, ""), seen),
        )
    return table


def _nodes(world: World, seen: Seen) -> RenderableType:
    table = _table("node", "holds")
    for node in world.roots:
        actual = seen.actual.get(node)
        releases = sorted(actual.releases.items()) if actual else []
        words = [f"{_mark(status.state)} {_version(release.version, seen)}" for release, status in releases]
        table.add_row(node, "   ".join(words) or "-")
    return table


def _version(version: str, seen: Seen) -> str:
    """A version in the colour of its release."""
    from rich.markup import escape

    if version not in seen.heads:
        return escape(version) or "-"
    return f"[{COLOURS[list(seen.heads).index(version) % len(COLOURS)]}]{version}[/]"


def _mark(state: State) -> str:
    return {State.SUCCESS: "[green]✓[/]", State.FAILED: "[red]✗[/]"}.get(state, "[cyan]↓[/]")


def _traffic(report: Mapping[str, Any]) -> Text:
    from rich.text import Text

    if not report:
        return Text(" no traffic yet", style="dim")
    text = Text(f" answered {report['answered']}   ")
    for name in ("failed", "mixed"):
        text.append(f"{name} {report[name]}   ", style="bold red" if report[name] else "green")
    return text


def _table(*columns: str) -> Table:
    from rich import box
    from rich.table import Table as RichTable

    return RichTable(*columns, box=box.SIMPLE_HEAD, pad_edge=True, header_style="dim")


def open_show(screen: Screen) -> Show:
    """The kind of show that fits stdout, or stderr where stdout is for JSON."""
    out = sys.stderr if screen.form == "json" else sys.stdout
    return LiveShow(screen.console(out)) if out.isatty() else PlainShow(out)
