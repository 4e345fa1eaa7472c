"""What annotations of a workload become: one subscription, or an error that names the annotation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from msgspec.structs import replace

from handlers.core.enrolment import ORIGIN, RELEASE_LABEL, enrolment, is_ours, is_top
from handlers.core.errors import Usage
from handlers.core.model import Note, Subscription
from handlers.core.names import Channel
from handlers.core.pods import PREFIX

PLACES = Channel("prod/search/places")


def workload(labels: dict[str, str] | None = None, **notes: str) -> dict[str, Any]:
    """A Deployment; `notes` are annotations without their prefix, `_` for `-`."""
    annotations = {PREFIX + name.replace("_", "-"): text for name, text in notes.items()}
    meta = {"namespace": "search", "name": "reader", "annotations": annotations, "labels": labels or {}}
    return {"metadata": meta, "spec": {"template": {"metadata": {}}}}


def test_every_setting_has_an_annotation() -> None:
    found = enrolment(
        workload(
            channels="prod/search/places, ranks=prod/maps/ranking",
            reload="http://:/reload",
            confirm="http://:/version#version",
            drain="check",
            drain_time="10s",
            deadline="10m",
            max_unavailable="2",
            ram="via-disk",
            nodes="pool=search",
        ),
        "prod",
    )

    assert found.service == "prod/search/reader"
    assert found.subscription == Subscription(
        channels={"places": PLACES, "ranks": Channel("prod/maps/ranking")},
        reload="http://:/reload",
        confirm="http://:/version#version",
        drain="check",
        drain_s=10.0,
        deadline_s=600.0,
        max_unavailable=2,
        ram="via-disk",
        nodes="pool=search",
        origin=ORIGIN,
    )


def test_without_channels_the_helm_release_names_the_channel() -> None:
    found = enrolment(workload({RELEASE_LABEL: "places"}), "prod")

    assert found.subscription.channels == {"places": PLACES}


def test_name_of_the_service_is_that_which_its_pods_have() -> None:
    made = workload(channels=PLACES)
    made["spec"]["template"]["metadata"]["annotations"] = {f"{PREFIX}service": "completion"}

    assert enrolment(made, "prod").service == "prod/search/completion"


def test_name_of_the_service_of_a_cron_job_is_that_which_its_pods_have() -> None:
    made = workload(channels=PLACES)
    notes = {f"{PREFIX}service": "completion", f"{PREFIX}namespace": "maps", f"{PREFIX}environment": "stage"}
    made["spec"] = {"jobTemplate": {"spec": {"template": {"metadata": {"annotations": notes}}}}}

    assert enrolment(made, "prod").service == "stage/maps/completion"


@pytest.mark.parametrize(
    ("kind", "owner", "top"),
    [
        ("Job", "CronJob", False),
        ("Job", "Workflow", False),
        ("Job", "", True),
        ("Deployment", "", True),
        ("StatefulSet", "Database", True),
    ],
)
def test_service_is_called_after_the_workload_that_pods_are_called_after(
    kind: str, owner: str, top: bool
) -> None:
    made = workload(channels=PLACES)
    others: list[dict[str, Any]] = [{"kind": "Team", "name": "search", "uid": "u0"}]  # no controller
    made["metadata"]["ownerReferences"] = others
    if owner:
        others.append({"kind": owner, "name": "owner", "uid": "u1", "controller": True})

    assert is_top(kind, made) == top


@pytest.mark.parametrize(
    ("notes", "said"),
    [
        ({}, "no channel: set the annotation"),
        ({"channels": "places"}, "must be ENV/NAMESPACE/NAME"),
        ({"channels": PLACES, "drain_time": "ten"}, f"{PREFIX}drain-time: 'ten' is not a duration"),
        ({"channels": PLACES, "max_unavailable": "some"}, f"{PREFIX}max-unavailable: 'some'"),
        ({"channels": PLACES, "reload": "exec:rm"}, "reload 'exec:rm'"),
        ({"channels": PLACES, "drain": "maintenance"}, "maintenance is Consul's"),
        ({"channels": f"state={PLACES}"}, "alias 'state' is taken"),
        ({"channels": PLACES, "nodes": "pool"}, "nodes: 'pool' is none of"),
    ],
)
def test_wrong_annotation_is_named(notes: Mapping[str, str], said: str) -> None:
    with pytest.raises(Usage, match=said):
        enrolment(workload(None, **notes), "prod")


def test_settings_are_written_only_where_no_person_did() -> None:
    ours = enrolment(workload(channels=PLACES), "prod").subscription

    assert is_ours(ours)
    assert not is_ours(replace(ours, origin=""))
    assert not is_ours(replace(ours, tombstone=Note(who="ann")))
