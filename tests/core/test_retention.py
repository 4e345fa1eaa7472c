"""What retain may remove: counts and ages, everything that protects a release, tombstones, traces."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from msgspec import structs

from handlers.core import codec, keys, model
from handlers.core.entries import read
from handlers.core.named import keep_and_remove
from handlers.core.names import Channel, InstanceKey
from handlers.core.retention import AUDIT_KEPT, Retention, retention
from handlers.core.version import Version
from tests.core.test_desired_properties import clusters
from tests.core.worlds import COMPLETE, PLACES, ROUTE, STREETS, Cluster, v

NOW = datetime(2026, 1, 10, tzinfo=UTC)
DAY_S = 24 * 3600


def decide(cluster: Cluster, *, audit: tuple[str, ...] = ()) -> Retention:
    world = read(cluster, dict.fromkeys(cluster, 1))
    return retention(world, audit, NOW)


def removed(cluster: Cluster) -> set[str]:
    return {key.removeprefix(keys.ROOT) for removal in decide(cluster).removals for key in removal.keys}


def perform(cluster: Cluster, found: Retention) -> None:
    for removal in found.removals:
        cluster.drop(*removal.keys)
        cluster.update(removal.rewrite)


def gone(*numbers: int, channel: Channel = PLACES) -> set[str]:
    return {f"{folder}/{channel}/{v(n)}" for n in numbers for folder in ("releases", "manifests")}


@pytest.fixture
def cluster() -> Cluster:
    """Releases 1 to 5 of a channel that keeps 2, and a node that runs 5."""
    made = Cluster()
    for number in range(1, 6):
        made.publish(number)
    made.settings(keep_releases=2)
    made.subscribe()
    made.node("n1", COMPLETE)
    made.runs("n1", places=5)
    made.run()
    return made


class TestCountAndAge:
    @pytest.mark.parametrize(
        ("count", "age_days", "kept"),
        [
            (1, None, {5}),
            (2, None, {4, 5}),
            (9, None, {1, 2, 3, 4, 5}),
            (0, None, {5}),  # or the next publisher would use its sequence again
            (1, 7, {4, 5}),
            (1, 8.5, {2, 3, 4, 5}),
            (3, 1, {3, 4, 5}),
        ],
    )
    def test_what_is_within_the_count_or_the_age_stays(
        self, cluster: Cluster, count: int, age_days: float | None, kept: set[int]
    ) -> None:
        age_s = None if age_days is None else int(age_days * DAY_S)
        channel = cluster.world().channels[PLACES]
        channel = structs.replace(
            channel, settings=model.ChannelSettings(keep_releases=count, keep_age_s=age_s)
        )

        keep, remove = keep_and_remove(channel, {}, NOW)

        assert set(keep) == {v(n) for n in kept}
        assert set(remove) == {v(n) for n in range(1, 6)} - set(keep)

    def test_reasons_are_for_people(self, cluster: Cluster) -> None:
        keep, remove = keep_and_remove(cluster.world().channels[PLACES], {v(1): "pinned"}, NOW)

        assert keep == {v(5): "among the newest 2", v(4): "among the newest 2", v(1): "pinned"}
        assert remove == {v(3): "beyond the newest 2", v(2): "beyond the newest 2"}

    def test_order_comes_from_sequences(self) -> None:
        cluster = Cluster()
        cluster.publish(1, sequence=3)
        cluster.publish(2, sequence=2)
        cluster.publish(3, sequence=1)
        keep, _ = keep_and_remove(cluster.world().channels[PLACES], {}, NOW)
        assert list(keep) == [v(1), v(2), v(3)]


class TestProtected:
    def test_release_goes_with_its_manifest_once_nothing_names_it(self, cluster: Cluster) -> None:
        assert removed(cluster) == gone(1, 2, 3)

    def test_head(self, cluster: Cluster) -> None:
        cluster[keys.head(PLACES)] = v(2).encode()
        assert removed(cluster) == gone(1, 3)

    @pytest.mark.parametrize("key", [keys.channel_pin(PLACES), keys.service_pin(COMPLETE, "places")])
    def test_pin(self, cluster: Cluster, key: str) -> None:
        cluster[key] = v(1).encode()
        assert removed(cluster) == gone(2, 3)

    def test_pin_of_a_service_that_is_not_subscribed(self, cluster: Cluster) -> None:
        cluster[keys.service_pin(ROUTE, "places")] = v(1).encode()
        assert removed(cluster) == gone(2, 3)

    def test_newest_good_proven_release(self, cluster: Cluster) -> None:
        cluster.put(keys.proven(COMPLETE), model.Proven(channels={PLACES: (v(1), v(2), v(3))}))
        cluster.reject(3)
        assert removed(cluster) == gone(1, 3)

    def test_what_any_node_holds(self, cluster: Cluster) -> None:
        held = cluster.desired("n1")
        hold = model.Hold(digest="x", sequence=1)
        cluster.put(
            keys.desired("n1"),
            structs.replace(held, releases={**held.releases, f"{PLACES}@{v(1)}": hold}),
        )
        assert removed(cluster) == gone(2, 3)

    @pytest.mark.parametrize("alive", [True, False], ids=["alive", "dead"])
    def test_what_an_instance_uses_or_moves_to(self, cluster: Cluster, alive: bool) -> None:
        cluster.node("n2", COMPLETE, alive=alive)
        cluster.runs("n2", places=1, moving={"places": v(2)})
        cluster.put(keys.desired("n2"), model.Desired(node="n2", generation=1))
        assert removed(cluster) == gone(3)


class TestBlind:
    @pytest.mark.parametrize(
        "key",
        [
            keys.head(PLACES),
            keys.channel_pin(PLACES),
            keys.settings(PLACES),
            keys.subscription(COMPLETE),
            keys.service_pin(COMPLETE, "places"),
            keys.control(COMPLETE),
            keys.proven(COMPLETE),
            keys.desired("n1"),
            keys.states("n1"),
            keys.instances("n1"),
        ],
    )
    def test_nothing_goes_while_something_that_may_name_it_does_not_parse(
        self, cluster: Cluster, key: str
    ) -> None:
        cluster[key] = b"{"
        assert removed(cluster) == set()

    def test_nothing_goes_while_a_node_is_not_planned(self, cluster: Cluster) -> None:
        cluster.node("n2")
        assert decide(cluster).held == "node n2 is not planned yet"
        assert removed(cluster) == set()


class TestTombstones:
    def test_deleted_channel_goes_once_nobody_holds_it(self, cluster: Cluster) -> None:
        cluster.delete_channel()
        assert removed(cluster) == set()
        cluster.unsubscribe()
        cluster.runs("n1")
        assert removed(cluster) == set(), "n1 is still told to hold it"
        cluster.node("n1")
        cluster.put(keys.states("n1"), model.States(node="n1"))
        cluster.run()

        found = decide(cluster)
        perform(cluster, found)

        assert not [key for key in cluster if PLACES in key]
        assert found.removals[-1].keys == (keys.subscription(COMPLETE),)
        assert not [key for key in cluster if COMPLETE in key]

    def test_tombstone_is_the_last_to_go(self, cluster: Cluster) -> None:
        cluster.publish(1, STREETS)
        cluster.reject(1, STREETS)
        cluster.delete_channel(STREETS)
        groups = [r.keys for r in decide(cluster).removals if r.object == f"channel/{STREETS}"]
        assert groups == [
            (keys.release(STREETS, v(1)), keys.manifest(STREETS, v(1))),
            (keys.head(STREETS), keys.rejected(STREETS, v(1))),
            (keys.settings(STREETS),),
        ]

    def test_deleted_channel_stays_while_a_service_reads_it(self, cluster: Cluster) -> None:
        cluster.publish(1, STREETS)
        cluster.subscribe(ROUTE, roads=STREETS)
        cluster.delete_channel(STREETS)
        assert not [r for r in decide(cluster).removals if r.object == f"channel/{STREETS}"]

    def test_unsubscribed_service_goes_once_no_instance_is_left(self, cluster: Cluster) -> None:
        cluster.judge(5)
        cluster.put(keys.slots(COMPLETE), model.Slots())
        cluster.control(paused=True)
        cluster.unsubscribe()
        cluster.run()
        assert not [r for r in decide(cluster).removals if r.object == f"service/{COMPLETE}"]

        cluster.node("n1")
        cluster.put(keys.states("n1"), model.States(node="n1"))
        cluster.run()
        perform(cluster, decide(cluster))

        assert not [key for key in cluster if COMPLETE in key]


class TestTraces:
    def test_verdicts_of_releases_that_are_gone(self, cluster: Cluster) -> None:
        for number in (1, 5):
            cluster.judge(number)
        perform(cluster, decide(cluster))
        perform(cluster, decide(cluster))
        found = codec.decode(model.Verdicts, cluster[keys.verdicts(COMPLETE)], "")
        assert [release.version for release in found.releases] == [v(5)]

    def test_verdicts_stay_while_the_channel_is_missing(self, cluster: Cluster) -> None:
        cluster.judge(1)
        cluster.drop(keys.channel(PLACES), keys.releases(PLACES))
        assert [r for r in decide(cluster).removals if r.rewrite] == []

    def test_rejections_of_releases_that_are_gone(self, cluster: Cluster) -> None:
        cluster.reject(1)
        perform(cluster, decide(cluster))
        assert removed(cluster) == {f"channels/{PLACES}/rejected/{v(1)}"}

    def test_slots_of_a_service_that_is_gone(self, cluster: Cluster) -> None:
        cluster.put(keys.slots(ROUTE), model.Slots())
        assert f"slots/{ROUTE}" in removed(cluster)

    def test_slot_of_a_forgotten_node(self, cluster: Cluster) -> None:
        entries = {
            f"{node}.i0": model.SlotEntry(node=node, instance="i0", incarnation="1") for node in ("n1", "Old")
        }
        cluster.put(keys.slots(COMPLETE), model.Slots(out=entries))
        for node in ("n1", "Old"):
            cluster[keys.slot(node, InstanceKey.of(COMPLETE, "i0"))] = b"session"
        cluster.put(keys.actual("Old"), model.Actual(node="Old", generation=1))
        cluster.forget("Old")

        perform(cluster, decide(cluster))

        assert set(codec.decode(model.Slots, cluster[keys.slots(COMPLETE)], "").out) == {"n1.i0"}
        locks = [key for key in cluster if key.startswith(keys.slot_lock(COMPLETE, ""))]
        assert locks == [keys.slot("n1", InstanceKey.of(COMPLETE, "i0"))]

    def test_documents_of_a_forgotten_node_go_with_its_tombstone(self, cluster: Cluster) -> None:
        cluster.node("n2", COMPLETE)
        cluster.run()
        cluster.put(keys.actual("n2"), model.Actual(node="n2", generation=1))
        cluster[keys.progress("n2")] = b"what does not parse goes as well"
        cluster.forget("n2")

        (removal,) = [r for r in decide(cluster).removals if r.object == "node/n2"]

        parts = (keys.desired, keys.actual, keys.states, keys.progress, keys.forgotten)
        assert removal.keys == tuple(key("n2") for key in parts)

    def test_node_that_came_back_loses_only_its_tombstone(self, cluster: Cluster) -> None:
        cluster.node("n2", COMPLETE)
        cluster.run()
        cluster.forget("n2")
        cluster.node("n2", COMPLETE)

        (removal,) = [r for r in decide(cluster).removals if r.object == "node/n2"]

        assert removal.keys == (keys.forgotten("n2"),)

    def test_node_that_merely_lost_its_documents_is_not_forgotten(self, cluster: Cluster) -> None:
        cluster.put(keys.actual("n2"), model.Actual(node="n2", generation=1))
        cluster.drop(keys.node("n2"))

        assert not [r for r in decide(cluster).removals if r.object.startswith("node/")]

    def test_release_with_the_highest_sequence_stays(self, cluster: Cluster) -> None:
        cluster.settings(keep_releases=0)
        cluster.unsubscribe()
        cluster.drop(keys.NODES, keys.DESIRED, keys.STATES, keys.PROVEN, keys.head(PLACES))

        assert removed(cluster) >= gone(1, 2, 3, 4)
        assert not removed(cluster) & gone(5)

    def test_locks_of_an_unsubscribed_service_go_with_its_slots(self, cluster: Cluster) -> None:
        cluster.unsubscribe()
        cluster.drop(keys.NODES, keys.DESIRED, keys.STATES)
        lock = keys.slot("n1", InstanceKey.of(COMPLETE, "i0"))
        cluster[lock] = b"session"

        assert lock.removeprefix(keys.ROOT) in removed(cluster)

    def test_old_history_beyond_the_count_goes(self, cluster: Cluster) -> None:
        def entry(moment: datetime, owner: str = "channel/prod/search/places") -> str:
            return keys.audit(owner, Version.of(moment), "0a1b2c3d")

        old = [entry(NOW - timedelta(days=40, hours=n)) for n in range(AUDIT_KEPT + 3)]
        new = [entry(NOW - timedelta(days=1, hours=n)) for n in range(2)]
        few = [entry(NOW - timedelta(days=400), "node/n1")]
        odd = [f"{keys.AUDIT}channel/prod/search/places/0-odd"]
        found = decide(cluster, audit=(*old, *new, *few, *odd))
        (removal,) = [r for r in found.removals if r.object.startswith("audit/")]
        assert set(removal.keys) == set(sorted(old)[:5])


def test_who_served_what_is_known_of_every_moment_of_thirty_days(cluster: Cluster) -> None:
    """The newest record that began before them tells of their beginning."""
    days = {n: keys.served(COMPLETE, Version.of(NOW - timedelta(days=n))) for n in (90, 60, 31, 29, 1)}

    found = decide(cluster, audit=(*days.values(), keys.served(COMPLETE)))

    (removal,) = [r for r in found.removals if r.object.startswith("audit/")]
    assert set(removal.keys) == {days[90], days[60]}


@settings(max_examples=100)
@given(clusters())
def test_what_plan_says_does_not_change_when_retain_ran(cluster: Cluster) -> None:
    for _ in range(3):
        cluster.run()
    here = [name for name, node in cluster.world().nodes.items() if not node.gone]
    wanted = {name: cluster[keys.DESIRED + name] for name in here}

    perform(cluster, decide(cluster))
    cluster.run()

    for name, before in wanted.items():
        after = codec.decode(model.Desired, cluster[keys.DESIRED + name], name)
        assert after.releases == codec.decode(model.Desired, before, name).releases


@settings(max_examples=100)
@given(clusters())
def test_retain_comes_to_rest(cluster: Cluster) -> None:
    for _ in range(5):
        cluster.run()
        perform(cluster, decide(cluster))

    assert decide(cluster).removals == ()
