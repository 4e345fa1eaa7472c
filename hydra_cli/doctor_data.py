"""Whether the data of every release that is kept can still be fetched: what `hydra doctor` looks at last.

A listing tells sizes and ETags of a thousand objects at once, so a whole dataset is compared by listing it. A
request for one byte of each dataset tells whether it may be read as well, and one for each object that is not
any more what the release names, whether its version is still there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from handlers.adapters.parallel import at_once
from handlers.adapters.ports import KV, Objects, Source
from handlers.adapters.snapshot import load
from handlers.core import codec, keys, pushed
from handlers.core.errors import Denied, HydraError, Integrity, SourceNotReady
from handlers.core.model import Dataset, File, Release, Unfetchable, count
from handlers.core.world import ChannelFacts
from hydra_cli import publish_release
from hydra_cli.change import Edit
from hydra_cli.context import Context
from hydra_cli.doctor_checks import Finding, Level
from hydra_cli.output import Screen
from hydra_cli.progress import progress

REQUESTS = 16  # at once
GONE = "publish the data again as a new version; nodes that have it keep it"
UNSURE = "look at the credentials, and whether the object store answers"


class Lost(Struct, frozen=True):
    """What cannot be fetched of one release; `sure` False = the store did not answer, so nobody knows."""

    release: Release
    reasons: tuple[str, ...]
    sure: bool


def rows(context: Context) -> Iterator[Finding]:
    """One finding for each channel, or for each of its releases of which something is lost.

    What is lost for sure is noted in the channel, and plan makes an alarm of it.
    """
    kv, objects = context.kv(), context.objects()
    world = load(kv, keys.CHANNELS, keys.RELEASES)
    for name, channel in sorted(world.channels.items()):
        if channel.deleted or not channel.releases:
            continue
        lost = look(kv, objects, channel.releases, context.screen)
        what = f"data ({name})"
        for one in lost:
            text = f"{one.release.version}: {pushed.shown(one.reasons)}"
            yield Finding(what, Level.FAIL, text, GONE if one.sure else UNSURE)
        if not lost:
            yield Finding(what, Level.OK, f"all of {count(len(channel.releases), 'release')} is there")
        try:
            note(context, kv, channel, lost)
        except Denied as e:
            text = f"this is not noted in the channel: {e}"
            yield Finding(what, Level.WARN, text, "an operator's token makes it an alarm in `hydra status`")


def look(kv: KV, objects: Objects, releases: Sequence[Release], screen: Screen) -> list[Lost]:
    """The releases of which something cannot be fetched."""
    found = []
    known: dict[str, Mapping[str, File] | HydraError] = {}
    with progress(screen, "sources of releases", len(releases), "releases") as step:
        for release in releases:
            reasons = [*_release(kv, objects, release, known)]
            if reasons:
                sure = all(isinstance(e, (Integrity, SourceNotReady)) for e in reasons)
                found.append(Lost(release, tuple(map(str, reasons)), sure))
            step(1)
    return found


def note(context: Context, kv: KV, channel: ChannelFacts, lost: Sequence[Lost]) -> None:
    """Write what is lost for sure into the channel, or that nothing is any more; what is unsure stays.

    Raises `Denied` for a token that may not.
    """
    before = channel.unfetchable.releases
    unsure = {one.release.version for one in lost if not one.sure}
    now = {one.release.version: pushed.shown(one.reasons) for one in lost if one.sure}
    now |= {version: reason for version, reason in before.items() if version in unsure}
    if now == before:
        return
    edit = Edit(context, kv)
    key = keys.unfetchable(channel.name)
    if now:
        edit.write(key, codec.encode(Unfetchable(releases=now, who=context.who, when=context.stamp())))
    else:
        edit.delete(key)
    edit.commit(f"channel/{channel.name}", "looked for data", before=", ".join(before), after=", ".join(now))


def _release(
    kv: KV, objects: Objects, release: Release, known: dict[str, Mapping[str, File] | HydraError]
) -> Iterator[HydraError]:
    """Why a release cannot be fetched; `known` are the objects of sources that were listed before."""
    try:
        files = publish_release.published_manifest(kv, objects, release).files
    except HydraError as e:
        yield e
        return
    for name, dataset in sorted(release.datasets.items()):
        if dataset.source not in known:
            known[dataset.source] = _there(objects, dataset)
        there = known[dataset.source]
        if isinstance(there, HydraError):
            yield there
        else:
            yield from _dataset(objects, dataset, files.get(name, ()), there)


def _there(objects: Objects, dataset: Dataset) -> Mapping[str, File] | HydraError:
    """The objects of a dataset by key."""
    source = Source.parse(dataset.source)
    try:
        found = objects.list(source) if source.is_prefix else [objects.head(source)]
        return {one.key: File(one.key, one.size, one.etag) for one in found}
    except HydraError as e:
        return e


def _dataset(
    objects: Objects, dataset: Dataset, files: Sequence[File], there: Mapping[str, File]
) -> Iterator[HydraError]:
    source = Source.parse(dataset.source)
    named = {source.object_of(file.path).key: file for file in files}
    same = {key: file for key, file in named.items() if _is(file, there.get(key))}
    other = {key: file for key, file in named.items() if key not in same}
    probes = [(key, file) for key, file in same.items() if file.size][:1]
    probes += [(key, file) for key, file in other.items() if file.version_id and file.size]
    for problem in at_once(
        lambda row: _unreadable(objects, replace(source, key=row[0]), row[1]), probes, REQUESTS
    ):
        if problem:
            yield problem
    gone = {key: file for key, file in other.items() if not file.version_id}
    if wrong := pushed.differences(gone, {key: there[key] for key in gone if key in there}):
        yield Integrity(f"{dataset.source}: {pushed.shown(wrong)}")


def _is(file: File, there: File | None) -> bool:
    return there is not None and (there.size, there.etag) == (file.size, file.etag)


def _unreadable(objects: Objects, source: Source, file: File) -> HydraError | None:
    """Why not even one byte of an object can be read."""
    try:
        for _ in objects.read_range(source, file.etag, 0, 1, file.version_id):
            pass
    except HydraError as e:
        return e
    return None
