"""The documents of Hydra's KV, format 1, as frozen values.

Field names are the JSON names (`codec` turns one into the other, strictly). Times are ISO 8601 text in UTC
and only for people: order comes from sequence numbers and generations. Fields that this program does not
know are kept in `extra`, so that an older program does not erase what a newer one wrote.
`title()` becomes the `about` of the document: one sentence for whoever opens it in the Consul UI.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from handlers.core.names import Channel, InstanceKey, Service
from handlers.core.version import ReleaseId, Version

FORMAT = 1
DISK = "DISK"
RAM = "RAM"


@dataclass(frozen=True, kw_only=True)
class Part:
    """A nested object of a document."""

    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Doc(Part):
    """A whole document; has `format` and `about` in JSON."""

    def title(self) -> str:
        """One sentence for people: what this document is."""
        return type(self).__name__


@dataclass(frozen=True, kw_only=True)
class Note(Part):
    """Who did something, when and why: tombstones, cordons, rejections, pins."""

    who: str = ""
    when: str = ""
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Meta(Doc):
    """`meta`: which environments live here; nodes and plan hold while it is missing."""

    environments: tuple[str, ...]
    generation_floor: int = 0

    def title(self) -> str:
        return f"Hydra's KV, format {FORMAT}, serving {', '.join(self.environments) or 'no environment yet'}"


@dataclass(frozen=True, kw_only=True)
class ChannelSettings(Doc):
    """`channels/<c>/settings`; a `tombstone` says that the channel is deleted."""

    keep_releases: int = 10
    keep_age_s: int | None = None
    keep_on_nodes: int = 2
    least_integrity: str = "size"
    tombstone: Note | None = None

    def title(self) -> str:
        if self.tombstone:
            return f"This channel is deleted ({self.tombstone.why or 'no reason given'})"
        return f"Keeps {self.keep_releases} releases, {self.keep_on_nodes} of them on nodes"


@dataclass(frozen=True, kw_only=True)
class Pin(Doc):
    """`…/pin`: written by hand as the bare version, or as this document."""

    version: Version
    who: str = ""
    why: str = ""
    until: str = ""

    def title(self) -> str:
        return f"Pinned to {self.version}" + (f": {self.why}" if self.why else "")


@dataclass(frozen=True, kw_only=True)
class Rejected(Doc):
    """`channels/<c>/rejected/<version>`."""

    who: str = ""
    when: str = ""
    why: str = ""

    def title(self) -> str:
        return f"Rejected by {self.who or 'somebody'}: {self.why or 'no reason given'}"


@dataclass(frozen=True, kw_only=True)
class Dataset(Part):
    """One dataset of a release; `source` has the version filled in and ends in `/` for a prefix.

    `as_name` is the file name of a single object on nodes; `integrity` the level that S3 offered.
    """

    source: str
    placement: str
    files: int
    bytes: int
    version: Version
    integrity: str = "size"
    as_name: str = ""


@dataclass(frozen=True, kw_only=True)
class ManifestRef(Part):
    """Where the list of files is: in `manifests/…`, or in the object `object`; digest `sha256:<hex>` of its bytes."""

    digest: str
    bytes: int
    object: str = ""


@dataclass(frozen=True, kw_only=True)
class Release(Doc):
    """`releases/<c>/<version>`: create-only header of one immutable set of datasets."""

    channel: Channel
    version: Version
    sequence: int
    datasets: Mapping[str, Dataset]
    manifest: ManifestRef
    labels: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    who: str = ""
    when: str = ""

    def title(self) -> str:
        size = sum(d.bytes for d in self.datasets.values())
        return f"Release {self.sequence} of {self.channel}: {len(self.datasets)} datasets, {size} bytes"


@dataclass(frozen=True, kw_only=True)
class File(Part):
    """One file of a dataset: path below the dataset, bytes, and the ETag (with its quotes stripped)."""

    path: str
    size: int
    etag: str


@dataclass(frozen=True, kw_only=True)
class Manifest(Doc):
    """`manifests/<c>/<version>` or the object beside the data: the files of each dataset."""

    files: Mapping[str, tuple[File, ...]]

    def title(self) -> str:
        return f"The {sum(len(f) for f in self.files.values())} files of this release"


@dataclass(frozen=True, kw_only=True)
class ManifestElsewhere(Doc):
    """`manifests/<c>/<version>` when the list is too large for KV: the object that holds it."""

    object: str
    digest: str
    bytes: int

    def title(self) -> str:
        return f"The list of files is in {self.object}"


@dataclass(frozen=True, kw_only=True)
class Subscription(Doc):
    """`services/<s>/subscription`: channels by alias and how instances are moved; or a tombstone.

    `reload`, `confirm`, `drain` are texts as in `handlers.core.policy`. Seconds in `_s`.
    """

    channels: Mapping[str, Channel] = field(default_factory=dict)
    reload: str = "none"
    confirm: str = "health"
    drain: str = "check"
    drain_s: float = 5.0
    deadline_s: float = 300.0
    max_unavailable: int = 1
    ram: str = "via-disk"
    tombstone: Note | None = None

    def title(self) -> str:
        if self.tombstone:
            return f"This service is unsubscribed ({self.tombstone.why or 'no reason given'})"
        return "Reads " + ", ".join(f"{a} from {c}" for a, c in sorted(self.channels.items()))


@dataclass(frozen=True, kw_only=True)
class Control(Doc):
    """`services/<s>/control`: an operator's orders for the rollouts of one service.

    `retry` names verdict ids that no longer hold; `abort` releases that nobody may run or move to.
    """

    paused: bool = False
    retry: tuple[str, ...] = ()
    abort: tuple[ReleaseId, ...] = ()
    who: str = ""
    when: str = ""
    why: str = ""

    def title(self) -> str:
        return "Rollouts are paused" if self.paused else "Rollouts may go on"


@dataclass(frozen=True, kw_only=True)
class Verdict(Part):
    """What an instance found of one release: `halted` (moves stop) or `bad` (instances go back)."""

    id: str
    verdict: str
    reason: str
    node: str
    instance: str
    when: str = ""


@dataclass(frozen=True, kw_only=True)
class Verdicts(Doc):
    """`verdicts/<s>`."""

    releases: Mapping[ReleaseId, Verdict] = field(default_factory=dict)

    def title(self) -> str:
        return "; ".join(f"{r} {v.verdict}: {v.reason}" for r, v in sorted(self.releases.items())) or "No verdict"


@dataclass(frozen=True, kw_only=True)
class SlotEntry(Part):
    """One instance that is out of service for a reload; outlives the session that made it."""

    node: str
    instance: str
    incarnation: str
    since: str = ""


@dataclass(frozen=True, kw_only=True)
class Slots(Doc):
    """`slots/<s>`: who is out, by `<node>.<id>`."""

    out: Mapping[str, SlotEntry] = field(default_factory=dict)

    def title(self) -> str:
        return f"Out of service for a reload: {', '.join(sorted(self.out)) or 'nobody'}"


@dataclass(frozen=True, kw_only=True)
class VolumeInfo(Part):
    """A directory for data: `cls` is DISK, RAM or a class by name; sizes in bytes, 0 = no own budget."""

    cls: str
    budget_bytes: int = 0
    reserve_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class NodeInfo(Doc):
    """`nodes/<node>/info`; `node` is the name as it really is."""

    node: str
    volumes: Mapping[str, VolumeInfo] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def title(self) -> str:
        return f"Node {self.node} with volumes {', '.join(sorted(self.volumes))}"


@dataclass(frozen=True, kw_only=True)
class Instance(Part):
    """One replica of a service on one node.

    `health` is `consul` (the checks of the Consul service `consul_name` with id `id`), an HTTP URL that answers
    2xx while in service, or `none` (in service as soon as it is `ready`). `incarnation` changes when the
    replica is another one under the same id (Consul CreateIndex, pod UID).
    """

    service: Service
    id: str
    incarnation: str
    address: str = ""
    port: int = 0
    health: str = "consul"
    consul_name: str = ""


@dataclass(frozen=True, kw_only=True)
class Instances(Doc):
    """`nodes/<node>/instances` (written by discover) and `nodes/<node>/registrations` (by operators)."""

    instances: Mapping[InstanceKey, Instance] = field(default_factory=dict)

    def title(self) -> str:
        return f"{len(self.instances)} instances"


@dataclass(frozen=True, kw_only=True)
class Cordon(Doc):
    """`nodes/<node>/cordon`."""

    who: str = ""
    when: str = ""
    why: str = ""

    def title(self) -> str:
        return f"Cordoned by {self.who or 'somebody'}: no new data and no reloads here"


@dataclass(frozen=True, kw_only=True)
class Hold(Part):
    """A release that a node holds: SHA-256 of its header in KV, its sequence, and why it is held."""

    digest: str
    sequence: int
    why: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class AliasPlan(Part):
    """What a service runs under one alias.

    `target` is where instances move; `start` what a new instance begins with; None = nothing yet.
    `held` says why moves to the target stop (halted, rejected, no such release); empty = they go on.
    """

    channel: Channel
    target: Version | None = None
    start: Version | None = None
    held: str = ""


@dataclass(frozen=True, kw_only=True)
class ServicePlan(Part):
    """All that a node must know to move its instances of one service.

    `nodes` are the real names of all nodes with instances of the service; `instances` counts them all.
    `retry` are verdict ids that an operator has overruled.
    """

    aliases: Mapping[str, AliasPlan]
    reload: str = "none"
    confirm: str = "health"
    drain: str = "check"
    drain_s: float = 5.0
    deadline_s: float = 300.0
    max_unavailable: int = 1
    ram: str = "via-disk"
    paused: bool = False
    retry: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Desired(Doc):
    """`desired/<node>`: what plan wants of one node. `ram`: version in RAM by `<channel>/<dataset>`."""

    node: str
    generation: int
    releases: Mapping[ReleaseId, Hold] = field(default_factory=dict)
    ram: Mapping[str, Version] = field(default_factory=dict)
    services: Mapping[Service, ServicePlan] = field(default_factory=dict)
    cordoned: bool = False

    def title(self) -> str:
        return f"Node {self.node} should hold {len(self.releases)} releases for {len(self.services)} services"


class State(StrEnum):
    """Where a release is on a node."""

    WAITING = "WAITING"
    DOWNLOADING = "DOWNLOADING"
    SUCCESS = "SUCCESS"
    FAILED = "FAILED"


@dataclass(frozen=True, kw_only=True)
class ReleaseStatus(Part):
    """One release on one node; `next_try` is a time for people; `integrity` by dataset."""

    state: State
    reason: str = ""
    bytes: int = 0
    next_try: str = ""
    integrity: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Actual(Doc):
    """`actual/<node>`: the generation that sync took over and how far each release is."""

    node: str
    generation: int
    releases: Mapping[ReleaseId, ReleaseStatus] = field(default_factory=dict)
    alarms: tuple[str, ...] = ()

    def title(self) -> str:
        done = sum(r.state is State.SUCCESS for r in self.releases.values())
        return f"Node {self.node} holds {done} of {len(self.releases)} releases"


@dataclass(frozen=True, kw_only=True)
class Download(Part):
    """Progress of one release: bytes done and in all, bytes per second."""

    done: int
    total: int
    speed: int = 0


@dataclass(frozen=True, kw_only=True)
class Progress(Doc):
    """`progress/<node>`: for people only; free bytes by volume."""

    node: str
    downloads: Mapping[ReleaseId, Download] = field(default_factory=dict)
    free: Mapping[str, int] = field(default_factory=dict)
    when: str = ""

    def title(self) -> str:
        return f"Node {self.node} is downloading {len(self.downloads)} releases"


class Ready(StrEnum):
    """The word in a view's `state` file."""

    WAITING = "waiting"
    READY = "ready"
    DRAINING = "draining"


