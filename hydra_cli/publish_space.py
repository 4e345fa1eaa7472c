"""Whether a release fits on the nodes that will get it: `publish --dry-run` tells, and `publish` refuses."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from handlers.adapters.ports import KV, Objects
from handlers.adapters.snapshot import EVERYTHING, load
from handlers.core.errors import NoRoom
from handlers.core.fits import Answer, Fit, fit
from handlers.core.holdings import Space, footprint
from handlers.core.model import File, Release
from handlers.core.reuse import Files
from handlers.core.version import ReleaseId
from handlers.core.world import World
from hydra_cli.fetching import Lists, header_of, held_by, nodes_reading
from hydra_cli.output import Block, Cell, Table, Tone

BLOCK_BYTES = 4096
_SHOWN = 5  # nodes in an error
_TONES = {Answer.SHORT: Tone.BAD, Answer.UNKNOWN: Tone.WARN, Answer.FITS: Tone.GOOD}


def look(kv: KV, objects: Objects, header: Release, files: Files, now: datetime) -> list[Fit]:
    """How the release and each node with an instance that reads its channel go together."""
    world = load(kv, *EVERYTHING)
    lists = Lists(kv, objects)
    # most nodes of a fleet hold the same releases
    needs = functools.cache(lambda held: _needs(lists, world, files, held))
    return [
        fit(node, world, header, needs(tuple(sorted(held_by(node)))), now)
        for node in nodes_reading(world, header.channel)
    ]


def _needs(lists: Lists, world: World, files: Files, held: Iterable[ReleaseId]) -> dict[str, Space]:
    """Room of each dataset without the files that will be linked from another release."""
    headers = filter(None, (header_of(world, release) for release in held))
    known = {
        (file.size, file.check) for header in headers for rows in lists.of(header).values() for file in rows
    }

    def kept(file: File) -> int:
        return file.size if file.check and (file.size, file.check) in known else 0

    return {name: footprint(rows, kept, BLOCK_BYTES) for name, rows in files.items()}


def refuse(fits: Sequence[Fit]) -> None:
    """Raise `NoRoom` with the numbers where the release does not fit."""
    short = [one for one in fits if one.answer is Answer.SHORT]
    if short:
        rows = "; ".join(f"{one.node}: {one.reason}" for one in short[:_SHOWN])
        more = f"; and {len(short) - _SHOWN} more" if len(short) > _SHOWN else ""
        raise NoRoom(
            f"the release does not fit on {len(short)} of {len(fits)} nodes: {rows}{more}. Nothing was "
            "published; make room, or publish it all the same with --ignore-space"
        )


def data(fits: Sequence[Fit]) -> Mapping[str, Mapping[str, Any]]:
    """By node, what is known of its room."""
    return {one.node: {"space": one.answer, "evicts": list(one.evicts), "reason": one.reason} for one in fits}


def table(fits: Sequence[Fit]) -> Iterator[Block]:
    """One row per node, what is wrong first; nothing where all is well."""
    order = list(reversed(Answer))
    rows = [
        (one.node, Cell(one.answer, _TONES.get(one.answer, Tone.PLAIN)), ", ".join(one.evicts), one.reason)
        for one in sorted(fits, key=lambda one: (order.index(one.answer), one.node))
    ]
    if rows:
        yield Table(("NODE", "SPACE", "EVICTS", "DETAIL"), rows, title="Space")
