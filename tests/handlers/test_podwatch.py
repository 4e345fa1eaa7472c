"""The node's pods become instances; each is told whether its data is ready."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from handlers.adapters.mirror import Picture
from handlers.adapters.pods import About, Json, Query
from handlers.adapters.views import Views
from handlers.core.errors import Temporary
from handlers.core.names import InstanceKey, Service
from handlers.core.pods import DATA_READY
from handlers.podwatch import ENDPOINTS_S, WAITING_S, PodWatch

READER = Service("prod/search/reader")
ONE = InstanceKey.of(READER, "reader-5d9-x7")
TWO = InstanceKey.of(READER, "reader-5d9-y8")


@dataclass
class Desk:
    """An API server with one node, and what was written to it."""

    pods: dict[str, Json] = field(default_factory=dict)
    node_ready: str = "True"
    known: bool = True
    away: bool = False
    refused: frozenset[str] = frozenset()
    ended: frozenset[str] = frozenset()
    endpoints: dict[str, bool] = field(default_factory=dict)
    owners: dict[str, Json] = field(default_factory=dict)
    gates: list[tuple[str, str, str]] = field(default_factory=list)
    events: list[tuple[str, str]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def list(self, query: Query) -> tuple[list[Json], str]:
        self.asked.append(query.plural)
        if self.away:
            raise Temporary("GET: away")
        rows = [{"targetRef": {"uid": u}, "conditions": {"ready": r}} for u, r in self.endpoints.items()]
        return [{"endpoints": rows}], "1"

    def read(self, path: str) -> Json | None:
        self.asked.append(path)
        if self.away:
            raise Temporary("GET: away")
        return self.owners.get(path)

    def set_data_ready(self, namespace: str, pod: str, uid: str, status: str, reason: str, text: str) -> None:
        if self.away or pod in self.refused:
            raise Temporary("PATCH: away")
        self.gates.append((pod, status, reason))

    def say(self, about: About, kind: str, reason: str, text: str) -> None:
        self.events.append((about.name, reason))
        self.texts.append(text)
        raise Temporary("POST: an Event that is not written decides nothing")


@dataclass
class Fixed:
    """A picture that is made anew at each look."""

    make: Callable[[], Picture]

    def picture(self) -> Picture:
        return self.make()


@dataclass
class Machine:
    """A node and its pods; `rung` counts how often discover was woken."""

    root: Path
    desk: Desk = field(default_factory=Desk)
    now: float = 0.0
    rung: int = 0
    node_known: bool = True

    def __post_init__(self) -> None:
        self.watch = PodWatch(
            self.desk,
            Fixed(lambda: Picture(self.desk.known, dict(self.desk.pods), self.desk.ended)),
            Fixed(lambda: Picture(self.node_known, {"n1": self._node()})),
            Views(self.root),
            "prod",
            self._ring,
            lambda: self.now,
        )

    def _ring(self) -> None:
        self.rung += 1

    def _node(self) -> Json:
        meta = {"labels": {"topology.kubernetes.io/zone": "b", "feature.node/cpu-avx": "true"}}
        return {
            "metadata": meta,
            "status": {"conditions": [{"type": "Ready", "status": self.desk.node_ready}]},
        }

    def pod(self, uid: str = "u1", name: str = "reader-5d9-x7", **more: Any) -> None:
        """A running pod of the Deployment `reader`, or another state of one."""
        owner = {"kind": "ReplicaSet", "name": "reader-5d9", "uid": "rs1", "controller": True}
        conditions = [{"type": "Ready", "status": more.get("ready", "True")}]
        if gate := more.get("gate", ""):
            conditions.append({"type": DATA_READY, "status": gate})
        self.desk.pods[uid] = {
            "metadata": {"namespace": "search", "name": name, "uid": uid, "ownerReferences": [owner]},
            "spec": {"readinessGates": [{"conditionType": DATA_READY}]},
            "status": {
                "phase": more.get("phase", "Running"),
                "podIP": more.get("address", "10.0.0.7"),
                "conditions": conditions,
            },
        }
        above = [{"kind": "Deployment", "name": "reader", "uid": "d1", "controller": True}]
        path = "/apis/apps/v1/namespaces/search/replicasets/reader-5d9"
        self.desk.owners[path] = {"metadata": {"ownerReferences": above}}

    def shows(self, word: str, reason: str = "", key: InstanceKey = ONE) -> None:
        """What consul-template wrote into the pod's view."""
        folder = self.root / "views" / key
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "state").write_text(word)
        (folder / "readiness.json").write_text(json.dumps({"reason": reason}))

    def loses_views(self) -> None:
        """Hydra is started with another root."""
        (self.root / "views").rename(self.root / "elsewhere")

    def look(self) -> dict[InstanceKey, bool | None] | None:
        """What discover hears after one more look: who is in service."""
        self.now += ENDPOINTS_S
        self.watch.look()
        return self.seen()

    def seen(self) -> dict[InstanceKey, bool | None] | None:
        """What discover heard last."""
        found = self.watch.reading().instances
        return None if found is None else {key: instance.serving for key, instance in found.items()}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_pod_is_an_instance_of_its_deployment_and_its_owner_is_asked_for_once(machine: Machine) -> None:
    machine.pod()
    machine.pod(uid="u2", name="reader-5d9-y8")

    assert machine.look() == {ONE: True, TWO: True}
    machine.look()
    assert [path for path in machine.desk.asked if "replicasets" in path] == [
        "/apis/apps/v1/namespaces/search/replicasets/reader-5d9"
    ]


