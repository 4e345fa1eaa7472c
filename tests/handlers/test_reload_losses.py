"""What `reload` makes of instances, documents and sessions that are gone, restored or not to be read."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from handlers.adapters.ports import Op
from handlers.census import Census
from handlers.core import codec, keys
from handlers.core.errors import Denied, HydraError, Temporary
from handlers.core.model import (
    Desired,
    Instance,
    Ready,
    SlotEntry,
    Slots,
    Step,
)
from handlers.core.names import InstanceKey, Service
from handlers.core.version import ReleaseId
from tests.handlers.reload_fleet import (
    PLACES,
    V1,
    V2,
    FakeServices,
    Fleet,
    Run,
    S,
    serving,
    started,
    wait,
)


def test_an_instance_that_ends_leaves_nothing_behind(fleet: Fleet) -> None:
    fleet.want(drain_s=60.0)
    node = started(fleet, n1=("a", "b")).nodes["n1"]
    fleet.want(V2)
    run = Run(node)
    wait(lambda: node.state().step is Step.DRAIN)

    node.deregister(InstanceKey.of(S, "a"))
    fleet.want(V2, drain_s=0.02)
    run.join()

    assert node.views.instances() == {InstanceKey.of(S, "b")}
    assert set(node.states().instances) == {InstanceKey.of(S, "b")}
    assert b"api/a" not in (node.local.read("consul-template/instances.hcl") or b"")
    assert fleet.slots().out == {}
    assert node.state("b").releases == {"places": V2}


def test_unreadable_instances_end_nobody(fleet: Fleet) -> None:
    node = started(fleet, n1=("a",)).nodes["n1"]
    for raw in (b"{", b""):
        node.local.write("instances", raw)
        node.run()
    node.local.delete("instances")

    node.run()

    assert node.state().state is Ready.READY
    assert node.views.instances() == {InstanceKey.of(S, "a")}


@pytest.mark.parametrize("idle", [False, True])
def test_new_instances_get_their_view_while_consul_is_away(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, idle: bool
) -> None:
    fleet.want(idle=idle)  # planned last when the service was scaled to zero, or with instances here
    node = fleet.node("n1", "a")
    monkeypatch.setattr("handlers.reload.PATIENCE_S", 2.0)
    fleet.fake.away = True

    node.run()

    key = InstanceKey.of(S, "a")
    assert "no answer from Consul" in fleet.errors[0]
    assert node.views.shown(key) == "ready"
    assert node.views.current(key) == {"places": ReleaseId.of(PLACES, V1)}
    fleet.fake.away, fleet.errors = False, []
    fleet.run()
    assert node.state().releases == {"places": V1}
    assert fleet.most_out <= 1


def test_consul_that_comes_back_finds_the_move_where_it_was(fleet: Fleet) -> None:
    node = started(fleet, n1=("a",)).nodes["n1"]
    fleet.want(V2)
    left = itertools.count()

    def away(_: Sequence[Op]) -> None:
        if 2 <= next(left) < 5:
            raise Temporary("no answer from Consul")

    fleet.fake.before_txn = away

    fleet.run()

    assert serving(fleet) == {(V2, True)}
    assert node.state().step is Step.IDLE
    assert fleet.verdicts().releases == {}


def test_a_wiped_kv_changes_nothing_here(fleet: Fleet) -> None:
    node = started(fleet, n1=("a",)).nodes["n1"]
    fleet.want(V2)
    fleet.fake.restore(type(fleet.fake)().snapshot())

    said = node.run()

    assert "no meta" in said
    assert fleet.fake.txns[-1:] == [] or fleet.kv.get(keys.states("n1"))[0] is None
    assert serving(fleet) == {(V1, True)}


def test_a_restored_snapshot_is_put_right_and_drains_nobody(fleet: Fleet) -> None:
    """The snapshot is from the middle of a move: its states say `draining`, its slots are taken."""
    node = started(fleet, n1=("a",)).nodes["n1"]
    snapshots = []
    fleet.fake.after_txn = lambda _: snapshots.append(fleet.fake.snapshot())
    fleet.want(V2)
    fleet.run()
    middle = next(s for s in snapshots if b'"draining"' in s.entries[keys.states("n1")].value)
    fleet.fake.restore(middle)

    fleet.run()

    assert node.state().releases == {"places": V2}
    assert node.state().state is Ready.READY
    assert fleet.slots().out == {}
    assert node.replicas[InstanceKey.of(S, "a")].reloads == [V1, V2]


@pytest.mark.parametrize("other", ["n1.b", "n2.a"])
def test_one_that_drains_is_out_whatever_a_restored_consul_says(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    """The slots are from before it went out, and the catalog has it in service until its agent speaks."""
    node = started(fleet, n1=("a", "b"), n2=("a",)).nodes["n1"]
    listed = node.services.listing("api")
    monkeypatch.setattr(FakeServices, "listing", lambda *_, **__: listed)
    census = Census(fleet.kv, node.services, node.local, "n1", dead_after_s=60.0)
    held_by, _, instance = other.partition(".")
    states = fleet.nodes[held_by].states()
    out = replace(states.instances[InstanceKey.of(S, instance)], state=Ready.DRAINING, step=Step.CONFIRM)
    states = replace(states, instances={**states.instances, InstanceKey.of(S, instance): out})
    fleet.put(keys.states(held_by), codec.encode(states))

    members = census.here(S, node.instances, node.states().instances) | census.elsewhere(S, Slots())

    assert {slot: member.in_service for slot, member in members.items()} == {
        slot: slot != other for slot in ("n1.a", "n1.b", "n2.a")
    }


def test_nobody_goes_out_before_others_can_have_said_anew_who_is_out(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restored KV knows nothing of who went out since, and Consul may list them as in service."""
    node = started(fleet, n1=("a",)).nodes["n1"]
    before = fleet.fake.snapshot()
    fleet.want(V2)
    fleet.run()
    monkeypatch.setattr("handlers.moves.SETTLE_S", 8.0)
    fleet.fake.restore(before)
    fleet.want(V1)

    run = Run(node)

    wait(lambda: node.state().step is Step.ADMIT)
    assert node.state().releases == {"places": V2}
    assert "the KV was behind it" in node.state().reason
    node.replicas[InstanceKey.of(S, "a")].broken = True  # it is out anyway
    wait(lambda: node.state().releases == {"places": V1} or node.state().step is not Step.ADMIT)
    node.replicas[InstanceKey.of(S, "a")].broken = False
    run.join()
    assert serving(fleet) == {(V1, True)}


