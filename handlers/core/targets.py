"""Which release each service should run under each alias, and with which one its new instances begin.

    wanted   the service's pin, else the channel's pin, else the head
    problem  that cannot be read or names no release: the last target stands, with an alarm
    barred   rejected (channel), aborted or bad (service): the newest proven release takes its place
    halted   the target stays, moves to it stop

Order comes from sequence numbers; the only clock is `now`, for pins that end by themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from handlers.core.gate import Outcome
from handlers.core.model import (
    Alarm,
    AliasPlan,
    Control,
    InstanceState,
    Pin,
    ServicePlan,
    Subscription,
    Verdict,
)
from handlers.core.names import Channel
from handlers.core.turns import checked
from handlers.core.version import ReleaseId, Version
from handlers.core.world import ChannelFacts, ServiceFacts, World

PROVEN_KEPT = 20


@dataclass(frozen=True, kw_only=True)
class Case:
    """All that decides about one alias of one service; `last` is what was planned before for this channel."""

    service: ServiceFacts
    reload: str
    alias: str
    channel: ChannelFacts
    proven: tuple[Version, ...]
    last: AliasPlan | None
    now: datetime
    condemned: Mapping[Version, str] = field(default_factory=dict)

    @property
    def pinned(self) -> set[Version]:
        """What operators have pinned here, against whatever a check of canaries found."""
        pins = (self.service.pins.get(self.alias), self.channel.pin)
        return {pin.version for pin in pins if pin and _in_force(pin, self.now)}

    @property
    def frozen(self) -> bool:
        """New instances are the only ones that ever take a release over, so they begin with the target."""
        return self.reload == "frozen"

    def barred(self, version: Version) -> str:
        """Why nobody may run or move to this release; empty = somebody may."""
        release = ReleaseId.of(self.channel.name, version)
        if version in self.channel.rejected:
            return "rejected"
        if release in self.service.control.abort:
            return "aborted"
        if version in self.pinned:
            return ""
        verdict = standing_verdict(self.service, release)
        return "bad" if verdict and verdict.verdict == "bad" else self.condemned.get(version, "")

    def newest(self, versions: Iterable[Version]) -> Version | None:
        """The one of the highest sequence that exists and is not barred."""
        found = [v for v in versions if v in self.channel.by_version and not self.barred(v)]
        return max(found, key=lambda v: self.channel.by_version[v].sequence, default=None)


def standing_verdict(service: ServiceFacts, release: ReleaseId) -> Verdict | None:
    """The verdict on a release, unless an operator has overruled it."""
    verdict = service.verdicts.releases.get(release)
    if verdict is None or not verdict.stands or service.control.overrules(release, verdict):
        return None
    return verdict


def condemned(world: World, channel: ChannelFacts) -> dict[Version, str]:
    """What the canaries of one service found bad for all, where the channel says so (`propagate`)."""
    if not channel.settings.propagate:
        return {}
    return {
        release.version: f"bad for {name}"
        for name, facts in sorted(world.services.items())
        for release in facts.verdicts.releases
        if release.channel == channel.name
        and (verdict := standing_verdict(facts, release))
        and verdict.verdict == Outcome.BAD
    }


def alias_plan(case: Case) -> tuple[AliasPlan, list[Alarm]]:
    """What the service runs under the alias, and what a person should look at."""
    wanted, problem, alarms = _wanted(case)
    last = case.last or AliasPlan(channel=case.channel.name)
    if problem:
        wanted = last.target
    target, held = wanted, problem
    if wanted is not None and (why := case.barred(wanted)):
        target = case.newest(case.proven) or case.newest(_older(case.channel, wanted))
        held = problem or f"{wanted} is {why}, and there is nothing else to run"
    if target is not None:
        held = _halted(case, target, last)
    start = target
    if target not in case.proven and not case.frozen:
        before = last.start if problem and last.start and not case.barred(last.start) else None
        start = case.newest(case.proven) or target or before
    return AliasPlan(channel=case.channel.name, target=target, start=start, held=held), alarms


def _halted(case: Case, target: Version, last: AliasPlan) -> str:
    """Why moves to the target stop; as before where verdicts cannot be read."""
    if case.service.unreadable & {"verdicts", "control"}:
        return last.held if last.target == target else ""
    verdict = standing_verdict(case.service, ReleaseId.of(case.channel.name, target))
    if verdict and verdict.verdict in tuple(Outcome):
        return "" if target in case.pinned else f"its check was {verdict.verdict}: {verdict.reason}"
    return f"halted on {verdict.node} ({verdict.instance}): {verdict.reason}" if verdict else ""


def _wanted(case: Case) -> tuple[Version | None, str, list[Alarm]]:
    """The release that pins and head ask for, or what is wrong with them."""
    needed = ("control", "verdicts", f"pin/{case.alias}")
    unreadable = [part for part in needed if part in case.service.unreadable]
    if unreadable:
        return None, f"{', '.join(unreadable)} of the service cannot be read", []
    alarms: list[Alarm] = []
    owner = f"service/{case.service.name}"
    if pin := _standing(case.service.pins.get(case.alias), f"{owner} pin of {case.alias}", case.now, alarms):
        return *_existing(case, pin.version, owner, f"the pin of {case.alias}", alarms), alarms
    owner = f"channel/{case.channel.name}"
    if "pin" in case.channel.unreadable:
        return None, "the channel's pin cannot be read", alarms
    if pin := _standing(case.channel.pin, f"{owner} pin", case.now, alarms):
        return *_existing(case, pin.version, owner, "the channel's pin", alarms), alarms
    if "head" in case.channel.unreadable:
        return None, "the channel's head cannot be read", alarms
    if case.channel.head is None and (case.channel.releases or (case.last and case.last.target)):
        alarms.append(Alarm(object=owner, text="the head is missing; services stay with what they target"))
        return None, "the channel's head is missing", alarms
    if case.channel.head is None:
        return None, "", alarms
    return *_existing(case, case.channel.head, owner, "the channel's head", alarms), alarms


def _existing(
    case: Case, version: Version, owner: str, what: str, alarms: list[Alarm]
) -> tuple[Version | None, str]:
    if version in case.channel.by_version:
        return version, ""
    problem = f"{what} names {version}, which is no release of {case.channel.name}"
    alarms.append(Alarm(object=owner, text=f"{problem}; services stay with what they target"))
    return None, problem


def _standing(pin: Pin | None, what: str, now: datetime, alarms: list[Alarm]) -> Pin | None:
    """The pin, unless its time is over."""
    if pin is None or not pin.until:
        return pin
    if _end_of(pin) is None:
        owner, _, name = what.partition(" ")
        alarms.append(
            Alarm(object=owner, text=f"{name}: until {pin.until!r} is not a time; the pin stays in force")
        )
        return pin
    return pin if _in_force(pin, now) else None


def _in_force(pin: Pin, now: datetime) -> bool:
    until = _end_of(pin) if pin.until else None
    return until is None or now < until


def _end_of(pin: Pin) -> datetime | None:
    """When the pin ends by itself; None where that is not a time."""
    try:
        until = datetime.fromisoformat(pin.until)
    except ValueError:
        return None
    return until if until.tzinfo else until.replace(tzinfo=UTC)


def _older(channel: ChannelFacts, version: Version) -> list[Version]:
    """All releases before `version`; all there are when its header is gone."""
    limit = channel.by_version.get(version)
    return [r.version for r in channel.releases if limit is None or r.sequence < limit.sequence]


def service_plan(
    world: World,
    facts: ServiceFacts,
    subscription: Subscription,
    proven: Mapping[Channel, tuple[Version, ...]],
    last: ServicePlan | None,
    now: datetime,
) -> tuple[ServicePlan, list[Alarm]]:
    """All that nodes must know of one service; `last` is what they know already."""
    alarms = [
        Alarm(object=f"service/{facts.name}", text=f"pins alias {alias}, under which it reads no channel")
        for alias in facts.pins
        if alias not in subscription.channels
    ]
    aliases: dict[str, AliasPlan] = {}
    for alias, name in sorted(subscription.channels.items()):
        before = last.aliases.get(alias) if last else None
        before = before if before and before.channel == name else None
        channel = world.channels.get(name)
        if channel is None or channel.deleted:
            aliases[alias], alarm = _gone(facts, name, channel is not None, before)
            alarms.append(alarm)
            continue
        case = Case(
            service=facts,
            reload=subscription.reload,
            alias=alias,
            channel=channel,
            proven=proven.get(name, ()),
            last=before,
            now=now,
            condemned=condemned(world, channel),
        )
        aliases[alias], found = alias_plan(case)
        alarms += found
    held = "control" in facts.unreadable and last is not None
    control = Control(paused=last.paused, retry=last.retry) if held and last else facts.control
    return ServicePlan(
        aliases=aliases,
        reload=subscription.reload,
        confirm=subscription.confirm,
        drain=subscription.drain,
        drain_s=subscription.drain_s,
        deadline_s=subscription.deadline_s,
        max_unavailable=subscription.max_unavailable,
        min_available=subscription.min_available,
        ram=subscription.ram,
        warm_up=subscription.warm_up,
        paused=control.paused,
        retry=(*control.retry, *_overruled(facts, aliases, world, now)),
    ), alarms


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
            if pin and verdict and verdict.verdict in tuple(Outcome) and _in_force(pin, now):
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
        reload=plan.reload,
        confirm=plan.confirm,
        drain=plan.drain,
        drain_s=plan.drain_s,
        deadline_s=plan.deadline_s,
        max_unavailable=plan.max_unavailable,
        min_available=plan.min_available,
        ram=plan.ram,
        warm_up=plan.warm_up,
    )


def proven_versions(
    world: World, facts: ServiceFacts, channels: Mapping[str, Channel], last: ServicePlan | None, sure: bool
) -> dict[Channel, tuple[Version, ...]]:
    """By channel what all live instances of the service once confirmed, in order of sequence.

    What nodes say now is added to what was proven before. A service without live instances proves nothing,
    and neither does one whose instances are not all known (`sure`). Where the document is lost, `last` still
    tells: new instances begin with another release than the target only if it is proven.
    """
    live = [replica for replica in world.replicas(facts.name) if replica.node.alive]
    result: dict[Channel, tuple[Version, ...]] = {}
    for alias, name in sorted(channels.items()):
        versions = set(result.get(name) or facts.proven.channels.get(name, ()))
        before = last.aliases.get(alias) if last else None
        if before and before.channel == name and before.start and before.target not in (None, before.start):
            versions.add(before.start)
        confirmed = {_confirmed(r.state, alias, name) for r in live}
        if sure and len(confirmed) == 1 and (version := confirmed.pop()):
            unchecked = bool(versions - {version}) and not _passed(facts, ReleaseId.of(name, version), world)
            versions.update(() if unchecked else (version,))
        if kept := _kept(world.channels.get(name), versions):
            result[name] = kept
    return result


def _passed(facts: ServiceFacts, release: ReleaseId, world: World) -> bool:
    """Whether nothing is left to check before the release is proven."""
    check = facts.subscription.check if facts.subscription else ""
    channel = world.channels.get(release.channel)
    pins = [*facts.pins.values(), *([channel.pin] if channel and channel.pin else [])]
    pinned = any(pin.version == release.version for pin in pins)
    return not check or pinned or release in facts.control.promote or checked(facts, release)


def _confirmed(state: InstanceState | None, alias: str, channel: Channel) -> Version | None:
    """What the instance runs of the channel; nothing while its alias still reads another one."""
    version = state.releases.get(alias) if state else None
    return version if state and state.runs(alias, channel, version) else None


def _kept(channel: ChannelFacts | None, versions: set[Version]) -> tuple[Version, ...]:
    """The newest of `versions` that still exist."""
    if channel is None or channel.unreadable:
        return tuple(sorted(versions))
    return tuple(release.version for release in channel.releases if release.version in versions)[
        -PROVEN_KEPT:
    ]