def test_pod_without_an_address_does_not_run_yet(machine: Machine) -> None:
    machine.pod(address="")

    assert machine.look() == {}


def test_evicted_pod_has_ended_though_its_object_stays(machine: Machine) -> None:
    machine.pod(phase="Failed")

    assert machine.look() == {}
    assert machine.watch.reading().ended == {"u1"}


def test_gate_follows_the_state_file_and_is_written_once(machine: Machine) -> None:
    machine.pod(ready="False")
    machine.look()
    machine.pod(ready="False", gate="False")
    machine.look()
    machine.shows("ready")
    machine.look()
    machine.pod(gate="True")
    machine.look()
    machine.shows("draining")
    machine.look()

    assert machine.desk.gates == [
        ("reader-5d9-x7", "False", "DataWaiting"),
        ("reader-5d9-x7", "True", "DataReady"),
        ("reader-5d9-x7", "False", "DataDraining"),
    ]


def test_pod_that_drains_is_out_only_when_its_endpoints_say_so_too(machine: Machine) -> None:
    machine.shows("ready")
    machine.pod(gate="True")
    assert machine.look() == {ONE: True}

    machine.shows("draining")
    machine.pod(gate="False", ready="False")
    machine.desk.endpoints = {"u1": True}
    assert machine.look() == {ONE: True}
    machine.desk.endpoints = {"u1": False}
    assert machine.look() == {ONE: False}

    machine.shows("ready")
    machine.pod(gate="True")
    assert machine.look() == {ONE: False}
    machine.desk.endpoints = {"u1": True}
    assert machine.look() == {ONE: True}


def test_endpoints_are_asked_for_once_while_nothing_is_on_its_way(machine: Machine) -> None:
    for uid, key in (("u1", ONE), ("u2", TWO)):
        machine.shows("ready", key=key)
        machine.pod(uid=uid, name=key.rpartition("/")[2], gate="True")
    for _ in range(3):
        machine.look()

    assert machine.desk.asked.count("endpointslices") == 1


def test_endpoints_of_pods_that_are_not_ready_are_not_asked_for_until_they_are(machine: Machine) -> None:
    machine.shows("ready")
    machine.pod(gate="True", ready="False")
    machine.desk.endpoints = {"u1": False}
    assert [machine.look() for _ in range(3)] == [{ONE: False}] * 3
    assert "endpointslices" not in machine.desk.asked

    machine.pod(gate="True")
    assert machine.look() == {ONE: False}
    machine.desk.endpoints = {"u1": True}
    assert machine.look() == {ONE: True}


