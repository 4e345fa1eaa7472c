"""Documents of channels and releases, and what the cluster says of itself."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, field

from handlers.core.model.base import FORMAT, Doc, Note, Part, count
from handlers.core.names import Channel
from handlers.core.version import Version


class Meta(Doc, frozen=True, kw_only=True):
    """`meta`: which environments live here; nodes and plan hold while it is missing."""

    environments: tuple[str, ...]
    generation_floor: int = 0

    def title(self) -> str:
        return f"Hydra's KV, format {FORMAT}, serving {', '.join(self.environments) or 'no environment yet'}"


class ChannelSettings(Doc, frozen=True, kw_only=True):
    """`channels/<c>/settings`; a `tombstone` says that the channel is deleted.

    `propagate`: what the canaries of one service find bad is bad for all services of the channel.
    """

    keep_releases: int = 10
    keep_age_s: int | None = None
    keep_on_nodes: int = 2
    least_integrity: str = "size"
    propagate: bool = False
    tombstone: Note | None = None

    def title(self) -> str:
        if self.tombstone:
            return f"This channel is deleted ({self.tombstone.why or 'no reason given'})"
        least = f"; least integrity {self.least_integrity}" if self.least_integrity != "size" else ""
        return f"Keeps {count(self.keep_releases, 'release')}, {self.keep_on_nodes} of them on nodes{least}"


class Pin(Doc, frozen=True, kw_only=True):
    """`…/pin`: written by hand as the bare version, or as this document."""

    version: Version
    who: str = ""
    why: str = ""
    until: str = ""

    def title(self) -> str:
        return f"Pinned to {self.version}" + (f": {self.why}" if self.why else "")


class Staged(Doc, frozen=True, kw_only=True):
    """`channels/<c>/staged`: a release for the nodes alone; `at` its time it becomes the head."""

    version: Version
    at: str = ""
    who: str = ""
    why: str = ""

    def title(self) -> str:
        return f"{self.version} is staged" + (f", and becomes the head at {self.at}" if self.at else "")


class Rejected(Doc, frozen=True, kw_only=True):
    """`channels/<c>/rejected/<version>`."""

    who: str = ""
    when: str = ""
    why: str = ""

    def title(self) -> str:
        return f"Rejected by {self.who or 'somebody'}: {self.why or 'no reason given'}"


class Unfetchable(Doc, frozen=True, kw_only=True):
    """`channels/<c>/unfetchable`: releases whose data cannot be fetched any more, with the reason."""

    releases: Mapping[Version, str] = field(default_factory=dict)
    who: str = ""
    when: str = ""

    def title(self) -> str:
        found = count(len(self.releases), "release")
        return f"The data of {found} cannot be fetched any more, found {self.who or 'somebody'}"


class Dataset(Part, frozen=True, kw_only=True):
    """One dataset of a release; `source` has the version filled in and ends in `/` for a prefix.

    `as_name` is the file name of a single object on nodes. `integrity` is the level of its least protected
    file (`core.integrity`), `pushed` the digest of the manifest object that `digest` was taken from.
    """

    source: str
    placement: str
    files: int
    bytes: int
    version: Version
    integrity: str = "size"
    as_name: str = ""
    pushed: str = ""


class ManifestRef(Part, frozen=True, kw_only=True):
    """Where the list of files is: in `manifests/…`, or in `object`; `digest` is that of its bytes."""

    digest: str
    bytes: int
    object: str = ""


class Release(Doc, frozen=True, kw_only=True):
    """`releases/<c>/<version>`: create-only header of one immutable set of datasets.

    `needs`: by channel the oldest release of it beside which this one may be run.
    """

    channel: Channel
    version: Version
    sequence: int
    datasets: Mapping[str, Dataset]
    manifest: ManifestRef
    labels: Mapping[str, str] = field(default_factory=dict)
    needs: Mapping[Channel, Version] = field(default_factory=dict)
    note: str = ""
    who: str = ""
    when: str = ""

    def title(self) -> str:
        size = count(sum(d.bytes for d in self.datasets.values()), "byte")
        return f"Release {self.sequence} of {self.channel}: {count(len(self.datasets), 'dataset')}, {size}"


class File(Struct, frozen=True):
    """One file of a dataset: path below the dataset, bytes, and the ETag (with its quotes stripped).

    `check` says how its bytes are known to be right (`core.integrity`), empty: not at all. `version_id` is
    the object's version in a bucket that keeps versions.
    """

    path: str
    size: int
    etag: str
    check: str = ""
    version_id: str = ""


class Manifest(Doc, frozen=True, kw_only=True):
    """`manifests/<c>/<version>` or the object beside the data: the files of each dataset."""

    files: Mapping[str, tuple[File, ...]]

    def title(self) -> str:
        return f"The {count(sum(len(f) for f in self.files.values()), 'file')} of this release"


class ManifestElsewhere(Doc, frozen=True, kw_only=True):
    """`manifests/<c>/<version>` when the list is too large for KV: the object that holds it."""

    object: str
    digest: str
    bytes: int

    def title(self) -> str:
        return f"The list of files is in {self.object}"


class Pushed(Doc, frozen=True, kw_only=True):
    """`<source without its last slash>.hydra.json` beside data on S3: its files, with digests.

    `hydra push` writes it with `complete` false before the first file, and whole after the last one. Until
    then `push` changes while it is at work (empty: it has ended), and `at` says which process that is.
    `digest` is that of this very document with an empty one in its place (`core.pushed.seal`).
    """

    files: tuple[File, ...] = ()
    digest: str = ""
    complete: bool = True
    who: str = ""
    when: str = ""
    push: str = ""
    at: str = ""

    def title(self) -> str:
        if not self.complete:
            return f"Not complete: {self.who or 'somebody'} began to push it at {self.when or 'some time'}"
        return f"The {count(len(self.files), 'file')} that {self.who or 'somebody'} pushed here"


class Alarm(Part, frozen=True, kw_only=True):
    """Something wrong that a person should look at; `object` like `channel/prod/search/places`."""

    object: str
    text: str


class Alarms(Doc, frozen=True, kw_only=True):
    """`alarms`, written by plan; `generation` is the highest that it announced, also to nodes now gone.

    `seen`: while planning is held, the highest one that any node or this planner knows of.
    """

    alarms: tuple[Alarm, ...] = ()
    generation: int = 0
    seen: int = 0

    def title(self) -> str:
        return count(len(self.alarms), "alarm") if self.alarms else "No alarm"


class Audit(Doc, frozen=True, kw_only=True):
    """`audit/<object>/<time>-<id>`: who changed what; `before` and `after` are short texts."""

    object: str
    action: str
    who: str
    when: str
    before: str = ""
    after: str = ""
    why: str = ""

    def title(self) -> str:
        return f"{self.who} {self.action} {self.object}" + (f": {self.why}" if self.why else "")
