"""enroll writes subscriptions from workloads, under its lock, and never over what a person wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from handlers.adapters.local import LocalState
from handlers.adapters.mirror import Picture
from handlers.adapters.pods import About
from handlers.adapters.ports import CheckSession, Lock
from handlers.context import Context
from handlers.core import byhand, codec, keys
from handlers.core.enrolment import ORIGIN
from handlers.core.errors import Conflict, Denied
from handlers.core.model import Audit, Meta, Orders, Subscription
from handlers.core.names import Channel, Service
from handlers.core.pods import PREFIX
from handlers.enroll import ROLE, Sight, converge
from handlers.settings import Settings
from tests.fakes_kv import FakeKV

READER, PLACES = Service("prod/search/reader"), Channel("prod/search/places")


@dataclass
class Fixed:
    """What the API server has."""

    objects: Mapping[str, Any]
    known: bool = True

    def picture(self) -> Picture:
        return Picture(self.known, self.objects)


@dataclass
class Desk:
    """A KV with the lock of enroll; an API server with Deployments and budgets, and the Events on them."""

    kv: FakeKV
    context: Context
    fence: CheckSession
    budgets: Fixed = field(default_factory=lambda: Fixed({}))
    events: list[tuple[str, str, str]] = field(default_factory=list)
    sight: Sight = field(init=False)

    def __post_init__(self) -> None:
        self.sight = Sight(self, {}, self.budgets)

    def say(self, about: About, kind: str, reason: str, text: str) -> None:
        self.events.append((f"{about.kind} {about.name}", reason, text))
        raise Denied("POST: an Event that is not written decides nothing")

    def look(
        self,
        *workloads: Mapping[str, Any],
        known: bool = True,
        kind: tuple[str, str] = ("apps/v1", "deployments"),
    ) -> str:
        found = Fixed({w["metadata"]["uid"]: w for w in workloads}, known)
        self.sight.workloads = {kind: found}
        return converge(self.context, self.sight, self.fence)

    def subscription(self) -> Subscription | None:
        entry, _ = self.kv.get(keys.subscription(READER))
        return codec.decode(Subscription, entry.value, "subscription") if entry else None


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    kv = FakeKV()
    kv.put(keys.META, codec.encode(Meta(environments=("prod",))))
    session = kv.create_session("enroll", ttl_s=10, behavior="delete")
    fence = CheckSession(keys.lock(ROLE), session)
    kv.txn([Lock(fence.key, b"{}", session)])
    settings = Settings(root=tmp_path, node="p1", config=tmp_path, kubernetes=True, environment="prod")
    return Desk(kv, Context(settings=settings, node="p1", kv=kv, local=LocalState(tmp_path)), fence)


def workload(uid: str = "d1", name: str = "reader", **notes: str) -> dict[str, Any]:
    annotations = {PREFIX + key.replace("_", "-"): text for key, text in notes.items()}
    return {"metadata": {"namespace": "search", "name": name, "uid": uid, "annotations": annotations}}


def test_workload_subscribes_its_service_and_a_second_look_writes_nothing(desk: Desk) -> None:
    made = workload(channels=PLACES, max_unavailable="2")

    assert desk.look(made) == "knows 1 service, wrote 1 subscription"
    assert desk.look(made) == "knows 1 service, wrote 0 subscriptions"
    assert desk.subscription() == Subscription(
        channels={"places": PLACES}, max_unavailable=2, origin=ORIGIN, extra={}
    )


def test_changed_annotation_is_taken_over_and_unknown_fields_stay(desk: Desk) -> None:
    desk.look(workload(channels=PLACES))
    before = desk.subscription()
    assert before is not None
    desk.kv.put(keys.subscription(READER), codec.encode(replace(before, extra={"later": 1})))

    desk.look(workload(channels=PLACES, drain_time="9s"))

    after = desk.subscription()
    assert after is not None
    assert (after.drain_s, after.extra) == (9.0, {"later": 1})


def test_history_says_that_enroll_wrote_it_and_for_which_workload(desk: Desk) -> None:
    def orders() -> Orders:
        found = desk.kv.list(keys.SERVICES).entries
        return byhand.orders("services", {key: (entry.index, entry.value) for key, entry in found.items()})

    before = orders()
    for notes in ({}, {"drain_time": "9s"}, {"drain_time": "9s"}):
        desk.look(workload(channels=PLACES, **notes))

    entries = sorted(desk.kv.list(f"{keys.AUDIT}service/{READER}/").entries.values(), key=lambda e: e.index)
    first, second = [codec.decode(Audit, entry.value, entry.key) for entry in entries]
    assert (first.object, first.action, first.who) == (f"service/{READER}", "subscribed", "enroll on p1")
    assert (first.before, first.after) == ("", f"Reads places from {PLACES}")
    assert (first.why, second.before) == ("Deployment search/reader says so", first.after)
    indexes = {entry.index for entry in entries}
    assert byhand.by_hand(before, orders(), lambda owner: indexes, since=0) == []
    assert orders().seen[f"services/{READER}/subscription"] == str(max(indexes))


def test_job_of_a_cron_job_is_no_service_of_its_own(desk: Desk) -> None:
    made = workload(channels=PLACES)
    owner = {"kind": "CronJob", "name": "reader", "uid": "c1", "controller": True}
    made["metadata"]["ownerReferences"] = [owner]

    assert desk.look(made, kind=("batch/v1", "jobs")) == "knows 0 services, wrote 0 subscriptions"


def test_what_a_person_wrote_stays(desk: Desk) -> None:
    by_hand = Subscription(channels={"places": PLACES}, drain_s=3.0)
    desk.kv.put(keys.subscription(READER), codec.encode(by_hand))

    desk.look(workload(channels=PLACES, drain_time="9s"))

    assert desk.subscription() == by_hand


def test_workload_that_vanished_changes_nothing(desk: Desk) -> None:
    desk.look(workload(channels=PLACES))
    desk.look()

    assert desk.subscription() is not None


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(workload(), id="no_channel"),
        pytest.param(workload(channels=PLACES, environment="other"), id="environment_not_served"),
    ],
)
def test_what_makes_no_sense_is_left_out_and_stops_no_other(desk: Desk, made: dict[str, Any]) -> None:
    made["metadata"]["uid"] = "a0"
    made["metadata"]["name"] = "broken"

    desk.look(made, workload(channels=PLACES))

    assert desk.subscription() is not None
    assert desk.kv.get(keys.subscription(Service("prod/search/broken")))[0] is None


def test_nothing_is_written_while_the_api_server_or_meta_is_away(desk: Desk) -> None:
    assert desk.look(known=False) == "waits for the API server"
    desk.kv.put(keys.META, codec.encode(Meta(environments=("prod",))))
    assert desk.subscription() is None


def test_subscription_that_does_not_parse_is_left_alone(desk: Desk) -> None:
    desk.kv.put(keys.subscription(READER), b"{}")

    assert desk.look(workload(channels=PLACES)) == "knows 1 service, wrote 0 subscriptions"


def test_lost_lock_ends_it(desk: Desk) -> None:
    desk.kv.destroy_session(desk.fence.session)

    with pytest.raises(Conflict):
        desk.look(workload(channels=PLACES))


def disruption(**spec: Any) -> dict[str, Any]:
    meta = {"namespace": "search", "name": "reader", "uid": "b1"}
    return {"metadata": meta, "spec": {"selector": {"matchLabels": {"app": "reader"}}, **spec}}


def covered(**notes: str) -> dict[str, Any]:
    template = {"metadata": {"labels": {"app": "reader"}}}
    return workload(channels=PLACES, **notes) | {"spec": {"replicas": 4, "template": template}}


def test_budget_is_that_of_the_pods_and_follows_it(desk: Desk) -> None:
    desk.budgets.objects = {"b1": disruption(maxUnavailable="50%")}
    desk.look(covered())
    first = desk.subscription()
    desk.budgets.objects = {}
    desk.look(covered())
    then = desk.subscription()

    assert first is not None
    assert then is not None
    assert (first.max_unavailable, first.budget_by) == (
        "50%",
        "PodDisruptionBudget search/reader: maxUnavailable 50%",
    )
    assert (then.max_unavailable, then.budget_by) == (1, "")


def test_budget_that_allows_nothing_is_told_once_on_the_workload(desk: Desk) -> None:
    desk.budgets.objects = {"b1": disruption(minAvailable=4)}
    desk.look(covered())
    desk.look(covered())
    why = "PodDisruptionBudget search/reader: minAvailable 4, and 4 are wanted"
    text = f"no pod is taken out of service to reload its data: {why}"
    assert desk.events == [("Deployment reader", "DataBudget", text)]

    desk.budgets.objects = {"b1": disruption(minAvailable=3)}
    desk.look(covered())
    desk.budgets.objects = {"b1": disruption(minAvailable=4)}
    desk.look(covered())
    assert len(desk.events) == 2


def test_budget_of_the_workload_itself_counts_in_place_of_that_of_its_pods(desk: Desk) -> None:
    desk.budgets.objects = {"b1": disruption(maxUnavailable=0)}

    desk.look(covered(max_unavailable="2"))

    found = desk.subscription()
    assert found is not None
    assert (found.max_unavailable, found.budget_by, desk.events) == (2, "", [])


def test_nothing_is_told_where_a_person_gave_the_budget(desk: Desk) -> None:
    desk.kv.put(keys.subscription(READER), codec.encode(Subscription(channels={"places": PLACES})))
    desk.budgets.objects = {"b1": disruption(maxUnavailable=0)}

    desk.look(covered())

    assert desk.events == []
