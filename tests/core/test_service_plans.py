"""What may be run together: needs of other channels, and labels that instances read or not."""

from __future__ import annotations

from datetime import timedelta

import pytest
from msgspec import structs

from handlers.core import codec, keys, model
from handlers.core.names import InstanceKey
from handlers.core.reading import Reads
from handlers.core.retention import retention
from handlers.core.takeover import Stage, taken_over
from handlers.core.targeting import target
from tests.core.worlds import COMPLETE, NOW, PLACES, ROUTE, STREETS, Cluster, rid, texts, v


@pytest.fixture
def pair() -> Cluster:
    """Two instances that read places and streets and run 1 of both; places 2 needs streets 2."""
    made = Cluster()
    made.publish(1)
    made.publish(1, STREETS)
    made.subscribe(places=PLACES, streets=STREETS)
    for name in ("n1", "n2"):
        made.node(name, COMPLETE)
        made.runs(name, places=1, streets=1)
    made.run()
    made.publish(2, STREETS)
    made.publish(2, needs={STREETS: 2})
    return made


def targets(cluster: Cluster, node: str = "n1", instance: str = "i0") -> tuple[str | None, ...]:
    """What places and streets target, after planning."""
    cluster.run()
    return tuple(cluster.alias(node, alias, instance=instance).target for alias in ("places", "streets"))


class TestNeeds:
    def test_both_are_targeted_when_the_need_is_met(self, pair: Cluster) -> None:
        assert targets(pair) == (v(2), v(2))
        assert pair.alias().passed == ""
        assert pair.desired("n1").releases[rid(2)].needs == {STREETS: 2}

    def test_newer_release_meets_the_need_as_well(self, pair: Cluster) -> None:
        pair.publish(3, STREETS)
        assert targets(pair) == (v(2), v(3))

    def test_order_is_that_of_sequences(self, pair: Cluster) -> None:
        pair.publish(9, STREETS, sequence=1)  # a higher version that was published earlier
        assert targets(pair) == (v(1), v(9))

    @pytest.mark.parametrize("by", ["rejection", "pin", "verdict"])
    def test_when_the_other_channel_goes_back_this_one_goes_back_with_it(
        self, pair: Cluster, by: str
    ) -> None:
        for name in ("n1", "n2"):
            pair.runs(name, places=2, streets=2)
        assert targets(pair) == (v(2), v(2))
        if by == "rejection":
            pair.reject(2, STREETS)
        elif by == "pin":
            pair[keys.channel_pin(STREETS)] = v(1).encode()
        else:
            pair.judge(2, "bad", channel=STREETS)

        assert targets(pair) == (v(1), v(1))
        said = f"{v(2)} needs {STREETS}@{v(2)} or newer, and the service targets {v(1)}"
        assert pair.alias().passed == said
        assert f"service/{COMPLETE}: places: {said}" in texts(pair.plan())
        assert rid(2) in pair.held()  # the way forward again, without a download

    def test_need_of_a_channel_that_the_service_does_not_read_is_an_alarm(self, pair: Cluster) -> None:
        pair.subscribe(ROUTE, places=PLACES)
        pair.node("n3", ROUTE)
        pair.runs("n3", ROUTE, places=1)
        made = pair.run()
        assert pair.alias("n3", service=ROUTE).target == v(1)
        assert f"needs {STREETS}@{v(2)} or newer, and the service does not read that channel" in texts(made)
        assert pair.alias().target == v(2)

    def test_wait_ends_where_a_need_is_not_met(self, pair: Cluster) -> None:
        pair[keys.channel_pin(STREETS)] = v(1).encode()
        pair.run()
        found = taken_over(pair.world(), PLACES, v(2))
        assert {row.stage for row in found.instances} == {Stage.BLOCKED}
        assert found.blocked[COMPLETE].startswith(f"{v(2)} needs {STREETS}@{v(2)} or newer")

    def test_need_of_a_release_that_never_was_is_an_alarm(self, pair: Cluster) -> None:
        pair.publish(3, needs={STREETS: 9})
        assert targets(pair) == (v(2), v(2))
        assert "which is no release of that channel" in texts(pair.plan())

    def test_need_of_a_deleted_channel_is_not_met(self, pair: Cluster) -> None:
        pair.run()
        pair.delete_channel(STREETS)
        assert targets(pair) == (v(1), None)

    def test_first_release_whose_need_is_not_met_is_not_begun_with(self) -> None:
        cluster = Cluster()
        cluster.publish(1, STREETS)
        cluster.publish(2, STREETS)
        cluster.publish(1, needs={STREETS: 2})
        cluster[keys.channel_pin(STREETS)] = v(1).encode()
        cluster.subscribe(places=PLACES, streets=STREETS)
        cluster.node("n1", COMPLETE)
        assert targets(cluster) == (None, v(1))
        assert cluster.alias().start is None
        assert cluster.alias().held.endswith("and there is nothing else to run")

    def test_needs_in_both_directions_are_met_together_or_not_at_all(self, pair: Cluster) -> None:
        pair.publish(3, STREETS, needs={PLACES: 3})
        pair.publish(3, needs={STREETS: 3})
        assert targets(pair) == (v(3), v(3))
        pair.reject(3, STREETS)
        assert targets(pair) == (v(1), v(1))  # what is proven

    def test_new_instance_begins_with_what_goes_together(self, pair: Cluster) -> None:
        """Places 2 is proven with streets 3, which was rejected since; streets 2 never was."""
        pair.publish(3, STREETS)
        for name in ("n1", "n2"):
            pair.runs(name, places=2, streets=3)
        pair.run()
        pair.reject(3, STREETS)
        pair.run()
        assert (pair.alias().start, pair.alias(alias="streets").start) == (v(1), v(1))

    @pytest.mark.parametrize("what", ["header", "channel", "head"])
    def test_what_is_lost_sends_nobody_back(self, pair: Cluster, what: str) -> None:
        assert targets(pair) == (v(2), v(2))
        before = pair.desired("n1")
        lost = {"header": keys.release(STREETS, v(2)), "head": keys.head(STREETS)}
        if what == "channel":
            pair.drop(keys.channel(STREETS), keys.releases(STREETS))
        else:
            pair[lost[what]] = b"{"
        assert targets(pair) == (v(2), v(2))
        assert pair.desired("n1").releases[rid(2)] == before.releases[rid(2)]

    def test_release_that_is_needed_stays_as_long_as_who_needs_it(self, pair: Cluster) -> None:
        for channel in (PLACES, STREETS):
            pair.settings(channel, keep_releases=1)
        pair.publish(3, STREETS)
        pair.publish(5, needs={STREETS: 2})
        for name in ("n1", "n2"):
            pair.runs(name, places=5, streets=3)
        pair.run()
        pair.settings(STREETS, keep_on_nodes=1, keep_releases=1)
        pair.run()

        def gone(cluster: Cluster) -> set[str]:
            return {key for removal in retention(cluster.world(), [], NOW).removals for key in removal.keys}

        assert rid(2, STREETS) not in pair.held()
        assert keys.release(STREETS, v(1)) in gone(pair)
        assert keys.release(STREETS, v(2)) not in gone(pair)
        pair.drop(keys.release(PLACES, v(2)), keys.release(PLACES, v(5)))
        assert keys.release(STREETS, v(2)) in gone(pair)

    def test_chain_of_needs_does_not_keep_all_that_ever_was(self) -> None:
        cluster = Cluster()
        for channel in (PLACES, STREETS):
            cluster.settings(channel, keep_releases=1)
        for number in range(1, 7):
            cluster.publish(number, STREETS, needs={PLACES: number - 1} if number > 1 else None)
            cluster.publish(number, needs={STREETS: number})
        removals = retention(cluster.world(), [], NOW).removals
        gone = {key for removal in removals for key in removal.keys}
        assert keys.release(PLACES, v(4)) in gone
        assert keys.release(PLACES, v(5)) not in gone


