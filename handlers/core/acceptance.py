"""Whether a node takes over a `desired` document, and whether a release's body is what its header says.

Pure; used by `sync` before anything is downloaded or deleted. What is not accepted is held off: the node
keeps its last good state and raises an alarm.
"""

from __future__ import annotations

from collections.abc import Sequence

from handlers.core import codec, integrity
from handlers.core.errors import HydraError, Integrity, Malformed, Usage
from handlers.core.model import Dataset, Desired, File, Hold, Manifest, Release
from handlers.core.names import check_path
from handlers.core.version import ReleaseId

RECOVER = "hydra recover shows what is missing, and ends this"


class Held(HydraError):
    """Not taken over; the text says why, for `actual.alarms`."""


def accept(
    raw: bytes | None, node: str, applied: int, has_meta: bool, where: str, last: bytes | None = None
) -> Desired:
    """The `desired` of this node in `raw`; raises `Held`.

    `applied` is the highest generation taken over, `last` the document of it as far as it is known here.
    """
    if not has_meta:
        raise Held("meta is missing: the KV is empty or another one; nothing is taken over or deleted")
    if raw is None:
        raise Held(f"{where} is missing; the last good one stays in force")
    try:
        desired = codec.decode(Desired, raw, where)
    except Malformed as e:
        raise Held(f"{e}; the last good one stays in force") from None
    if desired.node != node:
        raise Held(
            f"{where}: is for node {desired.node!r}, this is {node!r}; the last good one stays in force"
        )
    if desired.generation < applied:
        raise Held(
            f"{where}: generation {desired.generation} is behind {applied}, which was applied here: "
            f"the KV was restored from an older state; {RECOVER}"
        )
    if desired.generation == applied and raw != last and _generation(last) == applied:
        # a planner that knows only a restored KV counts on from there, and meets numbers that were given out
        raise Held(
            f"{where}: generation {applied} was applied here with another content: the KV was restored "
            f"from an older state and planned anew; {RECOVER}"
        )
    return desired


def _generation(last: bytes | None) -> int | None:
    """That of the document that was taken over last; None where it is not known any more."""
    try:
        return codec.decode(Desired, last, "the last good desired").generation if last else None
    except Malformed:
        return None


def header_of(release: ReleaseId, hold: Hold, raw: bytes) -> Release:
    """The header in `raw`, if it is the one that `desired` names; raises `Integrity`, `Malformed`."""
    if (found := codec.digest(raw)) != hold.digest:
        raise Integrity(f"header of {release}: has digest {found}, desired names {hold.digest}")
    header = codec.decode(Release, raw, f"header of {release}")
    if (header.channel, header.version) != (release.channel, release.version):
        raise Integrity(f"header of {release}: is that of {header.channel}@{header.version}")
    if not header.datasets:
        raise Integrity(f"header of {release}: names no dataset")
    return header


def manifest_of(release: ReleaseId, header: Release, raw: bytes) -> Manifest:
    """The list of files in `raw`, if the header names it and every path in it is harmless.

    Raises `Integrity`, `Malformed`.
    """
    where = f"manifest of {release}"
    if (found := codec.digest(raw)) != header.manifest.digest:
        raise Integrity(f"{where}: has digest {found}, the header names {header.manifest.digest}")
    manifest = codec.decode(Manifest, raw, where)
    if manifest.files.keys() != header.datasets.keys():
        raise Integrity(f"{where}: lists {sorted(manifest.files)}, the header {sorted(header.datasets)}")
    for name, dataset in header.datasets.items():
        try:
            _check_files(dataset, manifest.files[name])
        except (Usage, UnicodeEncodeError) as e:
            raise Integrity(f"{where}, dataset {name}: {e}") from None
    return manifest


def _check_files(dataset: Dataset, files: Sequence[File]) -> None:
    """Raise `Usage` unless these files can be the dataset, and no path is in the way of another."""
    if len(files) != dataset.files or sum(f.size for f in files) != dataset.bytes:
        raise Usage(f"its files are not the {dataset.files} with {dataset.bytes} bytes that the header names")
    if not dataset.source.endswith("/") and len(files) != 1:
        raise Usage(f"the source {dataset.source} is one object, which cannot be {len(files)} files")
    paths = {check_path(f.path, "path") for f in files}
    if len(paths) != len(files):
        raise Usage("a path is listed twice")
    for path in paths:
        path.encode()  # half a character would not reach the file system
        parts = path.split("/")
        if any("/".join(parts[:n]) in paths for n in range(1, len(parts))):
            raise Usage(f"path {path!r} goes through another file")
    if any(not f.etag or '"' in f.etag or not f.etag.isprintable() for f in files):
        raise Usage("a file has no ETag that could pin it")
    for file in files:
        integrity.parse(file.check, file.size)
    if integrity.weakest(f.check for f in files).strength < integrity.level_named(dataset.integrity).strength:
        raise Usage(f"the header promises integrity {dataset.integrity}, and not every file has that")
