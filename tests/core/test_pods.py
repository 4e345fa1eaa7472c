"""Pods as instances: what they are called, whether they are in service, what their gate should say."""

from __future__ import annotations

from typing import Any

import pytest

from handlers.core.errors import Usage
from handlers.core.model import Ready, Step
from handlers.core.pods import (
    DATA_READY,
    ENVIRONMENT,
    NAMESPACE,
    PORT,
    PREFIX,
    READS,
    SERVICE,
    Owner,
    Shown,
    gate_wanted,
    in_service,
    instance_of,
    labels_of,
    news,
    node_is_ready,
    pod_of,
    ready_endpoints,
    stem,
    waits_for,
)
from handlers.core.reasons import Reason


def value(**more: Any) -> dict[str, Any]:
    """A running pod as the API has it; `more` replaces whole parts of its metadata, spec or status."""
    meta = {"namespace": "search", "name": "reader-5d9-x7", "uid": "u1", "resourceVersion": "7"}
    spec = {
        "readinessGates": [{"conditionType": DATA_READY}],
        "containers": [{"name": "a"}, {"name": "b", "ports": [{"containerPort": 8080}]}],
    }
    status = {"phase": "Running", "podIP": "10.0.0.7", "conditions": [{"type": "Ready", "status": "True"}]}
    return {
        "metadata": meta | more.get("metadata", {}),
        "spec": spec | more.get("spec", {}),
        "status": status | more.get("status", {}),
    }


def test_pod_is_an_instance_of_its_highest_owner() -> None:
    instance = instance_of(pod_of(value()), "reader", "prod", True)

    assert instance.service == "prod/search/reader"
    assert (instance.id, instance.incarnation) == ("reader-5d9-x7", "u1")
    assert (instance.address, instance.port) == ("10.0.0.7", 8080)
    assert (instance.health, instance.serving) == ("kubernetes", True)


def test_annotations_of_the_pod_overrule_each_part_of_the_name_and_the_port() -> None:
    notes = {ENVIRONMENT: "staging", NAMESPACE: "maps", SERVICE: "places", PORT: "9000"}
    instance = instance_of(pod_of(value(metadata={"annotations": notes})), "reader", "prod", None)

    assert (instance.service, instance.port) == ("staging/maps/places", 9000)


def test_pod_says_what_it_reads() -> None:
    def reads(text: str) -> str:
        return instance_of(
            pod_of(value(metadata={"annotations": {READS: text}})), "reader", "prod", None
        ).reads

    assert reads("format<=4") == "format<=4"
    with pytest.raises(Usage, match=f"annotation {READS}: 'format' does not say what is read"):
        reads("format")


def test_pod_without_an_environment_is_refused_with_what_to_set() -> None:
    with pytest.raises(Usage, match=f"set the annotation {ENVIRONMENT}"):
        instance_of(pod_of(value()), "reader", "", None)


def test_name_that_hydra_cannot_have_is_refused() -> None:
    with pytest.raises(Usage, match="service name 'Reader'"):
        instance_of(pod_of(value(metadata={"annotations": {SERVICE: "Reader"}})), "reader", "prod", None)


def test_controller_is_the_owner_and_other_owners_are_not() -> None:
    owners = [
        {"kind": "Thing", "name": "other", "uid": "o1"},
        {"kind": "ReplicaSet", "name": "reader-5d9", "uid": "o2", "controller": True},
    ]

    assert pod_of(value(metadata={"ownerReferences": owners})).owner == Owner(
        "ReplicaSet", "reader-5d9", "o2"
    )
    assert pod_of(value()).owner is None


def test_owner_that_is_gone_leaves_its_stem() -> None:
    assert stem(Owner("ReplicaSet", "reader-of-maps-5d9", "o")) == "reader-of-maps"


@pytest.mark.parametrize(
    ("phase", "ended"), [("Pending", False), ("Running", False), ("Failed", True), ("Succeeded", True)]
)
def test_pod_that_was_evicted_or_is_done_has_ended(phase: str, ended: bool) -> None:
    assert pod_of(value(status={"phase": phase})).ended is ended


