"""What `hydra verify` says: how much was compared, and a table of what is damaged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

from handlers.adapters.inspection import Copy, Damage, Unit
from handlers.core.holdings import Piece
from handlers.core.version import ReleaseId
from hydra_cli.output import Block, Cell, Line, Table, Tone, size

_SPANS = 3  # of one file that the table shows


class Verified(Struct, frozen=True):
    """`chosen` of `units` parts of `copies` were compared; `mended` says what --repair did, by copy."""

    copies: Sequence[Copy]
    chosen: Sequence[Unit]
    units: int
    found: Sequence[Damage]
    mended: Mapping[tuple[str, Piece], str]
    unknown: Sequence[ReleaseId]
    share: float
    seed: int | None

    @property
    def bytes(self) -> int:
        """How much was read."""
        return sum(unit.bytes for unit in self.chosen)

    @property
    def unprotected(self) -> list[Copy]:
        """Datasets with files of which only the size is known."""
        return [copy for copy in self.copies if any(not file.check for file in copy.files)]

    def data(self) -> Mapping[str, Any]:
        """Everything, one object per damaged part."""
        return {
            "damaged": [
                {
                    **_names(damage.copy),
                    "path": damage.path,
                    "what": damage.what,
                    "start": damage.span[0] if damage.span else None,
                    "end": damage.span[1] if damage.span else None,
                }
                for damage in self.found
            ],
            "repair": [
                {"volume": volume, "release": piece.release, "dataset": piece.dataset, "result": said}
                for (volume, piece), said in self.mended.items()
            ],
            "checked": {
                "releases": sorted({copy.piece.release for copy in self.copies}),
                "copies": len(self.copies),
                "parts": len(self.chosen),
                "of_parts": self.units,
                "bytes": self.bytes,
            },
            "only_size": [_names(copy) for copy in self.unprotected],
            "unknown": list(self.unknown),
            "sample_percent": self.share * 100,
            "seed": self.seed,
        }

    def blocks(self) -> Iterator[Block]:
        """The damage first, then what was looked at."""
        if self.found:
            rows = [
                (piece.release, piece.dataset, volume, path, Cell(what, Tone.BAD))
                for volume, piece, path, what in _by_file(self.found)
            ]
            yield Table(("RELEASE", "DATASET", "VOLUME", "FILE", "WHAT IS WRONG"), rows)
        for (volume, piece), said in self.mended.items():
            yield Line(f"{piece.release} {piece.dataset} on {volume}: {said}", Tone.HEAD)
        for release in self.unknown:
            yield Line(f"{release}: not compared, its list of files is not on this node", Tone.WARN)
        for copy in self.unprotected:
            yield Line(f"{copy.piece.release} {copy.piece.dataset}: only sizes can be compared", Tone.WARN)
        percent = f"{self.share * 100:.3g}%"
        sample = f" ({percent} of the parts, --seed {self.seed})" if self.share < 1 else ""
        files = len({(d.copy.volume, d.copy.piece, d.path) for d in self.found})
        said = f"{size(self.bytes)} read in {len(self.copies)} datasets{sample}: "
        yield Line(
            said + (f"{files} damaged files" if files else "all is as the releases say"),
            Tone.BAD if files else Tone.GOOD,
        )


def _names(copy: Copy) -> dict[str, str]:
    return {"volume": copy.volume, "release": copy.piece.release, "dataset": copy.piece.dataset}


def _by_file(found: Sequence[Damage]) -> Iterator[tuple[str, Piece, str, str]]:
    """One row per file and kind of damage, with where in the file it is."""
    rows: dict[tuple[str, Piece, str, str], list[str]] = {}
    for damage in found:
        spans = rows.setdefault((damage.copy.volume, damage.copy.piece, damage.path, damage.what), [])
        if damage.span:
            spans.append(f"{damage.span[0]}-{damage.span[1]}")
    for (volume, piece, path, what), spans in rows.items():
        more = f" and {len(spans) - _SPANS} more" if len(spans) > _SPANS else ""
        where = f" in bytes {', '.join(spans[:_SPANS])}{more}" if spans else ""
        yield volume, piece, path, f"{what}{where}"
