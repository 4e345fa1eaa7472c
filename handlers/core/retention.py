"""What may be removed from KV: releases past their retention, what tombstones leave, traces of what is gone.

Pure. A release goes only if nothing names it: no head, pin, target, start, instance, and no node's desired.
Where a document that could name it cannot be read, nothing goes. Data on S3 is never touched, also not the
list of files that lies beside it: Hydra owns nothing there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import chain

from handlers.core import codec, keys, model
from handlers.core.errors import Usage
from handlers.core.names import Channel, Service, segment
from handlers.core.version import ReleaseId, Version
from handlers.core.world import ChannelFacts, NodeFacts, ServiceFacts, World

AUDIT_KEPT = 50  # entries of each object that stay however old they are
AUDIT_AGE = timedelta(days=30)


@dataclass(frozen=True, kw_only=True)
class Removal:
    """Keys that go together, in one transaction, or a document that is written again without a part of it.

    `object` and `why` are for people; `keys` go if they are as they were read.
    """

    object: str
    why: str
    keys: tuple[str, ...] = ()
    rewrite: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Retention:
    """`removals` in their order; `held` says why there are none but old history."""

    removals: tuple[Removal, ...] = ()
    held: str = ""


def keep_and_remove(
    channel: ChannelFacts, named: Mapping[Version, str], now: datetime
) -> tuple[dict[Version, str], dict[Version, str]]:
    """The channel's releases that stay and that may go, each with the reason.

    What is within the count stays, what is younger than the age stays, and so does what is `named`. The
    newest always stays, or the next publisher would use its sequence again.
    """
    keep: dict[Version, str] = {}
    remove: dict[Version, str] = {}
    count, age_s = channel.settings.keep_releases, channel.settings.keep_age_s
    for place, release in enumerate(reversed(channel.releases), start=1):
        age = now - release.version.moment
        if release.version in named:
            keep[release.version] = named[release.version]
        elif place <= max(1, count):
            keep[release.version] = f"among the newest {max(1, count)}"
        elif age_s is not None and age < timedelta(seconds=age_s):
            keep[release.version] = f"younger than {age_s} s"
        else:
            remove[release.version] = f"beyond the newest {count}" + (
                f" and older than {age_s} s" if age_s is not None else ""
            )
    return keep, remove


def retention(world: World, history: Collection[str], now: datetime) -> Retention:
    """All that may go. `history`: the keys of all audit entries, and of who served what."""
    served = [key for key in history if key.startswith(keys.SERVED)]
    past = (*_audit(set(history).difference(served), now), *_served(served, now))
    if reason := _blind(world):
        return Retention(removals=past, held=reason)
    forgotten = {node.segment for node in world.nodes.values() if node.gone}
    named = _named(world)
    removals: list[Removal] = []
    for channel in world.channels.values():
        removals += _channel(world, channel, named.get(channel.name, {}), now)
    for service in world.services.values():
        removals += _service(world, service, forgotten)
    for node in world.nodes.values():
        removals += _node(world, node)
    return Retention(removals=(*removals, *past))


def _blind(world: World) -> str:
    """What keeps retain from knowing which releases are named. Empty = it sees everything."""
    for service in world.services.values():
        if parts := sorted(service.unreadable - {"verdicts", "slots", "rollouts", "gates"}):
            return f"{', '.join(parts)} of service {service.name} cannot be read"
    for node in world.nodes.values():
        if not node.gone and (parts := sorted(node.unreadable & {"desired", "states", "instances"})):
            return f"{', '.join(parts)} of node {node.name} cannot be read"
        if node.known and node.desired is None:
            return f"node {node.name} is not planned yet"
    return ""


def _named(world: World) -> dict[Channel, dict[Version, str]]:
    """By channel the versions that something names, with who does."""
    named: dict[Channel, dict[Version, str]] = {}
    for channel, version, why in chain(_by_channels(world), _by_services(world), _by_nodes(world)):
        if version is not None:
            named.setdefault(channel, {}).setdefault(version, why)
    return named


Naming = Iterable[tuple[Channel, Version | None, str]]


def _by_channels(world: World) -> Naming:
    for channel in world.channels.values():
        yield channel.name, channel.head, "the head"
        yield channel.name, channel.staged.version if channel.staged else None, "staged"
        yield channel.name, channel.pin.version if channel.pin else None, "pinned"


def _by_services(world: World) -> Naming:
    for service in world.services.values():
        channels = service.subscription.channels if service.subscription else {}
        for alias, pin in service.pins.items():
            for name in [channels[alias]] if alias in channels else world.channels:
                yield name, pin.version, f"pinned by {service.name}"
        for name, versions in service.proven.channels.items():
            rejected = world.channels[name].rejected if name in world.channels else {}
            good = [version for version in versions if version not in rejected]
            yield name, good[-1] if good else None, f"proven for {service.name}"


def _by_nodes(world: World) -> Naming:
    for node in world.nodes.values():
        for release in node.desired.releases if node.desired else ():
            yield release.channel, release.version, f"held by {node.name}"
        for plan in node.desired.services.values() if node.desired else ():
            for part in plan.aliases.values():
                yield part.channel, part.target, "targeted"
                yield part.channel, part.start, "what new instances begin with"
        for version in _used(node.states):
            # states name aliases; whatever has this version may be what one of them means
            yield from ((name, version, f"in use on {node.name}") for name in world.channels)


def _used(states: model.States | None) -> set[Version]:
    found: set[Version] = set()
    for state in states.instances.values() if states else ():
        found.update(state.releases.values(), state.moving.values(), state.target.values())
    return found


def _channel(
    world: World, channel: ChannelFacts, named: Mapping[Version, str], now: datetime
) -> Iterable[Removal]:
    owner = f"channel/{channel.name}"
    if channel.unreadable:
        return
    if channel.deleted:
        yield from _deleted_channel(world, channel)
        return
    _, remove = keep_and_remove(channel, named, now)
    for version, why in sorted(remove.items()):
        yield Removal(
            object=owner, why=f"release {version}: {why}", keys=_release_keys(channel.name, version)
        )
    for version in sorted(channel.rejected):
        if version not in channel.by_version and version not in named:
            key = keys.rejected(channel.name, version)
            yield Removal(object=owner, why=f"rejection of {version}, which is gone", keys=(key,))


def _release_keys(channel: Channel, version: Version) -> tuple[str, str]:
    return keys.release(channel, version), keys.manifest(channel, version)


def _deleted_channel(world: World, channel: ChannelFacts) -> Iterable[Removal]:
    """Everything of the channel, its tombstone last, once no node holds and no service reads any of it."""
    versions = {release.version for release in channel.releases}
    for node in world.nodes.values():
        if any(r.channel == channel.name for r in (node.desired.releases if node.desired else ())):
            return
        if versions & _used(node.states):
            return
    readers = (service.subscription for service in world.services.values() if service.subscription)
    if any(channel.name in subscription.channels.values() for subscription in readers):
        return
    owner, why = f"channel/{channel.name}", "the channel is deleted"
    for version in sorted(versions):
        yield Removal(
            object=owner, why=f"release {version}: {why}", keys=_release_keys(channel.name, version)
        )
    yield from _folder(world, owner, why, keys.channel(channel.name), last=keys.settings(channel.name))


def _service(world: World, service: ServiceFacts, forgotten: set[str]) -> Iterable[Removal]:
    owner = f"service/{service.name}"
    if service.deleted:
        if not _lives(world, service.name):
            yield from _deleted_service(world, service.name, owner)
        return
    slots = keys.slots(service.name)
    nobody_out = slots in world.indexes and "slots" not in service.unreadable and not service.slots.out
    if nobody_out and service.subscription is None and not _lives(world, service.name):
        yield Removal(object=owner, why="nobody is out of service of a service that is gone", keys=(slots,))
    yield from _trimmed(world, service, owner, forgotten)


def _lives(world: World, service: Service) -> bool:
    """Whether any node still runs, plans or knows of the service."""
    for node in world.nodes.values():
        if service in (node.desired.services if node.desired else {}):
            return True
        if any(key.service == service for key in (node.states.instances if node.states else {})):
            return True
    return bool(world.replicas(service))


def _deleted_service(world: World, service: Service, owner: str) -> Iterable[Removal]:
    why = "the service is unsubscribed"
    builders = (keys.verdicts, keys.proven, keys.rollout, keys.gate, keys.slots)
    parts = tuple(key(service) for key in builders)
    if found := tuple(key for key in (*parts, *_locks(world, service)) if key in world.indexes):
        yield Removal(object=owner, why=why, keys=found)
    yield from _folder(world, owner, why, keys.service(service), last=keys.subscription(service))


def _locks(world: World, service: Service) -> list[str]:
    return sorted(key for key in world.indexes if key.startswith(keys.slot_lock(service, "")))


def _folder(world: World, owner: str, why: str, folder: str, *, last: str) -> Iterable[Removal]:
    """All keys below a folder; the tombstone goes last, so that a crash before it loses nothing."""
    if found := tuple(sorted(key for key in world.indexes if key.startswith(folder) and key != last)):
        yield Removal(object=owner, why=why, keys=found)
    yield Removal(object=owner, why=why, keys=(last,))


def _trimmed(world: World, service: ServiceFacts, owner: str, forgotten: set[str]) -> Iterable[Removal]:
    """Verdicts of releases that are gone, and slots of nodes that are forgotten, with their locks."""
    verdicts = service.verdicts.releases
    stays = {release: verdict for release, verdict in verdicts.items() if not _is_gone(world, release)}
    if len(stays) < len(verdicts):
        fresh = codec.encode(model.Verdicts(releases=stays, extra=service.verdicts.extra))
        gone = ", ".join(sorted(verdicts.keys() - stays.keys()))
        yield Removal(object=owner, why=f"verdicts of {gone}", rewrite={keys.verdicts(service.name): fresh})
    out = service.slots.out
    there = {name: entry for name, entry in out.items() if segment(entry.node) not in forgotten}
    if len(there) < len(out):
        fresh = codec.encode(model.Slots(out=there, extra=service.slots.extra))
        gone = ", ".join(sorted(out.keys() - there.keys()))
        yield Removal(object=owner, why=f"slots of {gone}", rewrite={keys.slots(service.name): fresh})
    locks = tuple(key for key in _locks(world, service.name) if keys.node_of_slot(key) in forgotten)
    if locks:
        yield Removal(object=owner, why="slot locks of forgotten nodes", keys=locks)


def _is_gone(world: World, release: ReleaseId) -> bool:
    """Whether the release was removed; not so while its channel is missing or cannot be read."""
    channel = world.channels.get(release.channel)
    return channel is not None and not channel.unreadable and release.version not in channel.by_version


def _node(world: World, node: NodeFacts) -> Iterable[Removal]:
    """What is left of a forgotten node, and its tombstone; of one that came back only the tombstone.

    Never because documents below `nodes/` are merely missing: they may have been lost.
    """
    if node.forgotten is None:
        return
    folders = (keys.DESIRED, keys.ACTUAL, keys.STATES, keys.PROGRESS) if node.gone else ()
    documents = (folder + node.segment for folder in folders)
    found = (*(key for key in documents if key in world.indexes), keys.forgotten(node.segment))
    why = "the node is forgotten" if node.gone else "its tombstone: the node is back"
    yield Removal(object=f"node/{node.name}", why=why, keys=found)


def _audit(audit: Iterable[str], now: datetime) -> Iterable[Removal]:
    """Entries beyond the newest ones of their object that are old as well."""
    by_object: dict[str, list[str]] = {}
    for key in audit:
        by_object.setdefault(key.rpartition("/")[0], []).append(key)
    for folder, entries in sorted(by_object.items()):
        old = [key for key in sorted(entries)[:-AUDIT_KEPT] if _audit_age(key, now) > AUDIT_AGE]
        if old:
            yield Removal(
                object=folder.removeprefix(keys.ROOT),
                why=f"what is old of its history: {model.count(len(old), 'key')}",
                keys=tuple(old),
            )


def _served(served: Iterable[str], now: datetime) -> Iterable[Removal]:
    """Records of who served what that ended long ago: all but the newest one that began before that."""
    by_service: dict[str, list[str]] = {}
    for key in served:
        by_service.setdefault(key.rpartition("/")[0], []).append(key)
    for folder, documents in sorted(by_service.items()):
        old = sorted(key for key in documents if _begun(key, now) > AUDIT_AGE)[:-1]
        if old:
            why = f"who served what, too long ago: {model.count(len(old), 'key')}"
            yield Removal(object=f"audit/{folder.removeprefix(keys.ROOT)}", why=why, keys=tuple(old))


def _begun(key: str, now: datetime) -> timedelta:
    """How long ago a record began by its key; the one that goes on counts as new."""
    try:
        return now - Version.parse(key.rpartition("/")[2]).moment
    except Usage:
        return timedelta(0)


def _audit_age(key: str, now: datetime) -> timedelta:
    """How old an entry is by the time in its key; one without a time counts as new."""
    stamp = key.rpartition("/")[2].rpartition("-")[0]
    try:
        return now - Version.parse(stamp).moment
    except Usage:
        return timedelta(0)
