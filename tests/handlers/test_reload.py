"""`reload` on small fleets: one by one, and back after a failure."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from msgspec.structs import replace

from handlers.core import codec, keys
from handlers.core.model import (
    AliasPlan,
    NodeInfo,
    Proven,
    Ready,
    SlotEntry,
    Slots,
    States,
    Step,
    Subscription,
)
from handlers.core.names import Channel, InstanceKey
from handlers.core.reasons import Reason
from handlers.core.version import ReleaseId
from hydra_cli.dev.ports import free_port
from tests.handlers.reload_fleet import (
    PLACES,
    V1,
    V2,
    V3,
    Fleet,
    Run,
    S,
    serving,
    started,
    wait,
)


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

    run = Run(node)

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

    run = Run(node)

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
    run = Run(node)
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
    run = Run(node)
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
    run = Run(node)
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
        run = Run(node)
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
    run = Run(node)
    wait(lambda: node.state().step is Step.DRAIN)

    fleet.want(V1)
    run.join()

    assert node.replicas[InstanceKey.of(S, "a")].reloads == [V1]
    assert node.state().step is Step.IDLE
    assert fleet.verdicts().releases == {}


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


def test_documents_of_this_node_stay_readable(fleet: Fleet) -> None:
    node = started(fleet, n1=("a",)).nodes["n1"]

    raw = node.local.read("states") or b""

    assert codec.decode(States, raw, "states") == node.states()
