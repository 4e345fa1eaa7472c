"""Whose turn it is: data first, canaries, their check, waves and pauses; whatever dies or is interrupted."""

from __future__ import annotations

import dataclasses
import random
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from handlers.core import codec, keys, model
from handlers.core.desired import Plan
from handlers.core.names import Channel, InstanceKey, Service
from handlers.core.version import ReleaseId
from tests.core.worlds import COMPLETE, NOW, PLACES, ROUTE, STREETS, Cluster, rid, v, writes

ZONES = {"n1": "a", "n2": "a", "n3": "b", "n4": "b", "n5": ""}
CHECK = "http://:/healthz"


class Fleet(Cluster):
    """Five nodes in two zones and without one; release 1 is proven. `now` moves only by `later`."""

    def __init__(self, **order: object) -> None:
        super().__init__()
        self.now = NOW
        self.publish(1)
        self.order(**order)
        for name, zone in ZONES.items():
            self.node(name, COMPLETE)
            self.put(keys.info(name), model.NodeInfo(node=name, labels={"zone": zone} if zone else {}))
            self.runs(name, places=1)
        self.step()
        self.publish(2)
        self.step()

    def order(self, **order: object) -> None:
        subscription = model.Subscription(channels={"places": PLACES}, **order)  # type: ignore[arg-type]
        self.put(keys.subscription(COMPLETE), subscription)

    def step(self) -> Plan:
        """Plan until nothing changes any more, as watches let it."""
        for _ in range(5):
            made = self.plan(now=self.now)
            for key, value in writes(made):
                self[key] = value
            if not (made.changed or made.rollouts or made.proven):
                return made
        raise AssertionError("plan does not come to rest")

    def later(self, seconds: float) -> Plan:
        self.now += timedelta(seconds=seconds)
        return self.step()

    def may(self, number: int = 2) -> set[str]:
        """The nodes whose instance may move to a release now."""
        found = set()
        for name in ZONES:
            key = InstanceKey.of(COMPLETE, "i0")
            plan = self.desired(name).services[COMPLETE].of(key)
            part = plan.aliases["places"]
            if plan.lets_go(key) and part.target == v(number) and not part.held:
                found.add(name)
        return found

    def move(self, *nodes: str, number: int = 2) -> None:
        for name in nodes:
            self.runs(name, places=number)
        self.step()

    def rollout(self) -> model.Rollout:
        return codec.decode(model.Rollout, self[keys.rollout(COMPLETE)], "rollout")

    def found(self, verdict: str, number: int = 2) -> None:
        """What judge writes."""
        self.judge(number, verdict)
        self.step()

    def holds(self, *nodes: str, number: int = 2) -> None:
        done = model.ReleaseStatus(state=model.State.SUCCESS)
        for name in nodes:
            actual = model.Actual(node=name, generation=1, releases={rid(number): done})
            self.put(keys.actual(name), actual)
        self.step()


ALL = set(ZONES)


def test_without_an_order_everybody_may_move_and_nothing_is_written() -> None:
    fleet = Fleet()

    assert fleet.may() == ALL
    assert keys.rollout(COMPLETE) not in fleet


def test_first_release_of_a_service_has_no_order() -> None:
    """There is nothing to go back to, and nobody who could serve meanwhile."""
    cluster = Cluster()
    cluster.publish(1)
    cluster.put(
        keys.subscription(COMPLETE), model.Subscription(channels={"places": PLACES}, canaries=1, check=CHECK)
    )
    cluster.node("n1", COMPLETE)
    cluster.run()

    assert cluster.desired("n1").services[COMPLETE].waits == ""
    cluster.runs("n1", places=1)
    cluster.run()
    assert codec.decode(model.Proven, cluster[keys.proven(COMPLETE)], "p").channels == {PLACES: (v(1),)}


def test_nobody_moves_before_all_live_nodes_have_the_data() -> None:
    fleet = Fleet(data_first=True)
    assert fleet.may() == set()
    assert "not yet n1, n2, n3, n4, n5" in fleet.desired("n1").services[COMPLETE].waits

    fleet.holds("n1", "n2", "n3")
    assert fleet.may() == set()
    del fleet[keys.alive("n4")]  # a dead node is not waited for
    fleet.holds("n5")

    assert fleet.may() >= ALL - {"n4"}


