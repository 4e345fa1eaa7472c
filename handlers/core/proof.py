"""Which releases are proven: those that all live instances of a service that can read them once confirmed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from handlers.core.evidence import checked, wanted_at_once
from handlers.core.model import InstanceState, ServicePlan, Subscription
from handlers.core.names import Channel
from handlers.core.reading import Reads
from handlers.core.version import ReleaseId, Version
from handlers.core.world import ChannelFacts, Replica, ServiceFacts, World

PROVEN_KEPT = 20


def proven_versions(
    world: World,
    facts: ServiceFacts,
    subscription: Subscription,
    last: ServicePlan | None,
    sure: bool,
    now: datetime,
) -> dict[Channel, tuple[Version, ...]]:
    """By channel what all live instances of the service that can read it once confirmed, by sequence.

    What nodes say now is added to what was proven before. A service without live instances proves nothing,
    and neither does one whose instances are not all known (`sure`). Those on cordoned nodes do not move, and
    are not waited for, as in `turns`. Where the document is lost, `last` still tells: new instances begin
    with another release than the target only if it is proven.
    """
    live = [
        replica for replica in world.replicas(facts.name) if replica.node.alive and not replica.node.cordon
    ]
    result: dict[Channel, tuple[Version, ...]] = {}
    for alias, name in sorted(subscription.channels.items()):
        versions = set(result.get(name) or facts.proven.channels.get(name, ()))
        before = last.aliases.get(alias) if last else None
        if before and before.channel == name and before.start and before.target not in (None, before.start):
            versions.add(before.start)
        for version in _common(world, live, subscription, alias) if sure else ():
            release = ReleaseId.of(name, version)
            if versions <= {version} or _passed(world, facts, subscription, release, now):
                versions.add(version)
        if kept := _kept(world.channels.get(name), versions):
            result[name] = kept
    return result


def _common(world: World, live: Sequence[Replica], subscription: Subscription, alias: str) -> list[Version]:
    """What all live instances that can read it run under the alias."""
    channel = subscription.channels[alias]
    facts = world.channels.get(channel)
    headers = facts.by_version if facts else {}
    runs = [(r.instance.reads or subscription.reads, _confirmed(r.state, alias, channel)) for r in live]

    def concerned(reads: Reads, version: Version) -> bool:
        return version not in headers or not reads.misfit(alias, headers[version].labels)

    found = sorted({version for _, version in runs if version})
    return [v for v in found if all(other == v for reads, other in runs if concerned(reads, v))]


def _passed(
    world: World, facts: ServiceFacts, subscription: Subscription, release: ReleaseId, now: datetime
) -> bool:
    """Whether nothing is left to check before the release is proven."""
    check = facts.subscription.check if facts.subscription else ""
    return not check or checked(facts, release) or wanted_at_once(world, facts, subscription, release, now)


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
