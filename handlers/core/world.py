"""Consul's KV as one frozen value: what plan, retain and the commands decide and tell by.

`entries.read` makes it. What does not parse is not absent: it is an alarm and its name is in `unreadable`, so
that decisions hold the last good state instead of acting on a gap.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import NamedTuple

from msgspec import Struct, field

from handlers.core import model
from handlers.core.freshness import Fresh
from handlers.core.names import Channel, InstanceKey, Service, segment
from handlers.core.selector import Selector
from handlers.core.version import Version

_SETTINGS = model.ChannelSettings()
_UNFETCHABLE = model.Unfetchable()
_CONTROL = model.Control()
_VERDICTS = model.Verdicts()
_PROVEN = model.Proven()
_SLOTS = model.Slots()
_ALARMS = model.Alarms()
_ROLLOUT = model.Rollout()
_TALLY = model.Tally()


class ChannelFacts(Struct, frozen=True, kw_only=True, dict=True):
    """All documents of one channel; `releases` in the order of their sequence, `digests` of their headers.

    `unreadable` has `settings`, `head`, `pin`, `staged` and `releases/<version>` where these do not parse.
    """

    name: Channel
    settings: model.ChannelSettings = _SETTINGS
    head: Version | None = None
    pin: model.Pin | None = None
    staged: model.Staged | None = None
    rejected: Mapping[Version, model.Rejected] = field(default_factory=dict)
    releases: tuple[model.Release, ...] = ()
    digests: Mapping[Version, str] = field(default_factory=dict)
    unfetchable: model.Unfetchable = _UNFETCHABLE
    unreadable: frozenset[str] = frozenset()

    @property
    def deleted(self) -> bool:
        """Whether the owner deleted the channel."""
        return self.settings.tombstone is not None

    def newest_of(self, versions: Iterable[Version | None]) -> Version | None:
        """The one of the highest sequence, of those that are releases of the channel."""
        found = (v for v in versions if v in self.by_version)
        return max(filter(None, found), key=lambda v: self.by_version[v].sequence, default=None)

    @cached_property
    def by_version(self) -> Mapping[Version, model.Release]:
        """The releases by their versions."""
        return {release.version: release for release in self.releases}


class ServiceFacts(Struct, frozen=True, kw_only=True):
    """All documents of one service; `pins` by alias.

    `unreadable` has the names of these fields, and `pin/<alias>`.
    """

    name: Service
    subscription: model.Subscription | None = None
    pins: Mapping[str, model.Pin] = field(default_factory=dict)
    control: model.Control = _CONTROL
    verdicts: model.Verdicts = _VERDICTS
    proven: model.Proven = _PROVEN
    slots: model.Slots = _SLOTS
    rollouts: model.Rollout = _ROLLOUT
    gates: model.Tally = _TALLY
    unreadable: frozenset[str] = frozenset()

    @property
    def deleted(self) -> bool:
        """Whether the owner unsubscribed the service."""
        return self.subscription is not None and self.subscription.tombstone is not None


class NodeFacts(Struct, frozen=True, kw_only=True):
    """All documents of one node; `name` as it really is, `segment` as it stands in keys.

    `known` = it has documents below `nodes/`; without them it was forgotten (`gone`), or they were lost.
    """

    segment: str
    name: str
    known: bool = False
    alive: bool = False
    info: model.NodeInfo | None = None
    instances: model.Instances | None = None
    registrations: model.Instances | None = None
    cordon: model.Cordon | None = None
    forgotten: model.Forgotten | None = None
    desired: model.Desired | None = None
    actual: model.Actual | None = None
    states: model.States | None = None
    progress: model.Progress | None = None
    unreadable: frozenset[str] = frozenset()

    @property
    def complaints(self) -> tuple[str, ...]:
        """What the node itself says is wrong: its timer of Hydra, sync of data, discover of instances."""
        health = self.info.health if self.info else ""
        stale = (f"Hydra is {health}",) if health.startswith(Fresh.STALE) else ()
        return (*stale, *(self.actual.alarms if self.actual else ()), *self.unfit)

    @property
    def unfit(self) -> tuple[str, ...]:
        """What is registered on the node in a way that makes no sense."""
        return self.instances.alarms if self.instances else ()

    @property
    def gone(self) -> bool:
        """Whether an operator forgot the node, and it did not come back since."""
        return self.forgotten is not None and not self.known

    def is_selected(self, service: Service, selector: Selector | None) -> bool:
        """Whether the service wants its data here; as planned before where that cannot be told."""
        if selector is None or self.info is None:
            before = self.desired.services.get(service) if self.desired else None
            return before is not None and not before.idle
        return selector.takes(self.info.labels)


class Replica(NamedTuple):
    """One instance of a service where it lives; `state` only if it is of this incarnation."""

    node: NodeFacts
    key: InstanceKey
    instance: model.Instance
    state: model.InstanceState | None


class World(Struct, frozen=True, kw_only=True, dict=True):
    """Everything that was read; nodes by segment.

    `published` is the alarms document as plan wrote it last, `alarms` what was wrong while reading now.
    `indexes` are the ModifyIndexes of all keys that were read, for compare-and-set.
    """

    meta: model.Meta | None = None
    channels: Mapping[Channel, ChannelFacts] = field(default_factory=dict)
    services: Mapping[Service, ServiceFacts] = field(default_factory=dict)
    nodes: Mapping[str, NodeFacts] = field(default_factory=dict)
    published: model.Alarms = _ALARMS
    alarms: tuple[model.Alarm, ...] = ()
    unreadable: frozenset[str] = frozenset()
    indexes: Mapping[str, int] = field(default_factory=dict)

    def node(self, name: str) -> NodeFacts | None:
        """The node with this real name."""
        return self.nodes.get(segment(name))

    def service(self, name: Service) -> ServiceFacts:
        """The service's facts; empty ones when nothing was written about it."""
        return self.services.get(name) or ServiceFacts(name=name)

    def replicas(self, service: Service) -> list[Replica]:
        """All instances of a service, dead nodes included, in the order of nodes and instances."""
        return self._replicas.get(service, [])

    @cached_property
    def _replicas(self) -> dict[Service, list[Replica]]:
        found: dict[Service, list[Replica]] = {}
        for node in self.nodes.values():
            for replica in replicas_of(node):
                found.setdefault(replica.instance.service, []).append(replica)
        return found


def replicas_of(node: NodeFacts) -> Iterator[Replica]:
    """The instances of one node, by key."""
    states = node.states.instances if node.states else {}
    instances = node.instances.instances if node.instances else {}
    for key, instance in sorted(instances.items()):
        state = states.get(key)
        if state is not None and state.incarnation != instance.incarnation:
            state = None  # says what an earlier replica under the same id had loaded
        yield Replica(node, key, instance, state)