def test_data_first_waits_for_nodes_that_hold_the_data_without_an_instance() -> None:
    """Not for those that are dead, cordoned, or not selected."""
    fleet = Fleet(data_first=True, nodes="pool=search")
    for name, pool in (("s1", "search"), ("s2", "search"), ("s3", "search"), ("other", "web")):
        fleet.node(name, alive=name != "s2")
        fleet.put(keys.info(name), model.NodeInfo(node=name, labels={"pool": pool}))
    fleet.cordon("s3")
    fleet.holds(*ALL)
    assert fleet.may() == set()
    assert fleet.desired("n1").services[COMPLETE].waits.endswith("not yet s1")

    fleet.holds("s1")

    assert fleet.may() == ALL


def test_data_first_waits_for_a_selected_node_as_planned_before_where_its_labels_are_lost() -> None:
    fleet = Fleet(data_first=True, nodes="pool=search")
    fleet.node("s1")
    fleet.put(keys.info("s1"), model.NodeInfo(node="s1", labels={"pool": "search"}))
    fleet.step()
    fleet[keys.info("s1")] = b"nonsense"

    fleet.holds(*ALL)

    assert fleet.desired("n1").services[COMPLETE].waits.endswith("not yet s1")


def test_promote_skips_the_wait_for_the_data() -> None:
    fleet = Fleet(data_first=True)
    fleet.holds("n1")

    fleet.control(promote=(rid(2),))
    fleet.step()

    assert fleet.may() == ALL  # each once its node has it


def test_data_first_asks_of_each_node_what_its_own_instances_move_to() -> None:
    """What is fresh for those that read something else never comes to it."""
    fleet = Fleet(data_first=True)
    fleet.publish(3, labels={"format": "4"})
    fleet.publish(4, labels={"format": "5"})
    fleet.node("n1", COMPLETE, reads="format<=4")
    fleet.step()
    assert fleet.alias("n1").target == v(3)
    assert fleet.desired("n2").services[COMPLETE].waits.endswith("not yet n1, n2, n3, n4, n5")

    fleet.holds(*(ALL - {"n1"}), number=4)
    assert fleet.desired("n2").services[COMPLETE].waits.endswith("not yet n1")
    fleet.holds("n1", number=3)

    assert fleet.desired("n2").services[COMPLETE].waits == ""


def test_canaries_go_first_then_all_when_there_is_no_check() -> None:
    fleet = Fleet(canaries=2)
    assert fleet.may() == {"n1", "n2"}

    fleet.move("n2")
    assert fleet.may() == {"n1", "n2"}
    fleet.move("n1")

    assert fleet.may() == ALL


def test_check_holds_the_others_until_it_is_good() -> None:
    fleet = Fleet(canaries=2, check=CHECK)
    fleet.move("n1", "n2")

    assert fleet.may() == {"n1", "n2"}
    assert (fleet.rollout().stage, fleet.rollout().instances) == ("check", ("n1.i0", "n2.i0"))
    fleet.found("good")

    assert fleet.may() == ALL
    fleet.move("n3", "n4", "n5")
    assert fleet.rollout() == model.Rollout(ordered=True)
    assert fleet.alias().start == v(2)


def test_release_of_a_single_instance_is_not_proven_before_its_check() -> None:
    cluster = Fleet(check=CHECK)
    for name in ("n2", "n3", "n4", "n5"):
        cluster.forget(name)
    cluster.runs("n1", places=2)
    cluster.step()

    assert cluster.alias().start == v(1)
    cluster.found("bad")
    assert (cluster.alias().target, cluster.alias().start) == (v(1), v(1))


