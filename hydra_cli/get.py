"""`hydra get`: one release of a channel into a folder, on a laptop or in CI: no node, no agent."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
from msgspec import Struct

from handlers.adapters.bodies import Bodies
from handlers.adapters.local import LocalState
from handlers.adapters.ports import KV, Objects
from handlers.adapters.reuse import Complete, Reuse
from handlers.adapters.rooms import Rooms
from handlers.core import codec, keys
from handlers.core.errors import NotTakenOver, SourceNotReady, Temporary, Usage
from handlers.core.holdings import Piece, Space, footprint
from handlers.core.model import Hold, Manifest, Release
from handlers.core.names import Channel
from handlers.core.version import ReleaseId, Version
from hydra_cli.change import require_channel, require_release
from hydra_cli.context import Context
from hydra_cli.get_folder import VOLUME, GetFolder, opened
from hydra_cli.options import command
from hydra_cli.output import Said, Screen, Tone, size
from hydra_cli.progress import progress

EXAMPLES = """
hydra get prod/search/places data/places
hydra get prod/search/places@2026-01-31T00-00-00 /tmp/places
hydra get prod/search/places data/places -o json
"""
_LOOK_S = 0.2


class Wish(Struct, frozen=True):
    """The release to fetch: header, its digest, list of files."""

    release: ReleaseId
    digest: str
    header: Release
    manifest: Manifest


@command("get", codes=(5, 7, 9, 11), examples=EXAMPLES)
@click.argument("name", metavar="CHANNEL[@VERSION]")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--streams", type=click.IntRange(1, 64), default=8, show_default=True, help="Parallel requests."
)
@click.pass_obj
def get(context: Context, name: str, folder: Path, streams: int) -> None:
    """Download one release of a channel into a folder: verified, resumable, without a node.

    Without a version it is the channel's pin, else its head. Each dataset is DIR/<dataset>. An interrupted
    download goes on where it was; one that is complete is left alone; another version takes the place of the
    one before, and what both have in common is not fetched again. A folder that `hydra get` did not make is
    refused.
    """
    bare, at, wanted = name.partition("@")
    channel = context.channel(bare)
    kv, objects = context.kv(channel.env), context.objects(channel.env)
    release = ReleaseId.of(channel, Version.parse(wanted) if at else _followed(kv, channel))
    with opened(folder, channel) as target:
        bodies = Bodies(kv, LocalState(target.hidden), objects)
        wish = _wish(kv, bodies, release)
        target.begin(release, wish.digest, wish.header.datasets)
        bodies.keep_only(channel, target.content.releases)
        lacking = target.lacks(wish.manifest)
        others = target.complete(bodies.kept_manifest)
        fetched = _fill(context.screen, objects, target, wish, lacking, others, streams)
        target.end(release, wish.header.datasets)
        bodies.keep_only(channel, target.content.releases)
    datasets = wish.header.datasets
    files, total = sum(d.files for d in datasets.values()), sum(d.bytes for d in datasets.values())
    done = f"{size(fetched)} fetched" if lacking else "complete already"
    text = f"{release}: {files} files, {size(total)} in {folder} ({done})"
    data = {
        "channel": channel,
        "version": release.version,
        "folder": str(folder),
        "datasets": {n: str(folder / n) for n in sorted(datasets)},
        "files": files,
        "bytes": total,
        "fetched_bytes": fetched,
        "changed": bool(lacking),
    }
    context.screen.show(Said(text, data, Tone.GOOD))


def _followed(kv: KV, channel: Channel) -> Version:
    """What whoever follows the channel would use: its pin, else its head."""
    facts = require_channel(kv, channel)
    version = facts.pin.version if facts.pin else facts.head
    if version is None:
        raise SourceNotReady(
            f"{channel} has no head: nothing is published, or it cannot be read; name a version"
        )
    require_release(facts, version)
    if version in facts.rejected and not facts.pin:
        raise NotTakenOver(f"{version} of {channel} is rejected; name the version that you want")
    return version


def _wish(kv: KV, bodies: Bodies, release: ReleaseId) -> Wish:
    """The documents of a release, checked as a node does it."""
    key = keys.release(release.channel, release.version)
    entry, _ = kv.get(key)
    if entry is None:
        raise Usage(
            f"{release.channel} has no release {release.version}: `hydra channel show {release.channel}`"
        )
    hold = Hold(digest=codec.digest(entry.value), sequence=0)
    bodies.fetch(release, hold)
    header = bodies.header(release, hold)
    manifest = bodies.manifest(release, header) if header else None
    assert header is not None
    assert manifest is not None
    return Wish(release, hold.digest, header, manifest)


def _fill(
    screen: Screen,
    objects: Objects,
    target: GetFolder,
    wish: Wish,
    lacking: list[str],
    others: Sequence[Complete],
    streams: int,
) -> int:
    """Download and place what is lacking and `others` do not have; the bytes that had to be fetched."""
    from handlers.adapters.link import Link
    from handlers.adapters.transfer import Transfer

    release = wish.release
    complete = {piece.dataset for piece in target.volumes.inventory().complete if piece.release == release}
    places = {dataset: VOLUME for dataset in lacking if dataset not in complete}
    reuse = {
        Piece(release, name): Reuse(name, wish.manifest.files[name], _nearest(others, name))
        for name in places
    }
    _check_room(target, wish.manifest, reuse)
    wake = threading.Event()
    transfer = Transfer(
        release,
        wish.digest,
        wish.header,
        wish.manifest,
        places,
        target.volumes,
        objects,
        link=Link(streams),
        reuse=reuse.get,
        wake=wake,
    )
    with progress(screen, release, transfer.total) as step:
        transfer.start()
        shown = 0
        try:
            while not wake.wait(_LOOK_S):
                done = sum(transfer.done.values())
                step(done - shown)
                shown = done
        except BaseException:
            transfer.cancel()
            transfer.join()
            raise
    if transfer.error is not None:
        raise transfer.error
    for dataset in lacking:
        target.place(release, dataset)
    return transfer.fetched


def _nearest(others: Sequence[Complete], dataset: str) -> list[Complete]:
    """The dataset of the same name first: most of it is often what is wanted."""
    return sorted(others, key=lambda other: other.piece.dataset != dataset)


def _check_room(target: GetFolder, manifest: Manifest, reuse: Mapping[Piece, Reuse]) -> None:
    """Raise `Temporary` where it cannot fit, before the first byte."""
    rooms, need = Rooms(target.volumes), Space(0, 0)
    block = rooms.block_bytes()
    for piece, found in reuse.items():
        files, kept = manifest.files[piece.dataset], target.volumes.staged_bytes(VOLUME, piece)
        need += footprint(files, kept, block)
        need -= found.saves(file for file in files if not kept(file)).get(VOLUME, Space(0, 0))
    room = rooms.space(VOLUME)
    if not need.fits(room):
        raise Temporary(
            f"{target.path}: {size(need.bytes)} and {need.files} files are needed, "
            f"{size(room.bytes)} and {room.files} are free"
        )
