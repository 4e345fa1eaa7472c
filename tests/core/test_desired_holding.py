"""What plan lets nodes hold, on disk and in RAM, and what it does not let go."""

from __future__ import annotations

from datetime import timedelta

import pytest

from handlers.core import keys, model
from tests.core.worlds import (
    COMPLETE,
    NOW,
    PLACES,
    ROUTE,
    STREETS,
    Cluster,
    rid,
    texts,
    three_nodes,
    v,
)

A_DAY = timedelta(days=1)
A_DAY_LATER = NOW + A_DAY


@pytest.fixture
def cluster() -> Cluster:
    return three_nodes()


class TestHolding:
    def test_previous_release_stays_for_a_rollback(self, cluster: Cluster) -> None:
        cluster.run()
        for name in ("n1", "n2", "n3"):
            cluster.runs(name, places=2)
        cluster.run()
        assert cluster.held() == {rid(1), rid(2)}
        assert cluster.desired("n1").releases[rid(1)].why == ("kept for a rollback",)

    def test_what_was_rolled_back_from_stays_for_a_day_and_says_until_when(self, cluster: Cluster) -> None:
        cluster.settings(keep_on_nodes=1)
        for number in (2, 1):  # everybody runs 2, which is rejected; everybody is back on 1
            for name in ("n1", "n2", "n3"):
                cluster.runs(name, places=number)
            cluster.run()
            cluster.reject(2)
        cluster.run()

        hold = cluster.desired("n1").releases[rid(2)]
        assert (hold.why, hold.until) == (("rolled back from",), "2026-06-02T00:00:00Z")
        assert cluster.desired("n1").releases[rid(1)].until == ""
        assert cluster.plan(now=NOW + timedelta(hours=23)).changed == ()
        later = cluster.plan(now=NOW + timedelta(hours=24))
        assert set(later.desired["n1"].releases) == {rid(1)}

    def test_what_was_rolled_back_from_stays_for_its_day_when_a_newer_release_comes(
        self, cluster: Cluster
    ) -> None:
        for number in (2, 1):  # as above
            for name in ("n1", "n2", "n3"):
                cluster.runs(name, places=number)
            cluster.run()
            cluster.reject(2)
        cluster.run()
        cluster.publish(3)
        for number in (1, 3):
            for name in ("n1", "n2", "n3"):
                cluster.runs(name, places=number)
            cluster.run()
            hold = cluster.desired("n1").releases[rid(2)]
            assert (hold.why, hold.until) == (("rolled back from",), "2026-06-02T00:00:00Z")
        assert cluster.held() == {rid(1), rid(2), rid(3)}  # it takes no other's place

        later = cluster.plan(now=NOW + timedelta(hours=24))
        assert set(later.desired["n1"].releases) == {rid(1), rid(3)}

    def test_what_is_only_kept_for_a_rollback_says_so_until_it_is_needed(self, cluster: Cluster) -> None:
        for number in (1, 2):
            for name in ("n1", "n2", "n3"):
                cluster.runs(name, places=number)
            cluster.run()
        assert cluster.desired("n1").releases[rid(1)].until == "2026-06-02T00:00:00Z"
        cluster.reject(2)
        cluster.run()
        assert cluster.desired("n1").releases[rid(1)].until == ""

    def test_what_is_held_because_something_cannot_be_read_is_needed(self, cluster: Cluster) -> None:
        for number in (1, 2):
            for name in ("n1", "n2", "n3"):
                cluster.runs(name, places=number)
            cluster.run()
        cluster[keys.head(PLACES)] = b"nonsense"
        cluster.run()
        assert cluster.desired("n1").releases[rid(1)].until == ""

    @pytest.mark.parametrize(("nodes", "crowd"), [(1, 1), (2, 10), (10, 10), (11, 100), (100, 100)])
    def test_order_says_how_many_nodes_get_it_at_once(self, nodes: int, crowd: int) -> None:
        cluster = Cluster()
        cluster.publish(1)
        cluster.subscribe()
        for number in range(nodes):
            cluster.node(f"n{number}", COMPLETE)
        cluster.run()
        assert cluster.desired("n0").releases[rid(1)].crowd == crowd
        cluster.node("new", COMPLETE)
        made = cluster.run()
        assert made.changed == ("new",)  # nobody's document is written again for the sake of a number
        assert cluster.desired("new").releases[rid(1)].crowd == 1

    @pytest.mark.parametrize(("keep", "held"), [(1, {4}), (2, {3, 4}), (3, {2, 3, 4})])
    def test_channel_says_how_many_stay(self, cluster: Cluster, keep: int, held: set[int]) -> None:
        cluster.settings(keep_on_nodes=keep)
        for number in (3, 4, 4):
            cluster.run()
            cluster.publish(number)
            for name in ("n1", "n2", "n3"):
                cluster.runs(name, places=number)
        cluster.run()
        assert cluster.held() == {rid(number) for number in held}

    def test_nodes_are_told_what_integrity_the_channel_demands(self, cluster: Cluster) -> None:
        cluster.put(keys.settings(PLACES), model.ChannelSettings(least_integrity="checksum"))
        cluster.run()
        assert {h.least_integrity for h in cluster.desired("n1").releases.values()} == {"checksum"}
        cluster[keys.settings(PLACES)] = b"{"
        cluster.run()
        assert {h.least_integrity for h in cluster.desired("n1").releases.values()} == {"checksum"}
        cluster.settings()
        cluster.run()
        assert {h.least_integrity for h in cluster.desired("n1").releases.values()} == {None}

    def test_new_node_takes_only_what_it_needs(self, cluster: Cluster) -> None:
        cluster.run()
        for name in ("n1", "n2", "n3"):
            cluster.runs(name, places=2)
        cluster.run()
        cluster.node("n4", COMPLETE)
        cluster.run()
        assert cluster.held("n4") == {rid(2)}

    def test_what_an_instance_uses_or_moves_to_stays(self, cluster: Cluster) -> None:
        cluster.settings(keep_on_nodes=1)
        for number in (3, 4):
            cluster.run()
            cluster.publish(number)
        cluster.runs("n1", places=1, moving={"places": v(3)})
        for name in ("n2", "n3"):
            cluster.runs(name, places=4)
        cluster.run()
        cluster.runs("n2", places=4)
        cluster.run()
        assert cluster.held("n1") >= {rid(1), rid(3), rid(4)}

    def test_use_under_an_alias_that_is_no_longer_subscribed_stays(self, cluster: Cluster) -> None:
        cluster.publish(7, STREETS)
        cluster.subscribe(places=PLACES, roads=STREETS)
        cluster.run()
        for name in ("n1", "n2", "n3"):
            cluster.runs(name, places=2, roads=7)
        cluster.run()
        cluster.subscribe(places=PLACES)
        cluster.run()
        cluster.run()
        assert rid(7, STREETS) in cluster.held()
        for name in ("n1", "n2", "n3"):
            cluster.runs(name, places=2)
        cluster.run()
        assert rid(7, STREETS) not in cluster.held()

    def test_rejected_release_makes_room_before_a_good_one(self, cluster: Cluster) -> None:
        cluster.run()
        cluster.reject(2)
        cluster.run()
        assert cluster.held() == {rid(1), rid(2)}
        cluster.publish(3)
        for name in ("n1", "n2", "n3"):
            cluster.runs(name, places=3)
        later = cluster.plan(now=NOW + timedelta(hours=24))
        assert set(later.desired["n1"].releases) == {rid(1), rid(3)}

    def test_unsubscribed_service_lets_its_data_go(self, cluster: Cluster) -> None:
        cluster.run()
        for name in ("n1", "n2", "n3"):
            cluster.runs(name)
        cluster.unsubscribe()
        made = cluster.run()
        assert cluster.held() == set()
        assert cluster.desired("n1").services == {}
        assert made.alarms.alarms == ()

    def test_unsubscribed_service_keeps_what_its_instances_still_use(self, cluster: Cluster) -> None:
        cluster.run()
        cluster.unsubscribe()
        cluster.run()
        cluster.run()
        assert cluster.held() == {rid(1)}

    def test_deleted_channel_goes_once_nothing_uses_it(self, cluster: Cluster) -> None:
        cluster.run()
        cluster.delete_channel()
        made = cluster.run()
        assert cluster.held() == {rid(1)}
        assert "is deleted" in texts(made)
        for name in ("n1", "n2", "n3"):
            cluster.runs(name)
        cluster.run()
        assert cluster.held() == set()

    def test_node_without_alive_keeps_its_plan(self, cluster: Cluster) -> None:
        cluster.run()
        before = cluster.desired("n2")
        cluster.drop(keys.alive("n2"))
        assert cluster.run().changed == ()
        assert cluster.desired("n2") == before

    def test_instance_that_moves_takes_its_data_along(self, cluster: Cluster) -> None:
        cluster.run()
        cluster.leaves("n3")
        cluster.node("n4", COMPLETE)
        cluster.run()
        assert cluster.held("n3") == {rid(1)}  # for an instance that may come back
        cluster.run(now=A_DAY_LATER)
        assert cluster.held("n3") == set()
        assert cluster.held("n4") == {rid(1), rid(2)}
        assert cluster.world().services[COMPLETE].proven.nodes == ("n1", "n2", "n4")

    def test_cordoned_node_takes_nothing_new_and_moves_nothing(self, cluster: Cluster) -> None:
        cluster.cordon("n1")
        cluster.run()
        assert cluster.held("n1") == {rid(1)}
        assert cluster.held("n2") == {rid(1), rid(2)}
        desired = cluster.desired("n1")
        assert desired.cordoned
        assert desired.services[COMPLETE].paused
        assert not cluster.desired("n2").services[COMPLETE].paused
        cluster.drop(keys.cordon("n1"))
        cluster.run()
        assert cluster.held("n1") == {rid(1), rid(2)}
        assert not cluster.desired("n1").services[COMPLETE].paused

    def test_new_instance_on_a_cordoned_node_starts_with_what_is_there(self, cluster: Cluster) -> None:
        for name in ("n2", "n3"):
            cluster.runs(name, places=2)
        cluster.cordon("n1")
        cluster.node("n1", COMPLETE, alive=False)
        cluster.drop(keys.alive("n1"))
        cluster.run()
        cluster.run()
        assert cluster.alias("n2").start == v(2)
        assert cluster.alias("n1").start == v(1)
        assert cluster.alias("n1").target == v(2)

    def test_node_is_called_by_its_real_name(self, cluster: Cluster) -> None:
        name = "Rack 7/Node.3"
        cluster.node(name, COMPLETE)
        cluster.run()
        assert cluster.desired(name).node == name
        assert name in cluster.world().services[COMPLETE].proven.nodes

    def test_fields_of_a_newer_planner_stay(self, cluster: Cluster) -> None:
        cluster.run()
        key = keys.desired("n1")
        cluster[key] = cluster[key].replace(b'"cordoned"', b'"colour": "green",\n  "cordoned"')
        cluster.publish(3)
        cluster.run()
        assert cluster.desired("n1").extra == {"colour": "green"}