def test_bad_check_sends_all_back_and_a_later_release_goes_ahead_by_itself() -> None:
    fleet = Fleet(canaries=1, check=CHECK)
    fleet.move("n1")

    fleet.found("bad")

    assert {fleet.alias(name).target for name in ZONES} == {v(1)}
    assert {fleet.alias(name).start for name in ZONES} == {v(1)}
    assert fleet.may(1) == ALL  # whoever goes back waits for nobody
    assert rid(1) in fleet.held("n1")
    fleet.move("n1", number=1)
    fleet.publish(3)
    fleet.step()
    assert fleet.may(3) == {"n1"}


def test_inconclusive_check_pauses_until_somebody_decides() -> None:
    fleet = Fleet(canaries=1, check=CHECK)
    fleet.move("n1")
    fleet.found("inconclusive")

    assert fleet.may() == set()
    assert fleet.alias().target == v(2)
    assert "its check was inconclusive" in fleet.alias().held
    fleet.control(retry=("id2",))
    fleet.step()
    assert (fleet.may(), fleet.rollout().stage) == ({"n1"}, "check")
    fleet.control(promote=(rid(2),))
    fleet.step()
    assert fleet.may() == ALL
    assert fleet.desired("n1").services[COMPLETE].retry == ("id2",)  # nodes look at verdicts themselves


@pytest.mark.parametrize("verdict", ["bad", "inconclusive"])
@pytest.mark.parametrize("whose", ["service", "channel"])
def test_pin_of_an_operator_beats_what_a_check_found(verdict: str, whose: str) -> None:
    fleet = Fleet(canaries=1, check=CHECK)
    fleet.move("n1")
    fleet.found(verdict)
    key = keys.channel_pin(PLACES) if whose == "channel" else keys.service_pin(COMPLETE, "places")
    fleet.put(key, model.Pin(version=v(2)))

    fleet.step()

    assert fleet.may() == ALL
    assert fleet.desired("n1").services[COMPLETE].retry == ("id2",)


def test_canaries_of_one_service_condemn_for_all_where_the_channel_says_so() -> None:
    fleet = Fleet(canaries=1, check=CHECK)
    fleet.subscribe(ROUTE)
    fleet.node("n6", ROUTE)
    fleet.runs("n6", ROUTE, places=1)
    fleet.step()
    fleet.move("n1")

    fleet.found("bad")
    assert fleet.alias("n6", service=ROUTE).target == v(2)
    fleet.put(keys.settings(PLACES), model.ChannelSettings(propagate=True))
    fleet.step()

    assert fleet.alias("n6", service=ROUTE).target == v(1)


def test_waves_go_by_label_and_nodes_without_it_come_last() -> None:
    fleet = Fleet(wave_by="zone")
    assert fleet.may() == {"n1", "n2"}

    fleet.move("n1", "n2")
    assert fleet.may() == {"n1", "n2", "n3", "n4"}
    fleet.move("n3")
    assert fleet.may() == {"n1", "n2", "n3", "n4"}
    fleet.move("n4")

    assert fleet.may() == ALL


def test_pause_between_waves_ends_by_time_or_by_promote() -> None:
    fleet = Fleet(wave_by="zone", wave_pause_s=600)
    assert fleet.may() == {"n1", "n2"}  # nothing is before the first
    fleet.move("n1")
    fleet.move("n2")

    made = fleet.later(0)
    assert fleet.may() == {"n1", "n2"}
    assert made.due == NOW + timedelta(seconds=600)
    fleet.later(599)
    assert fleet.may() == {"n1", "n2"}
    fleet.later(2)
    assert fleet.may() == {"n1", "n2", "n3", "n4"}
    fleet.move("n3", "n4")
    fleet.control(promote=(rid(2),))
    fleet.step()
    assert fleet.may() == ALL


def test_canary_check_pause_and_waves_follow_each_other() -> None:
    fleet = Fleet(canaries=1, check=CHECK, wave_by="zone", wave_pause_s=60)
    seen = [(fleet.rollout().stage, fleet.may())]
    fleet.move("n1")
    seen.append((fleet.rollout().stage, fleet.may()))
    fleet.found("good")
    seen.append((fleet.rollout().stage, fleet.may()))
    fleet.later(61)
    seen.append((fleet.rollout().stage, fleet.may()))
    fleet.move("n2")
    seen.append((fleet.rollout().stage, fleet.may()))

    assert seen == [
        ("canary", {"n1"}),
        ("check", {"n1"}),
        ("pause", {"n1"}),
        ("wave", {"n1", "n2"}),
        ("pause", {"n1", "n2"}),
    ]


