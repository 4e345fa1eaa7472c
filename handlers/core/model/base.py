"""What all documents have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct, field

FORMAT = 1
DISK = "DISK"
RAM = "RAM"


def count(number: int, what: str) -> str:
    """`1 release`, `2 releases`: for sentences that people read."""
    return f"{number} {what}{'' if number == 1 else 's'}"


class Part(Struct, frozen=True, kw_only=True):
    """A nested object of a document."""

    extra: Mapping[str, Any] = field(default_factory=dict)


class Doc(Part, frozen=True, kw_only=True):
    """A whole document; has `format` and `about` in JSON."""

    def title(self) -> str:
        """One sentence for people: what this document is."""
        return type(self).__name__


class Note(Part, frozen=True, kw_only=True):
    """Who did something, when and why: tombstones, cordons, rejections, pins."""

    who: str = ""
    when: str = ""
    why: str = ""
