"""What commands print: every message once, as text for people and as JSON for programs.

A command builds a `Message` and hands it to `Screen.show`. Data goes to stdout; notes, warnings, progress and
errors go to stderr, so that `hydra … | …` never carries anything but data. Tables are drawn with rich on a
terminal and as plain aligned columns elsewhere. Control characters in names, notes and reasons (they come
from Consul, where anybody may have put them) never reach a terminal.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from msgspec import Struct, field

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

SCHEMA_VERSION = 1
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_SIZES = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


class Tone(StrEnum):
    """How a cell or line should be read; the value is rich's style for it."""

    PLAIN = ""
    GOOD = "green"
    WARN = "yellow"
    BAD = "bold red"
    DIM = "dim"
    HEAD = "bold"


class Cell(Struct, frozen=True):
    """Text with a tone."""

    text: str
    tone: Tone = Tone.PLAIN


class Line(Struct, frozen=True):
    """One line of text."""

    text: str
    tone: Tone = Tone.PLAIN


class Table(Struct, frozen=True):
    """Rows under columns; without rows the sentence `empty` stands there. `right` are columns of numbers."""

    columns: tuple[str, ...]
    rows: Sequence[Sequence[Cell | str]]
    title: str = ""
    empty: str = "none"
    right: frozenset[str] = field(default_factory=frozenset)

    def cells(self) -> list[list[Cell]]:
        """All rows as cells, without control characters."""
        return [[_cell(c) for c in row] for row in self.rows]


Block = Line | Table


class Message(Protocol):
    """Something that a command says."""

    def data(self) -> Mapping[str, Any]:
        """The content as JSON values."""

    def blocks(self) -> Iterator[Block]:
        """The content for people."""


class Said(Struct, frozen=True):
    """A message that is one sentence and its data: what most commands that change something say."""

    text: str
    fields: Mapping[str, Any]
    tone: Tone = Tone.PLAIN

    def data(self) -> Mapping[str, Any]:
        """The fields as they are."""
        return self.fields

    def blocks(self) -> Iterator[Block]:
        """The sentence."""
        yield Line(self.text, self.tone)


class Screen:
    """Where a command writes: `form` is `table` or `json`; `colour` False means none, even on a terminal."""

    def __init__(
        self,
        form: str = "table",
        *,
        colour: bool = True,
        out: TextIO | None = None,
        err: TextIO | None = None,
    ) -> None:
        self.form = form
        self.colour = colour
        self._given = (out, err)

    @property
    def _out(self) -> TextIO:
        return self._given[0] or sys.stdout

    @property
    def _err(self) -> TextIO:
        return self._given[1] or sys.stderr

    @property
    def live(self) -> bool:
        """Whether somebody looks on: progress may move on stderr."""
        return self._err.isatty()

    def show(self, message: Message) -> None:
        """Print data to stdout in the chosen form."""
        if self.form == "json":
            print(json_text(message.data()), file=self._out)
        elif self._out.isatty():
            draw(self.console(self._out), message)
        else:
            self._out.write(plain(message))
        self._out.flush()

    @property
    def out_live(self) -> bool:
        """Whether data goes to a terminal, where a picture may be drawn again in place."""
        return self.form != "json" and self._out.isatty()

    def text(self, messages: Sequence[Message]) -> str:
        """Messages as they are printed where nobody looks on."""
        if self.form == "json":
            return "".join(f"{json_text(message.data())}\n" for message in messages)
        return "".join(plain(message) for message in messages)

    def write(self, text: str) -> None:
        """Print text that `text` made."""
        self._out.write(text)
        self._out.flush()

    def redraw(self, messages: Sequence[Message], last: Line) -> None:
        """Draw messages over what the terminal shows, without the flicker of an empty screen between."""
        console = self.console(self._out)
        with console.capture() as drawn:
            for message in messages:
                draw(console, message)
            console.print(rendered(last))
        lines = drawn.get().split("\n")[: console.size.height]
        # to the top; each line over the old one, the rest of it erased; then everything below
        self.write("\x1b[H" + "\x1b[K\n".join(lines) + "\x1b[J")

    def note(self, text: str, tone: Tone = Tone.DIM) -> None:
        """Say something on stderr that is not data."""
        if self._err.isatty() and tone and self.colour:
            self.console(self._err).print(
                safe(text), style=str(tone), highlight=False, markup=False, soft_wrap=True
            )
        else:
            print(safe(text), file=self._err, flush=True)

    def warn(self, text: str) -> None:
        """Say on stderr what a person should look at."""
        self.note(f"warning: {text}", Tone.WARN)

    def error(self, text: str, kind: str, exit_code: int) -> None:
        """Say on stderr why the command fails; with `-o json` as one JSON object."""
        if self.form == "json":
            error = {"kind": kind, "message": text, "exit_code": exit_code}
            print(json_text({"error": error}), file=self._err, flush=True)
        else:
            self.note(f"error: {text}", Tone.BAD)

    def console(self, stream: TextIO | None = None) -> Console:
        """A rich console on `stream` (stderr when not given)."""
        from rich.console import Console

        return Console(file=stream or self._err, no_color=None if self.colour else True, highlight=False)


