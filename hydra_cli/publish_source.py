"""What the object store has of a template's datasets: versions, whether they are complete, their files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from itertools import islice
from typing import TypeVar

from handlers.adapters.ports import ObjectInfo, Objects
from handlers.core.choice import Offer, candidates
from handlers.core.errors import SourceNotReady, Usage
from handlers.core.model import Dataset, File
from handlers.core.names import check_path
from handlers.core.version import Version
from hydra_cli.data_template import TemplateDataset

MAX_FILES = 100_000  # of one release: what manifests, nodes and directories are measured with
_AT_ONCE = 8
T = TypeVar("T")


def look(
    objects: Objects, datasets: Sequence[TemplateDataset], now: datetime, asked: Version | None
) -> list[Offer]:
    """What is there of each dataset; `asked` is looked at alone, except for datasets of their own rhythm."""

    def one(dataset: TemplateDataset) -> Offer:
        if asked and not dataset.own:
            return _offer(objects, dataset, [asked], [asked])
        listed = _listed(objects, dataset)
        return _offer(objects, dataset, listed, candidates(listed, now))

    return _each(one, datasets)


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

    found = dict(zip((d.name for d in datasets), _each(one, datasets), strict=True))
    if (count := sum(len(files) for _, files in found.values())) > MAX_FILES:
        raise Usage(
            f"{count} files in this release; at most {MAX_FILES} are possible: pack small files together"
        )
    return found


def _listed(objects: Objects, dataset: TemplateDataset) -> list[Version]:
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
        if next((True for found in objects.list(source) if not _is_folder(found)), False) is False:
            return f"has no object below {source}"
    elif not _exists(objects, dataset, version):
        return f"has no object {source}"
    if dataset.marker:
        marker = dataset.marker_source(version)
        try:
            objects.head(marker)
        except SourceNotReady:
            return f"has no marker {marker}"
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
    rows = islice((o for o in objects.list(source) if not _is_folder(o)), MAX_FILES + 1)
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


def _is_folder(found: ObjectInfo) -> bool:
    """Keys ending in / are what consoles make of an empty folder; no file can have that name."""
    return found.key.endswith("/")


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


def _each(work: Callable[[TemplateDataset], T], datasets: Sequence[TemplateDataset]) -> list[T]:
    """The results in order; the first error ends it."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        futures = [pool.submit(work, dataset) for dataset in datasets]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
