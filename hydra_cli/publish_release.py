"""A release as documents, and the one transaction that announces it.

A list of files that would not fit into the transaction becomes an object beside the first dataset's data
(the first that is not on a web server),

    <prefix before the version>.hydra/manifests/<env>/<namespace>/<name>/<version>-<16 hex of its digest>.json

and its digest stands in KV. The name carries the digest, so that an attempt that ended half-way never stands
in the way of the next one, which may see other files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from handlers.adapters.ports import (
    KV,
    MAX_TXN_BYTES,
    Cas,
    CheckIndex,
    Entry,
    Objects,
    Op,
    Source,
    read_object,
)
from handlers.adapters.txn import check_size, op_bytes, plain
from handlers.core import codec, integrity, keys
from handlers.core.errors import Conflict, Integrity, Malformed, NotTakenOver, Usage
from handlers.core.model import (
    ChannelSettings,
    Dataset,
    Manifest,
    ManifestElsewhere,
    ManifestRef,
    Rejected,
    Release,
    Staged,
)
from handlers.core.names import Channel
from handlers.core.source import WEB
from handlers.core.version import Version
from hydra_cli.change import audit, require_environment
from hydra_cli.context import Context


class Standing(Struct, frozen=True):
    """What Consul has of a channel before a publish; `entries` by key as read, None = nothing there."""

    entries: Mapping[str, Entry | None]
    head: Version | None
    highest: int
    header: Release | None
    header_bytes: bytes = b""

    def guard(self, key: str) -> Op:
        """Fail the transaction when `key` is not any more what was read."""
        entry = self.entries[key]
        return CheckIndex(key, entry.index if entry else 0)

    def index(self, key: str) -> int:
        """The ModifyIndex that was read; 0 = the key did not exist."""
        entry = self.entries[key]
        return entry.index if entry else 0


class Draft(Struct, frozen=True):
    """A release about to be announced: header, transaction, and the object for a long list of files."""

    header: Release
    ops: Sequence[Op]
    place: Source | None = None
    list_bytes: bytes = b""
    staged: bool = False

    def body(self) -> list[dict[str, object]]:
        """The transaction as Consul's /v1/txn takes it."""
        return [{"KV": plain(op)} for op in self.ops]


def standing(kv: KV, channel: Channel, version: Version) -> Standing:
    """Read all that a publish depends on, the head first, which guards the rest; refuse what may not be."""
    meta = require_environment(kv, channel.env)
    wanted = (
        keys.head(channel),
        keys.settings(channel),
        keys.rejected(channel, version),
        keys.staged(channel),
    )
    entries: dict[str, Entry | None] = {keys.META: meta, **{key: kv.get(key)[0] for key in wanted}}
    head, settings, rejected, _ = (entries[key] for key in wanted)
    if settings:
        tombstone = codec.decode(ChannelSettings, settings.value, settings.key).tombstone
        if tombstone:
            raise Usage(
                f"channel {channel} was deleted by {tombstone.who or 'somebody'} "
                f"({tombstone.why or 'no reason given'}); "
                f"`hydra channel set {channel} --restore` brings it back"
            )
    if rejected:
        said = _rejection(rejected)
        raise NotTakenOver(
            f"version {version} of {channel} is rejected{said}; "
            f"`hydra accept {channel} {version}` takes that back"
        )
    listed = kv.list(keys.releases(channel)).entries
    headers = {key: codec.decode(Release, entry.value, key) for key, entry in listed.items()}
    own = keys.release(channel, version)
    return Standing(
        entries=entries,
        head=_readable(head),
        highest=max((header.sequence for header in headers.values()), default=0),
        header=headers.get(own),
        header_bytes=listed[own].value if own in listed else b"",
    )


def draft(context: Context, channel: Channel, header: Release, manifest: Manifest, before: Standing) -> Draft:
    """The release that follows `before`, and the transaction that announces it."""
    raw = codec.encode(manifest)
    ref = ManifestRef(digest=codec.digest(raw), bytes=len(raw))
    header = replace(header, sequence=before.highest + 1, manifest=ref)
    inline = _ops(context, channel, header, raw, before)
    if sum(op_bytes(op) for op in inline) <= MAX_TXN_BYTES:
        return Draft(header, inline)
    place = list_place(header, ref.digest)
    header = replace(header, manifest=replace(ref, object=str(place)))
    elsewhere = codec.encode(ManifestElsewhere(object=str(place), digest=ref.digest, bytes=ref.bytes))
    ops = _ops(context, channel, header, elsewhere, before)
    check_size(ops)
    return Draft(header, ops, place, raw)


def without_head(draft: Draft, before: Standing) -> Draft:
    """The same release for the channel's history only: the head stays what it is."""
    head = keys.head(draft.header.channel)
    return replace(draft, ops=[before.guard(head) if op.key == head else op for op in draft.ops])


def staged(context: Context, draft: Draft, before: Standing) -> Draft:
    """The same release for the nodes only: they hold it, and nobody moves to it before it is promoted."""
    key = keys.staged(draft.header.channel)
    document = Staged(version=draft.header.version, who=context.who, why=draft.header.note)
    whole = without_head(draft, before)
    return replace(whole, ops=[*whole.ops, Cas(key, codec.encode(document), before.index(key))], staged=True)


