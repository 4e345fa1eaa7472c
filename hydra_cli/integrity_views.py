"""How the integrity of datasets is shown: the level, and plainly what the weakest one means."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from handlers.core.integrity import Level, level_named
from handlers.core.model import Dataset
from hydra_cli.output import Block, Cell, Line, Tone

_TONES = {Level.DIGEST: Tone.GOOD, Level.SIZE: Tone.WARN}


def level_cell(level: str) -> Cell:
    """A level in the tone of what it is worth."""
    return Cell(level, _TONES.get(Level(level), Tone.PLAIN) if level in set(Level) else Tone.BAD)


def weakest_of(datasets: Iterable[Dataset]) -> str:
    """The level of the least protected dataset; empty without datasets."""
    levels = [level_named(dataset.integrity) for dataset in datasets]
    return str(min(levels, key=lambda level: level.strength)) if levels else ""


def unprotected(datasets: Mapping[str, Dataset], what: str = "") -> Iterator[Block]:
    """One line that says what level `size` is worth, where a dataset has no more."""
    names = sorted(name for name, dataset in datasets.items() if dataset.integrity == Level.SIZE)
    if names:
        yield Line(
            f"{what}{', '.join(names)}: integrity size protects against nothing but truncation; "
            "upload with `hydra push`, or publish with --digest",
            Tone.WARN,
        )
