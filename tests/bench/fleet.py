"""A thousand nodes as documents: what a fleet that runs one release has in Consul's KV, and the next ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from handlers.adapters.ports import KV, Cas, Op, Set
from handlers.adapters.txn import split
from handlers.core import codec, keys
from handlers.core.model import (
    DISK,
    Actual,
    ChannelSettings,
    Dataset,
    Desired,
    File,
    Instance,
    Instances,
    InstanceState,
    Manifest,
    ManifestRef,
    NodeInfo,
    Ready,
    Release,
    ReleaseStatus,
    State,
    States,
    Subscription,
    VolumeInfo,
)
from handlers.core.names import Channel, InstanceKey, Service
from handlers.core.version import ReleaseId, Version

CHANNEL = Channel.parse("prod/geo/places")
ALIAS = "places"
_FIRST = datetime(2026, 1, 1, tzinfo=UTC)
_FILES = 8


@dataclass(frozen=True)
class Fleet:
    """`nodes` nodes with one instance each of one of `services` services, which all read CHANNEL."""

    nodes: int
    services: int

    @property
    def names(self) -> Sequence[str]:
        """The nodes."""
        return [f"node-{number:04}" for number in range(self.nodes)]

    def service(self, number: int) -> Service:
        """The service of the node with this number."""
        return Service.parse(f"prod/geo/service-{number % self.services:03}")

    def documents(self, running: Version) -> Iterator[Op]:
        """All that nodes and the owners of channel and services wrote; `running` is served everywhere."""
        yield Set(keys.settings(CHANNEL), codec.encode(ChannelSettings()))
        for number in range(self.services):
            subscription = Subscription(channels={ALIAS: CHANNEL}, reload="http://:{port}/reload")
            yield Set(keys.subscription(self.service(number)), codec.encode(subscription))
        for number, node in enumerate(self.names):
            service = self.service(number)
            own = InstanceKey.of(service, f"{service.name}-{number}")
            yield Set(keys.info(node), codec.encode(_info(node)))
            yield Set(keys.alive(node), b"")
            yield Set(keys.instances(node), codec.encode(_instances(own, number)))
            yield Set(keys.states(node), codec.encode(_states(node, own, running)))
            yield Set(keys.actual(node), codec.encode(_actual(node, running)))

    def wrong(self, node: str, value: bytes, version: Version) -> str:
        """Why `value` is not what `node` should read after the publish of `version`; empty when it is."""
        desired = codec.decode(Desired, value, node)
        service = self.service(self.names.index(node))
        if desired.node != node:
            return f"{node} read what is meant for {desired.node}"
        if set(desired.services) != {service}:
            return f"{node} should run {service}, and read {', '.join(desired.services)}"
        plan = desired.services[service].aliases[ALIAS]
        if plan.target != version or ReleaseId.of(CHANNEL, version) not in desired.releases:
            return f"{node} should move to {version}, and read {plan.target}"
        return ""


def version(number: int) -> Version:
    """The version of the release with this sequence number."""
    return Version.of(_FIRST + timedelta(hours=number))


def write(kv: KV, ops: Sequence[Op]) -> None:
    """Write them all, in as many transactions as it takes."""
    for batch in split(ops):
        kv.txn(batch)


def publish(kv: KV, sequence: int) -> Version:
    """Announce the next release of CHANNEL, as `hydra publish` does, in one transaction."""
    fresh = version(sequence)
    paths = [f"part-{number}.bin" for number in range(_FILES)]
    files = {
        name: tuple(File(path=p, size=1 << 20, etag="0" * 32) for p in paths) for name in ("index", "rank")
    }
    manifest = codec.encode(Manifest(files=files))
    datasets = {
        name: Dataset(
            source=f"s3://data/{name}/{fresh}/",
            placement=DISK,
            files=_FILES,
            bytes=_FILES << 20,
            version=fresh,
        )
        for name in files
    }
    header = Release(
        channel=CHANNEL,
        version=fresh,
        sequence=sequence,
        datasets=datasets,
        manifest=ManifestRef(digest=codec.digest(manifest), bytes=len(manifest)),
    )
    before, _ = kv.get(keys.head(CHANNEL))
    kv.txn(
        [
            Cas(keys.release(CHANNEL, fresh), codec.encode(header), 0),
            Cas(keys.manifest(CHANNEL, fresh), manifest, 0),
            Cas(keys.head(CHANNEL), fresh.encode(), before.index if before else 0),
        ]
    )
    return fresh


def _info(node: str) -> NodeInfo:
    return NodeInfo(node=node, volumes={"disk": VolumeInfo(cls=DISK, reserve_bytes=1 << 30)})


def _instances(own: InstanceKey, number: int) -> Instances:
    service = own.service
    instance = Instance(
        service=service,
        id=own.segment,
        incarnation=str(number),
        address="10.0.0.1",
        port=8080,
        consul_name=service.name,
    )
    return Instances(instances={own: instance})


def _states(node: str, own: InstanceKey, running: Version) -> States:
    number = own.segment.rpartition("-")[2]
    state = InstanceState(
        service=own.service,
        id=own.segment,
        incarnation=number,
        state=Ready.READY,
        releases={ALIAS: running},
        target={ALIAS: running},
        served=True,
    )
    return States(node=node, sequence=1, instances={own: state})


def _actual(node: str, running: Version) -> Actual:
    held = ReleaseId.of(CHANNEL, running)
    return Actual(node=node, generation=0, releases={held: ReleaseStatus(state=State.SUCCESS)})