class TestLabels:
    """Code that reads format 4, and data that moves on to format 5."""

    @pytest.fixture
    def cluster(self) -> Cluster:
        made = Cluster()
        made.publish(1, labels={"format": "3"})
        made.publish(2, labels={"format": "4"})
        made.subscribe(reads="format<=4")
        made.node("n1", COMPLETE)
        made.runs("n1", places=2)
        made.run()
        made.publish(3, labels={"format": "5"})
        return made

    def test_newest_that_can_be_read_is_targeted(self, cluster: Cluster) -> None:
        made = cluster.run()
        part = cluster.alias()
        assert (part.target, part.start, part.held) == (v(2), v(2), "")
        assert part.passed == f"{v(3)} has format=5, and only format<=4 is read"
        assert made.alarms.alarms == ()  # as it should be
        assert rid(3) in cluster.held()  # code that reads it finds it there

    def test_code_goes_forward_then_back(self, cluster: Cluster) -> None:
        cluster.subscribe(reads="format<=5")
        cluster.run()
        assert cluster.alias().target == v(3)
        cluster.subscribe(reads="format<=3")
        cluster.run()
        assert cluster.alias().target == v(1)

    def test_data_goes_back_to_what_can_be_read(self, cluster: Cluster) -> None:
        cluster.publish(4, labels={"format": "4"})
        cluster.run()
        assert cluster.alias().target == v(4)
        cluster.reject(4)
        cluster.run()
        assert cluster.alias().target == v(2)

    def test_pin_does_not_make_anything_readable(self, cluster: Cluster) -> None:
        cluster[keys.channel_pin(PLACES)] = v(3).encode()
        cluster.run()
        assert cluster.alias().target == v(2)

    def test_nothing_readable_is_said_and_nobody_moves(self, cluster: Cluster) -> None:
        cluster.subscribe(reads="format<=2")
        cluster.run()
        part = cluster.alias()
        assert part.target is None
        assert (
            part.held == f"{v(3)} has format=5, and only format<=2 is read, and there is nothing else to run"
        )
        assert rid(2) in cluster.held()

    def test_while_the_head_is_lost_the_second_plan_is_the_first(self, cluster: Cluster) -> None:
        cluster.subscribe(reads="format>=5")
        cluster.run()
        assert cluster.alias().target == v(3)

        cluster[keys.head(PLACES)] = v(9).encode()  # no release of the channel
        cluster.subscribe(reads="format<=4")
        cluster.run()

        assert (cluster.alias().target, cluster.alias().passed) == (v(2), "")
        assert cluster.plan().changed == ()

    def test_instances_of_old_and_new_code_each_get_what_they_read(self, cluster: Cluster) -> None:
        cluster.subscribe()
        cluster.node("n1", COMPLETE, reads="format<=4")
        cluster.node("n2", COMPLETE, reads="format>=5")
        cluster.run()
        assert cluster.alias("n1").target == v(2)
        assert (cluster.alias("n2").target, cluster.alias("n2").start) == (v(3), v(3))
        assert cluster.held("n1") >= {rid(2)}
        cluster.runs("n2", places=3)
        cluster.run()
        assert cluster.world().services[COMPLETE].proven.channels[PLACES] == (v(2), v(3))
        assert target(cluster.world(), cluster.world().channels[PLACES], NOW) == v(3)

    def test_each_replica_on_a_node_has_its_own_plan(self, cluster: Cluster) -> None:
        cluster.node("n1", COMPLETE, replicas=2)
        key = keys.instances("n1")
        known = codec.decode(model.Instances, cluster[key], key)
        newer = InstanceKey.of(COMPLETE, "i1")
        reads = structs.replace(known.instances[newer], reads=Reads.parse("format<=5"))
        cluster.put(key, structs.replace(known, instances={**known.instances, newer: reads}))
        cluster.run()
        assert cluster.alias(instance="i0").target == v(2)
        assert cluster.alias(instance="i1").target == v(3)
        assert list(cluster.desired("n1").services[COMPLETE].others) == ["i1"]

    def test_lost_instances_keep_the_plans_of_their_own(self, cluster: Cluster) -> None:
        cluster.subscribe()
        cluster.node("n1", COMPLETE, reads="format<=4")
        cluster.run()
        before = cluster.desired("n1")
        cluster[keys.instances("n1")] = b"{"
        cluster.run()
        assert cluster.desired("n1").services == before.services
        assert cluster.held() >= {rid(2)}

    def test_lost_subscription_goes_on_with_what_it_read(self, cluster: Cluster) -> None:
        cluster.run()
        cluster[keys.subscription(COMPLETE)] = b'{"format": 1, "channels": {}, "reads": "format<<4"}'
        made = cluster.run()
        assert cluster.alias().target == v(2)
        assert "'format<<4' does not say what is read" in texts(made)

    def test_ram_is_for_what_is_read_here(self, cluster: Cluster) -> None:
        cluster.publish(4, labels={"format": "4"}, placement=model.RAM)
        cluster.publish(5, labels={"format": "5"}, placement=model.RAM)
        cluster.subscribe()
        cluster.node("n1", COMPLETE, reads="format<=4")
        cluster.run()
        assert cluster.desired("n1").ram == {f"{PLACES}/index": v(4)}

    def test_cordoned_node_begins_with_what_can_be_read_and_is_here(self, cluster: Cluster) -> None:
        cluster.run()
        assert cluster.held() == {rid(2), rid(3)}
        cluster.publish(4, labels={"format": "4"})
        cluster.runs("n1", places=4)
        cluster.cordon("n1")
        cluster.run()
        assert cluster.alias().start == v(2)

    def test_wait_ends_for_who_cannot_read_it(self, cluster: Cluster) -> None:
        cluster.run()
        found = taken_over(cluster.world(), PLACES, v(3))
        assert [row.stage for row in found.instances] == [Stage.BLOCKED]
        assert found.blocked == {COMPLETE: f"{v(3)} has format=5, and only format<=4 is read"}

    def test_alias_that_is_not_read_is_an_alarm(self, cluster: Cluster) -> None:
        cluster.subscribe(reads="streets:format<=4")
        assert "says what it reads of alias streets, under which it reads no channel" in texts(cluster.run())

    def test_canaries_are_those_that_read_the_new_release(self, cluster: Cluster) -> None:
        """Old code neither goes first nor is waited for, and goes where it should without a turn."""
        subscription = model.Subscription(channels={"places": PLACES}, canaries=1, wave_by="zone")
        cluster.put(keys.subscription(COMPLETE), subscription)
        cluster.node("n1", COMPLETE, reads="format<=4")
        for name in ("n2", "n3"):
            cluster.node(name, COMPLETE)
            cluster.runs(name, places=2)
        cluster.run()

        def may(node: str) -> bool:
            plan = cluster.desired(node).services[COMPLETE]
            return plan.lets_go(InstanceKey.of(COMPLETE, "i0"))

        assert [may(node) for node in ("n1", "n2", "n3")] == [True, True, False]
        cluster.runs("n2", places=3)
        cluster.run()
        assert [may(node) for node in ("n1", "n2", "n3")] == [True, True, True]
        cluster.runs("n3", places=3)
        cluster.run()
        assert cluster.alias("n3").start == v(3)
        assert cluster.plan(now=NOW + timedelta(hours=1)).changed == ()