def test_pod_stays_ready_below_a_root_that_knows_nothing_of_it(machine: Machine) -> None:
    machine.shows("ready")
    machine.pod(gate="True")
    machine.look()
    machine.loses_views()
    machine.look()

    assert machine.desk.gates == []


def test_pod_that_waits_is_told_why_when_that_has_lasted(machine: Machine) -> None:
    machine.pod(ready="False", gate="False")
    for reason in ("no plan", "no release", "no release", "no release"):
        machine.shows("waiting", reason)
        machine.look()
    assert machine.desk.events == []

    machine.now += WAITING_S
    machine.look()
    machine.look()
    assert machine.desk.events == [("reader-5d9-x7", "DataWaiting")]
    assert machine.desk.texts == ["no release"]
    assert machine.desk.gates == [("reader-5d9-x7", "False", "DataWaiting")]


def test_changes_ring_and_nothing_new_does_not(machine: Machine) -> None:
    machine.shows("ready")
    machine.pod(gate="True")
    machine.look()
    assert machine.rung == 1
    machine.look()
    assert machine.rung == 1
    machine.desk.known = False
    assert machine.look() is None
    assert machine.rung == 2


def test_reload_is_told_by_events_that_may_fail(machine: Machine) -> None:
    machine.shows("ready")
    machine.pod(gate="True")
    for word in ("ready", "draining", "draining", "ready"):
        machine.shows(word)
        machine.look()

    assert [reason for _, reason in machine.desk.events] == ["DataReload", "DataReloaded"]


def test_nothing_is_seen_in_service_on_a_node_whose_kubelet_is_silent(machine: Machine) -> None:
    machine.shows("ready")
    machine.pod(gate="True")
    machine.desk.node_ready = "Unknown"

    assert machine.look() == {ONE: None}
    assert machine.watch.reading().lost


def test_what_cannot_be_asked_is_unknown(machine: Machine) -> None:
    machine.shows("ready")
    machine.pod(gate="True")
    machine.look()
    machine.desk.away = True
    machine.shows("draining")

    with pytest.raises(Temporary):
        machine.look()
    assert machine.seen() == {ONE: None}


def test_pod_that_cannot_be_told_is_in_the_way_of_no_other(machine: Machine) -> None:
    for uid, key in (("u1", ONE), ("u2", TWO)):
        machine.pod(uid=uid, name=key.rpartition("/")[2], ready="False")
    machine.desk.refused = frozenset({"reader-5d9-x7"})

    with pytest.raises(Temporary):
        machine.look()
    assert machine.seen() == {ONE: None, TWO: False}
    assert machine.desk.gates == [("reader-5d9-y8", "False", "DataWaiting")]


def test_pods_are_unseen_while_an_owner_cannot_be_asked_for(machine: Machine) -> None:
    machine.pod()
    machine.look()
    machine.pod(uid="u2", name="other")
    machine.desk.pods["u2"]["metadata"]["ownerReferences"][0]["uid"] = "rs2"
    machine.desk.away = True

    with pytest.raises(Temporary):
        machine.look()
    assert machine.seen() is None


def test_pod_whose_name_makes_no_sense_is_an_alarm_and_stops_no_other(machine: Machine) -> None:
    machine.pod()
    machine.pod(uid="u2", name="other")
    bad = dict(machine.desk.pods["u2"])
    bad["metadata"] = {**bad["metadata"], "annotations": {"hydra.datasets/environment": "Not One"}}
    machine.desk.pods["u2"] = bad

    assert machine.look() == {ONE: True}
    assert "pod search/other: environment 'Not One'" in machine.watch.reading().alarms[0]


def test_labels_are_those_of_the_node_and_unknown_while_it_cannot_be_seen(machine: Machine) -> None:
    machine.look()
    assert machine.watch.reading().labels == {"topology.kubernetes.io/zone": "b"}

    machine.node_known = False
    machine.look()
    assert machine.watch.reading().labels is None
