"""Documents of nodes: what they are, what plan wants of them, what sync measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum

from msgspec import field
from msgspec.structs import replace

from handlers.core.budget import Amount
from handlers.core.model.base import Doc, Part, count
from handlers.core.names import Channel, InstanceKey, Service
from handlers.core.reading import EVERYTHING, Reads
from handlers.core.version import ReleaseId, Version


class VolumeInfo(Part, frozen=True, kw_only=True):
    """A directory for data: `cls` is DISK, RAM or a class by name; sizes in bytes, 0 = no own budget.

    `namespaces`: what the channels of `<env>/<namespace>` may take of it together; others share the rest.
    """

    cls: str
    budget_bytes: int = 0
    reserve_bytes: int = 0
    namespaces: Mapping[str, int] = field(default_factory=dict)


class NodeInfo(Doc, frozen=True, kw_only=True):
    """`nodes/<node>/info`; `node` is the name as it really is, `consul_node` the name that its agent has.

    `health` is what its timer says of the Hydra there (`core.freshness`), as discover last saw it.
    """

    node: str
    consul_node: str = ""
    volumes: Mapping[str, VolumeInfo] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    health: str = ""

    def title(self) -> str:
        return f"Node {self.node} with volumes {', '.join(sorted(self.volumes))}"


class Instance(Part, frozen=True, kw_only=True):
    """One replica of a service on one node.

    `health` is `consul` (the checks of the Consul service `consul_name` with id `id`), `kubernetes`
    (`serving` says it, None = cannot be seen now), an HTTP URL that answers 2xx while in service, or `none`
    (in service as soon as it is `ready`). `incarnation` changes when the replica is another one under the
    same id (Consul CreateIndex, pod UID). `leaving`: it is being ended, so it is moved no more. `reads`: what
    it can read, in place of what its service says (`core.reading`).
    """

    service: Service
    id: str
    incarnation: str
    address: str = ""
    port: int = 0
    health: str = "consul"
    consul_name: str = ""
    serving: bool | None = None
    leaving: bool = False
    reads: Reads = EVERYTHING


class Instances(Doc, frozen=True, kw_only=True):
    """`nodes/<node>/instances` (written by discover) and `nodes/<node>/registrations` (by operators).

    `alarms` are discover's: what is registered in a way that makes no sense.
    """

    instances: Mapping[InstanceKey, Instance] = field(default_factory=dict)
    alarms: tuple[str, ...] = ()

    def title(self) -> str:
        return count(len(self.instances), "instance")


class Cordon(Doc, frozen=True, kw_only=True):
    """`nodes/<node>/cordon`."""

    who: str = ""
    when: str = ""
    why: str = ""

    def title(self) -> str:
        return f"Cordoned by {self.who or 'somebody'}: no new data and no reloads here"


class Forgotten(Doc, frozen=True, kw_only=True):
    """`nodes/<node>/forgotten`: the tombstone of a node; without effect once the node is back."""

    node: str = ""
    who: str = ""
    when: str = ""
    why: str = ""

    def title(self) -> str:
        return f"Forgotten by {self.who or 'somebody'}: retain removes what is left of this node"


class Hold(Part, frozen=True, kw_only=True):
    """A release that a node holds: SHA-256 of its header in KV, its sequence, and why it is held.

    `least_integrity`: what its channel demands; nothing that is protected less is fetched. None = anything.
    `crowd`: how many nodes got the order together with this one, as a power of ten, so that they do not all
    begin in the same second. `until`: nothing needs it any more, it is kept for a rollback or for the next
    instance, which are likely until then; nodes may give it up for one that is needed. Empty = it is needed.
    `needs`: by channel the least sequence of what may be run beside it.
    """

    digest: str
    sequence: int
    why: tuple[str, ...] = ()
    least_integrity: str | None = None
    crowd: int = 1
    until: str = ""
    needs: Mapping[Channel, int] = field(default_factory=dict)


class AliasPlan(Part, frozen=True, kw_only=True):
    """What a service runs under one alias.

    `target` is where instances move; `start` what a new instance begins with; None = nothing yet.
    `held` says why moves to the target stop (halted, rejected, no such release); empty = they go on.
    `passed` says why the target is not what pin or head name: it cannot be read, or needs what is not there.
    """

    channel: Channel
    target: Version | None = None
    start: Version | None = None
    held: str = ""
    passed: str = ""


class InstancePlan(Part, frozen=True, kw_only=True):
    """What one instance runs by alias, where that is not what the others of its service here run."""

    aliases: Mapping[str, AliasPlan]


class ServicePlan(Part, frozen=True, kw_only=True):
    """All that a node must know to move its instances of one service.

    Most fields are as in the subscription, so that nodes and plan go on where that is lost. `retry` are
    verdict ids that an operator has overruled. `waits` says why it is not yet the turn of the
    instances here to move to what is `fresh`, those in `goes` (last parts of their keys) excepted. Where the
    others are is in `proven/<s>`. `others`: what has another plan than `aliases`, since it says itself what
    it reads, by last part of its key. `idle`: no instance is here any more; the next one begins with what is
    kept for it, also while nobody plans.
    """

    aliases: Mapping[str, AliasPlan]
    reads: Reads = EVERYTHING
    reload: str = "none"
    confirm: str = "health"
    drain: str = "check"
    drain_s: float = 5.0
    deadline_s: float = 300.0
    max_unavailable: Amount = 1
    min_available: Amount | None = None
    budget_by: str = ""
    warm_up: str = ""
    ram: str = "via-disk"
    nodes: str = ""
    paused: bool = False
    retry: tuple[str, ...] = ()
    waits: str = ""
    goes: tuple[str, ...] = ()
    fresh: tuple[ReleaseId, ...] = ()
    others: Mapping[str, InstancePlan] = field(default_factory=dict)
    idle: bool = False

    def of(self, instance: InstanceKey) -> ServicePlan:
        """The plan of one instance here."""
        own = self.others.get(instance.segment)
        return self if own is None else replace(self, aliases=own.aliases)

    def all_aliases(self) -> Iterator[AliasPlan]:
        """What anybody here runs under any alias."""
        for aliases in (self.aliases, *(own.aliases for own in self.others.values())):
            yield from aliases.values()

    def lets_go(self, instance: InstanceKey, release: ReleaseId | None = None) -> bool:
        """Whether it is this instance's turn; for one release, whether it needs any to move there."""
        if not self.waits or instance.segment in self.goes:
            return True
        # an older planner does not say what is fresh: then all is
        return release is not None and bool(self.fresh) and release not in self.fresh


