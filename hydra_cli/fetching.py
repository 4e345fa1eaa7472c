"""What nodes really have to fetch of a release: its files without what they have in another one already."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from msgspec import Struct

from handlers.adapters.ports import KV, Objects
from handlers.adapters.snapshot import load
from handlers.core import keys
from handlers.core.errors import HydraError
from handlers.core.model import Release, State
from handlers.core.names import Channel
from handlers.core.reuse import Files, to_fetch
from handlers.core.selector import selects
from handlers.core.version import ReleaseId
from handlers.core.world import NodeFacts, World
from hydra_cli import publish_release
from hydra_cli.channel_views import readers_of
from hydra_cli.output import Block, Table, size

ASKED = (keys.SERVICES, keys.CHANNELS, keys.RELEASES, keys.NODES, keys.ACTUAL)
"""What has to be read for `of_release`."""
_NAMED = 3  # nodes in one row


class Lists:
    """The lists of files of published releases, each read once: most are in KV, long ones beside the data.

    Without `objects` those count as unknown: `hydra status` must not wait for an object store that is away.
    """

    def __init__(self, kv: KV, objects: Objects | None = None) -> None:
        self._kv, self._objects = kv, objects
        self._known: dict[ReleaseId, Files] = {}

    def of(self, header: Release) -> Files:
        """The files by dataset; empty where they cannot be read now."""
        release = ReleaseId.of(header.channel, header.version)
        if release not in self._known:
            if header.manifest.object and self._objects is None:
                return {}
            try:
                found = publish_release.published_manifest(self._kv, self._objects, header)
            except HydraError:
                return {}
            self._known[release] = found.files
        return self._known[release]

    def to_fetch(self, world: World, files: Files, held: Collection[ReleaseId]) -> int:
        """Bytes of `files` that a node with the releases `held` has not."""
        headers = filter(None, (header_of(world, release) for release in sorted(held)))
        return sum(to_fetch(files, (self.of(header) for header in headers)).values())


class Fetch(Struct, frozen=True):
    """What one node has to fetch of a release with `total` bytes."""

    node: str
    bytes: int
    total: int


def of_release(kv: KV, objects: Objects, release: ReleaseId, files: Files) -> list[Fetch]:
    """What each node with an instance that reads the release's channel has to fetch of it."""
    world = load(kv, *ASKED)
    lists, total = Lists(kv, objects), _total(files)
    known: dict[frozenset[ReleaseId], int] = {}
    found = []
    for node in nodes_reading(world, release.channel):
        held = held_by(node)
        if held not in known:
            known[held] = 0 if release in held else lists.to_fetch(world, files, held)
        found.append(Fetch(node.name, known[held], total))
    return found


def of_nodes(lists: Lists, world: World) -> dict[str, int]:
    """Bytes that each living node has to fetch for what it should hold and does not; by its name."""
    found: dict[str, int] = {}
    for node in world.nodes.values():
        held, wanted = held_by(node), set(node.desired.releases) if node.desired else set()
        if node.alive and (lacking := sorted(wanted - held)):
            headers = filter(None, (header_of(world, release) for release in lacking))
            found[node.name] = sum(_missing(lists, world, header, held) for header in headers)
    return found


def _missing(lists: Lists, world: World, header: Release, held: Collection[ReleaseId]) -> int:
    """Bytes of one release that a node has not; all of them where its list of files is not known."""
    if files := lists.of(header):
        return lists.to_fetch(world, files, held)
    return sum(dataset.bytes for dataset in header.datasets.values())


def header_of(world: World, release: ReleaseId) -> Release | None:
    """The header of a release, where there is one."""
    channel = world.channels.get(release.channel)
    return channel.by_version.get(release.version) if channel else None


def table(found: Sequence[Fetch]) -> Iterator[Block]:
    """One row for all nodes that fetch the same."""
    rows = []
    for count in sorted({one.bytes for one in found}, reverse=True):
        names = sorted(one.node for one in found if one.bytes == count)
        rows.append((_names(names), size(count), size(found[0].total)))
    yield Table(
        ("NODES", "FETCH", "OF"),
        rows,
        title="What has to be fetched",
        empty="nothing now: no node has an instance of a service that reads this channel",
        right=frozenset({"FETCH", "OF"}),
    )


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def nodes_reading(world: World, channel: Channel) -> Iterable[NodeFacts]:
    """The nodes with an instance of a service that reads the channel, or selected by such a service."""
    services = readers_of(world, channel)
    selectors = [facts.subscription.nodes for s in services if (facts := world.service(s)).subscription]
    for _, node in sorted(world.nodes.items()):
        instances = node.instances.instances.values() if node.instances else ()
        labels = node.info.labels if node.info else {}
        reads = any(instance.service in services for instance in instances)
        if not node.gone and (reads or any(selects(text, labels) for text in selectors)):
            yield node


def held_by(node: NodeFacts) -> frozenset[ReleaseId]:
    """The releases that are complete on a node."""
    statuses = node.actual.releases.items() if node.actual else ()
    return frozenset(release for release, status in statuses if status.state is State.SUCCESS)


def _total(files: Files) -> int:
    return sum(file.size for listed in files.values() for file in listed)
