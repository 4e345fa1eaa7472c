"""The releases of the demo: natural ones, since a gazetteer can leave out small places."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Edition:
    """One release to be: its version and the smallest place that it knows (inhabitants)."""

    version: str
    smallest: int

    @property
    def title(self) -> str:
        """What is in it."""
        return f"places of {self.smallest:,} inhabitants or more"


EDITIONS = (
    Edition("2019-12-15T00-00-00", 15_000),
    Edition("2019-12-16T00-00-00", 5_000),
    Edition("2019-12-17T00-00-00", 1_000_000),  # somebody has mistyped the limit
    Edition("2019-12-18T00-00-00", 1_000),
)
