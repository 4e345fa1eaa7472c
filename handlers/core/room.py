"""Room on the volumes of a node: which releases may go for one that is needed, and where datasets go.

The one order of precedence, in which a node keeps what it holds (`expendable` has the reverse):

    needed      `desired` names it as target, start, proven, head, pin or in use; a view points to it, a
                process has it open or mapped, or it is being downloaded: never given up
    rollback    `desired` names it only for a rollback, or for an instance that may come again, likely until
                `Hold.until`: the latest stays longest
    the rest    `desired` does not name it any more: the oldest version goes first

What is not named goes anyway once its grace is over (`diff`). Under pressure, when a needed release does not
fit, the grace is given up, and what is kept for a rollback as well; no more than the brake's share at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from handlers.core.holdings import NOTHING, Facts, Piece, Space, missing
from handlers.core.model import DISK, RAM, Hold, Release, ReleaseStatus, State
from handlers.core.names import Channel
from handlers.core.version import ReleaseId

_JOINT = "+"


def needed(hold: Hold | None) -> bool:
    """Whether somebody needs the release, beyond a rollback that may come."""
    return hold is not None and not hold.until


def expendable(facts: Facts) -> list[ReleaseId]:
    """What may be given up for a release that is needed and does not fit, in this order."""
    if facts.hold:
        return []
    kept = {r for r, hold in facts.desired.items() if needed(hold)} | facts.used.keys() | facts.running.keys()
    if braked(facts):
        share = int(facts.policy.brake_share * len(facts.inventory.held))
        late = sorted(undesired(facts), key=lambda release: _precedence(facts, release))[share:]
        kept |= {r for r in late if facts.now < _since(facts, r) + facts.policy.idle_grace_s}
    return sorted(facts.inventory.held - kept, key=lambda release: _precedence(facts, release))


def _precedence(facts: Facts, release: ReleaseId) -> tuple[str, str, ReleaseId]:
    hold = facts.desired.get(release)
    return hold.until if hold else "", release.version, release


def undesired(facts: Facts) -> list[ReleaseId]:
    """What is here though `desired` does not name it."""
    return sorted(facts.inventory.held - facts.desired.keys())


def braked(facts: Facts) -> bool:
    """Whether so much is no longer desired that it may be a mistake; it then stays for hours."""
    return len(undesired(facts)) > facts.policy.brake_share * len(facts.inventory.held)


def _since(facts: Facts, release: ReleaseId) -> float:
    return facts.undesired_since.get(release, facts.now)


def room_of_namespace(volume: str, channel: Channel) -> str:
    """The name of the room that a namespace has on a volume, in `Facts.space`; a volume's own is its name."""
    return f"{volume}/{channel.env}/{channel.namespace}"


def joint_room(volumes: Iterable[str]) -> str:
    """The name of the room that volumes on one file system have together; no volume has such a name."""
    return _JOINT.join(sorted(volumes))


def volumes_of(room: str) -> list[str]:
    """The volumes that have the joint room of this name; of another room, one at most."""
    return room.split(_JOINT)


def rooms_of(volume: str, channel: Channel, known: Collection[str]) -> list[str]:
    """The rooms, of those that are `known`, of which data of a channel takes some on a volume."""
    joint = [name for name in known if _JOINT in name and volume in volumes_of(name)]
    return [name for name in (volume, room_of_namespace(volume, channel)) if name in known] + joint


def need_on(facts: Facts, volume: str, piece: Piece) -> Space:
    """What a dataset takes on a volume, with the files linked that other releases have there."""
    need = facts.needs.get(piece, NOTHING)
    saved = facts.saves.get(piece, {}).get(volume, NOTHING)
    return Space(max(0, need.bytes - saved.bytes), max(0, need.files - saved.files))


