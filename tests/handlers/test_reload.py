"""`reload` on small fleets: one by one, back after a failure, and on again wherever a run dies."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from msgspec.structs import replace

from handlers.adapters.ports import Op
from handlers.adapters.views import Views
from handlers.core import codec, keys
from handlers.core.errors import Conflict, Denied, HydraError, Temporary
from handlers.core.model import (
    AliasPlan,
    Desired,
    Instance,
    NodeInfo,
    Proven,
    Ready,
    SlotEntry,
    Slots,
    States,
    Step,
    Subscription,
    VolumeInfo,
)
from handlers.core.names import Channel, InstanceKey, Service
from handlers.core.reasons import Reason
from handlers.core.version import ReleaseId
from hydra_cli.dev.ports import free_port
from tests.handlers.reload_fleet import PLACES, V1, V2, V3, Fleet, Node, S
from tests.servers import wait_until


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path)
    with fleet.rendering():
        yield fleet


def started(fleet: Fleet, **nodes: Sequence[str]) -> Fleet:
    """A fleet whose replicas all serve the first release."""
    for name, ids in nodes.items():
        fleet.node(name, *ids)
    fleet.run()
    assert all(r.serves for r in fleet.replicas.values())
    fleet.count_anew()
    return fleet


def serving(fleet: Fleet) -> set[object]:
    return {(r.loaded, r.serves) for r in fleet.replicas.values()}


def test_a_new_instance_gets_its_view_and_is_ready(fleet: Fleet) -> None:
    node = fleet.node("n1", "a")

    node.run()

    state = node.state()
    assert (state.state, state.step, state.releases, state.served) == (
        Ready.READY,
        Step.IDLE,
        {"places": V1},
        True,
    )
    assert node.views.current(InstanceKey.of(S, "a")) == {"places": ReleaseId.of(PLACES, V1)}
    assert node.replicas[InstanceKey.of(S, "a")].reloads == [V1]
    assert fleet.slots().out == {}


def test_a_new_instance_waits_for_its_release(fleet: Fleet) -> None:
    later = type(V1)("2026-02-01T00-00-00")
    fleet.plan = replace(
        fleet.plan, aliases={"places": replace(fleet.plan.aliases["places"], target=later, start=later)}
    )
    node = fleet.node("n1", "a")

    node.run()

    assert (node.state().state, node.views.shown(InstanceKey.of(S, "a"))) == (Ready.WAITING, "waiting")
    assert str(later) in node.state().reason
    node.release(later)
    node.run()
    assert node.state().releases == {"places": later}


def test_a_second_run_does_nothing(fleet: Fleet) -> None:
    started(fleet, n1=("a", "b"))
    fleet.fake.txns.clear()

    fleet.run()

    assert fleet.fake.txns == []


def test_replicas_move_one_by_one(fleet: Fleet) -> None:
    started(fleet, n1=("a", "b"), n2=("a", "b"), n3=("a",))

    fleet.want(V2)
    fleet.run()

    assert serving(fleet) == {(V2, True)}
    assert fleet.most_out == 1
    assert fleet.slots().out == {}
    assert fleet.fake.list(f"{keys.slots(S)}/").entries == {}
    assert all(
        s.releases == {"places": V2} for n in fleet.nodes.values() for s in n.states().instances.values()
    )


def test_budget_of_two_moves_two_at_a_time(fleet: Fleet) -> None:
    fleet.want(max_unavailable=2)
    started(fleet, n1=("a", "b"), n2=("a", "b"))

    fleet.want(V2)
    fleet.run()

    assert serving(fleet) == {(V2, True)}
    assert fleet.most_out <= 2


def test_share_of_all_replicas_moves_at_a_time(fleet: Fleet) -> None:
    fleet.want(max_unavailable="50%")
    started(fleet, n1=("a", "b"), n2=("a", "b"), n3=("a",))

    fleet.want(V2)
    fleet.run()

    assert serving(fleet) == {(V2, True)}
    assert fleet.most_out <= 2


def test_budget_of_the_subscription_counts_before_nodes_hear_of_it(fleet: Fleet) -> None:
    """It was lowered a moment ago: `desired` still allows one, the subscription nobody."""
    started(fleet, n1=("a",), n2=("a",))
    fleet.put(keys.subscription(S), codec.encode(Subscription(max_unavailable=0)))
    fleet.want(V2)
    runs = threading.Thread(target=fleet.run)
    runs.start()
    try:
        wait(lambda: fleet.nodes["n1"].state().step is Step.ADMIT)
        assert "of 0 allowed" in fleet.nodes["n1"].state().reason
        assert fleet.most_out == 0
    finally:
        fleet.put(keys.subscription(S), codec.encode(Subscription(min_available=1)))
        runs.join(30)

    assert serving(fleet) == {(V2, True)}
    assert fleet.most_out == 1


def test_replica_gets_warm_after_its_reload_and_before_traffic(fleet: Fleet) -> None:
    fleet.want(warm_up="command:warm")
    started(fleet, n1=("a", "b"))

    fleet.want(V2)
    fleet.run()

    assert serving(fleet) == {(V2, True)}
    assert sorted(fleet.nodes["n1"].services.warmed) == [("a", V2), ("b", V2)]


def test_replica_that_does_not_get_warm_goes_back_and_stops_the_others(fleet: Fleet) -> None:
    fleet.want(warm_up="command:warm")
    started(fleet, n1=("a",), n2=("a",))
    fleet.cold.add(V2)

    fleet.want(V2)
    fleet.run()

    assert serving(fleet) == {(V1, True)}
    (found,) = fleet.verdicts().releases.values()
    assert (found.verdict, "still cold" in found.reason) == ("halted", True)


def test_old_release_comes_back_even_when_it_does_not_get_warm(fleet: Fleet) -> None:
    fleet.want(warm_up="command:warm")
    started(fleet, n1=("a",))
    fleet.cold |= {V1, V2}

    fleet.want(V2)
    fleet.run()

    assert serving(fleet) == {(V1, True)}


@pytest.mark.parametrize("how", ["refused", "unconfirmed", "sick"])
def test_a_failed_reload_goes_back_and_stops_everybody_else(fleet: Fleet, how: str) -> None:
    fleet.want(deadline_s=1.0, confirm="http://:/v#release" if how == "unconfirmed" else "health")
    started(fleet, n1=("a",), n2=("a",))
    if how == "refused":
        fleet.refused.add(V2)
    elif how == "sick":
        fleet.bad.add(V2)
    else:
        for node in fleet.nodes.values():
            node.services.confirmed = lambda *_: "it has something else"
    fleet.want(V2)

    for node in fleet.nodes.values():
        node.run()

    assert fleet.errors == []
    wait(lambda: serving(fleet) == {(V1, True)})
    verdict = fleet.verdicts().releases[ReleaseId.of(PLACES, V2)]
    assert (verdict.verdict, verdict.node) == ("halted", "n1")
    assert fleet.nodes["n2"].replicas[InstanceKey.of(S, "a")].reloads == [V1]
    assert "halted" in fleet.nodes["n2"].state().reason
    assert fleet.slots().out == {}
    assert fleet.most_out == 1


def test_retry_overrules_the_verdict(fleet: Fleet) -> None:
    started(fleet, n1=("a",))
    fleet.refused.add(V2)
    fleet.want(V2)
    fleet.run()
    fleet.refused.clear()

    fleet.want(retry=(fleet.verdicts().releases[ReleaseId.of(PLACES, V2)].id,))
    fleet.run()

    assert serving(fleet) == {(V2, True)}


def test_rollback_mends_replicas_that_are_all_sick_without_asking(fleet: Fleet) -> None:
    started(fleet, n1=("a", "b"), n2=("a", "b"))
    fleet.want(V2)
    fleet.run()
    fleet.bad.add(V2)

    fleet.want(V1)
    fleet.run()

    assert serving(fleet) == {(V1, True)}


def test_a_sick_replica_elsewhere_holds_the_budget(fleet: Fleet) -> None:
    started(fleet, n1=("a",), n2=("a",))
    sick = fleet.nodes["n2"].replicas[InstanceKey.of(S, "a")]
    sick.broken = True
    fleet.want(V2)
    node = fleet.nodes["n1"]

    run = in_thread(node)

    wait(lambda: node.state().step is Step.ADMIT)
    assert "n2.a" in node.state().reason
    assert node.replicas[InstanceKey.of(S, "a")].loaded == V1
    sick.broken = False
    run.join()
    assert node.replicas[InstanceKey.of(S, "a")].loaded == V2


@pytest.mark.parametrize("known", ["remembered", "has a slot"])
def test_a_restored_count_of_nodes_hides_no_sick_replica(fleet: Fleet, known: str) -> None:
    """`proven` may come back from a time before a node had instances, until plan has counted again."""
    started(fleet, n1=("a",), n2=("a", "b"))
    node, other = fleet.nodes["n1"], fleet.nodes["n2"]
    fleet.want(V2)
    fleet.run()
    other.replicas[InstanceKey.of(S, "a")].broken = True
    fleet.want(V3, max_unavailable=1 if known == "remembered" else 2)
    fleet.put(keys.proven(S), codec.encode(Proven(nodes=("n1",))))
    if known == "has a slot":
        node.local.delete(f"members/{S}")
        entry = SlotEntry(node="n2", instance="b", incarnation="1")
        fleet.put(keys.slots(S), codec.encode(Slots(out={"n2.b": entry})))

    run = in_thread(node)

    wait(lambda: node.state().step is Step.ADMIT)
    assert "n2.a" in node.state().reason
    other.replicas[InstanceKey.of(S, "a")].broken = False
    run.join()
    assert node.replicas[InstanceKey.of(S, "a")].loaded == V3


@pytest.mark.parametrize("consul_node", ["", "rack-7"])
def test_dead_nodes_are_neither_counted_nor_waited_for(fleet: Fleet, consul_node: str) -> None:
    started(fleet, n1=("a",), n2=("a",))
    fleet.put(keys.info("n2"), codec.encode(NodeInfo(node="n2", consul_node=consul_node)))
    dead = fleet.nodes["n2"]
    dead.replicas[InstanceKey.of(S, "a")].broken = True
    entry = SlotEntry(node="n2", instance="a", incarnation="1")
    fleet.put(keys.slots(S), codec.encode(Slots(out={"n2.a": entry})))
    fleet.fake.answer(f"health/node/{consul_node or 'n2'}", [{"CheckID": "serfHealth", "Status": "critical"}])
    fleet.want(V2)

    fleet.nodes["n1"].run()

    assert fleet.nodes["n1"].replicas[InstanceKey.of(S, "a")].loaded == V2
    assert fleet.slots().out == {}


def test_paused_and_cordoned_nodes_move_nobody(fleet: Fleet) -> None:
    started(fleet, n1=("a",), n2=("a",))
    fleet.nodes["n2"].cordoned = True
    fleet.want(V2)
    fleet.run()
    assert serving(fleet) == {(V2, True), (V1, True)}
    assert "paused" in fleet.nodes["n2"].state().reason

    fleet.want(V3, paused=True)
    fleet.run()

    assert serving(fleet) == {(V2, True), (V1, True)}


def test_frozen_instances_stay_until_they_end(fleet: Fleet) -> None:
    fleet.want(reload="frozen")
    node = fleet.node("n1", "a")
    run = in_thread(node)
    key = InstanceKey.of(S, "a")
    wait(lambda: node.views.current(key))
    node.replicas[key].load()
    run.join()
    fleet.plan = replace(fleet.plan, aliases={"places": replace(fleet.plan.aliases["places"], start=V2)})

    fleet.want(V2)
    fleet.run()

    assert node.state().releases == {"places": V1}
    assert "keep what they started with" in node.state().reason
    node.deregister(key)
    fleet.run()
    node.register("a")
    run = in_thread(node)
    wait(lambda: node.views.current(key))
    node.replicas[key].load()
    run.join()
    assert node.state().releases == {"places": V2}


def test_a_new_registration_of_a_running_instance_drains_nobody(fleet: Fleet) -> None:
    """An agent that lost its data registers everything anew: all incarnations change at once."""
    node = started(fleet, n1=("a", "b")).nodes["n1"]
    for key, instance in node.instances.items():
        node.instances[key] = replace(instance, incarnation="2")
    node.discovered()

    fleet.run()

    assert fleet.most_out == 0
    assert node.state("b").incarnation == "2"


def test_the_newest_target_wins_while_draining(fleet: Fleet) -> None:
    fleet.want(drain_s=60.0)
    node = started(fleet, n1=("a",)).nodes["n1"]
    fleet.want(V2)
    run = in_thread(node)
    wait(lambda: node.state().step is Step.DRAIN)

    fleet.want(V3, drain_s=0.02)
    run.join()

    assert node.replicas[InstanceKey.of(S, "a")].reloads == [V1, V3]


def test_an_instance_whose_health_is_elsewhere_while_it_drains_is_asked_there(fleet: Fleet) -> None:
    """Its check never failed, so it did not get on; nobody answers at the new place."""
    node = started(fleet, n1=("a",)).nodes["n1"]
    (key,) = node.instances

    def ask_at(health: str) -> None:
        node.instances[key] = replace(node.instances[key], health=health)
        node.discovered()

    with listening() as port:
        ask_at(f"http://127.0.0.1:{port}/healthz")
        fleet.want(V2, deadline_s=60.0)
        run = in_thread(node)
        wait(lambda: node.state().reason == Reason.DRAINING.say())
        ask_at(f"http://127.0.0.1:{free_port()}/healthz")
        wait(lambda: node.replicas[key].reloads == [V1, V2])
        ask_at("consul")
        run.join()

    assert node.state().step is Step.IDLE


@contextlib.contextmanager
def listening() -> Iterator[int]:
    """The port of a server that finds everything well."""

    class Well(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Not a line per request."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Well) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_a_target_that_is_taken_back_while_draining_needs_no_reload(fleet: Fleet) -> None:
    fleet.want(drain_s=60.0)
    node = started(fleet, n1=("a",)).nodes["n1"]
    fleet.want(V2)
    run = in_thread(node)
    wait(lambda: node.state().step is Step.DRAIN)

    fleet.want(V1)
    run.join()

    assert node.replicas[InstanceKey.of(S, "a")].reloads == [V1]
    assert node.state().step is Step.IDLE
    assert fleet.verdicts().releases == {}


def test_an_instance_that_ends_leaves_nothing_behind(fleet: Fleet) -> None:
    fleet.want(drain_s=60.0)
    node = started(fleet, n1=("a", "b")).nodes["n1"]
    fleet.want(V2)
    run = in_thread(node)
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
    run = in_thread(node)
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
    run = in_thread(node)
    wait(lambda: node.services.maintained == [("a", True)])

    fleet.want(drain="check", drain_s=0.02)
    run.join()

    assert node.services.maintained == [("a", True), ("a", False)]
    assert serving(fleet) == {(V2, True)}


def test_instance_of_a_service_that_was_unsubscribed_in_mid_move_is_let_go(fleet: Fleet) -> None:
    node = started(fleet, n1=("a",)).nodes["n1"]
    fleet.want(V2, drain="maintenance", drain_s=60.0)
    run = in_thread(node)
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
        run = in_thread(node)
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
    run = in_thread(node)
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


def test_a_policy_that_makes_no_sense_moves_nobody(fleet: Fleet) -> None:
    node = started(fleet, n1=("a",)).nodes["n1"]

    fleet.want(V2, reload="command:swap")
    fleet.run()

    assert node.state().releases == {"places": V1}
    assert "not supported by this version" in node.state().reason


RANKS = Channel("prod/search/ranks")


def reads_ranks(fleet: Fleet) -> None:
    """The alias is given another channel, whose release has the same version."""
    for node in fleet.nodes.values():
        node.release(V1, RANKS)
    fleet.plan = replace(fleet.plan, aliases={"places": AliasPlan(channel=RANKS, target=V1, start=V1)})
    fleet.want()


def test_an_alias_that_reads_another_channel_moves_to_a_release_of_the_same_version(fleet: Fleet) -> None:
    started(fleet, n1=("a",), n2=("b",))
    reads_ranks(fleet)

    fleet.run()
    fleet.run()

    for name, instance in (("n1", "a"), ("n2", "b")):
        node, key = fleet.nodes[name], InstanceKey.of(S, instance)
        assert node.views.current(key) == {"places": ReleaseId.of(RANKS, V1)}
        assert node.state(instance).runs("places", RANKS, V1)
        assert node.replicas[key].reloads == [V1, V1]
    assert fleet.slots().out == {}


def test_an_instance_goes_back_to_the_old_channel_when_the_new_one_fails(fleet: Fleet) -> None:
    node = started(fleet, n1=("a",)).nodes["n1"]
    fleet.refused = {ReleaseId.of(RANKS, V1)}
    reads_ranks(fleet)

    fleet.run()

    state = node.state()
    assert (state.step, state.state) == (Step.IDLE, Ready.READY)
    assert state.runs("places", PLACES, V1)
    assert node.views.current(InstanceKey.of(S, "a")) == {"places": ReleaseId.of(PLACES, V1)}
    assert fleet.verdicts().releases.keys() == {ReleaseId.of(RANKS, V1)}
    assert fleet.slots().out == {}


def test_a_service_without_a_plan_keeps_what_it_has(fleet: Fleet) -> None:
    node = started(fleet, n1=("a",)).nodes["n1"]
    node.fleet.plan = replace(node.fleet.plan, aliases={})
    fleet.want()

    fleet.run()

    assert node.views.current(InstanceKey.of(S, "a")) == {"places": ReleaseId.of(PLACES, V1)}


# --- RAM


def in_ram(node: Node, version: object) -> bool:
    link = node.root / "releases" / PLACES / str(version) / "table"
    return "volumes/ram" in str(link.readlink()) and (link / "file").exists()


def test_ram_is_filled_before_the_move_and_dropped_after_it(fleet: Fleet) -> None:
    node = fleet.node("n1", "a", "b")
    node.ram = {f"{PLACES}/table": V1}
    fleet.want()
    fleet.run()
    assert in_ram(node, V1)
    assert node.state().media == {"places/table": "RAM"}

    node.ram = {f"{PLACES}/table": V2}
    fleet.want(V2)
    fleet.run()

    assert (in_ram(node, V1), in_ram(node, V2)) == (False, True)
    assert node.state().media == {"places/table": "RAM"}
    assert all(r.reloads == [V1, V2] for r in node.replicas.values())


def test_what_does_not_fit_beside_the_old_copy_goes_via_disk(fleet: Fleet) -> None:
    node = fleet.node("n1", "a", "b")
    node.volumes = {**node.volumes, "ram": VolumeInfo(cls="RAM", budget_bytes=10_000)}
    node.ram = {f"{PLACES}/table": V1}
    fleet.want()
    fleet.run()
    assert in_ram(node, V1)

    node.ram = {f"{PLACES}/table": V2}
    fleet.want(V2)
    fleet.run()

    assert (in_ram(node, V1), in_ram(node, V2)) == (False, True)
    assert all(r.reloads == [V1, V2, V2] for r in node.replicas.values())
    assert fleet.most_out <= 2
    assert fleet.verdicts().releases == {}


def test_after_a_boot_releases_are_read_from_disk_until_ram_is_full_again(fleet: Fleet) -> None:
    node = fleet.node("n1", "a")
    node.ram = {f"{PLACES}/table": V1}
    fleet.want()
    fleet.run()
    for path in sorted((node.root / "volumes" / "ram").rglob("*")):
        path.chmod(0o755)
    shutil.rmtree(node.root / "volumes" / "ram" / "data")
    assert not (node.root / "releases" / PLACES / V1 / "table" / "file").exists()
    node.ram = {}
    fleet.want()

    fleet.run()

    assert (node.root / "releases" / PLACES / V1 / "table" / "file").exists()
    assert node.state().media == {}


# --- a run dies


class Crash(BaseException):
    """kill -9"""


def dying_at(fleet: Fleet, monkeypatch: pytest.MonkeyPatch, number: int) -> list[int]:
    """Die at the `number`-th of: before and after each transaction, before and after each flip."""
    left = [number]

    def point(*_: object) -> None:
        left[0] -= 1
        if left[0] == 0:
            fleet.fake.away = True  # nothing that a dying process did reached Consul
            raise Crash

    fleet.fake.before_txn = fleet.fake.after_txn = point
    real = Views.flip

    def flip(self: Views, *args: object, **more: object) -> None:
        point()
        real(self, *args, **more)  # type: ignore[arg-type]
        point()

    monkeypatch.setattr(Views, "flip", flip)
    return left


@pytest.mark.parametrize("what", ["move", "new", "failure", "end"])
def test_a_run_that_dies_anywhere_is_finished_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    for number in range(1, 100):
        fleet = Fleet(tmp_path / str(number))
        with fleet.rendering(), monkeypatch.context() as patch:
            node = fleet.node("n1", "a", "b")
            if what != "new":
                started(fleet)
                fleet.want(V2)
            if what == "failure":
                fleet.refused.add(V2)
            if what == "end":
                node.deregister(InstanceKey.of(S, "a"))
            left = dying_at(fleet, patch, number)
            died = False
            try:
                node.run()
            except Crash:
                died = True
            fleet.fake.away = False
            fleet.fake.before_txn = fleet.fake.after_txn = lambda _: None
            patch.undo()

            node.run()

            assert fleet.errors == []
            expected = V1 if what in ("new", "failure") else V2
            assert serving(fleet) == {(expected, True)}, f"died at {number}"
            assert fleet.most_out <= (2 if what == "new" else 1), f"died at {number}"
            assert fleet.slots().out == {}, f"died at {number}"
            assert bool(fleet.verdicts().releases) == (what == "failure")
            assert all(s.step is Step.IDLE for s in node.states().instances.values())
            assert node.views.instances() == node.instances.keys()
        if not died:
            assert left[0] > 0
            return
    raise AssertionError("it never came to its end")


def in_thread(node: Node) -> Run:
    return Run(node)


class Run:
    """A run beside the test."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._thread = threading.Thread(target=node.run)
        self._thread.start()

    def join(self) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive(), "reload does not come to an end"
        assert self._node.fleet.errors == []


