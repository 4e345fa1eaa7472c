"""Which instances a node has: from Consul's catalog, from its pods, and from what operators registered.

An instance appears at once and goes late: only when it was missing in two complete reads far enough apart,
and never because something is unreadable, malformed or empty for a moment. A replica whose view were taken
away while it serves would be out of service. Only a pod goes at once, when the API server says that it was
deleted or has ended: its UID never comes back.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, field
from msgspec.structs import replace

from handlers.core.errors import Usage
from handlers.core.model import Instance
from handlers.core.names import InstanceKey, Service
from handlers.core.pods import HEALTH as BY_KUBERNETES
from handlers.core.reading import Reads

META = "hydra_service"
READS = "hydra_reads"
Known = Mapping[InstanceKey, Instance]


class Registered(Struct, frozen=True, kw_only=True):
    """One service as Consul's catalog has it on this node; `incarnation` is its CreateIndex.

    An agent alone does not know that: it is empty until the catalog can be read.
    """

    id: str
    name: str
    address: str
    port: int
    incarnation: str
    meta: Mapping[str, str] = field(default_factory=dict)


class Reading(Struct, frozen=True, kw_only=True):
    """One look at everything. None means unreadable, which is not the same as empty.

    `catalog`: the services of this node. `agent_ids`: the ids that the node's own agent has registered; after
    a restore the catalog forgets services that the agent is about to register again. `by_hand`: the document
    of the operators. `pods`: the node's pods; `ended` are UIDs of pods that are surely gone. `agent`: where
    the catalog is unreadable, the services of the node's own agent, which answers without any server.
    """

    catalog: tuple[Registered, ...] | None
    agent_ids: frozenset[str] | None
    by_hand: Known | None
    pods: Known | None = field(default_factory=dict)
    ended: frozenset[str] = frozenset()
    agent: tuple[Registered, ...] = ()


class Discovery(Struct, frozen=True, kw_only=True):
    """The node's instances, since when some of them are missing (seconds), and what is wrong (sentences)."""

    instances: Known = field(default_factory=dict)
    missing: Mapping[InstanceKey, float] = field(default_factory=dict)
    alarms: tuple[str, ...] = ()
    dropped: tuple[InstanceKey, ...] = ()


def discover(before: Discovery, reading: Reading, now: float, drop_after_s: float) -> Discovery:
    """What is known after `reading`; `now` and `before.missing` are on the same clock."""
    present, bad_ids, alarms = _in_catalog(reading.agent if reading.catalog is None else reading.catalog)
    if reading.catalog is None:
        # an agent does not tell the incarnation: what is known already stays as it was
        present = {key: instance for key, instance in present.items() if key not in before.instances}
    elif reading.agent_ids is not None:
        # a restored catalog lists what was deregistered since, until the agent takes it away again
        ours = before.instances.keys() | {key for key, i in present.items() if i.id in reading.agent_ids}
        present = {key: instance for key, instance in present.items() if key in ours}
    present |= reading.pods or {}
    for written, instance in sorted((reading.by_hand or {}).items()):
        key = InstanceKey.of(instance.service, instance.id)
        if key in present:
            alarms.append(f"registration {written}: this instance is known from elsewhere; left out")
        else:
            present[key] = instance
    instances, missing, dropped = dict(present), {}, []
    for key, instance in before.instances.items():
        if key in present:
            continue
        since = before.missing.get(key)
        if _unclear(instance, reading, bad_ids):
            instances[key] = replace(instance, serving=None)
        elif instance.incarnation in reading.ended:
            dropped.append(key)
        elif since is None or now - since < drop_after_s:
            instances[key], missing[key] = instance, now if since is None else since
        else:
            dropped.append(key)
    return Discovery(instances=instances, missing=missing, alarms=tuple(alarms), dropped=tuple(dropped))


def _unclear(instance: Instance, reading: Reading, bad_ids: frozenset[str]) -> bool:
    """Whether the reading does not tell if the instance, which it does not have, is gone."""
    if instance.health == BY_KUBERNETES:
        return reading.pods is None
    if None in (reading.catalog, reading.agent_ids, reading.by_hand):
        return True
    if not instance.consul_name:
        return False
    ids_of_agent = reading.agent_ids or frozenset()
    in_catalog = {row.id for row in reading.catalog or ()}
    return instance.id in bad_ids or (instance.id in ids_of_agent and instance.id not in in_catalog)


def _in_catalog(
    catalog: tuple[Registered, ...],
) -> tuple[dict[InstanceKey, Instance], frozenset[str], list[str]]:
    """The instances that say to which service they belong, the ids of those that say it wrongly, alarms."""
    found: dict[InstanceKey, Instance] = {}
    bad_ids: set[str] = set()
    alarms: list[str] = []
    for row in sorted(catalog, key=lambda row: row.id):
        if META not in row.meta:
            continue
        about = META
        try:
            service = Service.parse(row.meta[META])
            about = READS
            reads = Reads.parse(row.meta.get(READS, ""))
        except Usage as e:
            bad_ids.add(row.id)
            alarms.append(f"Consul service {row.id!r}: meta {about}: {e}")
            continue
        key = InstanceKey.of(service, row.id)
        if key in found:
            alarms.append(f"Consul service {row.id!r}: looks like {found[key].id!r} in keys; left out")
            continue
        found[key] = _instance(service, row, reads)
    return found, frozenset(bad_ids), alarms


def _instance(service: Service, row: Registered, reads: Reads) -> Instance:
    return Instance(
        service=service,
        id=row.id,
        incarnation=row.incarnation,
        address=row.address,
        port=row.port,
        consul_name=row.name,
        reads=reads,
    )
