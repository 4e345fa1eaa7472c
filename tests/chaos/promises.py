"""What Hydra promises, checked against what was seen: a list of events in, the broken promises out.

It knows nothing of how Hydra works. Where somebody outside cannot see to the moment what Hydra saw, what
cannot be known is taken in Hydra's favour; each class says where.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from tests.chaos.answers import NoLateRequest, NoMixedAnswer
from tests.chaos.budget import WithinBudget
from tests.chaos.events import (
    Bad,
    Did,
    Event,
    Head,
    Held,
    InService,
    Pinned,
    Releases,
    Reported,
    Slots,
    Viewed,
    Wanted,
)
from tests.chaos.schedule import Kind
from tests.chaos.world import UNDOING_S, AtOnce, Breach, Promise, Reports

CONVERGED_S = 60.0  # after the last fault
RECOVER = "recover"
STOP = "stop"


class NoWayBackWithoutOrder(AtOnce):
    """Nobody goes to an older version unless somebody said so since it set out for the newer one.

    Orders are a pin to the older version, a rejection of or verdict on any newer one than that, and the word
    of an operator that a restored KV counts. One that had ended begins anew: a restored Consul may list a
    replica again that was taken away.
    """

    name = "no way back without an order"

    def __init__(self) -> None:
        self._reports = Reports()
        self._arrived: dict[tuple[str, str], tuple[str, float]] = {}
        self._set_out: dict[tuple[str, str], float] = {}
        self._pinned: dict[str, float] = {}
        self._bad: dict[str, float] = {}
        self._recovered = float("-inf")

    def take(self, event: Event) -> Iterator[Breach]:
        """Remember until when each order was in force, and judge the moves."""
        for kind, known in ((Pinned, self._pinned), (Bad, self._bad)):
            if isinstance(event, kind):
                known.update({v: event.at for v, until in known.items() if until == float("inf")})
                known.update(dict.fromkeys(event.versions, float("inf")))
        if isinstance(event, Did) and event.what == RECOVER:
            self._recovered = event.at
        if isinstance(event, Reported):
            before = self._reports.latest.get(event.node)
            if self._reports.take(event):
                for name, instance in before.instances.items() if before else ():
                    if name not in event.instances:
                        self._arrived.pop((name, instance.incarnation), None)
                yield from self._moves(event)

    def _moves(self, event: Reported) -> Iterator[Breach]:
        for name, instance in event.instances.items():
            key, version = (name, instance.incarnation), instance.release
            before, since = self._arrived.get(key, ("", event.at))
            if instance.moving:
                self._set_out.setdefault(key, event.at)
            if version == before or not version:
                if not instance.moving:
                    self._set_out.pop(key, None)
                continue
            if version < before and not self._ordered(version, since):
                text = f"{name} went from {before} to {version}, and nobody had said so"
                yield Breach(event.at, self.name, text, frozenset({name, before, version}))
            self._arrived[key] = version, self._set_out.pop(key, event.at)

    def _ordered(self, version: str, since: float) -> bool:
        bad = max((until for v, until in self._bad.items() if v > version), default=float("-inf"))
        return max(self._pinned.get(version, float("-inf")), bad, self._recovered) >= since


class NothingNeededDeleted(AtOnce):
    """No release leaves a disk while a view there points to it or what the node has taken over names it, nor
    the KV while it is head, pinned, or run by an instance. Whoever wipes a disk or restores the KV is not
    Hydra."""

    name = "nothing needed is deleted"

    def __init__(self) -> None:
        self._reports = Reports()
        self._wiped: dict[str, float] = {}
        self._restored = float("-inf")
        self._held: dict[str, frozenset[str]] = {}
        self._wanted: dict[str, frozenset[str]] = {}
        self._viewed: dict[str, tuple[str, str]] = {}
        self._known: frozenset[str] = frozenset()
        self._head: frozenset[str] = frozenset()
        self._pinned: frozenset[str] = frozenset()

    def take(self, event: Event) -> Iterator[Breach]:
        """Follow who needs what, and judge what is gone."""
        match event:
            case Did(at, what, whom):
                if what == Kind.WIPE:
                    self._wiped[whom] = at
                self._restored = at if what == Kind.RESTORE else self._restored
            case Wanted():
                self._wanted[event.node] = event.versions
            case Viewed():
                self._viewed[event.instance] = event.node, event.version
            case Head():
                self._head = frozenset({event.version})
            case Pinned():
                self._pinned = event.versions
            case Reported():
                self._reports.take(event)
            case Held():
                yield from self._left_disk(event)
            case Releases():
                yield from self._left_kv(event)

    def _left_disk(self, event: Held) -> Iterator[Breach]:
        lost = self._held.get(event.node, frozenset()) - event.versions
        self._held[event.node] = event.versions
        if event.at - self._wiped.get(event.node, float("-inf")) < UNDOING_S:
            return
        for version in sorted(lost):
            users = {i for i, (node, v) in self._viewed.items() if (node, v) == (event.node, version)}
            if version in self._wanted.get(event.node, ()):
                users.add("its desired document")
            if users:
                text = f"{version} was deleted on {event.node} though {', '.join(sorted(users))} needs it"
                yield Breach(event.at, self.name, text, frozenset({event.node, version, *users}))

    def _left_kv(self, event: Releases) -> Iterator[Breach]:
        lost, self._known = self._known - event.known.keys(), frozenset(event.known)
        if event.at - self._restored < UNDOING_S:
            return
        instances = [(n, i) for r in self._reports.latest.values() for n, i in r.instances.items()]
        for version in sorted(lost):
            users = {name for name, instance in instances if version == instance.release}
            users |= {"the head"} if version in self._head else set()
            users |= {"a pin"} if version in self._pinned else set()
            if users:
                text = f"{version} was deleted from the KV though {', '.join(sorted(users))} needs it"
                yield Breach(event.at, self.name, text, frozenset({version, *users}))


class HeadsLinear(AtOnce):
    """Each head is a release, with a higher sequence than the one before; a release never changes, and no
    sequence is used twice. A restored KV begins anew."""

    name = "heads are linear"

    def __init__(self) -> None:
        self._restored = float("-inf")
        self._head = ""
        self._known: dict[str, tuple[int, str]] = {}

    def take(self, event: Event) -> Iterator[Breach]:
        """Judge releases and heads."""
        if isinstance(event, Did) and event.what == Kind.RESTORE:
            self._restored = event.at
        elif isinstance(event, Releases):
            yield from self._releases(event)
        elif isinstance(event, Head):
            yield from self._next_head(event)

    def _releases(self, event: Releases) -> Iterator[Breach]:
        known, before = dict(event.known), self._known
        if event.at - self._restored >= UNDOING_S:
            highest = max((sequence for sequence, _ in before.values()), default=0)
            for version, (sequence, _) in known.items():
                if version in before and before[version] != known[version]:
                    yield self._breach(event, f"release {version} was changed", version)
                if version not in before and before and sequence <= highest:
                    yield self._breach(event, f"{version} has sequence {sequence} after {highest}", version)
        # what retain has removed still counts: a sequence is not given a second time
        self._known = known if event.at - self._restored < UNDOING_S else before | known

    def _next_head(self, event: Head) -> Iterator[Breach]:
        before, self._head = self._head, event.version
        if event.version == before or event.at - self._restored < UNDOING_S:
            return
        if event.version not in self._known:
            yield self._breach(event, f"the head names {event.version!r}, which is no release", event.version)
        elif before in self._known and self._known[event.version] <= self._known[before]:
            text = f"the head went from {before} back to {event.version}"
            yield self._breach(event, text, before, event.version)

    def _breach(self, event: Event, text: str, *objects: str) -> Breach:
        return Breach(event.at, self.name, text, frozenset(objects))


class Converged:
    """A minute after the last fault all instances run the head, at rest and in service, and nobody is out."""

    name = "converged a minute later"

    def __init__(self) -> None:
        self._reports = Reports()
        self._in_service: frozenset[str] = frozenset()
        self._slots: frozenset[str] = frozenset()
        self._bad: frozenset[str] = frozenset()
        self._head = ""
        self._stopped: float | None = None
        self._done = False

    def take(self, event: Event) -> Iterator[Breach]:
        """Follow it all; from the last fault on, look whether it is as it should be."""
        match event:
            case Reported():
                self._reports.take(event)
            case InService():
                self._in_service = event.instances
            case Slots():
                self._slots = event.instances
            case Bad():
                self._bad = event.versions
            case Head():
                self._head = event.version
            case Did(at, what):
                self._stopped = at if what == STOP else self._stopped
        if self._stopped is not None and not self._done and event.at <= self._stopped + CONVERGED_S:
            self._done = not self.missing()
        return iter(())

    def end(self, at: float) -> Iterator[Breach]:
        """It must have been so at some time."""
        if self._stopped is not None and not self._done:
            missing = self.missing()
            text = f"{at - self._stopped:.0f} s after the last fault: {'; '.join(missing.values())}"
            yield Breach(at, self.name, text, frozenset(missing))

    def missing(self) -> dict[str, str]:
        """What is not as it should be, by instance."""
        found = {}
        for reported in self._reports.latest.values():
            for name, i in reported.instances.items():
                if (i.state, i.step, i.release) != ("ready", "idle", self._head):
                    found[name] = f"{name} is {i.state}, {i.step}, on {i.release or 'nothing'}"
                elif name not in self._in_service:
                    found[name] = f"{name} is not in service"
        found |= {name: f"{name} holds a slot" for name in self._slots}
        if self._head in self._bad or not self._head:
            found["head"] = f"the head {self._head} is bad"
        if not any(reported.instances for reported in self._reports.latest.values()):
            found["instances"] = "there are no instances"
        return found


def broken(events: Sequence[Event]) -> list[Breach]:
    """The promises that were broken, in order of time; `events` in any order."""
    ordered = sorted(events, key=lambda event: event.at)
    found: list[Breach] = []
    for promise in promises():
        for event in ordered:
            found += promise.take(event)
        found += promise.end(ordered[-1].at if ordered else 0.0)
    return sorted(found, key=lambda breach: breach.at)


def promises() -> Iterable[Promise]:
    """All of them, before the first event."""
    return (
        WithinBudget(),
        NoLateRequest(),
        NoMixedAnswer(),
        NoWayBackWithoutOrder(),
        NothingNeededDeleted(),
        HeadsLinear(),
        Converged(),
    )


def names() -> set[str]:
    """What breaches of them are called."""
    return {promise.name for promise in promises()}


def awaited(events: Iterable[Event]) -> str:
    """What is not yet as it should be a minute after the last fault; empty = it is."""
    promise = Converged()
    for event in sorted(events, key=lambda event: event.at):
        for _ in promise.take(event):
            pass
    return "; ".join(promise.missing().values())