def wait(true: Callable[[], object]) -> None:
    until = time.monotonic() + 30
    while not true():
        assert time.monotonic() < until
        time.sleep(0.005)


def test_a_race_for_the_last_slot_is_lost_in_peace(fleet: Fleet) -> None:
    started(fleet, n1=("a",))
    left = [2]

    def race(ops: Sequence[Op]) -> None:
        if any(op.key == keys.slots(S) for op in ops) and left[0]:
            left[0] -= 1
            raise Conflict("slots: index is stale")

    fleet.fake.before_txn = race
    fleet.want(V2)

    fleet.run()

    assert serving(fleet) == {(V2, True)}


def test_documents_of_this_node_stay_readable(fleet: Fleet) -> None:
    node = started(fleet, n1=("a",)).nodes["n1"]

    raw = node.local.read("states") or b""

    assert codec.decode(States, raw, "states") == node.states()


def short_of_ram(fleet: Fleet, budget: int, room: int = 10_000) -> Node:
    """A node whose two instances read V1 from RAM, and are to move to V2, which does not fit beside it."""
    fleet.plan = replace(fleet.plan, ram="drain-node", max_unavailable=budget)
    node = fleet.node("n1", "a", "b")
    node.volumes = {**node.volumes, "ram": VolumeInfo(cls="RAM", budget_bytes=room)}
    node.ram = {f"{PLACES}/table": V1}
    fleet.want()
    fleet.run()
    node.ram = {f"{PLACES}/table": V2}
    fleet.want(V2)
    return node