def test_dead_canary_is_replaced_and_one_that_has_begun_stays_chosen() -> None:
    fleet = Fleet(canaries=1, check=CHECK)
    fleet.runs("n3", places=1, moving={"places": v(2)})  # it had been let go before the order was changed
    fleet.step()
    assert fleet.rollout().instances == ("n3.i0",)
    del fleet[keys.alive("n3")]

    fleet.step()

    assert fleet.rollout().instances == ("n1.i0",)


def test_newer_release_takes_the_place_of_one_that_is_on_its_way() -> None:
    """Nobody waits for the older one any more; who runs it goes first: it is off the proven one anyway."""
    fleet = Fleet(canaries=1, check=CHECK)
    fleet.move("n1")
    fleet.publish(3)

    fleet.step()

    assert fleet.rollout().releases == (rid(3),)
    assert fleet.may(3) == {"n1"}
    assert fleet.may(2) == set()


def test_lost_subscription_lets_nobody_else_go() -> None:
    fleet = Fleet(canaries=1, check=CHECK)
    del fleet[keys.subscription(COMPLETE)]

    fleet.step()

    assert fleet.may() == {"n1"}
    fleet.publish(3)
    fleet.step()
    assert fleet.may(3) == set()


def test_cordoned_nodes_are_not_waited_for() -> None:
    fleet = Fleet(wave_by="zone")
    fleet.cordon("n1")
    fleet.step()

    fleet.move("n2")

    assert {"n3", "n4"} <= fleet.may()


def test_stale_pause_text_begins_the_pause_anew() -> None:
    fleet = Fleet(wave_by="zone", wave_pause_s=60)
    fleet.move("n1", "n2")
    fleet.put(keys.rollout(COMPLETE), structs.replace(fleet.rollout(), until="soon"))

    made = fleet.later(30)

    assert made.due == NOW + timedelta(seconds=90)


class Pair(Fleet):
    """The same fleet reading two channels. Release 1 of both is proven; 2 of places is good, some run it."""

    def __init__(self, **order: object) -> None:
        self._both = {"places": PLACES, "streets": STREETS}
        super().__init__(canaries=1, check=CHECK, **order)
        self.move("n1")
        self.found("good")
        self.move("n1", "n2", "n3")

    def publish(self, number: int, channel: Channel = PLACES, **kwargs: Any) -> None:
        super().publish(number, channel, **kwargs)
        if number == 1 and channel == PLACES:
            super().publish(1, STREETS)

    def order(self, **order: object) -> None:
        subscription = model.Subscription(channels=self._both, **order)  # type: ignore[arg-type]
        self.put(keys.subscription(COMPLETE), subscription)

    def runs(self, node: str, service: Service = COMPLETE, **kwargs: Any) -> None:
        """What is not given is as it was."""
        states = codec.decode(model.States, self[keys.states(node)], node).instances.values()
        before = {a: int(r[8:10]) for state in states for a, r in state.releases.items()}
        super().runs(node, service, **{"streets": 1, **before, **kwargs})

    def both(self, *nodes: str) -> None:
        for name in nodes:
            self.runs(name, places=2, streets=2)
        self.step()


def test_release_of_a_second_channel_has_its_own_check_in_the_midst_of_a_rollout() -> None:
    fleet = Pair()
    assert fleet.may() == ALL

    fleet.publish(2, STREETS)
    fleet.step()

    assert (fleet.rollout().stage, fleet.may()) == ("canary", {"n1"})
    fleet.both("n1")
    assert (fleet.rollout().stage, fleet.may()) == ("check", {"n1"})
    assert fleet.rollout().checks == (rid(2, STREETS),)  # the other one has passed
    fleet.judge(2, "good", channel=STREETS)
    fleet.step()
    assert fleet.may() == ALL
    fleet.both(*ALL)
    assert (fleet.alias().start, fleet.alias(alias="streets").start) == (v(2), v(2))


