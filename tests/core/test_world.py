"""What is read from KV: every document where it belongs; what does not parse is an alarm, not absent."""

from __future__ import annotations

import pytest

from handlers.core import codec, keys, model
from handlers.core.entries import read
from handlers.core.names import InstanceKey
from handlers.core.world import World
from tests.core.worlds import COMPLETE, PLACES, ROUTE, STREETS, Cluster, rid, v


@pytest.fixture
def cluster() -> Cluster:
    made = Cluster()
    made.publish(2, sequence=7)
    made.publish(1, sequence=9)
    made.settings(keep_releases=4)
    made.subscribe()
    made.node("n1", COMPLETE, ROUTE, replicas=2)
    made.runs("n1", places=1)
    return made


def alarm(world: World) -> tuple[str, str]:
    (found,) = world.alarms
    return found.object, found.text


def test_channel_has_its_documents_and_its_releases_by_sequence(cluster: Cluster) -> None:
    cluster[keys.channel_pin(PLACES)] = f"{v(2)}\n".encode()
    cluster.reject(1)
    facts = cluster.world().channels[PLACES]

    assert facts.settings.keep_releases == 4
    assert facts.head == v(1)
    assert facts.pin == model.Pin(version=v(2))
    assert [release.version for release in facts.releases] == [v(2), v(1)]
    assert facts.rejected[v(1)].why == "wrong"
    assert facts.digests[v(1)] == codec.digest(cluster[keys.release(PLACES, v(1))])
    assert (facts.deleted, facts.unreadable) == (False, frozenset())


def test_service_has_its_documents(cluster: Cluster) -> None:
    cluster[keys.service_pin(COMPLETE, "places")] = v(1).encode()
    cluster.control(paused=True)
    cluster.judge(1)
    cluster.put(keys.proven(COMPLETE), model.Proven(channels={PLACES: (v(2),)}))
    cluster.put(keys.slots(COMPLETE), model.Slots())
    cluster[f"{keys.slots(COMPLETE)}/n1.i0"] = b"lock"
    world = cluster.world()
    facts = world.services[COMPLETE]

    assert facts.subscription is not None
    assert facts.subscription.channels == {"places": PLACES}
    assert facts.pins == {"places": model.Pin(version=v(1))}
    assert facts.control.paused
    assert set(facts.verdicts.releases) == {rid(1)}
    assert facts.proven.channels == {PLACES: (v(2),)}
    assert world.alarms == ()


def test_service_that_nobody_wrote_about_is_empty(cluster: Cluster) -> None:
    assert cluster.world().service(ROUTE).subscription is None


def test_node_has_its_documents_and_its_real_name(cluster: Cluster) -> None:
    cluster.node("Rack 7", COMPLETE, alive=False)
    cluster.cordon("Rack 7")
    world = cluster.world()
    node = world.node("Rack 7")

    assert node is not None
    assert (node.name, node.known, node.alive) == ("Rack 7", True, False)
    assert node.cordon is not None
    assert node.cordon.who == "me"
    assert world.nodes["n1"].alive


def test_name_of_a_node_without_info_comes_from_its_other_documents(cluster: Cluster) -> None:
    cluster.put(keys.actual("Rack 8"), model.Actual(node="Rack 8", generation=1))
    node = cluster.world().node("Rack 8")
    assert node is not None
    assert (node.name, node.known) == ("Rack 8", False)