class Desired(Doc, frozen=True, kw_only=True):
    """`desired/<node>`: what plan wants of one node. `ram`: version in RAM by `<channel>/<dataset>`."""

    node: str
    generation: int
    releases: Mapping[ReleaseId, Hold] = field(default_factory=dict)
    ram: Mapping[str, Version] = field(default_factory=dict)
    services: Mapping[Service, ServicePlan] = field(default_factory=dict)
    cordoned: bool = False

    def title(self) -> str:
        held, readers = count(len(self.releases), "release"), count(len(self.services), "service")
        return f"Node {self.node} should hold {held} for {readers}"


class State(StrEnum):
    """Where a release is on a node."""

    WAITING = "WAITING"
    DOWNLOADING = "DOWNLOADING"
    SUCCESS = "SUCCESS"
    FAILED = "FAILED"


class ReleaseStatus(Part, frozen=True, kw_only=True):
    """One release on one node; `next_try` is a time for people; `integrity` by dataset."""

    state: State
    reason: str = ""
    bytes: int = 0
    next_try: str = ""
    integrity: Mapping[str, str] = field(default_factory=dict)


class Actual(Doc, frozen=True, kw_only=True):
    """`actual/<node>`: the generation that sync took over and how far each release is."""

    node: str
    generation: int
    releases: Mapping[ReleaseId, ReleaseStatus] = field(default_factory=dict)
    alarms: tuple[str, ...] = ()

    def title(self) -> str:
        done = sum(r.state is State.SUCCESS for r in self.releases.values())
        return f"Node {self.node} holds {done} of {count(len(self.releases), 'release')}"


class Download(Part, frozen=True, kw_only=True):
    """Progress of one release: bytes done and in all, bytes per second."""

    done: int
    total: int
    speed: int = 0


class VolumeUse(Part, frozen=True, kw_only=True):
    """Room on a volume: `size` is what all releases may take of it, `free` what is left now, both in bytes
    above the reserve and within the budget; `files` are inodes; `namespaces` what is left of their budgets.
    Of a volume that shares its file system, `free` is what the budget leaves: see `JointRoom`.

    `holds`: the complete datasets on it, by release. Nothing of a RAM volume, which is only a cache.
    """

    size: int
    free: int
    files: int
    namespaces: Mapping[str, int] = field(default_factory=dict)
    holds: Mapping[ReleaseId, tuple[str, ...]] = field(default_factory=dict)


class JointRoom(Part, frozen=True, kw_only=True):
    """What is free for several volumes together, because they are on one file system: bytes and inodes."""

    free: int
    files: int


class Progress(Doc, frozen=True, kw_only=True):
    """`progress/<node>`: downloads and free bytes by volume, for people; and for whoever publishes, `volumes`
    and the rooms of those on one file system (`joint`, by `room.joint_room`).
    """

    node: str
    downloads: Mapping[ReleaseId, Download] = field(default_factory=dict)
    free: Mapping[str, int] = field(default_factory=dict)
    volumes: Mapping[str, VolumeUse] = field(default_factory=dict)
    joint: Mapping[str, JointRoom] = field(default_factory=dict)
    when: str = ""

    def title(self) -> str:
        return f"Node {self.node} is downloading {count(len(self.downloads), 'release')}"
