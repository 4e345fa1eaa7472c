"""Where an instance should go: what of its plan it may take over now, with the releases that are on its node.

Whose turn it is (`turns`) counts for each release alone. An instance on its way to one goes on, whatever else
became fresh; one whose target has meanwhile become a release that is not its turn goes back.

Invariant: a goal never puts releases beside each other of which one needs a newer one of the other, unless
the instance runs them like that already; with whatever is complete on the node, in whatever order it came.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from msgspec import Struct, field

from handlers.core.model import AliasPlan, Hold, InstanceState, ServicePlan, Verdicts
from handlers.core.names import Channel, InstanceKey
from handlers.core.reasons import Reason
from handlers.core.version import ReleaseId, Version


class Goal(Struct, frozen=True):
    """What an instance should run now; `media` are the `<alias>/<dataset>` of it that are in RAM.

    `drain`: the numbers, when the node's users of RAM have to be out together for it (`drain-node`).
    `awaits_ram`: it stays out until RAM has it. `channels` are those of `releases`: an alias may be given
    another channel, which names its versions alike. `begins`: of a new instance that takes the place of one
    that was deleted for its reload, what it would begin with otherwise, and goes back to when it fails.
    """

    releases: Mapping[str, Version]
    reason: str = ""
    media: Mapping[str, str] = field(default_factory=dict)
    channels: Mapping[str, Channel] = field(default_factory=dict)
    drain: str = ""
    awaits_ram: bool = False
    begins: Goal | None = None

    @staticmethod
    def of(releases: Mapping[str, ReleaseId], reason: str = "") -> Goal:
        """Each alias at this release."""
        return Goal(
            {alias: release.version for alias, release in releases.items()},
            reason,
            channels={alias: release.channel for alias, release in releases.items()},
        )

    @property
    def ids(self) -> dict[str, ReleaseId]:
        """The releases by alias, of the aliases whose channel is known."""
        return release_ids(self.releases, self.channels)


def release_ids(releases: Mapping[str, Version], channels: Mapping[str, Channel]) -> dict[str, ReleaseId]:
    """Releases by alias, of the aliases that have a channel."""
    return {a: ReleaseId.of(channels[a], v) for a, v in releases.items() if a in channels}


Usable = Callable[[Channel, Version], str]
"""Why a release cannot be used on this node now; empty when it can."""
Holds = Mapping[ReleaseId, Hold]
"""What `desired` says of the releases that this node holds: their sequences and needs."""
_NOTHING: Holds = {}


class _Move(NamedTuple):
    """Where one alias is (None = it is new), where it may go now, and why it may not go further.

    `comes`: it only waits for its release to be on the node; `fills`: that is, in its RAM.
    """

    current: ReleaseId | None
    chosen: ReleaseId | None
    reason: str = ""
    comes: bool = False

    @property
    def fills(self) -> bool:
        return self.comes and Reason.FILLING.told_in(self.reason)

    @property
    def moves(self) -> bool:
        return self.chosen != self.current

    def stays(self, reason: str) -> _Move:
        return _Move(self.current, self.current, reason)


def goal(
    state: InstanceState, plan: ServicePlan, verdicts: Verdicts, usable: Usable, holds: Holds = _NOTHING
) -> Goal:
    """Each alias at its target where it may and can be, else where the instance is."""
    moves: dict[str, _Move] = {}
    for alias, wanted in sorted(plan.aliases.items()):
        version = state.releases.get(alias)
        current = ReleaseId.of(state.channels.get(alias, wanted.channel), version) if version else None
        moves[alias] = _in_turn(_move(current, wanted, plan, verdicts, usable), alias, state, plan)
    if any(move.fills for move in moves.values()):
        # all that is on the node moves at once; a download may take hours, a copy into RAM does not
        moves = {alias: move.stays("") if move.moves else move for alias, move in moves.items()}
    while (found := next(_alone(moves, plan, holds), None)) is not None:
        release, other = (_target(moves[alias].current, plan.aliases[alias]) for alias in found)
        moves[found[0]] = moves[found[0]].stays(Reason.NEEDS.say(release=release, other=other))
    why = "; ".join(dict.fromkeys(filter(None, (move.reason for move in moves.values()))))
    # a new alias comes with its first release, never as a dangling link
    releases = {alias: move.chosen for alias, move in moves.items() if move.chosen is not None}
    return Goal.of(releases, why) if releases else Goal(dict(state.releases), why, channels=state.channels)


def _move(
    current: ReleaseId | None, wanted: AliasPlan, plan: ServicePlan, verdicts: Verdicts, usable: Usable
) -> _Move:
    release = _target(current, wanted)
    if release is None:
        return _Move(current, current, _nothing(current, wanted))
    stays = _Move(current, current)
    if release == current:
        return stays
    if current and wanted.held:
        return stays.stays(Reason.HELD.say(held=wanted.held))
    verdict = verdicts.releases.get(release)
    if verdict and verdict.stands and verdict.id not in plan.retry:
        # also of an alias that is new: or the instance would go out for it again and again
        return stays.stays(Reason.HALTED.say(release=release, verdict=verdict.verdict, why=verdict.reason))
    reason = usable(release.channel, release.version)
    return _Move(current, current, reason, comes=True) if reason else _Move(current, release)


def _in_turn(move: _Move, alias: str, state: InstanceState, plan: ServicePlan) -> _Move:
    """The move, unless it is not this instance's turn for it, and it is not on its way there already."""
    release = move.chosen
    if release is None or not move.moves or state.moving.get(alias) == release.version:
        return move
    if plan.lets_go(InstanceKey.of(state.service, state.id), release):
        return move
    return move.stays(Reason.TURN.say(why=plan.waits))


