"""What is planned for all nodes alike, and what is known of each node before its part is decided.

`desired` fills the `Ledger` with the plans of all services; `claims` asks it what one node should hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import cached_property

from msgspec import Struct, field
from msgspec.structs import replace

from handlers.core import keys, needs
from handlers.core.integrity import Level
from handlers.core.model import Alarm, AliasPlan, Desired, Hold, Instance, InstancePlan, ServicePlan
from handlers.core.names import Channel, InstanceKey, Service
from handlers.core.service_plans import Planned
from handlers.core.turns import Turns
from handlers.core.version import ReleaseId, Version
from handlers.core.world import ChannelFacts, NodeFacts, World


class Ledger(Struct, dict=True):
    """What all nodes have in common: the world, the service plans, each release's digest as first planned.

    `proven`, `nodes` and `turns` are what is known of each service: its good releases, where its instances
    are, and which of them may move now.

    A header is written once; where KV now has another one, nodes go on with what they took, with an alarm.
    """

    world: World
    planned: Mapping[Service, Planned]
    proven: Mapping[Service, Mapping[Channel, tuple[Version, ...]]]
    nodes: Mapping[Service, tuple[str, ...]]
    first: Mapping[ReleaseId, Hold]
    now: datetime
    turns: Mapping[Service, Turns] = field(default_factory=dict)
    alarms: list[Alarm] = field(default_factory=list)
    _plans: dict[tuple[object, ...], ServicePlan] = field(default_factory=dict)
    _asked: dict[Service, list[tuple[ReleaseId, str]]] = field(default_factory=dict)
    _bodies: dict[ReleaseId, Hold | None] = field(default_factory=dict)
    _holds: dict[tuple[object, ...], Hold] = field(default_factory=dict)

    @cached_property
    def plans(self) -> Mapping[Service, ServicePlan]:
        """The service plans, as they are for instances that do not say what they read."""
        return {service: planned.plan for service, planned in self.planned.items()}

    def plan(self, service: Service, home: Home) -> ServicePlan:
        """The service's plan for one node: the same for all, but for whose turn it is and what reads what."""
        planned, turns = self.planned[service], self.turns.get(service)
        here = [key for key in home.instances if key.service == service]
        may = [k.segment for k in here if turns and keys.slot_id(home.node.name, k) in turns.goes]
        waits = turns.waits if turns else ""
        goes = tuple(sorted(may)) if waits else ()
        fresh = turns.fresh if turns and waits else ()
        own = {k.segment: reads for k in here if (reads := home.instances[k].reads) in planned.differing}
        idle = service in home.idle
        # one object per distinct plan: equal parts of a thousand documents are then written as text once
        key = (service, goes, tuple(sorted(own.items())), idle)
        if key not in self._plans:
            others = {name: InstancePlan(aliases=planned.aliases(reads)) for name, reads in own.items()}
            self._plans[key] = replace(
                planned.plan, waits=waits, goes=goes, fresh=fresh, others=others, idle=idle
            )
        if home.node.instances is None and (before := home.previous.services.get(service)):
            return replace(self._plans[key], others=before.others)  # who reads what is not known now
        return self._plans[key]

    def starts(self, service: Service) -> frozenset[ReleaseId]:
        """What a new instance of the service begins with; empty while it cannot begin."""
        parts = self.plans[service].aliases.values()
        found = frozenset(ReleaseId.of(part.channel, part.start) for part in parts if part.start)
        return found if all(part.start for part in parts) else frozenset()

    def asked(self, service: Service) -> list[tuple[ReleaseId, str]]:
        """The releases that the service wants on each of its nodes, with why."""
        if service not in self._asked:
            self._asked[service] = list(self._ask(service)) if service in self.plans else []
        return self._asked[service]

    def asked_by_others(self, service: Service, home: Home) -> Iterable[tuple[ReleaseId, str]]:
        """What those of its instances here want that have a plan of their own, with why."""
        others = self.plan(service, home).others.values() if service in self.planned else ()
        for own in others:
            yield from _to_run(service, own.aliases.values())

    def _ask(self, service: Service) -> Iterable[tuple[ReleaseId, str]]:
        pins = self.world.service(service).pins
        yield from _to_run(service, self.plans[service].aliases.values())
        for alias, plan in self.plans[service].aliases.items():
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
        what = (hold.digest, hold.sequence, hold.least_integrity, tuple(hold.needs.items()))
        key = (*what, hold.why, hold.crowd, hold.until)
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
            return Hold(
                digest=channel.digests[release.version],
                sequence=header.sequence,
                least_integrity=_least(channel, None),
                needs=needs.sequences(self.world, header),
            )
        assert before is not None
        if channel is not None and header is not None and channel.digests[release.version] != before.digest:
            text = (
                f"the header of {release.version} was changed after it was planned; nodes keep the first one"
            )
            self.alarms.append(Alarm(object=f"channel/{release.channel}", text=text))
        # a need that cannot be told any more is what it was
        known = {**before.needs, **(needs.sequences(self.world, header) if header else {})}
        least = _least(channel, before.least_integrity)
        return Hold(
            digest=before.digest,
            sequence=before.sequence,
            least_integrity=least,
            needs=dict(sorted(known.items())),
        )


def _least(channel: ChannelFacts | None, before: str | None) -> str | None:
    """What the channel demands; as it was planned last where that cannot be read."""
    if channel is None or "settings" in channel.unreadable:
        return before
    least = channel.settings.least_integrity
    return None if least == Level.SIZE else least


class Home(Struct, frozen=True, kw_only=True):
    """One node as plan sees it: what it held so far, and the services that it has instances of.

    `selected` are services without an instance here whose subscription wants their data here all the same.
    `idle` are those that have left it, whose next instance would find here what it begins with.
    `sure` = its instances, and what they use, are known; otherwise it gives nothing up.
    """

    node: NodeFacts
    previous: Desired
    services: tuple[Service, ...]
    sure: bool
    selected: tuple[Service, ...] = ()
    idle: tuple[Service, ...] = ()

    @property
    def instances(self) -> Mapping[InstanceKey, Instance]:
        """Its instances, as far as they are known."""
        return self.node.instances.instances if self.node.instances else {}

    @property
    def cordoned(self) -> bool:
        """Whether an operator wants no new data and no moves here."""
        return self.node.cordon is not None

    @property
    def readers(self) -> tuple[Service, ...]:
        """The services whose data is wanted here."""
        return (*self.services, *self.selected)


def _to_run(service: Service, parts: Iterable[AliasPlan]) -> Iterable[tuple[ReleaseId, str]]:
    """What instances move to and begin with, with why."""
    for part in parts:
        for version, why in ((part.target, "target"), (part.start, "start")):
            if version is not None:
                yield ReleaseId.of(part.channel, version), f"{why} of {service}"
