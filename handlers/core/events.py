"""What `[notify]` tells: published, halted, returned, stuck, each once it is noticed, with one sentence.

Compares the world with what was noticed before (`Told`), so that a run that dies, or another planner, goes on
where the last one was: what is noticed is written with its events before they are delivered. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import datetime, timedelta

from msgspec.structs import replace

from handlers.core.model import Event, Ready, Step, Told, Verdict, count
from handlers.core.names import Channel, Service
from handlers.core.version import ReleaseId, Version
from handlers.core.world import Replica, ServiceFacts, World

KINDS = ("published", "halted", "returned", "stuck")
Sentence = Callable[[Replica], str]
"""What an instance waits for: `core.why`."""


def noticed(before: Told | None, world: World, why: Sentence, now: datetime, stuck_after_s: float) -> Told:
    """What is noticed now, with the new events at the end of `pending`; the first time there are none."""
    when = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    heads = {str(name): str(facts.head) for name, facts in world.channels.items() if facts.head}
    verdicts = {v.id: v for facts in world.services.values() for v in facts.verdicts.releases.values()}
    common = _common(world)
    waiting, stuck = _waiting(before, world, why, now, stuck_after_s)
    leaving = _leaving(world)
    told = Told(heads=heads, halted=tuple(sorted(verdicts)), leaving=leaving, common=common, waiting=waiting)
    if before is None:
        return told
    events = [
        *_published(before, world, heads, when),
        *_halted(before, world, when),
        *_returned(before, world, common, when),
        *_left(before, world, leaving, when),
        *(
            Event(kind="stuck", object=o, text=t, when=when)
            for o, t in stuck.items()
            if o not in before.stuck
        ),
    ]
    return replace(
        told,
        common={**before.common, **common},
        stuck=tuple(sorted(stuck)),
        pending=(*before.pending, *events),
        extra=before.extra,
    )


def _published(before: Told, world: World, heads: Mapping[str, str], when: str) -> Iterator[Event]:
    for name, head in sorted(heads.items()):
        if before.heads.get(name) == head:
            continue
        release = world.channels[Channel(name)].by_version.get(Version(head))
        size = f", {count(sum(d.bytes for d in release.datasets.values()), 'byte')}" if release else ""
        who = f" by {release.who}" if release and release.who else ""
        text = f"{name}: {head} is published{who}{size}"
        yield Event(kind="published", object=f"channel/{name}", text=text, when=when)


def _halted(before: Told, world: World, when: str) -> Iterator[Event]:
    for service, facts in sorted(world.services.items()):
        for release, verdict in sorted(facts.verdicts.releases.items()):
            if verdict.id not in before.halted and verdict.verdict != "good":
                text = f"{service}: {release} is {verdict.verdict} on {verdict.node}: {verdict.reason}"
                yield Event(kind="halted", object=f"service/{service}", text=text, when=when)


def _returned(before: Told, world: World, common: Mapping[str, str], when: str) -> Iterator[Event]:
    """All instances of a service run an older release than all of them did before."""
    for place, version in sorted(common.items()):
        name, _, alias = place.partition(" ")
        last = before.common.get(place)
        facts = world.service(Service(name))
        channel = facts.subscription.channels.get(alias) if facts.subscription else None
        releases = world.channels[channel].by_version if channel and channel in world.channels else {}
        old, new = releases.get(Version(last or "")), releases.get(Version(version))
        if old and new and new.sequence < old.sequence:
            text = f"{name}: all instances are back on {version} of {channel}, from {last}"
            yield Event(kind="returned", object=f"service/{name}", text=text, when=when)


def _left(before: Told, world: World, leaving: Collection[str], when: str) -> Iterator[Event]:
    """No instance has a release any more that was found bad, which maybe only a canary had."""
    for service, facts in sorted(world.services.items()):
        for release, verdict in _condemned(facts):
            fresh = verdict.id not in before.halted or verdict.id in before.leaving
            channels = facts.subscription.channels if facts.subscription else {}
            places = [
                f"{service} {alias}" for alias, channel in channels.items() if channel == release.channel
            ]
            # `_returned` tells of what all instances ran
            of_all = any(before.common.get(place) == release.version for place in places)
            if fresh and not of_all and verdict.id not in leaving:
                text = f"{service}: no instance runs {release} any more"
                yield Event(kind="returned", object=f"service/{service}", text=text, when=when)


def _leaving(world: World) -> tuple[str, ...]:
    """The verdicts on what some live instance runs or moves to, or may, as it is not known what it runs."""
    return tuple(
        sorted(
            verdict.id
            for service, facts in world.services.items()
            for release, verdict in _condemned(facts)
            if any(r.node.alive and _has(r, facts, release) for r in world.replicas(service))
        )
    )


def _condemned(facts: ServiceFacts) -> list[tuple[ReleaseId, Verdict]]:
    found = sorted(facts.verdicts.releases.items())
    return [(r, v) for r, v in found if v.verdict in ("bad", "halted") and v.id not in facts.control.retry]


def _has(replica: Replica, facts: ServiceFacts, release: ReleaseId) -> bool:
    """Whether an instance runs a release or moves to it, or may, for all that is known."""
    state = replica.state
    if state is None:
        return True
    named = {**(facts.subscription.channels if facts.subscription else {}), **state.channels}
    versions = (*state.releases.items(), *state.moving.items())
    return any(v == release.version and named.get(a) in (release.channel, None) for a, v in versions)


def _common(world: World) -> dict[str, str]:
    """By `<service> <alias>` the version that all live instances run; nothing where they differ."""
    found: dict[str, set[str]] = {}
    for name in world.services:
        for replica in world.replicas(name):
            for alias, version in replica.state.releases.items() if replica.state else ():
                if replica.node.alive:
                    found.setdefault(f"{name} {alias}", set()).add(str(version))
    return {place: versions.pop() for place, versions in found.items() if len(versions) == 1}


def _waiting(
    before: Told | None, world: World, why: Sentence, now: datetime, stuck_after_s: float
) -> tuple[dict[str, str], dict[str, str]]:
    """Who waits since when, and by object the sentence of those that have waited for too long."""
    waiting: dict[str, str] = {}
    stuck: dict[str, str] = {}
    for name in world.services:
        for replica in world.replicas(name):
            if not _waits(replica):
                continue
            place = f"{replica.node.name}/{replica.key}"
            since = before.waiting.get(place, "") if before else ""
            since = since or now.isoformat(timespec="seconds")
            waiting[place] = since
            if now - datetime.fromisoformat(since) >= timedelta(seconds=stuck_after_s):
                owner = f"service/{name}"
                sentence = f"{name}: {replica.instance.id} on {replica.node.name} {why(replica)}"
                stuck.setdefault(owner, sentence)
    return waiting, stuck


def _waits(replica: Replica) -> bool:
    """Whether an instance is not where it should be: not ready, on its way, or not on its target."""
    state, node = replica.state, replica.node
    whole = node.desired.services.get(replica.instance.service) if node.desired else None
    plan = whole.of(replica.key) if whole else None
    if state is None or plan is None:
        return plan is not None
    if plan.paused:
        return False
    there = all(p.target is None or state.runs(a, p.channel, p.target) for a, p in plan.aliases.items())
    return not (there and state.state is Ready.READY and state.step is Step.IDLE)
