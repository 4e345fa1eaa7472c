"""What all documents have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

FORMAT = 1
DISK = "DISK"
RAM = "RAM"


def count(number: int, what: str) -> str:
    """`1 release`, `2 releases`: for sentences that people read."""
    return f"{number} {what}{'' if number == 1 else 's'}"


@dataclass(frozen=True, kw_only=True)
class Part:
    """A nested object of a document."""

    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Doc(Part):
    """A whole document; has `format` and `about` in JSON."""

    def title(self) -> str:
        """One sentence for people: what this document is."""
        return type(self).__name__


@dataclass(frozen=True, kw_only=True)
class Note(Part):
    """Who did something, when and why: tombstones, cordons, rejections, pins."""

    who: str = ""
    when: str = ""
    why: str = ""
