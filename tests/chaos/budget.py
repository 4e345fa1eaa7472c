"""The promise of the budget: when Hydra takes an instance out, few enough of the others are."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from tests.chaos.events import Budget, Dead, Did, Event, InService, Instance, Reported
from tests.chaos.schedule import Kind
from tests.chaos.world import Breach, Reports

SEEN_S = 1.0  # how old what Hydra saw of health may be
LAG_S = 0.5  # how late we may read of a drain


@dataclass(frozen=True)
class World:
    """All that counts, from one moment to the next."""

    at: float = float("-inf")
    members: Mapping[str, tuple[str, Instance]] = field(
        default_factory=dict
    )  # instance → node, and its state
    in_service: frozenset[str] = frozenset()
    dead: frozenset[str] = frozenset()
    removed: frozenset[str] = frozenset()
    restored: Mapping[str, Mapping[str, Instance]] = field(default_factory=dict)  # by node
    budget: Budget = field(default_factory=lambda: Budget(0.0))

    def others(self, me: str) -> dict[str, Instance]:
        """The instances that count beside `me`: in service now, or on nodes that live and at some time.

        One that Consul has in service counts though Hydra on its node has not said yet that it is back, or
        though people have taken it away, as a restored Consul may. One that they have taken away counts no
        more otherwise, though its node may not have heard of it yet.
        """
        return {
            name: instance
            for name, (node, instance) in self.members.items()
            if name not in {me, *(self.removed - self.in_service)}
            and (name in self.in_service or (node not in self.dead and instance.served))
        }

    def out(self) -> frozenset[str]:
        """Those that drain, unless a restored KV says otherwise, until their node says it anew."""
        return frozenset(
            name
            for name, (node, instance) in self.members.items()
            if instance.state == "draining"
            and (node not in self.restored or name in _draining(self.restored[node]))
        )

    def allows(self, me: str, out: frozenset[str]) -> bool:
        """Whether `me` may go while `out` are out because of Hydra: it is down anyway, or few others are."""
        if me not in self.in_service:
            return True
        others = self.others(me)
        away = {name for name in out if name != me and self.members.get(name, ("",))[0] not in self.dead}
        sick = ((others.keys() - self.in_service) | (others.keys() & self.out())) - away
        # those that a restored KV lists may be in service again
        listed = {n for node, names in self.restored.items() if node not in self.dead for n in names}
        total = len((others.keys() | away | listed) - {me}) + 1
        return len(away) + len(sick) + 1 <= allowed(self.budget, total)


class WithinBudget:
    """At each `draining` that Hydra writes, the others not in service were within the budget as seen at most
    a second before.

    Who is out because of Hydra counts as of that very moment: all of that is in one store. Health, dead nodes
    and the budget itself count as of the moment in that second that suits Hydra best.
    """

    name = "within the budget"

    def __init__(self) -> None:
        self._reports = Reports()
        self._now = World()
        self._past: deque[World] = deque([self._now])

    def take(self, event: Event) -> Iterator[Breach]:
        """Follow the world; judge each instance that goes out."""
        match event:
            case InService():
                self._step(replace(self._now, at=event.at, in_service=event.instances))
            case Dead():
                self._step(replace(self._now, at=event.at, dead=event.nodes))
            case Budget():
                self._step(replace(self._now, at=event.at, budget=event))
            case Did() if event.what == Kind.REMOVE:
                self._step(replace(self._now, at=event.at, removed=self._now.removed | {event.whom}))
            case Reported() if self._reports.take(event):
                yield from self._report(event)
            case Reported():
                listed = {**self._now.restored, event.node: event.instances}
                self._step(replace(self._now, at=event.at, restored=listed))

    def end(self, at: float) -> Iterator[Breach]:
        """Nothing was waited for."""
        return iter(())

    def _report(self, event: Reported) -> Iterator[Breach]:
        self._forget(event.at)
        before = {n: i for n, (node, i) in self._now.members.items() if node == event.node}
        others = {n: member for n, member in self._now.members.items() if member[0] != event.node}
        own = {name: (event.node, instance) for name, instance in event.instances.items()}
        restored = {node: names for node, names in self._now.restored.items() if node != event.node}
        fresh = replace(self._now, at=event.at, members=others | own, restored=restored)
        out = fresh.out()
        for name, instance in event.instances.items():
            was = before.get(name)
            # one that drains again on its way has had its place all the time
            goes = instance.state == "draining" and was and was.state == "ready" and not was.moving
            if goes and not any(world.allows(name, out) for world in self._past):
                yield self._breach(event, name, out, self._now)
        self._step(fresh)

    def _step(self, world: World) -> None:
        self._now = world
        self._past.append(world)
        self._forget(world.at)

    def _forget(self, at: float) -> None:
        """Keep the worlds of the span before `at`; the first is the one that was there when it began."""
        while len(self._past) > 1 and self._past[1].at < at - SEEN_S - LAG_S:
            self._past.popleft()

    def _breach(self, event: Reported, me: str, out: frozenset[str], world: World) -> Breach:
        others = world.others(me)
        sick = sorted(others.keys() - world.in_service - out)
        budget = world.budget
        limit = allowed(budget, len(others) + 1)
        rest = ", ".join(sorted(out - {me})) or "nobody"
        text = (
            f"{me} went out while {rest} drained and {', '.join(sick) or 'nobody'} was not in service;"
            f" {limit} of {len(others) + 1} may be out"
        )
        return Breach(event.at, self.name, text, frozenset({me, *out, *sick}))


def allowed(budget: Budget, total: int) -> int:
    """How many of `total` may be out: shares are rounded in favour of service, but one may always move
    unless the budget is 0."""
    if budget.min_available is not None:
        stays = budget.min_available
        kept = -(-total * int(stays.rstrip("%")) // 100) if isinstance(stays, str) else stays
        return max(0, total - kept)
    if isinstance(budget.max_unavailable, int):
        return budget.max_unavailable
    share = int(budget.max_unavailable.rstrip("%"))
    return max(1, total * share // 100) if share else 0


def _draining(instances: Mapping[str, Instance]) -> set[str]:
    return {name for name, instance in instances.items() if instance.state == "draining"}
