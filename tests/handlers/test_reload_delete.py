"""`reload=delete`: instances are deleted, and those that come in their stead begin with the release."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from handlers.core.errors import HydraError
from handlers.core.model import Instance, Step
from handlers.core.names import InstanceKey
from handlers.core.policy import DeleteReload, Reload
from tests.handlers.reload_fleet import LIMIT_S, V1, V2, FakeServices, Fleet, Node, Replica, S
from tests.servers import wait_until


class Pods(FakeServices):
    """A Deployment and its kubelet: for each that is deleted another pod comes, unless it is scaled down."""

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        self.node, self.refused, self.scaled_down = node, False, False
        self.at_work = threading.Lock()

    def reload(self, how: Reload, key: InstanceKey, instance: Instance, limit_s: float) -> None:
        if not isinstance(how, DeleteReload):
            super().reload(how, key, instance, limit_s)
            return
        with self.at_work:
            self._delete(key, instance)
        threading.Event().wait(limit_s)  # nobody answers a deletion: its pod is seen to be gone

    def _delete(self, key: InstanceKey, instance: Instance) -> None:
        if self.refused:
            raise HydraError("delete of its pod: forbidden")
        assert not self.node.replicas[key].serves, "deleted under traffic"
        self.node.instances = {**self.node.instances, key: replace(instance, leaving=True)}
        self.node.discovered()
        if self.scaled_down:
            self.node.deregister(key)
        else:
            self.another(f"{instance.id}x", key)

    def another(self, instance_id: str, instead: InstanceKey | None = None) -> None:
        """Like hydra-wait: its process begins once there is a view. It is seen when the other one is gone."""
        fresh = InstanceKey.of(S, instance_id)
        other = Instance(service=S, id=instance_id, incarnation="2", consul_name="api")
        # whole dictionaries, since others look through them meanwhile
        instances = {**self.node.instances, fresh: other}
        replicas = {**self.node.replicas, fresh: Replica(self.node, fresh)}
        self.node.instances = {key: one for key, one in instances.items() if key != instead}
        self.node.replicas = {key: one for key, one in replicas.items() if key != instead}
        self.node.discovered()
        while not self.node.views.current(fresh):
            time.sleep(0.002)
        self.node.replicas[fresh].load()


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path)
    for name, ids in (("n1", "ab"), ("n2", "c")):
        made.node(name, *ids)
        made.nodes[name].services = Pods(made.nodes[name])
    with made.rendering():
        made.run()
        made.want(reload="delete")
        made.count_anew()
        yield made


def pods(fleet: Fleet, name: str) -> Pods:
    found = fleet.nodes[name].services
    assert isinstance(found, Pods)
    return found


def roll(fleet: Fleet) -> None:
    """Runs of reload on all nodes, each again when its pods came or went meanwhile, as its watch would."""

    def watch(name: str) -> None:
        node, before = fleet.nodes[name], None
        # one that comes in the stead of another waits for its view
        while node.instances is not before or pods(fleet, name).at_work.locked():
            before = node.instances
            node.run()

    threads = [threading.Thread(target=watch, args=(name,)) for name in fleet.nodes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
        assert not thread.is_alive(), "reload does not come to an end"
    assert fleet.errors == []


def loaded(fleet: Fleet) -> dict[str, str]:
    return {name: str(replica.loaded) for name, replica in fleet.replicas.items()}


def test_all_are_replaced_one_by_one(fleet: Fleet) -> None:
    fleet.want(V2)
    roll(fleet)

    assert loaded(fleet) == dict.fromkeys(["n1.ax", "n1.bx", "n2.cx"], V2)
    assert fleet.most_out == 1
    assert (fleet.slots().out, fleet.verdicts().releases) == ({}, {})
    assert fleet.nodes["n2"].state("cx").releases == {"places": V2}


def test_way_back_to_a_proven_release_is_the_same(fleet: Fleet) -> None:
    fleet.want(V2)
    roll(fleet)
    fleet.want(V1)
    roll(fleet)

    assert loaded(fleet) == dict.fromkeys(["n1.axx", "n1.bxx", "n2.cxx"], V1)
    assert fleet.most_out == 1
    assert fleet.slots().out == {}


def test_one_that_does_not_come_into_service_halts_and_is_replaced_by_one_with_the_old(fleet: Fleet) -> None:
    fleet.bad = {V2}
    fleet.want(V2, deadline_s=2.0)
    roll(fleet)

    assert sorted(loaded(fleet).values()) == [V1] * 3
    assert sorted(len(name) for name in fleet.replicas) == [4, 4, 6]  # one was replaced, and replaced again
    assert [release.version for release in fleet.verdicts().releases] == [V2]
    assert fleet.most_out == 1
    assert fleet.slots().out == {}


def test_deletion_that_is_refused_halts_and_leaves_the_instance_as_it_was(fleet: Fleet) -> None:
    pods(fleet, "n1").refused = pods(fleet, "n2").refused = True
    fleet.want(V2)
    roll(fleet)

    assert loaded(fleet) == dict.fromkeys(["n1.a", "n1.b", "n2.c"], V1)
    (verdict,) = fleet.verdicts().releases.values()
    assert verdict.reason == "delete of its pod: forbidden"
    assert fleet.slots().out == {}
    assert {s.step for node in fleet.nodes.values() for s in node.states().instances.values()} == {Step.IDLE}
    assert fleet.nodes["n1"].views.current(next(iter(fleet.nodes["n1"].replicas)))["places"].version == V1


def test_place_of_one_that_nobody_replaces_is_free_after_its_deadline(fleet: Fleet) -> None:
    for name in fleet.nodes:
        pods(fleet, name).scaled_down = True
    fleet.want(V2)
    fleet.nodes["n2"].run()
    assert [bool(entry.left) for entry in fleet.slots().out.values()] == [True]

    fleet.want(deadline_s=0.5)
    wait_until(
        lambda: fleet.nodes["n2"].run() is not None and fleet.slots().out == {}, what="its place is free"
    )


def test_new_instance_of_a_paused_service_begins_with_what_is_proven(fleet: Fleet) -> None:
    fleet.want(V2, paused=True)
    comes = threading.Thread(target=pods(fleet, "n2").another, args=("d",))
    comes.start()
    while comes.is_alive():
        fleet.nodes["n2"].run()

    assert loaded(fleet) == dict.fromkeys(["n1.a", "n1.b", "n2.c", "n2.d"], V1)
    assert fleet.slots().out == {}
