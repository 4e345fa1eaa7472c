"""Truths about plan in any world: random histories, random damage, a crash after any write."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from handlers.core import codec, keys, model
from handlers.core.desired import Plan
from handlers.core.names import Channel, Service
from handlers.core.needs import unmet
from handlers.core.version import ReleaseId
from tests.core.worlds import COMPLETE, PLACES, ROUTE, STREETS, Cluster, order_of, rid, v, writes

Act = Callable[[Cluster], object]

CHANNELS = st.sampled_from([PLACES, STREETS])
SERVICES = st.sampled_from([COMPLETE, ROUTE])
NODES = st.sampled_from(["n1", "n2", "N 3"])
NUMBERS = st.integers(1, 6)
ROLES = st.lists(SERVICES, unique=True, max_size=2)
FLAGS = st.booleans()
PLACEMENTS = st.sampled_from([model.DISK, model.RAM])
FORMATS = st.sampled_from(["", "4", "5"])
READS = st.sampled_from(["", "", "format<=4", "places:format>=5", "format!=4"])


def _publish(number: int, channel: Channel, placement: str, needs: int, form: str) -> Act:
    """With a label `format`, if `form` is one; and a need of the other channel, if `needs` is a number."""

    def act(cluster: Cluster) -> None:
        if keys.release(channel, v(number)) not in cluster:
            other = STREETS if channel == PLACES else PLACES
            needed = {other: needs} if needs else None
            labels = {"format": form} if form else None
            cluster.publish(number, channel, placement=placement, needs=needed, labels=labels)
        cluster[keys.head(channel)] = v(number).encode()

    return act


def _runs(node: str, service: Service, places: int, streets: int) -> Act:
    def act(cluster: Cluster) -> None:
        if keys.instances(node) in cluster:
            cluster.runs(node, service, places=places, streets=streets)

    return act


def _subscribe(service: Service, both: bool, reads: str) -> Act:
    channels = {"places": PLACES, "streets": STREETS} if both else {"places": PLACES}
    return lambda cluster: cluster.subscribe(service, reads, **channels)


def _pin(channel: Channel, number: int) -> Act:
    return lambda cluster: cluster.__setitem__(keys.channel_pin(channel), v(number).encode())


def _control(service: Service, paused: bool, number: int) -> Act:
    return lambda cluster: cluster.control(service, paused=paused, abort=(rid(number),), retry=("id1",))


ACTS: st.SearchStrategy[Act] = st.one_of(
    st.builds(_publish, NUMBERS, CHANNELS, PLACEMENTS, st.integers(0, 6), FORMATS),
    st.builds(_runs, NODES, SERVICES, NUMBERS, NUMBERS),
    st.builds(_subscribe, SERVICES, FLAGS, READS),
    st.builds(_pin, CHANNELS, NUMBERS),
    st.builds(_control, SERVICES, FLAGS, NUMBERS),
    st.builds(lambda n, s, reads: lambda c: c.node(n, *s, reads=reads), NODES, ROLES, READS),
    st.builds(lambda n, ch: lambda c: c.reject(n, ch), NUMBERS, CHANNELS),
    st.builds(lambda n, ch: lambda c: c.drop(keys.rejected(ch, v(n))), NUMBERS, CHANNELS),
    st.builds(
        lambda n, w, s, ch: lambda c: c.judge(n, w, s, ch),
        NUMBERS,
        st.sampled_from(["halted", "bad"]),
        SERVICES,
        CHANNELS,
    ),
    st.builds(lambda n: lambda c: c.cordon(n), NODES),
    st.builds(lambda n: lambda c: c.drop(keys.cordon(n), keys.alive(n)), NODES),
    st.builds(lambda ch, n: lambda c: c.settings(ch, keep_on_nodes=n), CHANNELS, st.integers(1, 3)),
    st.builds(lambda s: lambda c: c.unsubscribe(s), SERVICES),
    st.builds(lambda ch: lambda c: c.delete_channel(ch), CHANNELS),
    st.builds(lambda n: lambda c: c.forget(n), NODES),
    st.just(Cluster.run),
)


@st.composite
def clusters(draw: st.DrawFn) -> Cluster:
    """A cluster after a random history, with planners that ran now and then."""
    cluster = Cluster()
    cluster.publish(1)
    cluster.publish(1, STREETS)
    cluster.subscribe()
    cluster.node("n1", COMPLETE)
    for act in draw(st.lists(ACTS, max_size=25)):
        act(cluster)
    return cluster


def settled(cluster: Cluster) -> Cluster:
    """The cluster after planners ran until nothing changed (what is proven may change what is held)."""
    for _ in range(4):
        if not cluster.run().changed:
            return cluster
    raise AssertionError("plan does not come to rest")


def content(cluster: Cluster) -> dict[str, model.Desired]:
    """What the nodes are told; see `order_of`."""
    return {
        k: order_of(codec.decode(model.Desired, raw, k)) for k, raw in cluster.items() if "/desired/" in k
    }


def apply(cluster: Cluster, made: Plan, count: int | None = None) -> None:
    for key, value in writes(made)[:count]:
        cluster[key] = value


fast = settings(max_examples=100)


@fast
@given(clusters())
def test_same_world_same_plan(cluster: Cluster) -> None:
    assert writes(cluster.plan()) == writes(Cluster(cluster).plan())


@fast
@given(clusters())
def test_plan_of_its_own_output_changes_nothing(cluster: Cluster) -> None:
    first = cluster.run()

    again = cluster.plan()

    assert again.changed == ()
    assert again.proven == {}
    assert again.alarms == first.alarms
    assert again.generation == first.generation


@fast
@given(clusters(), st.data())
def test_crash_after_any_write_is_completed_by_the_next_run(cluster: Cluster, data: st.DataObject) -> None:
    whole = Cluster(cluster)
    apply(whole, whole.plan())
    made = cluster.plan()

    count = data.draw(st.integers(0, len(writes(made))), label="writes before the crash")
    apply(cluster, made, count)
    cluster.run()

    assert content(cluster) == content(whole)


@fast
@given(clusters())
def test_what_is_needed_is_always_held(cluster: Cluster) -> None:
    cluster.run()
    world = cluster.world()
    for node in world.nodes.values():
        if node.desired is None or node.cordon is not None or node.gone:
            continue  # what is left of a node that is gone is removed, not planned
        for service, plan in node.desired.services.items():
            pins = world.service(service).pins
            for alias, part in plan.aliases.items():
                channel = world.channels.get(part.channel)
                if channel is None or channel.deleted:
                    continue
                wanted = {part.target, part.start, channel.head}
                wanted |= {pin.version for pin in (channel.pin, pins.get(alias)) if pin}
                for version in wanted & channel.by_version.keys() - channel.rejected.keys():
                    assert version
                    assert ReleaseId.of(part.channel, version) in node.desired.releases


@fast
@given(clusters())
def test_targets_and_starts_are_never_barred_and_are_on_the_node(cluster: Cluster) -> None:
    cluster.run()
    world = cluster.world()
    for node in world.nodes.values():
        if node.gone:
            continue  # what is left of it is removed, not planned
        for plan in node.desired.services.values() if node.desired else ():
            for part in plan.aliases.values():
                channel = world.channels.get(part.channel)
                for version in filter(None, (part.target, part.start)):
                    assert channel is not None
                    assert version not in channel.rejected
                if node.desired and node.cordon is None and part.start:
                    assert ReleaseId.of(part.channel, part.start) in node.desired.releases


@fast
@given(clusters(), st.data())
def test_what_waits_for_the_next_instance_is_on_its_node_and_nothing_comes_for_it(
    cluster: Cluster, data: st.DataObject
) -> None:
    settled(cluster)
    before = content(cluster)
    names = [node.name for node in cluster.world().nodes.values() if node.known]
    assume(names)
    name = data.draw(st.sampled_from(names))
    cluster.leaves(name)
    settled(cluster)

    desired = cluster.desired(name)
    assert desired.releases.keys() <= before[keys.desired(name)].releases.keys()
    for plan in desired.services.values():
        assert plan.idle
        starts = {ReleaseId.of(p.channel, p.start) for p in plan.aliases.values() if p.start}
        assert starts <= desired.releases.keys()


@fast
@given(clusters())
def test_what_instances_run_can_be_read_and_meets_all_needs(cluster: Cluster) -> None:
    """Of everything that is planned, unless a header is lost: targets together, and starts together."""
    cluster.run()
    world = cluster.world()
    for replica in (r for service in (COMPLETE, ROUTE) for r in world.replicas(service)):
        plan = cluster.desired(replica.node.name).services.get(replica.instance.service)
        if plan is None or replica.node.cordon:
            continue  # a cordoned node begins with what it has; see test_aims
        reads = replica.instance.reads or plan.reads
        for pick in ("target", "start"):
            parts = plan.of(replica.key).aliases
            chosen = {alias: getattr(part, pick) for alias, part in parts.items()}
            for alias, version in chosen.items():
                channel = world.channels.get(parts[alias].channel)
                header = channel.by_version.get(version) if channel else None
                assert header is None or not reads.misfit(alias, header.labels)
            channels = {alias: part.channel for alias, part in parts.items()}
            assert unmet(world, channels, chosen, {}) == {}


@fast
@given(clusters(), st.data())
def test_damage_lets_nothing_go_that_matters(cluster: Cluster, data: st.DataObject) -> None:
    """Any document lost or garbled, tombstones and an operator's orders aside."""
    settled(cluster)
    before = content(cluster)
    orders = ("/pin", "/rejected/", "/control", "/cordon", "/desired/", "/states/")
    documents = [key for key in cluster if not any(part in key for part in orders)]
    key = data.draw(st.sampled_from(sorted(documents)), label="damaged")
    assume(b"tombstone" not in cluster[key])
    damage = data.draw(st.sampled_from([None, b"", b"{", b"[]", b'{"format": 2}']), label="damage")
    if damage is None:
        del cluster[key]
    else:
        cluster[key] = damage

    cluster.run()

    after = content(cluster)
    assert after.keys() >= before.keys()
    for name, desired in before.items():
        vital = {r for r, hold in desired.releases.items() if hold.why != ("kept for a rollback",)}
        assert vital <= after[name].releases.keys()
        assert after[name].services.keys() >= desired.services.keys()


@fast
@given(clusters(), st.data())
def test_older_kv_is_held_as_soon_as_a_node_tells(cluster: Cluster, data: st.DataObject) -> None:
    older = Cluster(cluster)
    cluster.publish(20)
    made = cluster.run()
    assume(made.changed)
    node = data.draw(st.sampled_from(made.changed))

    older.put(keys.ACTUAL + node, model.Actual(node=made.desired[node].node, generation=made.generation))
    before = content(older)

    assert older.run().held
    assert content(older) == before
