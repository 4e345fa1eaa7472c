"""Which releases a node should hold, and why: what services run, what is in use, what a rollback needs.

What a node holds already is given up only for a reason that can be read: never because a document is missing
or does not parse, and never on a large part of the fleet at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from handlers.core import keys
from handlers.core.integrity import Level
from handlers.core.model import RAM, Alarm, Desired, Hold, ServicePlan
from handlers.core.names import Channel, Service
from handlers.core.turns import Turns
from handlers.core.version import ReleaseId, Version
from handlers.core.world import ChannelFacts, NodeFacts, World

BRAKED = "held by the brake"
ROLLBACK_LIKELY = timedelta(hours=24)

Reasons = dict[ReleaseId, list[str]]
Holds = dict[ReleaseId, Hold]


@dataclass
class Ledger:
    """What all nodes have in common: the world, the service plans, each release's digest as first planned.

    `proven`, `nodes` and `turns` are what is known of each service: its good releases, where its instances
    are, and which of them may move now.

    A header is written once; where KV now has another one, nodes go on with what they took, with an alarm.
    """

    world: World
    plans: Mapping[Service, ServicePlan]
    proven: Mapping[Service, Mapping[Channel, tuple[Version, ...]]]
    nodes: Mapping[Service, tuple[str, ...]]
    first: Mapping[ReleaseId, Hold]
    now: datetime
    turns: Mapping[Service, Turns] = field(default_factory=dict)
    alarms: list[Alarm] = field(default_factory=list)
    _plans: dict[tuple[Service, tuple[str, ...]], ServicePlan] = field(default_factory=dict)
    _asked: dict[Service, list[tuple[ReleaseId, str]]] = field(default_factory=dict)
    _bodies: dict[ReleaseId, Hold | None] = field(default_factory=dict)
    _holds: dict[tuple[object, ...], Hold] = field(default_factory=dict)

    def plan(self, service: Service, node: NodeFacts) -> ServicePlan:
        """The service's plan for one node: the same for all, but for whose turn it is there."""
        plan, turns = self.plans[service], self.turns.get(service)
        if turns is None or not turns.waits:
            return plan
        here = [key for key in (node.instances.instances if node.instances else {}) if key.service == service]
        goes = tuple(sorted(key.segment for key in here if keys.slot_id(node.name, key) in turns.goes))
        # one object per distinct plan: equal parts of a thousand documents are then written as text once
        fresh = self._plans.get((service, goes)) or replace(plan, waits=turns.waits, goes=goes)
        return self._plans.setdefault((service, goes), fresh)

    def asked(self, service: Service) -> list[tuple[ReleaseId, str]]:
        """The releases that the service wants on each of its nodes, with why."""
        if service not in self._asked:
            self._asked[service] = list(self._ask(service)) if service in self.plans else []
        return self._asked[service]

    def _ask(self, service: Service) -> Iterable[tuple[ReleaseId, str]]:
        pins = self.world.service(service).pins
        for alias, plan in self.plans[service].aliases.items():
            for version, why in ((plan.target, "target"), (plan.start, "start")):
                if version is not None:
                    yield ReleaseId.of(plan.channel, version), f"{why} of {service}"
            channel = self.world.channels.get(plan.channel)
            if channel is None or channel.deleted:
                continue
            pin = pins.get(alias)
            proven = [v for v in self.proven[service].get(plan.channel, ()) if v not in channel.rejected]
            named: list[tuple[Version | None, str]] = [
                (channel.head, "head"),
                (channel.staged.version if channel.staged else None, "staged"),
                (channel.pin.version if channel.pin else None, "pin of the channel"),
                (pin.version if pin else None, f"pin of {service}"),
                (proven[-1] if proven else None, f"proven for {service}"),
            ]
            for version, why in named:
                if version and version in channel.by_version and version not in channel.rejected:
                    yield ReleaseId.of(plan.channel, version), why

    def hold(self, release: ReleaseId, why: Iterable[str], until: str = "") -> Hold | None:
        """The entry of `desired`; None when nobody knows the release's header any more."""
        if release not in self._bodies:
            self._bodies[release] = self._body(release)
        if (body := self._bodies[release]) is None:
            return None
        return self.one(replace(body, why=tuple(dict.fromkeys(why)), until=until))

    def one(self, hold: Hold) -> Hold:
        """One object per distinct entry: equal parts of a thousand documents are then written once."""
        key = (hold.digest, hold.sequence, hold.least_integrity, hold.why, hold.crowd, hold.until)
        return self._holds.setdefault(key, hold)

    def exists(self, release: ReleaseId) -> bool:
        """Whether the header of the release is there to be read."""
        channel = self.world.channels.get(release.channel)
        return channel is not None and release.version in channel.by_version

    def _body(self, release: ReleaseId) -> Hold | None:
        channel = self.world.channels.get(release.channel)
        header = channel.by_version.get(release.version) if channel else None
        before = self.first.get(release)
        if before is None and (channel is None or header is None):
            text = f"{release} is needed, but its header is missing or does not parse"
            self.alarms.append(Alarm(object=f"channel/{release.channel}", text=text))
            return None
        if before is None and channel is not None and header is not None:
            digest = channel.digests[release.version]
            return Hold(digest=digest, sequence=header.sequence, least_integrity=_least(channel, None))
        assert before is not None
        if channel is not None and header is not None and channel.digests[release.version] != before.digest:
            text = (
                f"the header of {release.version} was changed after it was planned; nodes keep the first one"
            )
            self.alarms.append(Alarm(object=f"channel/{release.channel}", text=text))
        least = _least(channel, before.least_integrity)
        return Hold(digest=before.digest, sequence=before.sequence, least_integrity=least)


