"""Everything on a node that `core.diff` decides by, gathered into one `Facts`."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from msgspec.structs import replace

from handlers.adapters import usage
from handlers.adapters.bodies import Bodies
from handlers.adapters.ledger import Ledger, timestamp
from handlers.adapters.reuse import Complete, Reuse
from handlers.adapters.rooms import Rooms
from handlers.adapters.transfer import Transfer
from handlers.adapters.volume import Volumes
from handlers.core.diff import diff
from handlers.core.errors import HydraError, Temporary
from handlers.core.holdings import Facts, Inventory, Piece, Policy, Space, footprint, missing, start_delay_s
from handlers.core.model import Desired, File, Release
from handlers.core.names import Channel
from handlers.core.room import expendable
from handlers.core.version import ReleaseId
from handlers.settings import Limits


class Survey:
    """Looks at disks, views and processes; asked again after each step."""

    def __init__(
        self,
        volumes: Volumes,
        rooms: Rooms,
        bodies: Bodies,
        ledger: Ledger,
        limits: Limits,
        clock: Callable[[], float] = time.time,
        proc: Path = Path("/proc"),
    ) -> None:
        self._volumes, self._rooms, self._bodies, self._ledger = volumes, rooms, bodies, ledger
        self._limits, self._clock, self._proc = limits, clock, proc
        self._policy = Policy(limits.unused_grace_s, limits.idle_grace_s, limits.brake_share)
        self._needs: dict[Piece, Space] = {}
        self._reuse: dict[Piece, Reuse] = {}
        self._saves: dict[Piece, Mapping[str, Space]] = {}
        self._seen: Mapping[Piece, str] = {}
        self._first_wanted: dict[ReleaseId, float] = {}

    def facts(self, desired: Desired, hold: str, running: Mapping[ReleaseId, Transfer]) -> Facts:
        """The node as it is now. Raises `Temporary` when a volume cannot be read.

        What only matters when a release does not fit is looked at only then: it takes a walk over all data.
        """
        facts = self._facts(desired, hold, running)
        if diff(facts).short and not facts.hold:
            could_go = expendable(replace(facts, used={}))
            used, blocked = self._used(facts.inventory, could_go, facts.now)
            facts = replace(facts, used=used, hold=blocked, shares=self._rooms.shares())
        return facts

    def _facts(self, desired: Desired, hold: str, running: Mapping[ReleaseId, Transfer]) -> Facts:
        now, inventory = self._clock(), self._volumes.inventory()
        self._measure_anew(inventory, running)
        bodies, problems = self._known_bodies(desired, inventory)
        undesired = self._ledger.undesired(inventory.held - desired.releases.keys(), now)
        used, blocked = self._used(inventory, self._due(undesired, now), now)
        for release, problem in problems.items():
            digest = desired.releases[release].digest
            if release not in self._ledger.failures({release: digest}, now):
                self._ledger.failed(release, digest, problem, now, 1.0)
        digests = {release: wanted.digest for release, wanted in desired.releases.items()}
        needs = self._all_needs(bodies, inventory, running)
        return Facts(
            desired=desired.releases,
            bodies=bodies,
            inventory=inventory,
            needs=needs,
            saves=self._saves,
            sources={piece: found.sources for piece, found in self._reuse.items()},
            space=self._rooms.all(),
            classes=self._volumes.classes,
            policy=self._policy,
            now=now,
            cordoned=desired.cordoned,
            hold=hold or blocked,
            failures=self._ledger.failures(digests, now),
            running={release: transfer.places for release, transfer in running.items()},
            used=used,
            undesired_since=undesired,
            local=_local_channels(desired),
            starts=self._starts(desired, inventory, now),
        )

    def in_use(self, release: ReleaseId) -> str:
        """Why the data of a release must stay, empty when it may go."""
        # with all that is here: a file that it shares with another release may be open for that one
        used, blocked = self._used(self._volumes.inventory(), [release], self._clock())
        return used.get(release, blocked)

    def forget(self, release: ReleaseId) -> None:
        """Measure the needs of a release anew: a download of it has ended."""
        self._needs = {piece: need for piece, need in self._needs.items() if piece.release != release}
        self._reuse = {piece: found for piece, found in self._reuse.items() if piece.release != release}

    def reuse(self, piece: Piece) -> Reuse | None:
        """What other releases here offer for a dataset; None when its needs were not measured."""
        return self._reuse.get(piece)

    def _measure_anew(self, inventory: Inventory, running: Mapping[ReleaseId, Transfer]) -> None:
        """Forget needs that were measured beside other complete datasets: files may be linked from those."""
        if inventory.complete != self._seen:
            self._seen = inventory.complete
            for release in {piece.release for piece in self._needs} - running.keys():
                self.forget(release)

    def _known_bodies(
        self, desired: Desired, inventory: Inventory
    ) -> tuple[dict[ReleaseId, Release], dict[ReleaseId, str]]:
        """Verified headers (of incomplete releases only if the list of files is here), and what is wrong."""
        bodies: dict[ReleaseId, Release] = {}
        problems: dict[ReleaseId, str] = {}
        for release, hold in desired.releases.items():
            try:
                header = self._bodies.header(release, hold)
                if header is None:
                    continue
                if not missing(release, header, inventory) or self._bodies.manifest(release, header):
                    bodies[release] = header
            except HydraError as e:
                problems[release] = str(e)
        for release in inventory.held - desired.releases.keys():
            if (kept := self._bodies.kept_header(release)) is not None:
                bodies[release] = kept
        return bodies, problems

    def _all_needs(
        self,
        bodies: Mapping[ReleaseId, Release],
        inventory: Inventory,
        running: Mapping[ReleaseId, Transfer],
    ) -> dict[Piece, Space]:
        needs = {}
        for release, header in bodies.items():
            for name in missing(release, header, inventory):
                piece = Piece(release, name)
                if (transfer := running.get(release)) is not None and name in transfer.places:
                    needs[piece] = Space(transfer.left(name), 0)
                elif (manifest := self._bodies.manifest(release, header)) is not None:
                    if piece not in self._needs:
                        self._needs[piece] = self._measured(piece, manifest.files[name], inventory)
                    needs[piece] = self._needs[piece]
        return needs

    def _measured(self, piece: Piece, files: Sequence[File], inventory: Inventory) -> Space:
        """Room that a dataset still takes beside what is staged, were nothing of it linked."""
        staged = inventory.staged.get(piece)
        kept = self._volumes.staged_bytes(staged, piece) if staged else lambda _: 0
        reuse = Reuse(piece.dataset, files, self._others(piece.release, inventory))
        self._reuse[piece], self._saves[piece] = reuse, reuse.saves(f for f in files if not kept(f))
        return footprint(files, kept, self._rooms.block_bytes())

    def _others(self, release: ReleaseId, inventory: Inventory) -> list[Complete]:
        """Complete datasets of other releases, those of the same channel first, the newest first."""
        found = sorted(
            (p for p in inventory.complete if p.release != release),
            key=lambda p: (p.release.channel == release.channel, p.release.version),
            reverse=True,
        )
        load = functools.lru_cache(maxsize=1)(self._bodies.kept_manifest)
        return [
            Complete(
                piece,
                volume := inventory.complete[piece],
                functools.partial(self._volumes.data, volume, piece),
                functools.partial(load, piece.release),
            )
            for piece in found
        ]

    def _starts(self, desired: Desired, inventory: Inventory, now: float) -> dict[ReleaseId, float]:
        """When downloads may begin, of releases that many nodes load; what has begun goes on at once."""
        begun = inventory.held | {piece.release for piece in inventory.staged}
        fresh = {r: hold for r, hold in desired.releases.items() if r not in begun}
        self._first_wanted = {r: self._first_wanted.get(r, now) for r in fresh}
        spread_s = self._limits.start_spread_s
        return {
            release: self._first_wanted[release] + start_delay_s(desired.node, release, hold.crowd, spread_s)
            for release, hold in fresh.items()
        }

    def _due(self, undesired: Mapping[ReleaseId, float], now: float) -> list[ReleaseId]:
        """What may go if nobody uses it."""
        shortest_s = min(self._limits.unused_grace_s, self._limits.idle_grace_s)
        return [r for r, since in undesired.items() if since + shortest_s <= now]

    def _used(
        self, inventory: Inventory, candidates: Iterable[ReleaseId], now: float
    ) -> tuple[dict[ReleaseId, str], str]:
        """Why releases must stay (of `candidates`, also for processes), and why nothing at all may go."""
        try:
            viewed = usage.viewed(self._volumes.root)
        except Temporary as e:
            return dict.fromkeys(inventory.held, str(e)), str(e)
        used = dict.fromkeys(viewed, "a view points to it")
        left = self._ledger.viewed(viewed, self._limits.idle_grace_s, now)
        due = [release for release in candidates if release not in used]
        if due:
            opened, blind = usage.opened(self._volumes.root, due, inventory.held, self._proc)
            if blind:
                reasons = {r: f"{blind}, and a view pointed to it until {timestamp(left[r])}" for r in left}
                used = {**reasons, **used}
            used = {**opened, **used}
        return used, ""


def _local_channels(desired: Desired) -> frozenset[Channel]:
    """What services read that have instances on this node, or are to have their data here."""
    plans = [plan for plan in desired.services.values() if not plan.idle]
    return frozenset(alias.channel for plan in plans for alias in plan.aliases.values())
