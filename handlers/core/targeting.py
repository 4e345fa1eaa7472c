"""What services target now, and what they would target after a change: asked of the code that plans it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from handlers.core.model import AliasPlan, Rejected, ServicePlan
from handlers.core.names import Channel, Service
from handlers.core.targets import Case, alias_plan
from handlers.core.version import Version
from handlers.core.world import ChannelFacts, ServiceFacts, World

_ANYBODY = Service("any/any/any")  # stands for a service about which nothing was written


def targets(world: World, channel: ChannelFacts, now: datetime) -> dict[Service, Version | None]:
    """By service the version of the channel that it targets; of services without a pin of their own."""
    return {
        service: _target(facts, alias, channel, now)
        for service, facts in sorted(world.services.items())
        if facts.subscription and not facts.deleted
        for alias, name in sorted(facts.subscription.channels.items())
        if name == channel.name and alias not in facts.pins
    }


def target(world: World, channel: ChannelFacts, now: datetime) -> Version | None:
    """What the channel gives to who follows it: the newest of its readers' targets; without any, the head."""
    found = [v for v in targets(world, channel, now).values() if v in channel.by_version]
    if found:
        return max((v for v in found if v), key=lambda v: channel.by_version[v].sequence)
    return _target(ServiceFacts(name=_ANYBODY), "any", channel, now)


def service_targets(
    world: World, service: ServiceFacts, now: datetime, plan: ServicePlan | None = None
) -> dict[str, Version | None]:
    """By alias what the service targets; `plan`, as nodes have it, counts where pins and heads are bad."""
    named: Mapping[str, Channel] = service.subscription.channels if service.subscription else {}
    last = plan.aliases if plan else {}
    found = {alias: world.channels.get(name) for alias, name in sorted(named.items())}
    return {
        alias: _target(service, alias, facts, now, last.get(alias)) if facts else None
        for alias, facts in found.items()
    }


def without(channel: ChannelFacts, version: Version) -> ChannelFacts:
    """The channel as it will be once `version` is rejected, and not pinned any more."""
    pin = None if channel.pin and channel.pin.version == version else channel.pin
    return replace(channel, rejected={**channel.rejected, version: Rejected()}, pin=pin)


def _target(
    facts: ServiceFacts, alias: str, channel: ChannelFacts, now: datetime, last: AliasPlan | None = None
) -> Version | None:
    proven = facts.proven.channels.get(channel.name, ())
    reload = facts.subscription.reload if facts.subscription else "none"
    case = Case(service=facts, reload=reload, alias=alias, channel=channel, proven=proven, last=last, now=now)
    plan, _ = alias_plan(case)
    return plan.target
