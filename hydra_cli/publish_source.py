"""What the object store has of a template's datasets: versions, whether they are complete, their files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import islice

from handlers.adapters.parallel import at_once
from handlers.adapters.ports import ObjectInfo, Objects
from handlers.core import pushed
from handlers.core.choice import Offer, candidates
from handlers.core.errors import Integrity, SourceNotReady, Usage
from handlers.core.model import Dataset, File
from handlers.core.names import check_path
from handlers.core.version import Version
from hydra_cli.data_template import TemplateDataset
from hydra_cli.publish_checks import manifests

MAX_FILES = 100_000  # of one release: what manifests, nodes and directories are measured with
_AT_ONCE = 8


def look(
    objects: Objects, datasets: Sequence[TemplateDataset], now: datetime, asked: Version | None
) -> list[Offer]:
    """What is there of each dataset; `asked` is looked at alone, except for datasets of their own rhythm."""

    def one(dataset: TemplateDataset) -> Offer:
        if asked and not dataset.own:
            return _offer(objects, dataset, [asked], [asked])
        there = listed(objects, dataset)
        return _offer(objects, dataset, there, candidates(there, now))

    return at_once(one, datasets, _AT_ONCE)


def collect(
    objects: Objects, datasets: Sequence[TemplateDataset], versions: Callable[[str], Version]
) -> dict[str, tuple[Dataset, tuple[File, ...]]]:
    """Each dataset at its version as the release names it, with its files; raises when it cannot be one."""

    def one(dataset: TemplateDataset) -> tuple[Dataset, tuple[File, ...]]:
        version = versions(dataset.name)
        files = _files(objects, dataset, version)
        total = sum(file.size for file in files)
        source = dataset.source(version)
        if total == 0:
            raise SourceNotReady(f"dataset {dataset.name!r}: {source} has 0 bytes in all; nothing to publish")
        described = Dataset(
            source=str(source),
            placement=dataset.placement,
            files=len(files),
            bytes=total,
            version=version,
            as_name=dataset.as_name,
        )
        return described, files

    found = dict(zip((d.name for d in datasets), at_once(one, datasets, _AT_ONCE), strict=True))
    if (count := sum(len(files) for _, files in found.values())) > MAX_FILES:
        raise Usage(
            f"{count} files in this release; at most {MAX_FILES} are possible: pack small files together"
        )
    return found


def refuse_change(
    objects: Objects,
    datasets: Sequence[TemplateDataset],
    found: Mapping[str, tuple[Dataset, Sequence[File]]],
) -> None:
    """List everything once more; raises `SourceNotReady` when it is not what was `found` any more."""
    now = collect(objects, datasets, lambda name: found[name][0].version)
    for name, (dataset, files) in found.items():
        before, after = ({f.path: f for f in one} for one in (files, now[name][1]))
        if wrong := pushed.differences(before, after):
            raise SourceNotReady(
                f"dataset {name!r}: {dataset.source} changes while it is looked at ({pushed.shown(wrong)}): "
                "publish it when its upload is over (--wait-source waits), or push it with `hydra push`"
            )


def listed(objects: Objects, dataset: TemplateDataset) -> list[Version]:
    """The versions with a name in the store, newest first."""
    names = objects.folders(dataset.versions_folder)
    return sorted({v for v in map(dataset.version_in, names) if v}, reverse=True)


def _offer(
    objects: Objects, dataset: TemplateDataset, listed: Sequence[Version], worth: Iterable[Version]
) -> Offer:
    """Look at versions until one is complete: older ones cannot be chosen any more."""
    incomplete: dict[Version, str] = {}
    complete: tuple[Version, ...] = ()
    for version in worth:
        reason = _lacks(objects, dataset, version)
        if not reason:
            complete = (version,)
            break
        incomplete[version] = reason
    return Offer(
        name=dataset.name,
        source=str(dataset.versions_folder),
        own=dataset.own,
        listed=tuple(listed),
        complete=complete,
        incomplete=incomplete,
    )


def _lacks(objects: Objects, dataset: TemplateDataset, version: Version) -> str:
    """Why this version is not complete; empty when it is."""
    source = dataset.source(version)
    if dataset.is_prefix:
        if not any(_is_data(found) for found in objects.list(source)):
            return f"has no object below {source}"
    elif not _exists(objects, dataset, version):
        return f"has no object {source}"
    if dataset.marker:
        marker = dataset.marker_source(version)
        try:
            objects.head(marker)
        except SourceNotReady:
            return f"has no marker {marker}"
    try:
        for found in manifests(objects, source, version):
            if not found.doc.complete:
                return f"is not pushed to its end: {found.place} says {found.doc.title()!r}"
    except Integrity:
        pass  # no manifest object, but data is here; whoever takes the checks from it says what is wrong
    return ""


def _exists(objects: Objects, dataset: TemplateDataset, version: Version) -> bool:
    try:
        objects.head(dataset.source(version))
    except SourceNotReady:
        return False
    return True


def _files(objects: Objects, dataset: TemplateDataset, version: Version) -> tuple[File, ...]:
    source = dataset.source(version)
    where = f"dataset {dataset.name!r}: key"
    if not dataset.is_prefix:
        found = objects.head(source)
        path = dataset.as_name or source.key.rpartition("/")[2]
        return (File(path=check_path(path, where), size=found.size, etag=found.etag),)
    # one more than can be published is enough to know that it is too much
    rows = islice(filter(_is_data, objects.list(source)), MAX_FILES + 1)
    files = [
        File(path=check_path(o.key.removeprefix(source.key), where), size=o.size, etag=o.etag) for o in rows
    ]
    if len(files) > MAX_FILES:
        raise Usage(
            f"dataset {dataset.name!r}: more than {MAX_FILES} files below {source}: pack small files together"
        )
    if not files:
        raise SourceNotReady(f"dataset {dataset.name!r}: nothing below {source}")
    _refuse_collisions(dataset.name, files)
    return tuple(sorted(files, key=lambda file: file.path))


def _is_data(found: ObjectInfo) -> bool:
    """Keys ending in / are what consoles make of an empty folder; manifest objects describe a part of it."""
    return not found.key.endswith(("/", pushed.SUFFIX))


def _refuse_collisions(name: str, files: Sequence[File]) -> None:
    """An object store may have both `a` and `a/b`; a file system cannot."""
    paths = {file.path for file in files}
    for path in paths:
        parts = path.split("/")
        for end in range(1, len(parts)):
            if (folder := "/".join(parts[:end])) in paths:
                raise Usage(
                    f"dataset {name!r}: {folder!r} is a file and a folder at once (there is {path!r})"
                )
