"""How the integrity of datasets is shown: the level, and plainly what the weakest one means."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from handlers.core.integrity import Level
from handlers.core.model import Dataset
from hydra_cli.output import Block, Cell, Line, Tone

_TONES = {Level.DIGEST: Tone.GOOD, Level.SIZE: Tone.WARN}


def level_cell(level: str) -> Cell:
    """A level in the tone of what it is worth."""
    return Cell(level, _TONES.get(Level(level), Tone.PLAIN) if level in set(Level) else Tone.BAD)


def weakest_of(datasets: Iterable[Dataset]) -> str:
    """The level of the least protected dataset; empty without datasets."""
    known = {str(level): level.strength for level in Level}
    return min((dataset.integrity for dataset in datasets), key=lambda name: known.get(name, -9), default="")


def unprotected(levels: Iterable[tuple[str, str]]) -> Iterator[Block]:
    """One line that says what level `size` is worth, where something (by name) has no more."""
    names = [name for name, level in levels if level == Level.SIZE]
    if names:
        yield Line(
            f"{', '.join(names)}: integrity size protects against nothing but truncation; "
            "upload with `hydra push`, or publish with --digest",
            Tone.WARN,
        )