def test_second_channel_that_is_bad_goes_back_alone_and_the_first_goes_on() -> None:
    fleet = Pair()
    fleet.publish(2, STREETS)
    fleet.step()
    fleet.both("n1")

    fleet.judge(2, "bad", channel=STREETS)
    fleet.step()

    assert fleet.may() == ALL
    assert (fleet.alias().target, fleet.alias(alias="streets").target) == (v(2), v(1))


def test_going_back_in_one_channel_waits_for_no_canary_of_the_other() -> None:
    fleet = Pair()
    fleet.publish(2, STREETS)
    fleet.reject(2)
    fleet.step()

    plan = fleet.desired("n2").services[COMPLETE]

    assert (plan.aliases["places"].target, fleet.rollout().stage) == (v(1), "canary")
    assert plan.lets_go(InstanceKey.of(COMPLETE, "i0"), rid(1))
    assert not plan.lets_go(InstanceKey.of(COMPLETE, "i0"), rid(2, STREETS))


def test_waves_of_the_first_channel_wait_for_the_canaries_of_the_second() -> None:
    fleet = Pair(wave_by="zone", wave_pause_s=60)
    fleet.later(61)
    fleet.publish(2, STREETS)
    fleet.step()
    fleet.both("n1")

    fleet.judge(2, "good", channel=STREETS)
    fleet.step()

    assert (fleet.rollout().stage, fleet.may()) == ("pause", {"n1"})
    fleet.later(61)
    assert fleet.may() == {"n1", "n2"}


def test_halt_in_the_midst_of_waves_and_its_retry_do_not_need_the_check_again() -> None:
    fleet = Fleet(canaries=1, check=CHECK)
    fleet.move("n1")
    fleet.found("good")
    fleet.move("n2")

    fleet.found("halted")
    assert fleet.may() == set()
    fleet.control(retry=("id2",))
    fleet.step()

    assert fleet.may() == ALL
    fleet.move(*ALL)
    assert fleet.alias().start == v(2)


class Kinds(Fleet):
    """Two of the five cannot read a new format: release 3 is the newest for them, 4 for the others."""

    def __init__(self, **order: object) -> None:
        super().__init__(canaries=1, check=CHECK, **order)
        self.judge(2, "good")
        self.move(*ALL)
        for name in ("n1", "n2"):
            self.node(name, COMPLETE, reads="format!=5")
            self.put(keys.info(name), model.NodeInfo(node=name, labels={"zone": "a"}))
        self.publish(3, labels={"format": "4"})
        self.publish(4, labels={"format": "5"})
        self.step()


def test_each_kind_of_instances_has_canaries_and_a_verdict_of_its_own() -> None:
    fleet = Kinds()
    assert (fleet.rollout().stage, fleet.rollout().instances) == ("canary", ("n1.i0",))
    fleet.move("n1", number=3)
    assert (fleet.rollout().stage, fleet.rollout().checks) == ("check", (rid(3),))
    assert (fleet.may(3), fleet.may(4)) == ({"n1"}, set())

    fleet.found("good", number=3)
    assert (fleet.rollout().stage, fleet.rollout().instances) == ("canary", ("n3.i0",))
    assert (fleet.may(3), fleet.may(4)) == ({"n1"}, {"n3"})
    fleet.move("n3", number=4)
    assert (fleet.rollout().stage, fleet.rollout().checks) == ("check", (rid(4),))
    fleet.found("good", number=4)

    assert (fleet.may(3), fleet.may(4)) == ({"n1", "n2"}, {"n3", "n4", "n5"})


def test_bad_release_of_one_kind_does_not_condemn_that_of_the_other() -> None:
    fleet = Kinds()
    fleet.move("n1", number=3)

    fleet.found("bad", number=3)

    assert fleet.alias("n1").target == v(2)
    assert fleet.rollout().releases == (rid(4),)
    assert fleet.may(4) == {"n3"}