def test_a_node_that_lost_its_memory_takes_up_what_consul_knows(fleet: Fleet) -> None:
    node = started(fleet, n1=("a",)).nodes["n1"]
    node.local.delete("states")
    node.local.delete("sessions/reload")
    fleet.want(V2)

    fleet.run()

    assert serving(fleet) == {(V2, True)}


def test_states_that_do_not_parse_are_written_anew(fleet: Fleet) -> None:
    node = started(fleet, n1=("a",)).nodes["n1"]
    fleet.put(keys.states("n1"), b"{half")

    fleet.run()

    assert node.state().releases == {"places": V1}
    assert fleet.most_out == 0


def test_a_slot_that_nobody_uses_is_given_back(fleet: Fleet) -> None:
    started(fleet, n1=("a",))
    entry = SlotEntry(node="n1", instance="a", incarnation="1")
    fleet.put(keys.slots(S), codec.encode(Slots(out={"n1.a": entry})))

    fleet.run()

    assert fleet.slots().out == {}


def test_a_slot_of_a_service_that_left_the_node_is_given_back(fleet: Fleet) -> None:
    """A restored KV may have one, and would count it for ever: the node is alive."""
    started(fleet, n1=("a",))
    other = Service("prod/search/left")
    mine = SlotEntry(node="n1", instance="x", incarnation="1")
    foreign = SlotEntry(node="n2", instance="x", incarnation="1")
    fleet.put(keys.slots(other), codec.encode(Slots(out={"n1.x": mine, "n2.x": foreign})))
    fleet.put(keys.slot_lock(other, "n1.x"), b"session")

    fleet.run()

    entry, _ = fleet.kv.get(keys.slots(other))
    assert entry is not None
    assert codec.decode(Slots, entry.value, entry.key).out == {"n2.x": foreign}
    assert fleet.kv.get(keys.slot_lock(other, "n1.x"))[0] is None


def test_a_lost_session_is_made_good(fleet: Fleet) -> None:
    """The session ends while the instance is out: its entry stays, the lock is taken anew."""
    fleet.want(drain_s=60.0)
    node = started(fleet, n1=("a",)).nodes["n1"]
    fleet.want(V2)
    run = Run(node)
    wait(lambda: node.state().step is Step.DRAIN)

    fleet.kv.destroy_session((node.local.read("sessions/reload") or b"").decode())
    fleet.want(drain_s=0.02)
    run.join()

    assert serving(fleet) == {(V2, True)}
    assert fleet.slots().out == {}