def _least(channel: ChannelFacts | None, before: str | None) -> str | None:
    """What the channel demands; as it was planned last where that cannot be read."""
    if channel is None or "settings" in channel.unreadable:
        return before
    least = channel.settings.least_integrity
    return None if least == Level.SIZE else least


@dataclass(frozen=True, kw_only=True)
class Home:
    """One node as plan sees it: what it held so far, and the services that it has instances of.

    `sure` = its instances, and what they use, are known; otherwise it gives nothing up.
    """

    node: NodeFacts
    previous: Desired
    services: tuple[Service, ...]
    sure: bool

    @property
    def cordoned(self) -> bool:
        """Whether an operator wants no new data and no moves here."""
        return self.node.cordon is not None


def claims(home: Home, ledger: Ledger) -> Holds:
    """What the node should hold, by the rules for one node."""
    reasons: Reasons = {}
    for service in home.services:
        for release, why in ledger.asked(service):
            reasons.setdefault(release, []).append(why)
    for release in [r for r in _used(home, ledger, reasons) if r not in reasons]:
        # said only where nothing else holds it: each instance that moves would change the document otherwise
        reasons[release] = ["in use here"]
    if home.cordoned:
        reasons = {release: why for release, why in reasons.items() if release in home.previous.releases}
    until = {}
    for release, reason, end in list(_kept(home, ledger, reasons)):
        reasons[release], until[release] = [reason], end
    holds = {r: ledger.hold(r, reasons[r], until.get(r, "")) for r in sorted(reasons)}
    return {release: hold for release, hold in holds.items() if hold is not None}


def _used(home: Home, ledger: Ledger, asked: Reasons) -> Iterable[ReleaseId]:
    """What local instances have loaded or are on their way to."""
    states = home.node.states.instances if home.node.states else {}
    for state in states.values():
        plan = ledger.plans.get(state.service)
        now = {alias: part.channel for alias, part in plan.aliases.items()} if plan else {}
        loaded = [(v, state.channels.get(alias) or now.get(alias)) for alias, v in state.releases.items()]
        for version, channel in [*loaded, *((v, now.get(alias)) for alias, v in state.moving.items())]:
            named = ReleaseId.of(channel, version) if channel else None
            held = [release for release in home.previous.releases if release.version == version]
            if named is not None and (named in held or not held):
                if named in held or ledger.exists(named):
                    yield named
                continue
            # which channel the alias named is forgotten: whatever has this version may be in use
            yield from (release for release in held if release not in asked)


def _kept(home: Home, ledger: Ledger, reasons: Reasons) -> Iterable[tuple[ReleaseId, str, str]]:
    """What else the node keeps of what it held so far, why, and `until` when it is likely to be needed."""
    by_channel: dict[Channel, list[ReleaseId]] = {}
    for release in home.previous.releases:
        if release not in reasons:
            by_channel.setdefault(release.channel, []).append(release)
    plans = [ledger.plans[service] for service in home.services if service in ledger.plans]
    read_here = {part.channel for plan in plans for part in plan.aliases.values()}
    for name, releases in by_channel.items():
        channel = ledger.world.channels.get(name)
        if not home.sure:
            yield from ((r, "held: the instances here are not known", "") for r in releases)
        elif name not in read_here or (channel is not None and channel.deleted):
            continue
        elif channel is None or channel.unreadable:
            yield from ((r, "held: the channel cannot be read", "") for r in releases)
        else:
            yield from _for_rollback(channel, home.previous.releases, releases, reasons, ledger.now)


