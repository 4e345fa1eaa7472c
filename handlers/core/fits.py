"""Whether a release that is about to be announced fits on a node, by what the node last said of its room.

The decision is the node's own (`diff`), on the facts that are in KV: what it holds and where, what is free,
what of it may make room. Where the node has not spoken lately, nobody can tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum

from msgspec import Struct

from handlers.core.diff import Delete, diff
from handlers.core.holdings import Facts, Inventory, Piece, Policy, Space, missing
from handlers.core.model import RAM, Hold, Progress, Release, State
from handlers.core.version import ReleaseId
from handlers.core.world import NodeFacts, World

SILENT_AFTER = timedelta(minutes=30)
_POLICY = Policy(unused_grace_s=60, idle_grace_s=4 * 3600, brake_share=0.5)  # a node's own are not in KV
_ENDLESS = 2**62


class Answer(StrEnum):
    """How a release and a node go together."""

    FITS = "fits"
    EVICTS = "fits after evictions"
    WAITS = "waits"
    SHORT = "does not fit"
    UNKNOWN = "unknown"


class Fit(Struct, frozen=True):
    """The answer for one node, which releases would have to go, and why it is no plain yes."""

    node: str
    answer: Answer
    evicts: tuple[ReleaseId, ...] = ()
    reason: str = ""


def fit(node: NodeFacts, world: World, header: Release, needs: Mapping[str, Space], now: datetime) -> Fit:
    """Whether `header` fits on the node; `needs`: room of each of its datasets, without what is linked."""
    progress = node.progress
    if silence := _silence(node, progress, now):
        return Fit(node.name, Answer.UNKNOWN, reason=silence)
    assert progress is not None
    if short := _short_of_ram(progress, node, header):
        return Fit(node.name, Answer.SHORT, reason=short)
    release = ReleaseId.of(header.channel, header.version)
    decision = diff(_facts(node, world, header, needs, progress))
    status = decision.statuses[release]
    evicts = tuple(sorted(action.release for action in decision.actions if isinstance(action, Delete)))
    if status.state is State.FAILED:
        return Fit(node.name, Answer.SHORT, reason=status.reason)
    if status.state is State.WAITING:
        return Fit(node.name, Answer.EVICTS if evicts else Answer.WAITS, evicts, status.reason)
    return Fit(node.name, Answer.FITS)


def _silence(node: NodeFacts, progress: Progress | None, now: datetime) -> str:
    """Why it cannot be said, empty when it can."""
    if not node.alive:
        return "the node is not alive"
    if progress is None or not progress.volumes or node.info is None or node.actual is None:
        return "the node has not said yet what it has"
    try:
        said = datetime.fromisoformat(progress.when)
    except ValueError:
        return "when it said what it has cannot be read"
    return f"it last said what it has at {progress.when}" if said < now - SILENT_AFTER else ""


def _short_of_ram(progress: Progress, node: NodeFacts, header: Release) -> str:
    """Why its datasets for RAM could never be there together; a node without RAM reads from disk."""
    volumes = node.info.volumes if node.info else {}
    rooms = [
        progress.volumes[v].size for v, info in volumes.items() if info.cls == RAM and v in progress.volumes
    ]
    wanted = sum(d.bytes for d in header.datasets.values() if d.placement == RAM)
    if not rooms or wanted <= max(rooms):
        return ""
    return f"its datasets in RAM take {wanted} bytes, and the node's RAM volume has {max(rooms)}"


def _facts(
    node: NodeFacts, world: World, header: Release, needs: Mapping[str, Space], progress: Progress
) -> Facts:
    """The node as it will be when the release is desired of it."""
    release = ReleaseId.of(header.channel, header.version)
    desired = dict(node.desired.releases) if node.desired else {}
    complete = {
        Piece(held, dataset): volume
        for volume, use in progress.volumes.items()
        for held, datasets in use.holds.items()
        for dataset in datasets
    }
    inventory = Inventory(complete, {}, frozenset(piece.release for piece in complete))
    bodies = {r: body for r in {*desired, *inventory.held} if (body := _header(world, r))} | {release: header}
    wanted = {r: bodies[r] for r in desired if r in bodies and r != release}
    others = {
        Piece(r, name): Space(body.datasets[name].bytes, body.datasets[name].files)
        for r, body in wanted.items()
        for name in missing(r, body, inventory)
    }
    space = {volume: Space(use.free, use.files) for volume, use in progress.volumes.items()}
    for volume, use in progress.volumes.items():
        space |= {f"{volume}/{name}": Space(free, _ENDLESS) for name, free in use.namespaces.items()}
    space |= {name: Space(room.free, room.files) for name, room in progress.joint.items()}
    return Facts(
        desired={**desired, release: Hold(digest="", sequence=header.sequence)},
        bodies=bodies,
        inventory=inventory,
        needs={**others, **{Piece(release, name): need for name, need in needs.items()}},
        space=space,
        classes={name: info.cls for name, info in node.info.volumes.items()} if node.info else {},
        policy=_POLICY,
        now=0.0,
        used=dict.fromkeys(_used(node), "an instance uses it"),
    )


def _used(node: NodeFacts) -> set[ReleaseId]:
    states = node.states.instances.values() if node.states else ()
    return {
        ReleaseId.of(channel, version)
        for state in states
        for alias, channel in state.channels.items()
        for version in (state.releases.get(alias), state.moving.get(alias))
        if version is not None
    }


def _header(world: World, release: ReleaseId) -> Release | None:
    channel = world.channels.get(release.channel)
    return channel.by_version.get(release.version) if channel else None