class Step(StrEnum):
    """How far a move of an instance is; `IDLE` between moves. See `handlers.core.rollout`."""

    IDLE = "idle"
    FILL = "fill"
    ADMIT = "admit"
    DRAIN = "drain"
    FLIP = "flip"
    RELOAD = "reload"
    CONFIRM = "confirm"
    RETURN = "return"


@dataclass(frozen=True, kw_only=True)
class InstanceState(Part):
    """What reload says of one instance.

    `releases` are what it has confirmed, by alias; `moving` what it is on its way to (empty when idle).
    `served` = it was in service at least once in this incarnation. `media` names, by `<alias>/<dataset>`,
    from which medium a dataset was loaded where that is RAM. `reason` is a sentence for people.
    `back` = this move returns to the old release after a failure.
    """

    service: Service
    id: str
    incarnation: str
    state: Ready
    step: Step = Step.IDLE
    reason: str = ""
    releases: Mapping[str, Version] = field(default_factory=dict)
    moving: Mapping[str, Version] = field(default_factory=dict)
    target: Mapping[str, Version] = field(default_factory=dict)
    media: Mapping[str, str] = field(default_factory=dict)
    served: bool = False
    back: bool = False
    since: str = ""


@dataclass(frozen=True, kw_only=True)
class States(Doc):
    """`states/<node>`: rendered by consul-template into the readiness files. `sequence` rises at each write."""

    node: str
    sequence: int = 0
    instances: Mapping[InstanceKey, InstanceState] = field(default_factory=dict)

    def title(self) -> str:
        ready = sum(i.state is Ready.READY for i in self.instances.values())
        return f"{ready} of {len(self.instances)} instances on {self.node} are ready"


@dataclass(frozen=True, kw_only=True)
class Proven(Doc):
    """`proven/<s>`, written by plan: by channel, the versions that all live instances once confirmed, newest last."""

    channels: Mapping[Channel, tuple[Version, ...]] = field(default_factory=dict)

    def title(self) -> str:
        newest = ", ".join(f"{c}@{v[-1]}" for c, v in sorted(self.channels.items()) if v)
        return f"Proven: {newest or 'nothing yet'}"


@dataclass(frozen=True, kw_only=True)
class Alarm(Part):
    """Something wrong that a person should look at; `object` like `channel/prod/search/places`."""

    object: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Alarms(Doc):
    """`alarms`, written by plan."""

    alarms: tuple[Alarm, ...] = ()

    def title(self) -> str:
        return f"{len(self.alarms)} alarms" if self.alarms else "No alarm"


@dataclass(frozen=True, kw_only=True)
class Audit(Doc):
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
