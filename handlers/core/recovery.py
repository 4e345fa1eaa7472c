"""What a KV lacks that nodes know, and how to go on after it was restored, wiped or exchanged.

While the KV is behind the nodes, plan and nodes hold (`acceptance`, `desired.behind`). Two things end that:
what a node knows is put back (`lost`), and then the generation floor is raised above what nodes have applied
(`difference`), so that planning goes on. Put back first: then what is planned is what nodes run. Pure; asked
by `hydra recover`. Nothing that is in the KV is changed, but for a head that goes forward.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import Struct, field

from handlers.core import codec, keys, model
from handlers.core.acceptance import RECOVER
from handlers.core.desired import highest_generation
from handlers.core.names import Channel, InstanceKey, Service
from handlers.core.service_plans import subscription_of
from handlers.core.version import ReleaseId
from handlers.core.world import World


class Behind(Struct, frozen=True, kw_only=True):
    """A node that knows more than the KV: `applied` is the generation that it took over last."""

    node: str
    applied: int
    releases: tuple[ReleaseId, ...] = ()


class Difference(Struct, frozen=True, kw_only=True):
    """`written` is the highest generation that the KV knows of, `floor` the one to go on above.

    `refused`: a node holds off what was planned, since it has applied the same generation with other content.
    `nodes` are those that the KV is behind; `silent` those that said nothing yet of what they applied.
    """

    written: int
    floor: int
    has_meta: bool
    refused: bool = False
    nodes: tuple[Behind, ...] = ()
    silent: tuple[str, ...] = ()

    @property
    def releases(self) -> tuple[ReleaseId, ...]:
        """What nodes hold and the KV does not know."""
        return tuple(sorted({release for node in self.nodes for release in node.releases}))

    @property
    def holds(self) -> bool:
        """Whether nodes and plan hold until the floor is raised, or there is a `meta` again."""
        return not self.has_meta or self.refused or self.floor > self.written


def difference(world: World) -> Difference:
    """What nodes have applied and hold, against what the KV says."""
    written = highest_generation(world)
    behind, silent = [], []
    for node in world.nodes.values():
        if node.gone:
            continue
        if node.actual is None:
            silent.append(node.name)
            continue
        unknown = tuple(sorted(r for r in node.actual.releases if not _known(world, r)))
        if node.actual.generation > written or unknown or _refuses(node.actual):
            behind.append(Behind(node=node.name, applied=node.actual.generation, releases=unknown))
    applied = [node.actual.generation for node in world.nodes.values() if node.actual]
    return Difference(
        written=written,
        floor=max([written, world.published.seen, *applied]),
        has_meta=world.meta is not None,
        refused=any(_refuses(node.actual) for node in world.nodes.values() if node.actual),
        nodes=tuple(behind),
        silent=tuple(silent),
    )


def _refuses(actual: model.Actual) -> bool:
    return any(RECOVER in alarm for alarm in actual.alarms)


def environments(world: World) -> tuple[str, ...]:
    """Those that names in the KV and on the nodes have, for a `meta` that is gone."""
    names: set[Channel | Service] = {*world.channels, *world.services}
    for node in world.nodes.values():
        names |= {release.channel for release in node.actual.releases} if node.actual else set()
    return tuple(sorted({name.env for name in names}))


def _known(world: World, release: ReleaseId) -> bool:
    channel = world.channels.get(release.channel)
    return channel is not None and (release.version in channel.by_version or channel.deleted)


class Kept(Struct, frozen=True, kw_only=True):
    """What one node remembers: its last good `desired`, bodies by release, instances registered by hand."""

    desired: model.Desired
    headers: Mapping[ReleaseId, bytes] = field(default_factory=dict)
    manifests: Mapping[ReleaseId, bytes] = field(default_factory=dict)
    by_hand: Mapping[InstanceKey, model.Instance] = field(default_factory=dict)


class Lost(Struct, frozen=True, kw_only=True):
    """Documents of one object that the KV lacks, to be written together; `what` is for people."""

    object: str
    what: str
    puts: Mapping[str, bytes]


def lost(kept: Kept, world: World) -> tuple[list[Lost], list[str]]:
    """What can be put back, in the order of writing, and sentences about what cannot."""
    found: list[Lost] = []
    cannot: list[str] = []
    for release, hold in sorted(kept.desired.releases.items()):
        answer = _release(kept, world, release, hold)
        if isinstance(answer, str):
            cannot.append(answer)
        elif answer:
            found.append(answer)
    found += _channels(kept, world)
    for name, plan in sorted(kept.desired.services.items()):
        puts = dict(_service(kept.desired, world, name, plan))
        if puts:
            what = ", ".join(sorted(key.rpartition("/")[2] for key in puts))
            found.append(Lost(object=f"service/{name}", what=what, puts=puts))
    return [*found, *_registrations(kept, world)], cannot


def _release(kept: Kept, world: World, release: ReleaseId, hold: model.Hold) -> Lost | str | None:
    channel = world.channels.get(release.channel)
    if channel and channel.deleted:
        return None
    if channel and release.version in channel.by_version:
        same = channel.digests[release.version] == hold.digest
        return None if same else f"{release}: the KV has another release of this version"
    raw, files = kept.headers.get(release), kept.manifests.get(release)
    if raw is None or files is None or codec.digest(raw) != hold.digest:
        return f"{release}: this node has no header or no list of files of it"
    header = codec.decode(model.Release, raw, f"header of {release}")
    if channel and (taken := [r for r in channel.releases if r.sequence == header.sequence]):
        return f"{release}: its sequence {header.sequence} is that of {taken[0].version} by now"
    ref = header.manifest
    if ref.object:
        files = codec.encode(model.ManifestElsewhere(object=ref.object, digest=ref.digest, bytes=ref.bytes))
    where = release.channel, release.version
    puts = {keys.release(*where): raw, keys.manifest(*where): files}
    return Lost(object=f"channel/{release.channel}", what=f"release {release.version}", puts=puts)


def _channels(kept: Kept, world: World) -> Iterator[Lost]:
    """Heads that are missing or behind, and pins that are missing."""
    names = {part.channel for plan in kept.desired.services.values() for part in plan.all_aliases()}
    for name in sorted(names | {release.channel for release in kept.desired.releases}):
        facts = world.channels.get(name)
        if facts and facts.deleted:
            continue
        holds = {r: hold for r, hold in kept.desired.releases.items() if r.channel == name}
        puts: dict[str, bytes] = {}
        if (head := _head(kept, name, holds)) is not None:
            there = facts.by_version.get(facts.head) if facts and facts.head else None
            if (facts is None or facts.head is None or there) and (
                there is None or there.sequence < holds[head].sequence
            ):
                puts[keys.head(name)] = head.version.encode()
        pinned = [r for r, hold in holds.items() if "pin of the channel" in hold.why]
        if pinned and keys.channel_pin(name) not in world.indexes:
            puts[keys.channel_pin(name)] = _pin(pinned[0])
        if puts:
            what = ", ".join(f"{key.rpartition('/')[2]}" for key in sorted(puts))
            yield Lost(object=f"channel/{name}", what=what, puts=puts)


def _head(kept: Kept, name: Channel, holds: Mapping[ReleaseId, model.Hold]) -> ReleaseId | None:
    """What was the head when this node was planned last; where that was rejected, what took its place."""
    heads = [release for release, hold in holds.items() if "head" in hold.why]
    if not heads:
        parts = [part for plan in kept.desired.services.values() for part in plan.aliases.values()]
        targets = {ReleaseId.of(name, p.target) for p in parts if p.channel == name and p.target}
        heads = [release for release in targets if release in holds]
    return max(heads, key=lambda release: holds[release].sequence, default=None)


def _pin(release: ReleaseId) -> bytes:
    return codec.encode(model.Pin(version=release.version, who="hydra recover", why="it was pinned before"))


def _service(
    desired: model.Desired, world: World, name: Service, plan: model.ServicePlan
) -> Iterator[tuple[str, bytes]]:
    """Subscription, pins, control and verdicts of a service, where the KV has none of them."""
    facts = world.service(name)
    if facts.deleted:
        return
    documents: dict[str, bytes] = {keys.subscription(name): codec.encode(subscription_of(plan))}
    for alias, part in plan.aliases.items():
        pins = [
            r for r, h in desired.releases.items() if r.channel == part.channel and f"pin of {name}" in h.why
        ]
        if pins:
            documents[keys.service_pin(name, alias)] = _pin(pins[0])
    paused = plan.paused and not desired.cordoned  # a cordoned node is told that everything is paused
    if paused or plan.retry:
        documents[keys.control(name)] = codec.encode(model.Control(paused=paused, retry=plan.retry))
    halted = {
        ReleaseId.of(part.channel, part.target): model.Verdict(
            id="recovered", verdict="halted", reason=part.held, node=desired.node, instance=""
        )
        for part in plan.aliases.values()
        if part.target and part.held.startswith("halted")
    }
    if halted:
        documents[keys.verdicts(name)] = codec.encode(model.Verdicts(releases=halted))
    yield from ((key, raw) for key, raw in documents.items() if key not in world.indexes)


def _registrations(kept: Kept, world: World) -> Iterator[Lost]:
    key = keys.registrations(kept.desired.node)
    if kept.by_hand and key not in world.indexes:
        document = codec.encode(model.Instances(instances=kept.by_hand))
        what = model.count(len(kept.by_hand), "registration")
        yield Lost(object=f"node/{kept.desired.node}", what=what, puts={key: document})