class TestBrake:
    def test_instances_that_vanish_everywhere_at_once_keep_their_data(self, cluster: Cluster) -> None:
        cluster.run()
        cluster.leaves("n1", "n2", "n3")
        assert cluster.run().alarms.alarms == ()
        made = cluster.run(now=A_DAY_LATER)
        assert "instances vanished on 3 nodes at once, which would drop 3 of 3 releases" in texts(made)
        assert cluster.held() == {rid(1)}
        assert cluster.run(now=A_DAY_LATER).changed == ()

    def test_unsubscribing_lifts_the_brake(self, cluster: Cluster) -> None:
        self.test_instances_that_vanish_everywhere_at_once_keep_their_data(cluster)
        cluster.unsubscribe()
        cluster.run()
        assert cluster.held() == set()

    def test_instances_that_come_back_find_their_data(self, cluster: Cluster) -> None:
        self.test_instances_that_vanish_everywhere_at_once_keep_their_data(cluster)
        for name in ("n1", "n2", "n3"):
            cluster.node(name, COMPLETE)
        made = cluster.run()
        assert made.alarms.alarms == ()
        assert cluster.held() == {rid(1), rid(2)}

    def test_one_node_after_the_other_is_daily_life(self, cluster: Cluster) -> None:
        for days, name in enumerate(("n1", "n2", "n3")):
            cluster.leaves(name)
            assert cluster.run(now=NOW + days * A_DAY).alarms.alarms == ()
            assert cluster.run(now=NOW + (days + 1) * A_DAY).alarms.alarms == ()
            assert cluster.held(name) == set()

    def test_share_decides(self, cluster: Cluster) -> None:
        cluster.run()
        cluster.leaves("n1", "n2")
        cluster.run(brake_share=0.7)
        assert cluster.run(brake_share=0.7, now=A_DAY_LATER).alarms.alarms == ()
        assert cluster.held("n1") == set()

    def test_another_subscription_is_no_accident(self, cluster: Cluster) -> None:
        cluster.publish(7, STREETS)
        cluster.subscribe(roads=STREETS)
        for name in ("n1", "n2", "n3"):
            cluster.runs(name, roads=7)
        made = cluster.run()
        assert made.alarms.alarms == ()
        assert cluster.held() == {rid(7, STREETS)}