def announce(kv: KV, objects: Objects, draft: Draft) -> None:
    """Write it: the object first, then all else at once. Raises `Conflict` when somebody was faster."""
    if draft.place:
        objects.put(draft.place, draft.list_bytes)
    kv.txn(draft.ops)


def same(
    kv: KV, objects: Objects, header: Release, datasets: Mapping[str, Dataset], manifest: Manifest
) -> bool:
    """Whether the published `header` is the release of these datasets and objects."""
    if {n: _essence(d) for n, d in header.datasets.items()} != {n: _essence(d) for n, d in datasets.items()}:
        return False
    if header.manifest.digest == codec.digest(codec.encode(manifest)):
        return True
    # the checks may be others, and whoever published without this program may have written other bytes
    return _objects_of(published_manifest(kv, objects, header)) == _objects_of(manifest)


def refuse_weak(before: Standing, channel: Channel, datasets: Mapping[str, Dataset]) -> None:
    """Raise `Integrity` for datasets whose bytes are protected less than the channel demands."""
    entry = before.entries[keys.settings(channel)]
    settings = codec.decode(ChannelSettings, entry.value, entry.key) if entry else ChannelSettings()
    least = settings.least_integrity
    if weak := integrity.below({name: d.integrity for name, d in datasets.items()}, least):
        raise Integrity(
            f"channel {channel} demands integrity {least}, but {', '.join(weak)}: upload with `hydra push`, "
            "or publish with --digest (`hydra channel set --least-integrity` demands less)"
        )


def difference(header: Release, datasets: Mapping[str, Dataset]) -> str:
    """In which datasets two releases of one version differ, for the error that refuses the second."""
    changed = sorted(
        name
        for name in header.datasets.keys() | datasets.keys()
        if _essence(header.datasets.get(name)) != _essence(datasets.get(name))
    )
    return f"datasets {', '.join(changed)}" if changed else "files that were replaced since"


def _objects_of(manifest: Manifest) -> dict[str, list[tuple[str, int, str]]]:
    """Which objects a release has, whatever is known of their bytes."""
    return {name: [(f.path, f.size, f.etag) for f in files] for name, files in manifest.files.items()}


def _essence(dataset: Dataset | None) -> tuple[object, ...]:
    if dataset is None:
        return ()
    return (dataset.source, dataset.placement, dataset.files, dataset.bytes, dataset.version, dataset.as_name)


def published_manifest(kv: KV, objects: Objects | None, header: Release) -> Manifest:
    """The list of files of a published release; a long one is an object, which `objects` reads."""
    key = keys.manifest(header.channel, header.version)
    if header.manifest.object and objects:
        place = Source.parse(header.manifest.object)
        raw = read_object(objects, place, objects.head(place))
        return codec.decode(Manifest, raw, header.manifest.object)
    entry, _ = kv.get(key)
    if entry is None:
        raise Conflict(f"{header.channel}@{header.version} is published, but its list of files {key} is gone")
    return codec.decode(Manifest, entry.value, key)


def _ops(context: Context, channel: Channel, header: Release, manifest: bytes, before: Standing) -> list[Op]:
    """Announce last, all or nothing: header and list of files are new, the head is the one that was read.

    A rejection that comes in between is not guarded: Consul wants write permission for "does not exist yet",
    which a publisher has not got there, and plan never moves anybody to a rejected head.
    """
    version, head, settings = header.version, keys.head(channel), keys.settings(channel)
    ops: list[Op] = [
        before.guard(keys.META),
        Cas(keys.release(channel, version), codec.encode(header), 0),
        Cas(keys.manifest(channel, version), manifest, 0),
        Cas(head, version.encode(), before.index(head)),
    ]
    if before.entries[settings] is None:
        ops.append(Cas(settings, codec.encode(ChannelSettings()), 0))
    else:
        ops.append(before.guard(settings))
    entry = audit(
        context, f"channel/{channel}", "published", before=before.head or "", after=version, why=header.note
    )
    return [*ops, entry]


def list_place(header: Release, digest: str) -> Source:
    """Where a list of files lies that does not fit into the transaction: beside the first dataset's data."""
    sources = {name: Source.parse(d.source) for name, d in sorted(header.datasets.items())}
    first = next((name for name, source in sources.items() if source.scheme not in WEB), None)
    if first is None:
        raise Usage("the list of files is too long for Consul, and there is no place for it on a web server")
    source, dataset = sources[first], header.datasets[first]
    before = source.key.partition(dataset.version)[0]
    folder = before[: before.rfind("/") + 1]
    name = f"{header.version}-{digest.removeprefix('sha256:')[:16]}.json"
    return source.beside(f"{folder}.hydra/manifests/{header.channel}/{name}")


def _readable(head: Entry | None) -> Version | None:
    """The head's version; None also for a bad one written by hand, which the publish replaces."""
    try:
        return codec.decode_version(head.value, head.key) if head else None
    except Malformed:
        return None


def _rejection(entry: Entry) -> str:
    try:
        said = codec.decode(Rejected, entry.value, entry.key)
    except Malformed:
        return ""  # written by hand: that it exists is what counts
    return f" by {said.who or 'somebody'}: {said.why or 'no reason given'}"
