"""Which copies of datasets are in RAM: what to drop, what to fill, and what has no room beside the old one.

RAM is a cache of the disk copies, with one version per dataset, chosen by plan. A copy is dropped only when
no instance of this node has loaded from it; what does not fit is read from disk until there is room.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from msgspec import Struct, field

from handlers.core.holdings import Piece
from handlers.core.model import Desired, InstanceState
from handlers.core.names import Channel, InstanceKey
from handlers.core.version import ReleaseId


class RamSteps(Struct, frozen=True):
    """`drop` first, then `fill`; `short`: why a wanted copy cannot be filled now, as numbers.

    `never` are those of `short` that would not fit even if all copies that are not wanted were gone.
    """

    drop: tuple[Piece, ...] = ()
    fill: tuple[Piece, ...] = ()
    short: Mapping[Piece, str] = field(default_factory=dict)
    never: frozenset[Piece] = frozenset()


def wanted(desired: Desired) -> frozenset[Piece]:
    """The copies that should be in RAM."""
    found = set()
    for name, version in desired.ram.items():
        channel, _, dataset = name.rpartition("/")
        found.add(Piece(ReleaseId.of(Channel.parse(channel), version), dataset))
    return frozenset(found)


def used(
    states: Mapping[InstanceKey, InstanceState], desired: Desired, copies: Collection[Piece]
) -> set[Piece]:
    """The copies from which an instance has loaded. Where its channel is not known, all may be meant."""
    found: set[Piece] = set()
    for state in states.values():
        plan = desired.services.get(state.service)
        for name in state.media:
            alias, _, dataset = name.partition("/")
            versions = {state.releases.get(alias), state.moving.get(alias)}
            now = plan.aliases[alias].channel if plan and alias in plan.aliases else None
            channels = {now, state.channels.get(alias, now)}
            found.update(
                piece
                for piece in copies
                if piece.dataset == dataset
                and piece.release.version in versions
                and (None in channels or piece.release.channel in channels)
            )
    return found


def ram_steps(
    want: Collection[Piece],
    copies: Collection[Piece],
    linked: Collection[Piece],
    in_use: Collection[Piece],
    sizes: Mapping[Piece, int],
    room: int,
) -> RamSteps:
    """What to do in RAM.

    `sizes` has the bytes that wanted copies still take, where they are complete on disk; others wait. And
    those of copies that are here: what is given back once nobody uses them.
    """
    drop = tuple(sorted(set(copies) - set(want) - set(in_use)))
    if drop:
        return RamSteps(drop=drop)  # room is known again once they are gone
    fill, short, never = [], {}, set()
    later = room + sum(sizes.get(piece, 0) for piece in set(copies) - set(want))
    for piece in sorted(set(want) - set(linked), key=lambda p: (sizes.get(p, 0), p)):
        if piece not in sizes:
            continue
        if sizes[piece] <= room:
            room, later = room - sizes[piece], later - sizes[piece]
            fill.append(piece)
        else:
            short[piece] = (
                f"{piece.release} {piece.dataset} takes {sizes[piece]} bytes of RAM, {room} are free"
            )
            if sizes[piece] > later:
                never.add(piece)
    return RamSteps(fill=tuple(fill), short=short, never=frozenset(never))