def test_pod_that_is_being_deleted_is_not_ready_whatever_its_condition_says() -> None:
    assert pod_of(value()).ready
    leaving = pod_of(value(metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"}))
    assert not leaving.ready
    assert instance_of(leaving, "reader", "prod", False).leaving


def test_pod_knows_its_gate() -> None:
    pod = pod_of(value(status={"conditions": [{"type": DATA_READY, "status": "False"}]}))

    assert (pod.gated, pod.gate, pod.ready) == (True, "False", False)
    assert not pod_of(value(spec={"readinessGates": None})).gated


def test_new_pod_without_conditions_is_understood() -> None:
    pod = pod_of({"metadata": {"namespace": "n", "name": "p", "uid": "u"}, "spec": {}, "status": {}})

    assert (pod.ready, pod.gate, pod.address, pod.port) == (False, "", "", 0)


@pytest.mark.parametrize(
    ("shown", "status"), [("ready", "True"), ("draining", "False"), ("waiting", "False"), ("", "False")]
)
def test_gate_says_whether_the_state_file_says_ready(shown: str, status: str) -> None:
    assert {gate_wanted(shown, gate) for gate in ("", "False")} == {status}


@pytest.mark.parametrize(
    ("shown", "status"), [("ready", "True"), ("draining", "False"), ("waiting", "False"), ("", "True")]
)
def test_gate_of_a_ready_pod_stays_where_no_state_file_is_seen(shown: str, status: str) -> None:
    assert gate_wanted(shown, "True") == status


@pytest.mark.parametrize(
    ("word", "why"), [("ready", ""), ("draining", ""), ("waiting", "no release"), ("", "no release")]
)
def test_pod_waits_for_what_its_node_says(word: str, why: str) -> None:
    assert waits_for(Shown(word, reason="no release")) == why


def endpoint(uid: str, ready: bool | None, **more: bool) -> dict[str, Any]:
    conditions = more if ready is None else {"ready": ready, **more}
    return {"targetRef": {"kind": "Pod", "uid": uid}, "conditions": conditions}


def test_endpoint_of_a_service_that_publishes_whoever_is_not_ready_is_judged_by_serving() -> None:
    rows = [endpoint("u1", True, serving=False), endpoint("u2", True, serving=True)]

    assert ready_endpoints([{"endpoints": rows}]) == {"u1": (False,), "u2": (True,)}


def test_endpoints_are_known_by_the_uid_of_their_pod() -> None:
    slices: list[dict[str, Any]] = [
        {"endpoints": [endpoint("u1", True), endpoint("u2", False)]},
        {"endpoints": [endpoint("u1", False), endpoint("u3", None), {"addresses": ["10.0.0.1"]}]},
        {"endpoints": None},
    ]

    found = ready_endpoints(slices)

    assert (found["u1"], found["u2"], found["u3"]) == ((True, False), (False,), (True,))


@pytest.mark.parametrize(
    ("ready", "endpoints", "shown", "serving"),
    [
        pytest.param(True, (True, True), "ready", True, id="in_everywhere"),
        pytest.param(True, (), "ready", True, id="no_service_selects_it"),
        pytest.param(True, (False,), "ready", False, id="endpoints_are_late"),
        pytest.param(False, (True,), "ready", False, id="not_ready_any_more"),
        pytest.param(False, (True,), "draining", True, id="still_gets_traffic_while_it_drains"),
        pytest.param(True, (False,), "draining", True, id="readiness_is_late_while_it_drains"),
        pytest.param(False, (False, False), "draining", False, id="drained"),
        pytest.param(False, (), "draining", False, id="drained_without_a_service"),
    ],
)
def test_pod_that_drains_is_out_only_when_nothing_says_in(
    ready: bool, endpoints: tuple[bool, ...], shown: str, serving: bool
) -> None:
    status = {"conditions": [{"type": "Ready", "status": str(ready)}]}

    assert in_service(pod_of(value(status=status)), endpoints, shown) is serving


@pytest.mark.parametrize(("status", "ready"), [("True", True), ("False", False), ("Unknown", False)])
def test_node_is_ready_when_its_kubelet_is_heard(status: str, ready: bool) -> None:
    assert node_is_ready({"status": {"conditions": [{"type": "Ready", "status": status}]}}) is ready
    assert not node_is_ready({"metadata": {}})


def test_labels_of_a_node_are_those_that_tell_its_place_and_our_own() -> None:
    labels = {"topology.kubernetes.io/zone": "b", f"{PREFIX}pool": "search", "feature.node/cpu-avx": "true"}

    assert labels_of([{"metadata": {"labels": labels}}]) == {
        "topology.kubernetes.io/zone": "b",
        f"{PREFIX}pool": "search",
    }
    assert labels_of([{"metadata": {}}]) == {}
    assert labels_of([]) is None


WAITING, GONE_OUT = Shown(), Shown(Ready.DRAINING, Step.DRAIN, "", "data=1", "data=2")
HELD, GAVE_UP = Reason.HELD.say(held="halted on n1: HTTP 500"), Reason.GAVE_UP.say(error="HTTP 500")


@pytest.mark.parametrize(
    ("before", "now", "out", "told"),
    [
        (WAITING, Shown(Ready.READY, Step.FILL, "", "data=1", "data=1"), None, "DataReady"),
        (Shown(Ready.READY), Shown(Ready.READY), None, ""),
        (Shown(Ready.READY), Shown(Ready.WAITING), None, ""),
        (Shown(Ready.READY), GONE_OUT, None, "DataReload"),
        (GONE_OUT, GONE_OUT, "data=1", ""),
        (GONE_OUT, Shown(Ready.READY, Step.RETURN, "", "data=1", "data=2"), "data=1", ""),
        (GONE_OUT, Shown(Ready.READY, Step.IDLE, "", "data=2", "data=2"), "data=1", "DataReloaded"),
        (GONE_OUT, Shown(Ready.READY, Step.IDLE, "", "data=1", "data=2"), "data=1", ""),
        (GONE_OUT, Shown(Ready.READY, Step.IDLE, HELD, "data=1", "data=2"), "data=1", "DataHalted"),
        (GONE_OUT, Shown(Ready.READY, Step.IDLE, GAVE_UP, "data=1", "data=1"), "data=1", "DataHalted"),
        (GONE_OUT, Shown(Ready.READY, Step.IDLE, "", "data=1", "data=1"), "data=1", "DataReloaded"),
        (GONE_OUT, Shown(Ready.READY, Step.ADMIT, "waits", "data=2", "data=3"), "data=1", "DataReloaded"),
    ],
)
def test_events_tell_of_a_reload_how_it_began_and_how_it_ended(
    before: Shown, now: Shown, out: str | None, told: str
) -> None:
    found = news(before, now, out)

    assert (found.reason if found else "") == told
