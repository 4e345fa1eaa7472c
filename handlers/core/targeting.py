"""What services target now, and what they would target after a change: asked of the code that plans it."""

from __future__ import annotations

from datetime import datetime

from msgspec.structs import replace

from handlers.core.model import Rejected, ServicePlan
from handlers.core.names import Service
from handlers.core.reading import EVERYTHING, Reads
from handlers.core.service_plans import Aliases, Planned, planned
from handlers.core.targets import Case, alias_plan
from handlers.core.version import Version
from handlers.core.world import ChannelFacts, ServiceFacts, World

_ANYBODY = Service("any/any/any")  # stands for a service about which nothing was written


def targets(world: World, channel: ChannelFacts, now: datetime) -> dict[Service, Version | None]:
    """By service the version of the channel that it targets; of services without a pin of their own.

    `channel` counts in place of what the world has of it. Of instances that read different things, the
    newest target.
    """
    world = replace(world, channels={**world.channels, channel.name: channel})
    return {
        service: channel.newest_of(
            aliases[alias].target for aliases in _in_use(world, facts, now) if alias in aliases
        )
        for service, facts in sorted(world.services.items())
        if facts.subscription and not facts.deleted
        for alias, name in sorted(facts.subscription.channels.items())
        if name == channel.name and alias not in facts.pins
    }


def target(world: World, channel: ChannelFacts, now: datetime) -> Version | None:
    """What the channel gives to who follows it: the newest of its readers' targets; without any, the head."""
    found = [v for v in targets(world, channel, now).values() if v in channel.by_version]
    if found:
        return channel.newest_of(found)
    plan, _ = alias_plan(
        Case(
            service=ServiceFacts(name=_ANYBODY),
            reload="none",
            alias="any",
            channel=channel,
            proven=(),
            last=None,
            now=now,
        )
    )
    return plan.target


def service_targets(
    world: World,
    service: ServiceFacts,
    now: datetime,
    plan: ServicePlan | None = None,
    reads: Reads = EVERYTHING,
) -> dict[str, Version | None]:
    """By alias what the service targets; `plan`, as nodes have it, counts where pins and heads are bad.

    With `reads` what an instance does that says this of itself.
    """
    found = _planned(world, service, now, plan)
    return {alias: part.target for alias, part in (found.aliases(reads) if found else {}).items()}


def without(channel: ChannelFacts, version: Version) -> ChannelFacts:
    """The channel as it will be once `version` is rejected, and not pinned any more."""
    pin = None if channel.pin and channel.pin.version == version else channel.pin
    return replace(channel, rejected={**channel.rejected, version: Rejected()}, pin=pin)


def _planned(
    world: World, service: ServiceFacts, now: datetime, plan: ServicePlan | None = None
) -> Planned | None:
    if service.subscription is None:
        return None
    last = Planned(plan=plan) if plan else None
    return planned(world, service, service.subscription, service.proven.channels, last, now)[0]


def _in_use(world: World, service: ServiceFacts, now: datetime) -> list[Aliases]:
    """What instances of the service run; without any, what one would."""
    found = _planned(world, service, now)
    kinds = {replica.instance.reads for replica in world.replicas(service.name)} or {EVERYTHING}
    return [found.aliases(reads) for reads in kinds] if found else []
