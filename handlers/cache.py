"""RAM on this node, round by round: drop what nobody reads, fill what is wanted, say what waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from handlers import log
from handlers.adapters.ram import RamCache
from handlers.core.holdings import Piece
from handlers.core.media import ram_steps, used, wanted
from handlers.core.model import RAM, Desired, InstanceState, VolumeInfo
from handlers.core.names import Channel, InstanceKey
from handlers.core.reasons import Reason
from handlers.core.version import ReleaseId, Version
from handlers.feeds import Task

RETRY_S = 5.0


class Cache:
    """The RAM copies and the one that is being filled. Used by `reload`, in its thread."""

    def __init__(
        self,
        root: Path,
        volumes: Mapping[str, VolumeInfo],
        wake: threading.Event,
        clock: Callable[[], float],
    ) -> None:
        self._ram, self._wake, self._clock = RamCache(root, volumes), wake, clock
        self._linked: frozenset[Piece] = frozenset()
        self._pending: frozenset[Piece] = frozenset()
        self._unseen: frozenset[Piece] = frozenset()
        self._filling: tuple[Piece, Task] | None = None
        self._failed: dict[Piece, float] = {}
        self._want: frozenset[Piece] = frozenset()
        self._short: Mapping[Piece, str] = {}
        self._never: frozenset[Piece] = frozenset()
        self._copies: frozenset[Piece] = frozenset()

    def repair(self) -> None:
        """Point releases to their disk copies where RAM is empty: first thing, before anybody reads."""
        for piece in self._ram.repair():
            log.warning(
                "reload", "RAM copy is gone; reads from disk", release=piece.release, dataset=piece.dataset
            )

    def round(self, desired: Desired, states: Mapping[InstanceKey, InstanceState]) -> float | None:
        """Do what can be done now; seconds after which to come again, None when RAM is as it should be."""
        self._want = wanted(desired)
        self._end_fill()
        copies = self._ram.copies()
        linked = {piece for piece in self._want | copies if self._ram.linked(piece)}
        sizes, unseen = {}, set()
        filling = self._filling[0] if self._filling else None
        for piece in self._want - linked:
            # what is being filled has its room already, and takes more and more of what is still free
            size = 0 if piece in copies or piece == filling else self._ram.size(piece)
            if size is None:
                unseen.add(piece)
            elif self._failed.get(piece, 0.0) <= self._clock():
                sizes[piece] = size
        room = self._ram.room() if sizes else 0
        if sizes:
            sizes |= {piece: self._ram.size(piece) or 0 for piece in copies - self._want}
        steps = ram_steps(self._want, copies, linked, used(states, desired, copies), sizes, room)
        for piece in steps.drop:
            self._ram.drop(piece)
            log.info("reload", "dropped from RAM", release=piece.release, dataset=piece.dataset)
        for piece in steps.short.keys() - self._short.keys():
            log.warning("reload", "does not fit into RAM now", reason=steps.short[piece])
        self._linked, self._short = frozenset(linked - set(steps.drop)), steps.short
        self._never, self._copies = steps.never, copies - set(steps.drop)
        # right after a drop the room is not known yet, and whoever could move on would read from disk
        self._pending = frozenset(steps.fill) if not steps.drop else frozenset(sizes) & self._want
        self._unseen = frozenset(unseen)
        if steps.fill and self._filling is None:
            self._fill(steps.fill[0])
        return 0.0 if steps.drop else RETRY_S if self._pending else None

    @property
    def filling(self) -> bool:
        """Whether a copy is being made now."""
        return self._filling is not None

    def reason(self, channel: Channel, version: Version) -> str:
        """Why moves to a release wait for RAM; empty when they need not."""
        release = ReleaseId.of(channel, version)
        # one that sync completed since this round began is filled in the next, and not read from disk before
        waits = any(piece.release == release for piece in self._pending | self._unseen)
        return Reason.FILLING.say(release=release) if waits else ""

    def crowded(self, releases: Iterable[ReleaseId]) -> tuple[str, bool]:
        """The numbers, where a dataset of these releases does not fit into RAM beside what is there; and
        whether it would once nobody uses the other copies. Empty = it fits.
        """
        short = {piece for piece in self._short if piece.release in releases}
        return "; ".join(sorted(self._short[piece] for piece in short)), not short & self._never

    def awaited(self, releases: Iterable[ReleaseId]) -> bool:
        """Whether RAM will have a dataset of these releases that it has not yet."""
        wanted = {piece for piece in self._want if piece.release in releases}
        return bool(wanted - self._linked - self._never)

    def readers(
        self, desired: Desired, states: Mapping[InstanceKey, InstanceState]
    ) -> frozenset[InstanceKey]:
        """The instances that use a copy which is not wanted any more."""
        old = self._copies - self._want
        return frozenset(key for key, state in states.items() if used({key: state}, desired, old))

    def media(self, releases: Mapping[str, ReleaseId]) -> dict[str, str]:
        """By `<alias>/<dataset>`, what an instance that loads `releases` (by alias) now reads from RAM."""
        return {
            f"{alias}/{piece.dataset}": RAM
            for alias, release in releases.items()
            for piece in self._linked
            if piece.release == release
        }

    def _fill(self, piece: Piece) -> None:
        ram, wanted_now = self._ram, lambda: piece not in self._want
        self._filling = piece, Task(f"fill {piece.release}", lambda: ram.fill(piece, wanted_now), self._wake)

    def _end_fill(self) -> None:
        if self._filling is None or self._filling[1].result is None:
            return
        piece, task = self._filling
        self._filling = None
        self._failed.pop(piece, None)
        if task.result:
            # until it is tried again, its release is read from disk
            self._failed[piece] = self._clock() + RETRY_S
            log.warning(
                "reload", "not in RAM", release=piece.release, dataset=piece.dataset, error=task.result
            )
        else:
            log.info("reload", "in RAM", release=piece.release, dataset=piece.dataset)