class Room:
    """Free room while downloads are handed out. `short` are the needed releases that found none.

    Rooms are volumes, namespaces with a budget of their own on one, and file systems with several volumes.
    """

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._free = dict(facts.space)
        self._order = expendable(facts)
        self._spare = {r for r, hold in facts.desired.items() if not needed(hold)}
        self.going: list[ReleaseId] = []
        self.short: list[ReleaseId] = []
        for release, volumes in facts.running.items():
            for name, volume in volumes.items():
                self._take(volume, release, facts.needs.get(Piece(release, name), NOTHING))

    def place(self, release: ReleaseId, header: Release) -> tuple[dict[str, str], ReleaseStatus]:
        """A volume for each missing dataset, taken from the room; or none and why not.

        For a release that is needed, `going` gets those which have to make room for it.
        """
        volumes, problem = self._try(release, header)
        if not problem:
            return volumes, status(State.DOWNLOADING, header)
        if release in self._spare:
            reason = f"nothing needs it now, and there is no room for it: {problem}"
            return {}, status(State.WAITING, header, reason)
        self.short.append(release)
        if self._give_up_for(release, header):
            return {}, status(State.WAITING, header, f"{problem}; older releases make room for it")
        if self._would_fit(release, header, [*undesired(self._facts), *self._spare]):
            text = f"{problem}; waits until releases that are not desired are gone"
            return {}, status(State.WAITING, header, text)
        return {}, status(State.FAILED, header, f"{problem}; no release here can make room")

    def _give_up_for(self, release: ReleaseId, header: Release) -> bool:
        """Choose what goes: in the order of precedence, and nothing that would not help."""
        chosen = list(self.going)
        for candidate in self._order:
            if candidate not in chosen:
                chosen.append(candidate)
                if self._would_fit(release, header, chosen):
                    break
        else:
            return False
        for candidate in [c for c in chosen if c not in self.going]:
            fewer = [c for c in chosen if c != candidate]
            if self._would_fit(release, header, fewer):
                chosen = fewer
        self._let_go(chosen)
        self._try(release, header)
        return True

    def _would_fit(self, release: ReleaseId, header: Release, gone: list[ReleaseId]) -> bool:
        before = dict(self._free), self.going
        self._let_go(gone)
        _, problem = self._try(release, header)
        self._free, self.going = before
        return not problem

    def _let_go(self, gone: list[ReleaseId]) -> None:
        """From now on count with the room that these, and no others, give back."""
        for sign, releases in ((-1, self.going), (1, gone)):
            for room, space in freed(self._facts, releases).items():
                if room in self._free:
                    self._free[room] += Space(sign * space.bytes, sign * space.files)
        self.going = gone

    def _try(self, release: ReleaseId, header: Release) -> tuple[dict[str, str], str]:
        """Volumes for all missing datasets, taken from the room; or nothing taken, and the problem."""
        before = dict(self._free)
        volumes: dict[str, str] = {}
        for name in missing(release, header, self._facts.inventory):
            piece = Piece(release, name)
            volume, problem = self._choose(piece, header.datasets[name].placement)
            if problem:
                self._free = before
                return {}, problem
            self._take(volume, release, self._need(volume, piece))
            volumes[name] = volume
        return volumes, ""

    def _choose(self, piece: Piece, placement: str) -> tuple[str, str]:
        """The volume of the right class where least is needed and most is free, or what is wrong.

        One that has a part of it already comes first.
        """
        wanted = DISK if placement == RAM else placement  # RAM is a cache of the copy on disk
        names = [v for v, cls in self._facts.classes.items() if cls == wanted and v in self._free]
        started = self._facts.inventory.staged.get(piece)
        names = [started] if started in names else names
        if not names:
            has = ", ".join(sorted(set(self._facts.classes.values())))
            return "", f"{piece.dataset}: no volume of class {wanted} on this node; it has {has or 'none'}"
        needs = {v: self._need(v, piece) for v in names}
        short = {
            v: [r for r in rooms_of(v, piece.release.channel, self._free) if not needs[v].fits(self._free[r])]
            for v in names
        }
        best = max(names, key=lambda v: (not short[v], -needs[v].bytes, self._left(v, piece), v))
        if not short[best]:
            return best, ""
        room, need = short[best][0], needs[best]
        free = self._free[room]
        return "", (
            f"{piece.dataset} needs {need.bytes} bytes and {need.files} files on volume {room}, "
            f"free above its reserve are {max(0, free.bytes)} bytes and {max(0, free.files)} files"
        )

    def _left(self, volume: str, piece: Piece) -> int:
        return min(self._free[room].bytes for room in rooms_of(volume, piece.release.channel, self._free))

    def _need(self, volume: str, piece: Piece) -> Space:
        """What is needed on this volume, where releases may be that have some of the files, and stay."""
        if self._facts.sources.get(piece, frozenset()) & set(self.going):
            return self._facts.needs.get(piece, NOTHING)
        return need_on(self._facts, volume, piece)

    def _take(self, volume: str, release: ReleaseId, need: Space) -> None:
        for room in rooms_of(volume, release.channel, self._free):
            self._free[room] -= need


def freed(facts: Facts, gone: Iterable[ReleaseId]) -> dict[str, Space]:
    """By room, what deleting these releases together gives back.

    A file that several releases share (one inode) comes free with the last of them.
    """
    gone = set(gone)
    result: dict[str, Space] = {}
    if facts.shares:
        for holders, rooms in facts.shares.items():
            if holders <= gone:
                for room, space in rooms.items():
                    result[room] = result.get(room, NOTHING) + space
        return result
    for piece, volume in facts.inventory.complete.items():
        body = facts.bodies.get(piece.release)
        if piece.release in gone and body and (dataset := body.datasets.get(piece.dataset)):
            for room in rooms_of(volume, piece.release.channel, facts.space):
                result[room] = result.get(room, NOTHING) + Space(dataset.bytes, dataset.files)
    return result


def status(state: State, header: Release | None, reason: str = "", when: str = "") -> ReleaseStatus:
    """The status of a release in `actual`."""
    total = sum(dataset.bytes for dataset in header.datasets.values()) if header is not None else 0
    return ReleaseStatus(state=state, reason=reason, next_try=when, bytes=total)
