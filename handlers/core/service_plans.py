"""What one service runs under all its aliases together, and what its instances run that read something else.

`targets` decides for each alias alone. Two things tie a release to more than its channel: its labels, which
an instance can read or not (`reading`), and its needs of other channels (`needs`). What may not be run is
passed over, the newest before it takes its place, and all is decided again until nothing changes. What was
passed over once is not tried again, so this ends.

Invariant: what one instance targets can be read by it and meets each other's needs, and so does what it
begins with. Where a header that would tell is lost, what was planned last stays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cached_property

from msgspec import Struct, field
from msgspec.structs import replace

from handlers.core import needs
from handlers.core.gate import Outcome
from handlers.core.model import Alarm, AliasPlan, Control, ServicePlan, Subscription
from handlers.core.names import Channel
from handlers.core.reading import Reads
from handlers.core.targets import Case, alias_plan, condemned, in_force
from handlers.core.version import ReleaseId, Version
from handlers.core.world import ChannelFacts, ServiceFacts, World

Aliases = Mapping[str, AliasPlan]
Proven = Mapping[Channel, tuple[Version, ...]]


class Planned(Struct, frozen=True, kw_only=True, dict=True):
    """A service for all its nodes alike; `own` are the aliases of instances that say what they read."""

    plan: ServicePlan
    own: Mapping[Reads, Aliases] = field(default_factory=dict)

    @cached_property
    def differing(self) -> frozenset[Reads]:
        """What instances say of themselves that have another plan than the others."""
        return frozenset(reads for reads, aliases in self.own.items() if aliases != self.plan.aliases)

    def aliases(self, reads: Reads) -> Aliases:
        """What an instance runs that says this of itself; empty = it says nothing."""
        return self.own.get(reads, self.plan.aliases)


def planned(
    world: World,
    facts: ServiceFacts,
    subscription: Subscription,
    proven: Proven,
    last: Planned | None,
    now: datetime,
) -> tuple[Planned, list[Alarm]]:
    """All that nodes must know of one service; `last` is what they know already."""
    alarms = [
        Alarm(object=f"service/{facts.name}", text=f"{does} alias {alias}, under which it reads no channel")
        for does, aliases in (("pins", facts.pins), ("says what it reads of", subscription.reads.aliases))
        for alias in sorted(aliases)
        if alias not in subscription.channels
    ]
    kinds = [subscription.reads, *sorted({r.instance.reads for r in world.replicas(facts.name)} - {""})]
    found = {}
    for reads in kinds:
        before = last.aliases(reads) if last else {}
        found[reads], more = _Joint(world, facts, subscription, proven, now).plans(reads, before)
        alarms += more
    aliases = found[subscription.reads]
    held = "control" in facts.unreadable and last is not None
    control = Control(paused=last.plan.paused, retry=last.plan.retry) if held and last else facts.control
    plan = ServicePlan(
        aliases=aliases,
        reads=subscription.reads,
        reload=subscription.reload,
        confirm=subscription.confirm,
        drain=subscription.drain,
        drain_s=subscription.drain_s,
        deadline_s=subscription.deadline_s,
        max_unavailable=subscription.max_unavailable,
        min_available=subscription.min_available,
        budget_by=subscription.budget_by,
        ram=subscription.ram,
        warm_up=subscription.warm_up,
        nodes=subscription.nodes,
        paused=control.paused,
        retry=(*control.retry, *_overruled(facts, aliases, world, now)),
    )
    return Planned(plan=plan, own=found), alarms


class _Joint(Struct, frozen=True):
    """One service, asked for one kind of its instances after the other."""

    world: World
    facts: ServiceFacts
    subscription: Subscription
    proven: Proven
    now: datetime

    def plans(self, reads: Reads, last: Aliases) -> tuple[Aliases, list[Alarm]]:
        """What instances that read this run, by alias."""
        cases, gone, alarms = self._cases(reads, last)
        while True:
            found = {alias: alias_plan(case) for alias, case in cases.items()}
            plans = {**gone, **{alias: plan for alias, (plan, _) in found.items()}}
            no_target = self._unmet(plans, last, lambda part: part.target)
            no_start = self._unmet(plans, last, lambda part: part.start)
            fresh = {a: _narrowed(case, plans[a], no_target, no_start) for a, case in cases.items()}
            if all(fresh[a] is case for a, case in cases.items()):
                break
            cases = fresh
        if no_start:
            # nothing that is proven goes together: then with what the others move to, which does
            plans = {alias: replace(plan, start=plan.target) for alias, plan in plans.items()}
        for alias, (plan, more) in found.items():
            alarms += more
            if plan.passed and plan.passed in cases[alias].unmet.values():
                alarms.append(Alarm(object=f"service/{self.facts.name}", text=f"{alias}: {plan.passed}"))
        return dict(sorted(plans.items())), alarms

    def _cases(
        self, reads: Reads, last: Aliases
    ) -> tuple[dict[str, Case], dict[str, AliasPlan], list[Alarm]]:
        """By alias what decides about it, and what is left of those whose channel is not there."""
        cases: dict[str, Case] = {}
        gone: dict[str, AliasPlan] = {}
        alarms: list[Alarm] = []
        for alias, name in sorted(self.subscription.channels.items()):
            before = last.get(alias)
            before = before if before and before.channel == name else None
            channel = self.world.channels.get(name)
            if channel is None or channel.deleted:
                gone[alias], alarm = _gone(self.facts, name, channel is not None, before)
                alarms.append(alarm)
                continue
            cases[alias] = Case(
                service=self.facts,
                reload=self.subscription.reload,
                alias=alias,
                channel=channel,
                proven=self.proven.get(name, ()),
                last=before,
                now=self.now,
                condemned=condemned(self.world, channel),
                unread=_unread(channel, reads, alias),
            )
        return cases, gone, alarms

    def _unmet(
        self, plans: Aliases, last: Aliases, pick: Callable[[AliasPlan], Version | None]
    ) -> dict[str, str]:
        channels = {alias: plan.channel for alias, plan in plans.items()}
        chosen, before = ({a: pick(part) for a, part in parts.items()} for parts in (plans, last))
        return needs.unmet(self.world, channels, chosen, before)


def _unread(channel: ChannelFacts, reads: Reads, alias: str) -> dict[Version, str]:
    """The releases of the channel that cannot be read, with why."""
    found = {r.version: reads.misfit(alias, r.labels) for r in channel.releases} if reads else {}
    return {version: f"{version} {why}" for version, why in found.items() if why}


def _narrowed(case: Case, plan: AliasPlan, no_target: Mapping[str, str], no_start: Mapping[str, str]) -> Case:
    """The case without what was just chosen, where that has a need that is not met; else itself."""
    if plan.target is not None and case.alias in no_target:
        case = replace(case, unmet={**case.unmet, plan.target: no_target[case.alias]})
    if plan.start is not None and case.alias in no_start and plan.start not in case.no_start:
        case = replace(case, no_start=case.no_start | {plan.start})
    return case


def _overruled(
    facts: ServiceFacts, aliases: Mapping[str, AliasPlan], world: World, now: datetime
) -> list[str]:
    """Ids of what checks found of releases that operators have pinned or promoted all the same."""
    found = []
    for alias, part in aliases.items():
        channel = world.channels.get(part.channel)
        pins = (facts.pins.get(alias), channel.pin if channel else None)
        for pin in pins:
            verdict = facts.verdicts.releases.get(ReleaseId.of(part.channel, pin.version)) if pin else None
            if pin and verdict and verdict.verdict in tuple(Outcome) and in_force(pin, now):
                found.append(verdict.id)
    verdicts = facts.verdicts.releases.items()
    found += [verdict.id for release, verdict in verdicts if facts.control.overrules(release, verdict)]
    return sorted(set(found) - set(facts.control.retry))


def _gone(
    facts: ServiceFacts, channel: Channel, deleted: bool, before: AliasPlan | None
) -> tuple[AliasPlan, Alarm]:
    """A deleted channel gives nothing more; one that merely is not there leaves everything as it was."""
    why = f"channel {channel} {'is deleted' if deleted else 'does not exist'}"
    alarm = Alarm(object=f"service/{facts.name}", text=f"reads {channel}, but {why}")
    if deleted or before is None:
        return AliasPlan(channel=channel, held=why), alarm
    return AliasPlan(channel=channel, target=before.target, start=before.start, held=why), alarm


def subscription_of(plan: ServicePlan) -> Subscription:
    """The subscription that led to `plan`, for a service whose own one is lost or does not parse."""
    return Subscription(
        channels={alias: part.channel for alias, part in plan.aliases.items()},
        reads=plan.reads,
        reload=plan.reload,
        confirm=plan.confirm,
        drain=plan.drain,
        drain_s=plan.drain_s,
        deadline_s=plan.deadline_s,
        max_unavailable=plan.max_unavailable,
        min_available=plan.min_available,
        budget_by=plan.budget_by,
        ram=plan.ram,
        warm_up=plan.warm_up,
        nodes=plan.nodes,
    )