def json_text(data: Mapping[str, Any]) -> str:
    """`data` with the version of its shape, as indented JSON."""
    return json.dumps({"schema_version": SCHEMA_VERSION, **data}, indent=2, ensure_ascii=False, default=str)


def plain(message: Message) -> str:
    """The message without colour: columns two spaces apart, a blank line between blocks with a title."""
    lines: list[str] = []
    for block in message.blocks():
        if isinstance(block, Line):
            lines.append(safe(block.text))
            continue
        if block.title:
            lines += ([""] if lines else []) + [block.title]
        lines += _aligned(block) if block.rows else [f"  {block.empty}" if block.title else block.empty]
    return "".join(f"{line.rstrip()}\n" for line in lines)


def draw(console: Console, message: Message) -> None:
    """The message on a terminal."""
    for block in message.blocks():
        console.print(rendered(block), soft_wrap=isinstance(block, Line))


def rendered(block: Block) -> RenderableType:
    """A block as rich draws it; text is never read as rich's markup."""
    from rich.console import Group
    from rich.table import Table as RichTable
    from rich.text import Text

    if isinstance(block, Line):
        return Text(safe(block.text), style=str(block.tone))
    if not block.rows:
        return Text(f"\n{block.title}\n  {block.empty}" if block.title else block.empty, style=str(Tone.DIM))
    table = RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.header_style = str(Tone.DIM)
    for column in block.columns:
        table.add_column(Text(column), justify="right" if column in block.right else "left", overflow="fold")
    for row in block.cells():
        table.add_row(*(Text(cell.text, style=str(cell.tone)) for cell in row))
    # a title of rich's own would be broken at the width of the table
    return Group(Text(f"\n{block.title}", style=str(Tone.HEAD)), table) if block.title else table


def _aligned(table: Table) -> Iterator[str]:
    rows = [list(table.columns), *([cell.text for cell in row] for row in table.cells())]
    widths = [max(len(row[i]) for row in rows) for i in range(len(table.columns))]
    for row in rows:
        yield "  ".join(
            text.rjust(width) if column in table.right else text.ljust(width)
            for text, width, column in zip(row, widths, table.columns, strict=True)
        )


def _cell(value: Cell | str) -> Cell:
    cell = value if isinstance(value, Cell) else Cell(value)
    return Cell(" ".join(safe(cell.text).split("\n")), cell.tone)


def safe(text: str) -> str:
    """`text` without control characters, which could rewrite what a terminal shows."""
    return _CONTROL.sub("�", text)


def size(count: float) -> str:
    """A number of bytes for people: `1.5 GiB`."""
    for unit in _SIZES:
        if count < 1024 or unit == _SIZES[-1]:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("unreachable: the last unit takes everything")


def span(seconds: float) -> str:
    """A stretch of time for people, in its two largest units: `3m 20s`."""
    left = max(0, round(seconds))
    parts = []
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2]) or "0s"


def ago(when: str, now: datetime) -> str:
    """How long ago the time in a document was, for people; empty when it is none."""
    try:
        moment = datetime.fromisoformat(when)
    except ValueError:
        return ""
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return span((now - moment).total_seconds())
