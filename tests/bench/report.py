"""What the figures are made of: samples, their statistics, the table. Nothing is measured here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Counts = Literal["median", "p99", "max"]
_HEADINGS = ("", "what", "aim", "median", "p99", "max", "n", "")


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of `values` that at least `share` (0 to 1) of them do not exceed: nearest rank."""
    if not values:
        raise ValueError("no values, so no percentile")
    ranked = sorted(values)
    return ranked[max(1, math.ceil(share * len(ranked))) - 1]


def median(values: Sequence[float]) -> float:
    """The middle value, or the mean of the two in the middle."""
    if not values:
        raise ValueError("no values, so no median")
    ranked, half = sorted(values), len(values) // 2
    return ranked[half] if len(ranked) % 2 else (ranked[half - 1] + ranked[half]) / 2


@dataclass(frozen=True)
class Row:
    """One line of the table: repeated measurements of one thing.

    `aim` is the largest value that is good enough, `counts` which statistic is held against it; without an
    aim the line is there to compare with.
    """

    figure: int
    what: str
    values: Sequence[float]
    unit: str = "ms"
    aim: float | None = None
    counts: Counts = "max"

    @property
    def result(self) -> float:
        """The statistic that counts."""
        if self.counts == "median":
            return median(self.values)
        return percentile(self.values, 0.99 if self.counts == "p99" else 1)

    @property
    def missed(self) -> bool:
        """There is an aim, and the figure is above it."""
        return self.aim is not None and self.result > self.aim

    def cells(self) -> tuple[str, ...]:
        """The texts of this line."""
        aim = "" if self.aim is None else f"{self.counts} ≤ {amount(self.aim, self.unit)}"
        verdict = "" if self.aim is None else "MISSED" if self.missed else "met"
        middle, high, top = (
            amount(value, self.unit)
            for value in (median(self.values), percentile(self.values, 0.99), max(self.values))
        )
        return (f"({self.figure})", self.what, aim, middle, high, top, str(len(self.values)), verdict)


@dataclass
class Findings:
    """What one figure found: lines of the table, and sentences that explain them."""

    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def amount(value: float, unit: str) -> str:
    """Three digits that matter, with the unit: `7.34 ms`, `52.1 ms`, `1,020 ms`."""
    decimals = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:,.{decimals}f} {unit}"


def table(rows: Sequence[Row]) -> str:
    """All lines, aligned; numbers to the right."""
    cells = [_HEADINGS, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEADINGS))]
    return "\n".join(
        "  ".join(
            text.rjust(width) if 2 < column < 7 else text.ljust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    )


def verdicts(rows: Sequence[Row]) -> list[str]:
    """A sentence for each aim that was missed; one that says so when none was."""
    missed = [
        f"MISSED: ({row.figure}) {row.what}: {row.counts} {amount(row.result, row.unit)}, "
        f"aim {amount(row.aim, row.unit)}"
        for row in rows
        if row.aim is not None and row.missed
    ]
    judged = sum(row.aim is not None for row in rows)
    return missed or [f"All {judged} aims are met." if judged else "No aim was measured."]