def test_each_kind_has_canaries_also_without_a_check() -> None:
    fleet = Kinds()
    fleet.order(canaries=1)
    fleet.step()
    fleet.move("n1", number=3)
    assert (fleet.may(3), fleet.may(4)) == ({"n1"}, {"n3"})

    fleet.move("n3", number=4)

    assert (fleet.may(3), fleet.may(4)) == ({"n1", "n2"}, {"n3", "n4", "n5"})


@pytest.mark.parametrize("whose", ["service", "channel"])
def test_pin_whose_time_is_over_lets_nobody_else_go_unchecked(whose: str) -> None:
    fleet = Fleet(canaries=1, check=CHECK)
    key = keys.channel_pin(PLACES) if whose == "channel" else keys.service_pin(COMPLETE, "places")
    until = (NOW + timedelta(hours=1)).isoformat()
    fleet.put(key, model.Pin(version=v(2), until=until))
    assert fleet.step().due == NOW + timedelta(hours=1)
    assert fleet.may() == ALL
    fleet.move("n1", "n2")

    assert fleet.later(3601).due is None

    assert (fleet.rollout().stage, fleet.may()) == ("check", {"n1", "n2"})
    fleet.move(*ALL)
    assert fleet.alias().start == v(1)  # and nothing is proven by it
    fleet.found("good")
    assert fleet.alias().start == v(2)


def test_cordoned_node_does_not_keep_a_release_from_being_proven() -> None:
    fleet = Fleet(canaries=1, check=CHECK)
    fleet.cordon("n1")
    fleet.step()
    fleet.move("n2")
    fleet.found("good")
    fleet.move(*(ALL - {"n1"}))
    fleet.publish(3)
    fleet.step()
    assert fleet.may(3) == {"n2"}
    fleet.move("n2", number=3)

    fleet.found("bad", number=3)

    assert {fleet.alias(name).target for name in ALL} == {v(2)}
    fleet.drop(keys.cordon("n1"))
    fleet.step()
    assert fleet.may(2) == ALL  # what is proven stays so, also when a node comes back that is behind


@dataclasses.dataclass
class Mortal:
    """A fleet of which nodes die and come back."""

    fleet: Fleet
    chance: random.Random
    dead: set[str] = dataclasses.field(default_factory=set)
    deaths: int = 0

    def dies(self) -> None:
        self.dead.add(name := self.chance.choice(sorted(ALL - self.dead)))
        self.deaths += 1
        self.fleet.pop(keys.alive(name))

    def comes_back(self) -> None:
        self.dead.remove(name := self.chance.choice(sorted(self.dead)))
        self.fleet[keys.alive(name)] = b"session"


@dataclasses.dataclass
class Fate(Mortal):
    """What happens to a fleet: nodes die and come back, plan is interrupted, instances move when they may."""

    good: bool = False

    def strike(self) -> None:
        fleet, chance = self.fleet, self.chance
        match chance.randrange(8):
            case 0 if len(self.dead) < 3:
                self.dies()
            case 1 if self.dead:
                self.comes_back()
            case 2 | 3:
                partly(fleet, chance)
            case 4 if not self.good and fleet.rollout().stage == "check" and chance.random() < 0.3:
                self.good = True
                fleet.judge(2, "good")
            case 5:
                fleet.now += timedelta(seconds=20)
            case _:
                if movers := sorted(fleet.may() - self.dead):
                    fleet.runs(chance.choice(movers), places=2)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 3), st.booleans(), st.sampled_from([0.0, 60.0]))
def test_nobody_beyond_the_canaries_moves_unchecked_and_all_arrive(
    seed: int, canaries: int, waves: bool, pause_s: float
) -> None:
    """The invariant of `core.turns`, with plan interrupted after any write, and over any nodes that die.

    Whoever plan lets go in any state of the KV may move at that moment, also by a document that is out of
    date. Each canary that dies is replaced by one other. In the end, the check being good, everybody runs it.
    """
    zones = "zone" if waves else ""
    fleet = Fleet(canaries=canaries, check=CHECK, wave_by=zones, wave_pause_s=pause_s)
    fate = Fate(fleet, random.Random(seed))
    for _ in range(40):
        fate.strike()
        assert fate.good or sum(runs(fleet, name) for name in ZONES) <= canaries + fate.deaths
    for name in fate.dead:
        fleet[keys.alive(name)] = b"session"
    settle(fleet)
    assert all(runs(fleet, name) for name in ZONES)
    assert fleet.alias().start == v(2)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 2), st.booleans())
