"""Which release each service should run under each alias, and with which one its new instances begin.

    wanted   the service's pin, else the channel's pin, else the head
    problem  that cannot be read or names no release: the last target stands, with an alarm
    barred   rejected (channel), aborted or bad (service): the newest proven release takes its place
    passed   it cannot be read, or needs what is not there (`service_plans`): the newest before it does
    halted   the target stays, moves to it stop

Order comes from sequence numbers; the only clock is `now`, for pins that end by themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from msgspec import Struct, field

from handlers.core.gate import Outcome
from handlers.core.model import Alarm, AliasPlan, Pin, Verdict
from handlers.core.version import ReleaseId, Version
from handlers.core.world import ChannelFacts, ServiceFacts, World


class Case(Struct, frozen=True, kw_only=True):
    """All that decides about one alias of one service; `last` is what was planned before for this channel.

    `unread` and `unmet` are releases that cannot be read, and whose needs are not met, with why; `no_start`
    those with which a new instance may not begin.
    """

    service: ServiceFacts
    reload: str
    alias: str
    channel: ChannelFacts
    proven: tuple[Version, ...]
    last: AliasPlan | None
    now: datetime
    condemned: Mapping[Version, str] = field(default_factory=dict)
    unread: Mapping[Version, str] = field(default_factory=dict)
    unmet: Mapping[Version, str] = field(default_factory=dict)
    no_start: frozenset[Version] = frozenset()

    @property
    def pinned(self) -> set[Version]:
        """What operators have pinned here, against whatever a check of canaries found."""
        pins = (self.service.pins.get(self.alias), self.channel.pin)
        return {pin.version for pin in pins if pin and in_force(pin, self.now)}

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

    def passed(self, version: Version) -> str:
        """Why the release may not be run here, good as it is; empty = it may."""
        return self.unread.get(version, "") or self.unmet.get(version, "")

    def newest(self, versions: Iterable[Version]) -> Version | None:
        """The one of the highest sequence that exists, is not barred, and is not passed over."""
        there = self.channel.by_version
        return self.channel.newest_of(
            v for v in versions if v in there and not self.passed(v) and not self.barred(v)
        )


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
    target, held, passed = wanted, problem, ""
    if wanted is not None and (why := case.barred(wanted)):
        target = case.newest(case.proven) or case.newest(_older(case.channel, wanted))
        held = problem or f"{wanted} is {why}, and there is nothing else to run"
    elif wanted is not None and (why := case.passed(wanted)):
        target = case.newest(_older(case.channel, wanted))
        held = problem or f"{why}, and there is nothing else to run"
        passed = "" if problem else why  # what merely was the target is not what is wanted
    if target is not None:
        held = _halted(case, target, last)
    start = _start(case, target, last if problem else None)
    return AliasPlan(channel=case.channel.name, target=target, start=start, held=held, passed=passed), alarms


def _start(case: Case, target: Version | None, last: AliasPlan | None) -> Version | None:
    """What a new instance begins with; `last` where the target is only what it was."""
    if (target in case.proven and target not in case.no_start) or case.frozen:
        return target
    before = last.start if last and last.start and not case.barred(last.start) else None
    return case.newest(v for v in case.proven if v not in case.no_start) or target or before


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
    return pin if in_force(pin, now) else None


def in_force(pin: Pin, now: datetime) -> bool:
    """Whether its time is not over."""
    until = _end_of(pin) if pin.until else None
    return until is None or now < until


def pins_end(world: World, now: datetime) -> list[datetime]:
    """When pins will end by themselves."""
    pins = [pin for facts in world.services.values() for pin in facts.pins.values()]
    pins += [channel.pin for channel in world.channels.values() if channel.pin]
    return [until for pin in pins if pin.until and (until := _end_of(pin)) and until > now]


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