def _target(current: ReleaseId | None, wanted: AliasPlan) -> ReleaseId | None:
    version = wanted.target if current else wanted.start
    return ReleaseId.of(wanted.channel, version) if version else None


def _nothing(current: ReleaseId | None, wanted: AliasPlan) -> str:
    """Why there is no release to move to, or to begin with."""
    if wanted.held:
        return (Reason.HELD if current else Reason.NONE_FITS).say(held=wanted.held)
    return "" if current else Reason.NO_RELEASE.say(channel=wanted.channel)


def _alone(moves: Mapping[str, _Move], plan: ServicePlan, holds: Holds) -> Iterator[tuple[str, str]]:
    """Aliases that must not move now, each with the one that it has to move together with.

    One that needs what the other does not run (yet, or any more); and one that moves for the sake of another
    whose release is still on its way: a service reloads once for both.
    """
    chosen = {alias: move.chosen for alias, move in moves.items()}
    for alias, other in _broken(chosen, holds):
        if moves[alias].moves:
            yield alias, other
        elif moves[other].moves:
            yield other, alias
    for alias, move in moves.items():
        if move.comes:
            later = _target(move.current, plan.aliases[alias])
            broken = _broken({a: m.current for a, m in moves.items()} | {alias: later}, holds)
            yield from ((other, alias) for a, other in broken if a == alias and moves[other].moves)


def _broken(chosen: Mapping[str, ReleaseId | None], holds: Holds) -> Iterator[tuple[str, str]]:
    """The aliases that need a newer release of another one than is chosen for that, with this one."""
    known = {alias: (r, holds[r]) for alias, r in chosen.items() if r is not None and r in holds}
    for alias, (_, hold) in known.items():
        for other, (release, beside) in known.items():
            if beside.sequence < hold.needs.get(release.channel, 0):
                yield alias, other


def start(plan: ServicePlan, usable: Usable, holds: Holds = _NOTHING) -> Goal:
    """What a new instance begins with: all aliases at once; empty with the reason while one is not here."""
    releases: dict[str, ReleaseId] = {}
    for alias, wanted in sorted(plan.aliases.items()):
        release = _target(None, wanted)
        if release is None:
            return Goal({}, _nothing(None, wanted))
        if reason := usable(release.channel, release.version):
            return Goal({}, reason)
        releases[alias] = release
    for alias, other in _broken(releases, holds):
        return Goal({}, Reason.NEEDS.say(release=releases[alias], other=releases[other]))
    return Goal.of(releases, "" if releases else Reason.NO_PLAN.say())
