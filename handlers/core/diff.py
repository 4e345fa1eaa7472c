"""What a node must do to hold exactly what is desired of it: ordered actions, each with its reason.

Called by the `sync` handler whenever something may have changed; pure, so that the whole policy of placing,
waiting and deleting is in one place and can be tried from every state.

    withdraw   a release that lost data (an emptied disk) is no longer offered to anybody new
    publish    all datasets are here: the release appears in one rename
    delete     no longer desired, grace over, used by nobody; before downloads, which may need its room
    download   least remaining first; only what fits above reserve and budget
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from handlers.core.holdings import NOTHING, Facts, Piece, Space, missing
from handlers.core.integrity import Level, below
from handlers.core.model import DISK, RAM, Hold, Release, ReleaseStatus, State
from handlers.core.version import ReleaseId


@dataclass(frozen=True)
class Withdraw:
    """Take back the public name of a release of which data is missing."""

    release: ReleaseId
    why: str


@dataclass(frozen=True)
class Publish:
    """Give a complete release its public name; `volumes` by dataset."""

    release: ReleaseId
    volumes: Mapping[str, str]
    why: str


@dataclass(frozen=True)
class Delete:
    """Remove a release and its data."""

    release: ReleaseId
    why: str


@dataclass(frozen=True)
class Download:
    """Fetch the missing datasets; `volumes` says where each goes."""

    release: ReleaseId
    volumes: Mapping[str, str]
    why: str


Action = Withdraw | Publish | Delete | Download


@dataclass(frozen=True)
class Decision:
    """Actions in the order in which to do them, the state of each desired release, and what is wrong.

    `again_at`: when a wait that no event ends is over.
    """

    actions: tuple[Action, ...]
    statuses: Mapping[ReleaseId, ReleaseStatus]
    alarms: tuple[str, ...] = ()
    again_at: float | None = None


def diff(facts: Facts) -> Decision:
    """Decide what this node does next. Deterministic; an empty `actions` means that nothing is left to do."""
    repairs = _repairs(facts)
    deletes, alarms, times = _deletes(facts)
    downloads, statuses = _downloads(facts)
    times += [f.next_try for r, f in facts.failures.items() if r in facts.desired]
    return Decision(
        actions=(*repairs, *deletes, *downloads),
        statuses={release: statuses[release] for release in sorted(statuses)},
        alarms=tuple(alarms),
        again_at=min((t for t in times if t > facts.now), default=None),
    )


def _repairs(facts: Facts) -> list[Action]:
    """Public names follow the data: gone with it, back with it."""
    actions: list[Action] = []
    for release in sorted(facts.bodies.keys() & (facts.desired.keys() | facts.inventory.released)):
        header, published = facts.bodies[release], release in facts.inventory.released
        lost = missing(release, header, facts.inventory)
        if lost and published and release not in facts.used:
            # where a view points at it, its readers keep what is left and the data is fetched in place
            actions.append(Withdraw(release, f"data of {', '.join(lost)} is gone"))
        elif not lost and not published and release in facts.desired:
            volumes = {name: facts.inventory.complete[Piece(release, name)] for name in header.datasets}
            actions.append(Publish(release, volumes, "all datasets are complete"))
    return actions


def _deletes(facts: Facts) -> tuple[list[Action], list[str], list[float]]:
    """Releases that may go now, alarms, and when others may."""
    held = facts.inventory.held
    undesired = sorted(held - facts.desired.keys())
    if facts.hold or not undesired:
        return [], [], []
    policy, alarms, times = facts.policy, [], []
    braked = len(undesired) > policy.brake_share * len(held)
    actions: list[Action] = []
    withheld = 0
    for release in undesired:
        since = facts.undesired_since.get(release, facts.now)
        grace_s = policy.unused_grace_s if release.channel in facts.local else policy.idle_grace_s
        if braked and since + grace_s <= facts.now < since + policy.idle_grace_s:
            withheld += 1
            grace_s = policy.idle_grace_s
        if (due := since + grace_s) > facts.now:
            times.append(due)
        elif release not in facts.used and release not in facts.running:
            actions.append(Delete(release, f"not desired for more than {grace_s:.0f} s, and not in use"))
    if withheld:
        alarms.append(
            f"{len(undesired)} of {len(held)} releases here are no longer desired, more than the share of "
            f"{policy.brake_share:g} that may go at once: {withheld} stay for {policy.idle_grace_s:.0f} s"
        )
    return actions, alarms, times


def _downloads(facts: Facts) -> tuple[list[Action], dict[ReleaseId, ReleaseStatus]]:
    """What to fetch now, least remaining first, and the state of every desired release."""
    statuses: dict[ReleaseId, ReleaseStatus] = {}
    waiting: list[tuple[int, int, ReleaseId]] = []
    room = _Room(facts)
    for release, hold in facts.desired.items():
        header = facts.bodies.get(release)
        complete = header is not None and not missing(release, header, facts.inventory)
        if header is not None and complete and release in facts.inventory.released:
            statuses[release] = _success(header)
        elif release in facts.running:
            statuses[release] = _status(State.DOWNLOADING, header)
        elif (failure := facts.failures.get(release)) and failure.next_try > facts.now:
            statuses[release] = _status(State.FAILED, header, failure.reason, failure.when)
        elif header is None:
            statuses[release] = ReleaseStatus(state=State.WAITING, reason="its header is being fetched")
        elif complete:
            # until it has its public name, nobody can read it
            statuses[release] = _status(State.DOWNLOADING, header)
        elif refusal := _refusal(facts, hold, header):
            statuses[release] = refusal
        else:
            lost = missing(release, header, facts.inventory)
            left = sum(facts.needs.get(Piece(release, name), NOTHING).bytes for name in lost)
            waiting.append((left, -hold.sequence, release))
    actions: list[Action] = []
    for left, _, release in sorted(waiting):
        header = facts.bodies[release]
        volumes, status = room.place(release, header)
        statuses[release] = status
        if volumes:
            actions.append(Download(release, volumes, f"{left} bytes are missing"))
    return actions, statuses


def _refusal(facts: Facts, hold: Hold, header: Release) -> ReleaseStatus | None:
    """Why a release is not fetched here at all; None = it may be."""
    if facts.cordoned:
        return _status(State.WAITING, header, "this node is cordoned: nothing new comes here")
    if weak := below(_levels(header), hold.least_integrity or Level.SIZE):
        reason = f"{', '.join(weak)}, and its channel demands integrity {hold.least_integrity}"
        return _status(State.FAILED, header, reason)
    return None


def _success(header: Release) -> ReleaseStatus:
    return ReleaseStatus(state=State.SUCCESS, bytes=_total(header), integrity=_levels(header))


def _levels(header: Release) -> dict[str, str]:
    return {name: dataset.integrity for name, dataset in header.datasets.items()}


def _status(state: State, header: Release | None, reason: str = "", when: str = "") -> ReleaseStatus:
    return ReleaseStatus(
        state=state, reason=reason, next_try=when, bytes=_total(header) if header is not None else 0
    )


def _total(header: Release) -> int:
    return sum(dataset.bytes for dataset in header.datasets.values())


class _Room:
    """Free room by volume while downloads are handed out, and what deletions may give back later."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._free = dict(facts.space)
        self._later = dict(facts.space)
        for release, volumes in facts.running.items():
            for name, volume in volumes.items():
                self._take(volume, facts.needs.get(Piece(release, name), NOTHING))
        for piece, volume in facts.inventory.complete.items():
            body = facts.bodies.get(piece.release)
            dataset = body.datasets.get(piece.dataset) if body else None
            if piece.release not in facts.desired and volume in self._later and dataset:
                self._later[volume] += Space(dataset.bytes, dataset.files)

    def place(self, release: ReleaseId, header: Release) -> tuple[dict[str, str], ReleaseStatus]:
        """A volume for each missing dataset, taken from the room; or none and why not."""
        before = dict(self._free), dict(self._later)
        volumes: dict[str, str] = {}
        for name in missing(release, header, self._facts.inventory):
            need = self._facts.needs.get(Piece(release, name), NOTHING)
            volume, problem = self._choose(Piece(release, name), header.datasets[name].placement, need)
            if not volume:
                self._free, self._later = before
                return {}, _status(problem.state, header, problem.reason)
            self._take(volume, self._on(volume, Piece(release, name), need))
            volumes[name] = volume
        return volumes, _status(State.DOWNLOADING, header)

    def _choose(self, piece: Piece, placement: str, need: Space) -> tuple[str, ReleaseStatus]:
        """The volume with most room of the right class; one that has a part of it already comes first."""
        wanted = DISK if placement == RAM else placement  # RAM is a cache of the copy on disk
        names = [v for v, cls in self._facts.classes.items() if cls == wanted and v in self._free]
        started = self._facts.inventory.staged.get(piece)
        names = [started] if started in names else names
        if not names:
            has = ", ".join(sorted(set(self._facts.classes.values())))
            reason = f"{piece.dataset}: no volume of class {wanted} on this node; it has {has or 'none'}"
            return "", ReleaseStatus(state=State.FAILED, reason=reason)
        needs = {v: self._on(v, piece, need) for v in names}
        # where files can be linked instead of fetched, less is needed
        best = max(
            names, key=lambda v: (needs[v].fits(self._free[v]), -needs[v].bytes, self._free[v].bytes, v)
        )
        if needs[best].fits(self._free[best]):
            return best, ReleaseStatus(state=State.DOWNLOADING)
        best = max(names, key=lambda v: (needs[v].fits(self._later[v]), self._later[v].bytes, v))
        return "", self._short(piece, best, needs[best])

    def _on(self, volume: str, piece: Piece, need: Space) -> Space:
        """What is needed on this volume, where releases may be that have some of the files."""
        saved = self._facts.saves.get(piece, {}).get(volume, NOTHING)
        return Space(max(0, need.bytes - saved.bytes), max(0, need.files - saved.files))

    def _short(self, piece: Piece, volume: str, need: Space) -> ReleaseStatus:
        free = self._free[volume]
        numbers = (
            f"{piece.dataset} needs {need.bytes} bytes and {need.files} files on volume {volume}, "
            f"free above its reserve are {max(0, free.bytes)} bytes and {max(0, free.files)} files"
        )
        if need.fits(self._later[volume]):
            return ReleaseStatus(
                state=State.WAITING, reason=f"{numbers}; waits until releases that are not desired are gone"
            )
        return ReleaseStatus(state=State.FAILED, reason=f"{numbers}; no release here can make room")

    def _take(self, volume: str, need: Space) -> None:
        for room in (self._free, self._later):
            if volume in room:
                room[volume] -= need
