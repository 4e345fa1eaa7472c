"""What a node must do to hold exactly what is desired of it: ordered actions, each with its reason.

Called by the `sync` handler whenever something may have changed; pure, so that the whole policy of placing,
waiting and deleting is in one place and can be tried from every state.

    withdraw   a release that lost data (an emptied disk) is no longer offered to anybody new
    publish    all datasets are here: the release appears in one rename
    delete     no longer desired, grace over, used by nobody; or room is needed (`room`); before downloads
    download   what is needed first, then least remaining; only what fits above reserve and budget
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import replace

from handlers.core.holdings import NOTHING, Facts, Piece, missing
from handlers.core.integrity import Level, below
from handlers.core.model import Release, ReleaseStatus, State
from handlers.core.room import Room, braked, needed, status, undesired
from handlers.core.version import ReleaseId


class Withdraw(Struct, frozen=True):
    """Take back the public name of a release of which data is missing."""

    release: ReleaseId
    why: str


class Publish(Struct, frozen=True):
    """Give a complete release its public name; `volumes` by dataset."""

    release: ReleaseId
    volumes: Mapping[str, str]
    why: str


class Delete(Struct, frozen=True):
    """Remove a release and its data."""

    release: ReleaseId
    why: str


class Download(Struct, frozen=True):
    """Fetch the missing datasets; `volumes` says where each goes."""

    release: ReleaseId
    volumes: Mapping[str, str]
    why: str


Action = Withdraw | Publish | Delete | Download


class Decision(Struct, frozen=True):
    """Actions in the order in which to do them, the state of each desired release, and what is wrong.

    `again_at`: when a wait that no event ends is over; `start_at`: when the first of the downloads may begin
    that only wait for their turn among many nodes. `short`: needed releases that did not fit at once.
    """

    actions: tuple[Action, ...]
    statuses: Mapping[ReleaseId, ReleaseStatus]
    alarms: tuple[str, ...] = ()
    again_at: float | None = None
    start_at: float | None = None
    short: tuple[ReleaseId, ...] = ()


def diff(facts: Facts) -> Decision:
    """Decide what this node does next. Deterministic; an empty `actions` means that nothing is left to do."""
    repairs = _repairs(facts)
    deletes, alarms, times = _deletes(facts)
    room = Room(facts)
    downloads, statuses = _downloads(facts, room)
    due = {action.release for action in deletes}
    deletes += [Delete(r, "what is needed does not fit beside it") for r in room.going if r not in due]
    times += [f.next_try for r, f in facts.failures.items() if r in facts.desired]
    starts = [t for r, t in facts.starts.items() if statuses[r].state is State.WAITING and t > facts.now]
    return Decision(
        actions=(*repairs, *deletes, *downloads),
        statuses={release: statuses[release] for release in sorted(statuses)},
        alarms=tuple(alarms),
        again_at=min((t for t in [*times, *starts] if t > facts.now), default=None),
        start_at=min(starts, default=None),
        short=tuple(room.short),
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
    found = undesired(facts)
    if facts.hold or not found:
        return [], [], []
    policy, alarms, times = facts.policy, [], []
    brake = braked(facts)
    actions: list[Action] = []
    withheld = 0
    for release in found:
        since = facts.undesired_since.get(release, facts.now)
        grace_s = policy.unused_grace_s if release.channel in facts.local else policy.idle_grace_s
        if brake and since + grace_s <= facts.now < since + policy.idle_grace_s:
            withheld += 1
            grace_s = policy.idle_grace_s
        if (due := since + grace_s) > facts.now:
            times.append(due)
        elif release not in facts.used and release not in facts.running:
            actions.append(Delete(release, f"not desired for more than {grace_s:.0f} s, and not in use"))
    if withheld:
        alarms.append(
            f"{len(found)} of {len(facts.inventory.held)} releases here are no longer desired, more than the "
            f"share of {policy.brake_share:g} that may go at once: "
            f"{withheld} stay for {policy.idle_grace_s:.0f} s"
        )
    return actions, alarms, times


def _downloads(facts: Facts, room: Room) -> tuple[list[Action], dict[ReleaseId, ReleaseStatus]]:
    """What to fetch now, and the state of every desired release."""
    statuses: dict[ReleaseId, ReleaseStatus] = {}
    waiting: list[tuple[bool, int, int, ReleaseId]] = []
    for release, hold in facts.desired.items():
        if (found := _as_it_is(facts, release)) is not None:
            statuses[release] = found
            continue
        lost = missing(release, facts.bodies[release], facts.inventory)
        left = sum(facts.needs.get(Piece(release, name), NOTHING).bytes for name in lost)
        waiting.append((not needed(hold), left, -hold.sequence, release))
    actions: list[Action] = []
    for _, left, _, release in sorted(waiting):
        header, hold = facts.bodies[release], facts.desired[release]
        volumes, statuses[release] = room.place(release, header)
        if not volumes:
            continue
        if facts.starts.get(release, 0.0) > facts.now:
            reason = f"begins in a moment: up to {hold.crowd} nodes load it"
            statuses[release] = status(State.WAITING, header, reason)
        elif room.short and not needed(hold):
            reason = "nothing needs it now; what is needed comes first"
            statuses[release] = status(State.WAITING, header, reason)
        else:
            actions.append(Download(release, volumes, f"{left} bytes are missing"))
    return actions, statuses


def _as_it_is(facts: Facts, release: ReleaseId) -> ReleaseStatus | None:
    """The state of a desired release; None when it may be fetched now, if there is room."""
    header = facts.bodies.get(release)
    complete = header is not None and not missing(release, header, facts.inventory)
    if header is not None and complete and release in facts.inventory.released:
        return _success(header)
    if release in facts.running:
        return status(State.DOWNLOADING, header)
    if (failure := facts.failures.get(release)) and failure.next_try > facts.now:
        return status(State.FAILED, header, failure.reason, failure.when)
    if header is None:
        return status(State.WAITING, None, "its header is being fetched")
    if complete:
        # until it has its public name, nobody can read it
        return status(State.DOWNLOADING, header)
    if facts.cordoned:
        return status(State.WAITING, header, "this node is cordoned: nothing new comes here")
    least = facts.desired[release].least_integrity
    if weak := below(_levels(header), least or Level.SIZE):
        reason = f"{', '.join(weak)}, and its channel demands integrity {least}"
        return status(State.FAILED, header, reason)
    return None


def _success(header: Release) -> ReleaseStatus:
    return replace(status(State.SUCCESS, header), integrity=_levels(header))


def _levels(header: Release) -> dict[str, str]:
    return {name: dataset.integrity for name, dataset in header.datasets.items()}
