"""What may be removed from KV: releases past their retention, what tombstones leave, traces of what is gone.

Pure. A release goes only if nothing names it: no head, pin, target, start, instance, and no node's desired.
Where a document that could name it cannot be read, nothing goes. Data on S3 is never touched, also not the
list of files that lies beside it: Hydra owns nothing there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta

from msgspec import Struct, field

from handlers.core import codec, keys, model
from handlers.core.errors import Usage
from handlers.core.named import keep_and_remove, named, used
from handlers.core.names import Channel, Service, segment
from handlers.core.version import ReleaseId, Version
from handlers.core.world import ChannelFacts, NodeFacts, ServiceFacts, World

AUDIT_KEPT = 50  # entries of each object that stay however old they are
AUDIT_AGE = timedelta(days=30)


class Removal(Struct, frozen=True, kw_only=True):
    """Keys that go together, in one transaction, or a document that is written again without a part of it.

    `object` and `why` are for people; `keys` go if they are as they were read.
    """

    object: str
    why: str
    keys: tuple[str, ...] = ()
    rewrite: Mapping[str, bytes] = field(default_factory=dict)


class Retention(Struct, frozen=True, kw_only=True):
    """`removals` in their order; `held` says why there are none but old history."""

    removals: tuple[Removal, ...] = ()
    held: str = ""


def retention(world: World, history: Collection[str], now: datetime) -> Retention:
    """All that may go. `history`: the keys of all audit entries, and of who served what."""
    served = [key for key in history if key.startswith(keys.SERVED)]
    past = (*_audit(set(history).difference(served), now), *_served(served, now))
    if reason := _blind(world):
        return Retention(removals=past, held=reason)
    forgotten = {node.segment for node in world.nodes.values() if node.gone}
    found = named(world, now)
    removals: list[Removal] = []
    for channel in world.channels.values():
        removals += _channel(world, channel, found.get(channel.name, {}), now)
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
    for channel in world.channels.values():
        if parts := sorted(part for part in channel.unreadable if part.startswith("releases/")):
            return f"{', '.join(parts)} of channel {channel.name} cannot be read"  # it may need others
    for node in world.nodes.values():
        if not node.gone and (parts := sorted(node.unreadable & {"desired", "states", "instances"})):
            return f"{', '.join(parts)} of node {node.name} cannot be read"
        if node.known and node.desired is None:
            return f"node {node.name} is not planned yet"
    return ""


def _channel(
    world: World, channel: ChannelFacts, names: Mapping[Version, str], now: datetime
) -> Iterable[Removal]:
    owner = f"channel/{channel.name}"
    if channel.unreadable:
        return
    if channel.deleted:
        yield from _deleted_channel(world, channel)
        return
    _, remove = keep_and_remove(channel, names, now)
    for version, why in sorted(remove.items()):
        yield Removal(
            object=owner, why=f"release {version}: {why}", keys=_release_keys(channel.name, version)
        )
    for version in sorted(channel.rejected):
        if version not in channel.by_version and version not in names:
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
        if versions & used(node.states):
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
