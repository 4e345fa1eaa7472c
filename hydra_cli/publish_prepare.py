"""What a publish decides and writes: which release the data on S3 makes, and whether it is there already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from msgspec import Struct, field
from msgspec.structs import replace

from handlers.adapters.ports import KV, Objects, Uploads
from handlers.core import codec, keys
from handlers.core.choice import choose
from handlers.core.errors import Conflict, Temporary, Usage
from handlers.core.model import DISK, RAM, Dataset, File, Manifest, ManifestRef, NodeInfo, Release
from handlers.core.names import Channel
from handlers.core.version import Version
from hydra_cli import publish_needs, publish_release, publish_source
from hydra_cli.context import Context
from hydra_cli.data_template import TemplateDataset
from hydra_cli.publish_checks import Checker
from hydra_cli.publish_release import Draft, Standing


class Wanted(Struct, frozen=True):
    """What the command line asks for; `digest`: read the data that no push has described.

    `as_of`: as if it were that time (now), for datasets with a rhythm of their own. `stage`: nobody moves
    to it.
    """

    channel: Channel
    datasets: Sequence[TemplateDataset]
    version: Version | None = None
    note: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    digest: bool = False
    as_of: datetime | None = None
    stage: bool = False
    needs: Mapping[Channel, Version] = field(default_factory=dict)


class Prepared(Struct, frozen=True):
    """A release to announce (`draft`), or one that is published already (`draft` is None)."""

    header: Release
    manifest: Manifest
    before: Standing
    draft: Draft | None


def prepare(context: Context, kv: KV, objects: Objects, uploads: Uploads, wanted: Wanted) -> Prepared:
    """Look at S3 and at Consul, and decide what there is to announce; raises when it may not be."""
    now = wanted.as_of or context.now()
    choice = choose(publish_source.look(objects, wanted.datasets, now, wanted.version), now, wanted.version)
    before = publish_release.standing(kv, wanted.channel, choice.version)
    versions = {**choice.datasets, **_kept(context, wanted, choice.datasets, before)}
    found = publish_source.collect(objects, wanted.datasets, versions.__getitem__)
    if before.header:
        datasets, manifest = _documents(found)
        if not publish_release.same(kv, objects, before.header, datasets, manifest):
            raise Conflict(
                f"{choice.version} of {wanted.channel} is published already with other content: it differs "
                f"in {publish_release.difference(before.header, datasets)}. A release never changes: "
                "give the data a new version"
            )
        publish_needs.refuse_other(before.header, wanted.labels, wanted.needs)
        return Prepared(before.header, manifest, before, None)
    checker = Checker(context, objects, uploads, digest=wanted.digest)
    found = {name: checker.checked(*row) for name, row in found.items()}
    publish_source.refuse_change(objects, wanted.datasets, found)
    datasets, manifest = _documents(found)
    publish_release.refuse_weak(before, wanted.channel, datasets)
    header = Release(
        channel=wanted.channel,
        version=choice.version,
        sequence=0,
        datasets=datasets,
        manifest=ManifestRef(digest="", bytes=0),
        labels=wanted.labels,
        needs=wanted.needs,
        note=wanted.note,
        who=context.who,
        when=context.stamp(),
    )
    draft = publish_release.draft(context, wanted.channel, header, manifest, before)
    if wanted.stage:
        draft = publish_release.staged(context, draft, before)
    return Prepared(draft.header, manifest, before, draft)


def _documents(
    found: Mapping[str, tuple[Dataset, tuple[File, ...]]],
) -> tuple[dict[str, Dataset], Manifest]:
    datasets = {name: dataset for name, (dataset, _) in found.items()}
    return datasets, Manifest(files={name: files for name, (_, files) in found.items()})


def announce(kv: KV, objects: Objects, wanted: Wanted, prepared: Prepared) -> tuple[str, Prepared]:
    """Write the release: `published` or `unchanged`, and what is in Consul now."""
    draft = prepared.draft
    if draft is None:
        return "unchanged", prepared
    try:
        publish_release.announce(kv, objects, draft)
    except (Conflict, Temporary) as e:
        # somebody else may have published the very same, and an answer lost on its way may have been a yes
        now = publish_release.standing(kv, wanted.channel, draft.header.version)
        if now.header_bytes == codec.encode(draft.header):
            return "published", prepared
        if now.header and publish_release.same(
            kv, objects, now.header, draft.header.datasets, prepared.manifest
        ):
            return "unchanged", replace(prepared, header=now.header, before=now, draft=None)
        if isinstance(e, Temporary):
            raise
        raise Conflict(
            f"somebody else changed {wanted.channel} meanwhile (head is {now.head}); "
            f"nothing was written: run it again ({e})"
        ) from None
    return "published", prepared


def check_classes(kv: KV, datasets: Sequence[TemplateDataset]) -> None:
    """Refuse a placement that no node offers: nothing would ever be able to hold the release."""
    named = {d.placement: d.name for d in datasets if d.placement not in (DISK, RAM)}
    if not named:
        return
    entries = [e for key, e in kv.list(keys.NODES).entries.items() if key.endswith("/info")]
    offered = {v.cls for e in entries for v in codec.decode(NodeInfo, e.value, e.key).volumes.values()}
    for placement, name in sorted(named.items()):
        if placement not in offered:
            known = ", ".join(sorted({DISK, RAM, *offered}))
            raise Usage(
                f"dataset {name!r}: Placement {placement!r}: no node has such a volume; known are {known}"
            )


def _kept(
    context: Context, wanted: Wanted, newest: Mapping[str, Version], before: Standing
) -> dict[str, Version]:
    """The versions of datasets with their own rhythm, where the release is published already.

    They are part of the release: a newer one goes out with the next version, and must not make publishing the
    same version again a conflict.
    """
    published = before.header.datasets if before.header else {}
    own = {d.name: published[d.name].version for d in wanted.datasets if d.own and d.name in published}
    for name, version in own.items():
        if newest[name] != version:
            context.screen.note(
                f"{name} has a newer version {newest[name]}; it goes out with the next release"
            )
    return own
