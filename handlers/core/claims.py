"""Which releases a node should hold, and why: what services run, what is in use, what a rollback needs.

What a node holds already is given up only for a reason that can be read: never because a document is missing
or does not parse, and never on a large part of the fleet at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta

from msgspec.structs import replace

from handlers.core.ledger import Home, Ledger
from handlers.core.model import Hold
from handlers.core.names import Channel, Service
from handlers.core.version import ReleaseId
from handlers.core.world import ChannelFacts

BRAKED = "held by the brake"
ROLLBACK_LIKELY = timedelta(hours=24)
IDLE_KEPT = timedelta(hours=24)  # from one night to the next

Reasons = dict[ReleaseId, list[str]]
Holds = dict[ReleaseId, Hold]


def claims(home: Home, ledger: Ledger) -> Holds:
    """What the node should hold, by the rules for one node."""
    reasons: Reasons = {}
    for service in home.readers:
        for release, why in (*ledger.asked(service), *ledger.asked_by_others(service, home)):
            reasons.setdefault(release, []).append(why)
    for release in [r for r in _used(home, ledger, reasons) if r not in reasons]:
        # said only where nothing else holds it: each instance that moves would change the document otherwise
        reasons[release] = ["in use here"]
    if home.cordoned:
        reasons = {release: why for release, why in reasons.items() if release in home.previous.releases}
    until = {}
    for release, reason, end in [*_for_the_next(home, ledger, reasons), *_kept(home, ledger, reasons)]:
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
    plans = [ledger.plans[service] for service in home.readers if service in ledger.plans]
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


def _for_the_next(home: Home, ledger: Ledger, reasons: Reasons) -> Iterable[tuple[ReleaseId, str, str]]:
    """What the next instance of a service begins with that has none here now."""
    for service in home.idle:
        for release in sorted(ledger.starts(service) - reasons.keys()):
            end = home.previous.releases[release].until or _stamp(ledger.now + IDLE_KEPT)
            yield release, f"kept for the next instance of {service}", end


def is_over(hold: Hold, now: datetime) -> bool:
    """Whether a release that nothing needs has been kept for as long as it should be."""
    return bool(hold.until) and hold.until <= _stamp(now)


def _for_rollback(
    channel: ChannelFacts,
    held: Mapping[ReleaseId, Hold],
    others: list[ReleaseId],
    reasons: Reasons,
    now: datetime,
) -> Iterable[tuple[ReleaseId, str, str]]:
    """What was rolled back from, for a day, whatever is published meanwhile: the way forward again. And the
    newest of what a node has already, up to the channel's count; good ones before rejected ones.
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
        # once there is a newer release, only the rejection tells what was rolled back from
        left = release.version in channel.rejected or (newest is not None and held[release].sequence > newest)
        if left and _stamp(now) < until[release]:
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
        readers = ledger.plans.keys() if braked else _as_selected_before(home, ledger)
        if any(_reads(ledger, service, release.channel) for service in readers):
            result.append(release)
    return result


def _as_selected_before(home: Home, ledger: Ledger) -> list[Service]:
    """The services that the node was planned with, but those whose subscription now selects other nodes, and
    those without an instance that by now begin with something newer.
    """
    return [
        service
        for service, before in home.previous.services.items()
        if (plan := ledger.plans.get(service)) is None
        or (plan.nodes == before.nodes and not (before.idle and _has_moved_on(home, ledger, service)))
    ]


def _has_moved_on(home: Home, ledger: Ledger, service: Service) -> bool:
    return not ledger.starts(service) <= home.previous.releases.keys()


def _reads(ledger: Ledger, service: Service, channel: Channel) -> bool:
    plan = ledger.plans.get(service)
    return plan is not None and any(part.channel == channel for part in plan.aliases.values())