class TestRam:
    @pytest.fixture
    def cluster(self) -> Cluster:
        made = Cluster()
        made.publish(1, placement=model.RAM)
        made.subscribe()
        made.node("n1", COMPLETE)
        made.runs("n1", places=1)
        made.run()
        made.publish(2, placement=model.RAM)
        return made

    def ram(self, cluster: Cluster) -> dict[str, str]:
        cluster.run()
        return dict(cluster.desired("n1").ram)

    def test_ram_holds_the_target(self, cluster: Cluster) -> None:
        assert self.ram(cluster) == {f"{PLACES}/index": v(2)}

    def test_ram_stays_while_moves_stop(self, cluster: Cluster) -> None:
        cluster.judge(2)
        assert self.ram(cluster) == {f"{PLACES}/index": v(1)}
        cluster.control(retry=("id2",))
        assert self.ram(cluster) == {f"{PLACES}/index": v(2)}

    def test_paused_service_keeps_what_is_in_ram(self, cluster: Cluster) -> None:
        cluster.control(paused=True)
        assert self.ram(cluster) == {f"{PLACES}/index": v(1)}
        cluster.control()
        cluster.run()
        cluster.control(paused=True)
        assert self.ram(cluster) == {f"{PLACES}/index": v(2)}

    def test_cordoned_node_keeps_what_is_in_ram(self, cluster: Cluster) -> None:
        cluster.cordon("n1")
        assert self.ram(cluster) == {f"{PLACES}/index": v(1)}

    def test_of_two_targets_the_newer_one_has_ram(self, cluster: Cluster) -> None:
        cluster.subscribe(ROUTE, places=PLACES)
        cluster.node("n1", COMPLETE, ROUTE)
        cluster[keys.service_pin(COMPLETE, "places")] = v(1).encode()
        assert self.ram(cluster) == {f"{PLACES}/index": v(2)}

    def test_dataset_that_leaves_ram(self, cluster: Cluster) -> None:
        cluster.publish(3, placement=model.DISK)
        assert self.ram(cluster) == {}