def test_nobody_beyond_the_canaries_moves_unchecked_in_a_fleet_of_two_channels(
    seed: int, canaries: int, waves: bool
) -> None:
    """The same while a release of a second channel comes at any time, and may be on a node before the first.

    An instance moves to both at once, or to one after the other.
    """
    fleet = Pair(wave_by="zone" if waves else "")
    chance = random.Random(seed)
    fate = Twofold(fleet, chance, good={rid(2)})
    if canaries == 2 or chance.random() < 0.5:  # the first is at its canary only
        fleet.drop(keys.verdicts(COMPLETE), keys.rollout(COMPLETE))
        fleet.order(canaries=canaries, check=CHECK, wave_by="zone" if waves else "")
        fleet.move(*ALL, number=1)
        fate.good.clear()
    fleet.publish(2, STREETS)
    for _ in range(30):
        fate.strike()
        for release in {rid(2), rid(2, STREETS)} - fate.good:
            assert len(fate.running(release)) <= canaries + fate.deaths
    for name in fate.dead:
        fleet[keys.alive(name)] = b"session"
    for _ in range(20):
        fleet.later(30)
        fate.judge()
        for name in sorted(fleet.may()):
            fate.move(name, share=1.0)
    assert fate.running(rid(2)) == fate.running(rid(2, STREETS)) == ALL
    assert (fleet.alias().start, fleet.alias(alias="streets").start) == (v(2), v(2))


@dataclasses.dataclass
class Twofold(Mortal):
    """What happens to a fleet that reads two channels, as in `Fate`."""

    good: set[ReleaseId] = dataclasses.field(default_factory=set)

    def strike(self) -> None:
        fleet, chance = self.fleet, self.chance
        match chance.randrange(8):
            case 0 if len(self.dead) < 3:
                self.dies()
            case 1 if self.dead:
                self.comes_back()
            case 2 | 3:
                partly(fleet, chance)
            case 4:
                self.judge()
            case _:
                if movers := sorted(fleet.may() - self.dead):
                    self.move(chance.choice(movers), share=0.6)

    def judge(self) -> None:
        if self.fleet.rollout().stage == "check":
            for release in self.fleet.rollout().checks:
                self.good.add(release)
                self.fleet.judge(2, "good", channel=release.channel)

    def move(self, name: str, share: float) -> None:
        """To each of its targets, or only to those whose data is there already."""
        aliases = self.fleet.desired(name).services[COMPLETE].aliases
        there: dict[str, Any] = {a: int(p.target[8:10]) for a, p in aliases.items() if p.target}
        self.fleet.runs(name, **{a: n for a, n in there.items() if self.chance.random() < share})

    def running(self, release: ReleaseId) -> set[str]:
        alias = "places" if release.channel == PLACES else "streets"
        return {
            name
            for name in ZONES
            for state in codec.decode(model.States, self.fleet[keys.states(name)], name).instances.values()
            if state.releases[alias] == release.version
        }


def runs(fleet: Fleet, name: str) -> bool:
    states = codec.decode(model.States, fleet[keys.states(name)], name)
    return all(state.releases["places"] == v(2) for state in states.instances.values())


def partly(fleet: Fleet, chance: random.Random) -> None:
    """A planner that dies after some of its writes."""
    made = writes(fleet.plan(now=fleet.now))
    for key, value in made[: chance.randint(0, len(made))]:
        fleet[key] = value


def settle(fleet: Fleet) -> None:
    for _ in range(40):
        fleet.later(30)
        if fleet.rollout().stage == "check":
            fleet.found("good")
        fleet.move(*sorted(fleet.may()))


def test_fleet_of_tests_begins_proven() -> None:
    fleet = Fleet(canaries=1)

    assert fleet.alias("n5").start == v(1)
    assert isinstance(fleet.now, datetime)