def test_maintenance_is_set_and_ended(fleet: Fleet) -> None:
    node = started(fleet, n1=("a",)).nodes["n1"]
    fleet.want(V2, drain="maintenance")

    fleet.run()

    assert node.services.maintained == [("a", True), ("a", False)]
    assert serving(fleet) == {(V2, True)}


def test_maintenance_ends_though_the_way_to_drain_was_changed_meanwhile(fleet: Fleet) -> None:
    node = started(fleet, n1=("a",)).nodes["n1"]
    fleet.want(V2, drain="maintenance", drain_s=60.0)
    run = Run(node)
    wait(lambda: node.services.maintained == [("a", True)])

    fleet.want(drain="check", drain_s=0.02)
    run.join()

    assert node.services.maintained == [("a", True), ("a", False)]
    assert serving(fleet) == {(V2, True)}


def test_instance_of_a_service_that_was_unsubscribed_in_mid_move_is_let_go(fleet: Fleet) -> None:
    node = started(fleet, n1=("a",)).nodes["n1"]
    fleet.want(V2, drain="maintenance", drain_s=60.0)
    run = Run(node)
    wait(lambda: node.services.maintained == [("a", True)])

    node.generation += 1
    node.local.write("desired", codec.encode(Desired(node="n1", generation=node.generation)))
    fleet.put(keys.actual("n1"), b"unsubscribed")
    run.join()

    assert node.services.maintained == [("a", True), ("a", False)]
    assert (node.state().state, node.state().step) == (Ready.READY, Step.IDLE)
    assert node.state().releases == {"places": V1}
    assert fleet.slots().out == {}


def test_n3_pod_that_is_deleted_in_mid_reload_tells_nothing_of_the_release(fleet: Fleet) -> None:
    node = fleet.node("n1", "a", "b")
    fleet.run()

    def deleted(key: InstanceKey) -> None:
        if not any(instance.leaving for instance in node.instances.values()):
            node.instances[key] = replace(node.instances[key], leaving=True)
            node.discovered()
            time.sleep(0.3)  # as the adapter, which asks a pod once more before it believes this
            raise HydraError("Connection refused")

    node.services.before_reload = deleted
    with fleet.rendering():
        fleet.want(V2)
        fleet.run()

    gone = next(key for key, instance in node.instances.items() if instance.leaving)
    assert fleet.verdicts().releases == {}
    assert fleet.slots().out == {}
    assert "its pod is being deleted" in node.state(gone.segment).reason
    assert [r.loaded for key, r in node.replicas.items() if key != gone] == [V2]


def test_n3_instance_that_consul_knows_no_more_in_mid_reload_tells_nothing_of_the_release(
    fleet: Fleet,
) -> None:
    """Until discover drops it, it keeps its slot; then the next one goes."""
    node = fleet.node("n1", "a", "b")
    fleet.run()
    asked: list[InstanceKey] = []

    def evicted(key: InstanceKey) -> None:
        if key not in node.replicas or len(node.replicas) == 2:
            asked.append(key)
            node.replicas.pop(key, None)  # Consul has it no more, and its process ends
            raise HydraError("Connection refused")

    node.services.before_reload = evicted
    with fleet.rendering():
        fleet.want(V2)
        run = Run(node)
        wait(lambda: len(asked) >= 2)
        gone = asked[0]
        assert set(asked) == {gone}
        assert fleet.verdicts().releases == {}
        del node.instances[gone]
        node.discovered()
        run.join()

    assert fleet.verdicts().releases == {}
    assert fleet.slots().out == {}
    assert [replica.loaded for replica in node.replicas.values()] == [V2]


def test_what_is_denied_for_one_instance_stops_no_other(fleet: Fleet) -> None:
    """The node's token may not set maintenance mode for one of the services, say."""
    node = started(fleet, n1=("a", "b")).nodes["n1"]

    def maintenance(instance: Instance, on: bool) -> None:
        if instance.id == "a" and denied:
            raise Denied("maintenance mode of a: 403")

    denied = [True]
    node.services.maintenance = maintenance
    fleet.want(V2, drain="maintenance", max_unavailable=2)
    run = Run(node)
    wait(lambda: node.state("b").releases == {"places": V2} and "403" in node.state("a").reason)

    denied.clear()
    run.join()

    assert serving(fleet) == {(V2, True)}


def test_a_repair_needs_no_knowledge_of_the_others(fleet: Fleet) -> None:
    started(fleet, n1=("a",), n2=("a",))
    fleet.want(V2)
    fleet.run()
    fleet.bad.add(V2)
    fleet.want(V1)
    fleet.put(keys.proven(S), b"{half")

    fleet.run()

    assert serving(fleet) == {(V1, True)}