def _for_rollback(
    channel: ChannelFacts,
    held: Mapping[ReleaseId, Hold],
    others: list[ReleaseId],
    reasons: Reasons,
    now: datetime,
) -> Iterable[tuple[ReleaseId, str, str]]:
    """What was rolled back from, for a day: the way forward again. And the newest of what a node has already,
    up to the channel's count; good ones before rejected ones.
    """
    for release in others:
        if release.version not in channel.by_version:
            yield release, "held: its header is missing", ""
    found = [r for r in others if r.version in channel.by_version]
    found.sort(key=lambda r: (r.version not in channel.rejected, held[r].sequence, r), reverse=True)
    until = {r: held[r].until or _stamp(now + ROLLBACK_LIKELY) for r in found}
    claimed = [r.version for r in reasons if r.channel == channel.name]
    newest = max((channel.by_version[v].sequence for v in claimed if v in channel.by_version), default=None)
    for place, release in enumerate(found):
        if newest is not None and held[release].sequence > newest and _stamp(now) < until[release]:
            yield release, "rolled back from", until[release]
        elif place < channel.settings.keep_on_nodes - len(claimed):
            yield release, "kept for a rollback", until[release]


def with_crowds(homes: Iterable[Home], holds: Mapping[str, Holds], ledger: Ledger) -> dict[str, Holds]:
    """The holds of all nodes (by segment), each fresh one with how many nodes begin with it now.

    What a node was told once stays: its download has begun.
    """
    known = {home.node.segment: home.previous.releases for home in homes}
    fresh = Counter(r for segment, found in holds.items() for r in found if r not in known[segment])

    def crowd(segment: str, release: ReleaseId) -> int:
        before = known[segment].get(release)
        # a power of ten, rounded up
        return before.crowd if before else 10 ** len(str(fresh[release] - 1)) if fresh[release] > 1 else 1

    return {
        segment: {r: ledger.one(replace(hold, crowd=crowd(segment, r))) for r, hold in found.items()}
        for segment, found in holds.items()
    }


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def lost(home: Home, holds: Mapping[ReleaseId, Hold], ledger: Ledger) -> list[ReleaseId]:
    """What the node would give up only because instances went away: the losses that the brake counts.

    Not counted is what was asked for: a newer release of the same channel, a tombstone, another subscription.
    """
    newer = {release.channel for release in holds}
    result = []
    for release in home.previous.releases:
        channel = ledger.world.channels.get(release.channel)
        if release in holds or release.channel in newer or (channel is not None and channel.deleted):
            continue
        braked = BRAKED in home.previous.releases[release].why
        readers = ledger.plans.keys() if braked else home.previous.services.keys()
        if any(_reads(ledger, service, release.channel) for service in readers):
            result.append(release)
    return result


def _reads(ledger: Ledger, service: Service, channel: Channel) -> bool:
    plan = ledger.plans.get(service)
    return plan is not None and any(part.channel == channel for part in plan.aliases.values())


def ram(home: Home, plans: Mapping[Service, ServicePlan], holds: Holds, world: World) -> dict[str, Version]:
    """The one version of each RAM dataset of the node: where its services move, or stay while moves stop.

    With services that target different releases of one channel the newest has RAM; the others read from disk.
    """
    result: dict[str, tuple[int, Version]] = {}
    for plan in plans.values():
        for part in plan.aliases.values():
            channel = world.channels.get(part.channel)
            before = {
                name: version
                for name, version in home.previous.ram.items()
                if name.startswith(f"{part.channel}/") and ReleaseId.of(part.channel, version) in holds
            }
            waits = plan.paused or (plan.waits and not plan.goes)
            version = part.start if part.held or waits else part.target
            body = channel.by_version.get(version) if channel and version else None
            fresh = {
                f"{part.channel}/{name}": body.version
                for name, dataset in (body.datasets.items() if body else ())
                if body and dataset.placement == RAM and ReleaseId.of(part.channel, body.version) in holds
            }
            stay = waits or body is None
            for name, v in ({**fresh, **before} if stay else fresh).items():
                sequence = holds[ReleaseId.of(part.channel, v)].sequence
                result[name] = max(result.get(name, (-1, v)), (sequence, v))
    return {name: version for name, (_, version) in sorted(result.items())}
