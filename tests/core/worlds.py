"""A cluster's KV for tests, written with few words: `Cluster` is a dict of key → bytes with verbs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from msgspec import structs

from handlers.core import codec, keys, model
from handlers.core.desired import Plan, plan
from handlers.core.entries import read
from handlers.core.names import Channel, InstanceKey, Service, segment
from handlers.core.reading import Reads
from handlers.core.version import ReleaseId, Version
from handlers.core.world import World

NOW = datetime(2026, 6, 1, tzinfo=UTC)
PLACES = Channel("prod/search/places")
STREETS = Channel("prod/search/streets")
COMPLETE = Service("prod/search/complete")
ROUTE = Service("prod/search/route")


def v(number: int) -> Version:
    """The version of day `number`."""
    return Version(f"2026-01-{number:02d}T00-00-00")


def rid(number: int, channel: Channel = PLACES) -> ReleaseId:
    return ReleaseId.of(channel, v(number))


class Cluster(dict[str, bytes]):
    """KV as plain bytes by key; each verb does what a person, a node or a publisher would write."""

    def __init__(self, *others: Mapping[str, bytes]) -> None:
        super().__init__()
        for other in others:
            self.update(other)
        if not others:
            self.put(keys.META, model.Meta(environments=("prod",)))

    def put(self, key: str, doc: model.Doc) -> None:
        self[key] = codec.encode(doc)

    def publish(
        self,
        number: int,
        channel: Channel = PLACES,
        *,
        sequence: int = 0,
        placement: str = model.DISK,
        needs: Mapping[Channel, int] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        dataset = model.Dataset(
            source=f"s3://b/{number}/", placement=placement, files=1, bytes=10, version=v(number)
        )
        header = model.Release(
            channel=channel,
            version=v(number),
            sequence=sequence or number,
            datasets={"index": dataset},
            manifest=model.ManifestRef(digest=f"sha256:{number}", bytes=5),
            labels=labels or {},
            needs={name: v(least) for name, least in (needs or {}).items()},
        )
        self.put(keys.release(channel, v(number)), header)
        self[keys.head(channel)] = v(number).encode()

    def subscribe(self, service: Service = COMPLETE, reads: str = "", **channels: Channel) -> None:
        self.put(
            keys.subscription(service),
            model.Subscription(
                channels=channels or {"places": PLACES}, reads=Reads.parse(reads), reload="none"
            ),
        )

    def unsubscribe(self, service: Service = COMPLETE) -> None:
        self.put(keys.subscription(service), model.Subscription(tombstone=model.Note(who="me")))

    def delete_channel(self, channel: Channel = PLACES) -> None:
        self.put(keys.settings(channel), model.ChannelSettings(tombstone=model.Note(who="me")))

    def settings(self, channel: Channel = PLACES, keep_on_nodes: int = 2, **fields: int) -> None:
        settings = model.ChannelSettings(keep_on_nodes=keep_on_nodes, **fields)  # type: ignore[arg-type]
        self.put(keys.settings(channel), settings)

    def reject(self, number: int, channel: Channel = PLACES) -> None:
        self.put(keys.rejected(channel, v(number)), model.Rejected(who="me", why="wrong"))

    def judge(
        self, number: int, verdict: str = "halted", service: Service = COMPLETE, channel: Channel = PLACES
    ) -> None:
        key = keys.verdicts(service)
        old = codec.decode(model.Verdicts, self[key], key) if key in self else model.Verdicts()
        found = model.Verdict(
            id=f"id{number}", verdict=verdict, reason="does not load", node="n1", instance="x"
        )
        self.put(key, model.Verdicts(releases={**old.releases, rid(number, channel): found}))

    def control(self, service: Service = COMPLETE, **fields: object) -> None:
        self.put(keys.control(service), structs.replace(model.Control(), **fields))

    def node(
        self, name: str, *services: Service, alive: bool = True, replicas: int = 1, reads: str = ""
    ) -> None:
        self.put(keys.info(name), model.NodeInfo(node=name))
        if alive:
            self[keys.alive(name)] = b"session"
        instances = {
            InstanceKey.of(service, f"i{number}"): model.Instance(
                service=service, id=f"i{number}", incarnation="1", reads=Reads.parse(reads)
            )
            for service in services
            for number in range(replicas)
        }
        self.put(keys.instances(name), model.Instances(instances=instances))
        if keys.states(name) not in self:
            self.put(keys.states(name), model.States(node=name))

    def runs(
        self,
        node: str,
        service: Service = COMPLETE,
        *,
        moving: Mapping[str, Version] | None = None,
        incarnation: str = "1",
        **releases: int,
    ) -> None:
        """All instances of the service on the node say what they have loaded, by alias."""
        key = keys.instances(node)
        states_key = keys.states(node)
        old = codec.decode(model.States, self[states_key], states_key)
        found = {
            name: model.InstanceState(
                service=service,
                id=instance.id,
                incarnation=incarnation,
                state=model.Ready.READY,
                releases={alias: v(number) for alias, number in releases.items()},
                moving=moving or {},
            )
            for name, instance in codec.decode(model.Instances, self[key], key).instances.items()
            if instance.service == service
        }
        self.put(states_key, model.States(node=node, instances={**old.instances, **found}))

    def leaves(self, *nodes: str) -> None:
        """All instances there end."""
        for name in nodes:
            self.node(name)
            self.put(keys.states(name), model.States(node=name))

    def applied(self, node: str, generation: int, *done: ReleaseId, lacks: Iterable[ReleaseId] = ()) -> None:
        """What sync says: these releases are complete there, those it lacks are on their way."""
        statuses = {r: model.ReleaseStatus(state=model.State.SUCCESS) for r in done}
        statuses |= {r: model.ReleaseStatus(state=model.State.DOWNLOADING) for r in lacks}
        self.put(keys.actual(node), model.Actual(node=node, generation=generation, releases=statuses))

    def cordon(self, node: str) -> None:
        self.put(keys.cordon(node), model.Cordon(who="me"))

    def forget(self, name: str) -> None:
        """As `hydra node forget` does."""
        self.drop(keys.node(name))
        self.put(keys.forgotten(name), model.Forgotten(node=name, who="me"))

    def drop(self, *prefixes: str) -> None:
        for key in [key for key in self if key.startswith(prefixes)]:
            del self[key]

    def world(self) -> World:
        return read(self)

    def plan(self, *, remembered: int = 0, brake_share: float = 0.5, now: datetime = NOW) -> Plan:
        return plan(self.world(), now=now, remembered=remembered, brake_share=brake_share)

    def run(self, *, brake_share: float = 0.5, now: datetime = NOW) -> Plan:
        """Plan and write, as the handler does."""
        made = self.plan(brake_share=brake_share, now=now)
        for key, value in writes(made):
            self[key] = value
        return made

    def desired(self, node: str) -> model.Desired:
        return codec.decode(model.Desired, self[keys.desired(node)], node)

    def alias(
        self, node: str = "n1", alias: str = "places", service: Service = COMPLETE, instance: str = "i0"
    ) -> model.AliasPlan:
        return self.desired(node).services[service].of(InstanceKey.of(service, instance)).aliases[alias]

    def held(self, node: str = "n1") -> set[ReleaseId]:
        return set(self.desired(node).releases)


def writes(made: Plan) -> list[tuple[str, bytes]]:
    """The writes of a plan in their order."""
    result = [(keys.ALARMS, codec.encode(made.alarms))]
    if made.held:
        return result
    result += [(keys.proven(service), codec.encode(doc)) for service, doc in made.proven.items()]
    result += [(keys.rollout(service), codec.encode(doc)) for service, doc in made.rollouts.items()]
    return result + [(keys.DESIRED + segment(n), codec.encode(made.desired[n])) for n in made.changed]


def texts(made: Plan) -> str:
    return "\n".join(f"{alarm.object}: {alarm.text}" for alarm in made.alarms.alarms)


def order_of(desired: model.Desired) -> model.Desired:
    """What a node is told, aside from the generation and from how many were told at the same time.

    Both depend on which runs of plan wrote it.
    """
    releases = {release: structs.replace(hold, crowd=1) for release, hold in desired.releases.items()}
    return structs.replace(desired, generation=0, releases=releases)


def three_nodes() -> Cluster:
    """Three nodes with one instance each; releases 1 and 2, of which all run 1."""
    made = Cluster()
    made.publish(1)
    made.subscribe()
    for name in ("n1", "n2", "n3"):
        made.node(name, COMPLETE)
        made.runs(name, places=1)
    made.run()
    made.publish(2)
    return made


def table(cluster: Cluster, node: str = "n1") -> tuple[str | None, str | None, str]:
    cluster.run()
    part = cluster.alias(node)
    return part.target, part.start, part.held