def test_node_is_drained_where_the_new_copy_does_not_fit_beside_the_old_one(fleet: Fleet) -> None:
    node = short_of_ram(fleet, budget=2)

    fleet.run()

    assert (in_ram(node, V1), in_ram(node, V2)) == (False, True)
    for instance in ("a", "b"):
        assert node.state(instance).runs("places", PLACES, V2)
        assert node.state(instance).media == {"places/table": "RAM"}
    assert all(r.reloads == [V1, V2, V2] for r in node.replicas.values())  # off the old copy, then from RAM
    assert fleet.most_out == 2  # once, and not a second time for RAM
    assert fleet.slots().out == {}


def test_node_is_not_drained_where_the_budget_does_not_allow_it(fleet: Fleet) -> None:
    node = short_of_ram(fleet, budget=1)
    run = threading.Thread(target=fleet.run)
    run.start()

    wait_until(lambda: all("must be out at once" in node.state(name).reason for name in ("a", "b")))
    for instance in ("a", "b"):
        reason = node.state(instance).reason
        assert "bytes of RAM" in reason
        assert "2 instances here must be out at once" in reason
        assert "of 1 allowed" in reason
    assert (in_ram(node, V1), in_ram(node, V2)) == (True, False)
    assert all(r.reloads == [V1] for r in node.replicas.values())
    assert fleet.slots().out == {}

    fleet.want(max_unavailable=2)
    run.join(60)
    assert not run.is_alive()
    assert in_ram(node, V2)


def test_what_can_never_be_in_ram_is_not_moved_to(fleet: Fleet) -> None:
    node = short_of_ram(fleet, budget=2, room=6_000)

    fleet.run()

    assert node.state().runs("places", PLACES, V1)
    assert "nothing can make room" in node.state().reason


def test_ram_is_filled_again_after_a_boot_while_consul_is_away(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the node remembers is enough: its desired, and the disk copies."""
    monkeypatch.setattr("handlers.reload.PATIENCE_S", 2.0)
    node = fleet.node("n1", "a")
    node.ram = {f"{PLACES}/table": V1}
    fleet.want()
    fleet.run()
    for path in sorted((node.root / "volumes" / "ram").rglob("*")):
        path.chmod(0o755)
    shutil.rmtree(node.root / "volumes" / "ram")
    (node.root / "volumes" / "ram").mkdir()  # the tmpfs of the next boot
    fleet.fake.away = True
    node.register("b")

    node.run()

    assert in_ram(node, V1)
    assert node.views.current(InstanceKey.of(S, "b")) == {"places": ReleaseId.of(PLACES, V1)}