def test_replicas_of_a_service_with_the_states_of_their_incarnation(cluster: Cluster) -> None:
    cluster.node("n0", COMPLETE)
    cluster.runs("n0", places=2, incarnation="0")
    replicas = cluster.world().replicas(COMPLETE)

    found = [(r.node.name, r.key, r.state and r.state.releases["places"]) for r in replicas]
    assert found == [
        ("n0", InstanceKey.of(COMPLETE, "i0"), None),
        ("n1", InstanceKey.of(COMPLETE, "i0"), v(1)),
        ("n1", InstanceKey.of(COMPLETE, "i1"), v(1)),
    ]
    assert cluster.world().replicas(STREETS) == []  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("key", "owner", "part"),
    [
        (keys.settings(PLACES), f"channel/{PLACES}", "settings"),
        (keys.head(PLACES), f"channel/{PLACES}", "head"),
        (keys.channel_pin(PLACES), f"channel/{PLACES}", "pin"),
        (keys.release(PLACES, v(1)), f"channel/{PLACES}", f"releases/{v(1)}"),
        (keys.subscription(COMPLETE), f"service/{COMPLETE}", "subscription"),
        (keys.control(COMPLETE), f"service/{COMPLETE}", "control"),
        (keys.service_pin(COMPLETE, "places"), f"service/{COMPLETE}", "pin/places"),
        (keys.verdicts(COMPLETE), f"service/{COMPLETE}", "verdicts"),
        (keys.proven(COMPLETE), f"service/{COMPLETE}", "proven"),
        (keys.slots(COMPLETE), f"service/{COMPLETE}", "slots"),
        (keys.info("n1"), "node/n1", "info"),
        (keys.instances("n1"), "node/n1", "instances"),
        (keys.registrations("n1"), "node/n1", "registrations"),
        (keys.desired("n1"), "node/n1", "desired"),
        (keys.actual("n1"), "node/n1", "actual"),
        (keys.states("n1"), "node/n1", "states"),
        (keys.progress("n1"), "node/n1", "progress"),
        (keys.META, "meta", "meta"),
        (keys.ALARMS, "meta", "alarms"),
    ],
)
@pytest.mark.parametrize("value", [b"", b"{", b"\xff\xfe", b"[1]", b'{"format": 99}'])
def test_document_that_does_not_parse_is_an_alarm_and_unreadable(
    cluster: Cluster, key: str, owner: str, part: str, value: bytes
) -> None:
    cluster[key] = value
    world = cluster.world()

    assert alarm(world)[0] == owner
    assert key in alarm(world)[1]
    kind, _, name = owner.partition("/")
    everything = {
        "channel": {str(c): facts.unreadable for c, facts in world.channels.items()},
        "service": {str(s): facts.unreadable for s, facts in world.services.items()},
        "node": {n: facts.unreadable for n, facts in world.nodes.items()},
        "meta": {"": world.unreadable},
    }
    assert everything[kind][name] == {part}


@pytest.mark.parametrize(("value", "alarms"), [(b"", 0), (b"\n", 0), (b"because", 1), (b"{", 1)])
def test_rejection_and_cordon_count_whatever_is_written_into_them(
    cluster: Cluster, value: bytes, alarms: int
) -> None:
    cluster[keys.rejected(PLACES, v(2))] = value
    assert cluster.world().channels[PLACES].rejected == {v(2): model.Rejected()}
    assert len(cluster.world().alarms) == alarms

    cluster[keys.cordon("n1")] = value
    assert cluster.world().nodes["n1"].cordon == model.Cordon()
    assert cluster.world().nodes["n1"].unreadable == frozenset()
    assert len(cluster.world().alarms) == 2 * alarms


@pytest.mark.parametrize(
    "key",
    [
        "channels/Prod/search/places/head",
        "channels/prod/search/places/heads",
        "channels/prod/search/places/rejected/yesterday",
        "channels/prod/search/places/rejected/2026-01-01T00-00-00/why",
        "channels/prod/places",
        "releases/prod/search/places/1",
        "releases/prod/search/places",
        "services/prod/search/complete/pin/..",
        "services/prod/search/complete/pins/places",
        "verdicts/prod/search/complete/n1",
        "nodes/n1",
        "nodes/n1/mood",
        "nodes/n1/info/more",
        "desired/n1/more",
        "mood",
        "meta/more",
    ],
)
def test_key_that_fits_nowhere_is_an_alarm_of_its_own(cluster: Cluster, key: str) -> None:
    whole = keys.ROOT + key
    before = cluster.world()
    cluster[whole] = b"{}"

    after = cluster.world()

    assert alarm(after)[0] == f"kv/{whole}"
    assert (after.channels, after.services, after.nodes) == (before.channels, before.services, before.nodes)


def test_folders_made_in_the_consul_ui_are_passed_over(cluster: Cluster) -> None:
    cluster[f"{keys.CHANNELS}prod/"] = b""
    cluster[keys.lock("plan")] = b"x"
    cluster[keys.manifest(PLACES, v(1))] = b"x"
    cluster[keys.audit("node/n1", "now", "id")] = b"x"
    assert cluster.world().alarms == ()


def test_copied_documents_do_not_act_elsewhere(cluster: Cluster) -> None:
    cluster[keys.release(PLACES, v(3))] = cluster[keys.release(PLACES, v(1))]
    cluster[keys.info("n2")] = cluster[keys.info("n1")]
    world = cluster.world()

    assert [release.version for release in world.channels[PLACES].releases] == [v(2), v(1)]
    assert world.channels[PLACES].unreadable == {f"releases/{v(3)}"}
    assert world.nodes["n2"].info is None
    assert len(world.alarms) == 2


def test_empty_kv_is_an_empty_world() -> None:
    assert read({}) == World()
