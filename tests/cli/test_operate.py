"""What operators change: each command writes by compare-and-set, with one audit entry, or not at all."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from handlers.adapters.ports import Cas, CheckIndex, DeleteCas, Op
from handlers.core import codec, keys, model
from handlers.core.names import InstanceKey, Service
from tests.cli.desk import PLACES, Desk, v
from tests.core.worlds import COMPLETE, Cluster, rid

OTHER = Service("prod/search/route")


@pytest.fixture
def fleet(desk: Desk) -> Desk:
    """Three releases and a staged one; a service, pinned, paused and halted, on a live node; a dead node; a
    registration.
    """
    cluster = Cluster()
    for number in (1, 2, 4, 3):
        cluster.publish(number)
    cluster.settings()
    cluster.subscribe()
    cluster.node("n1", COMPLETE)
    cluster.runs("n1", places=2)
    cluster.node("n2", alive=False)
    cluster.cordon("n2")
    cluster.reject(1)
    cluster.judge(3)
    cluster.control(paused=True)
    cluster.put(keys.channel_pin(PLACES), model.Pin(version=v(2)))
    cluster.put(keys.staged(PLACES), model.Staged(version=v(4)))
    cluster.put(keys.proven(COMPLETE), model.Proven(channels={PLACES: (v(2),)}))
    place = InstanceKey.of(COMPLETE, "one")
    registered = model.Instance(service=COMPLETE, id="one", incarnation="x", health="none")
    cluster.put(keys.registrations("n1"), model.Instances(instances={place: registered}))
    desk.put(cluster)
    return desk


CHANGES: dict[str, Sequence[str]] = {
    "init": ("init", "--env", "stage"),
    "channel-set": ("channel", "set", PLACES, "--keep-releases", "7"),
    "channel-set-new": ("channel", "set", "prod/search/fresh"),
    "channel-set-head": ("channel", "set-head", PLACES, v(2)),
    "channel-delete": ("channel", "delete", PLACES, "--force"),
    "rollback": ("rollback", PLACES),
    "rollback-hold": ("rollback", PLACES, "--hold"),
    "reject": ("reject", PLACES, v(2)),
    "accept": ("accept", PLACES, v(1)),
    "pin": ("pin", PLACES, v(3)),
    "pin-service": ("pin", f"service/{COMPLETE}", v(3)),
    "unpin": ("unpin", PLACES),
    "subscribe": ("subscribe", COMPLETE, "--max-unavailable", "2"),
    "subscribe-new": ("subscribe", OTHER, "--channel", PLACES),
    "unsubscribe": ("unsubscribe", COMPLETE),
    "register": ("register", COMPLETE, "two", "--node", "n1"),
    "promote": ("promote", PLACES),
    "promote-at": ("promote", PLACES, "--at", "2026-06-02T00:00:00Z"),
    "rollout-promote": ("rollout", "promote", COMPLETE, rid(3)),
    "deregister": ("deregister", COMPLETE, "one", "--node", "n1"),
    "pause": ("rollout", "pause", OTHER),
    "resume": ("rollout", "resume", COMPLETE),
    "retry": ("rollout", "retry", COMPLETE),
    "abort": ("rollout", "abort", COMPLETE, rid(3)),
    "cordon": ("node", "cordon", "n1"),
    "uncordon": ("node", "uncordon", "n2"),
    "forget": ("node", "forget", "n2"),
}
ONCE = {"promote", "rollback", "rollback-hold", "register", "deregister"}
REASONED = {"channel-set", "channel-set-new", "subscribe", "subscribe-new", "init", "register", "deregister"}


def prepare(fleet: Desk, name: str) -> Sequence[str]:
    if name == "pause":
        cluster = Cluster()
        cluster.subscribe(OTHER)
        fleet.kv.put(keys.subscription(OTHER), cluster[keys.subscription(OTHER)])
    reason = () if name in REASONED else ("--reason", "because")
    return (*CHANGES[name], *reason)


@pytest.mark.parametrize("name", CHANGES)
def test_change_is_one_guarded_transaction_with_its_audit_entry(fleet: Desk, name: str) -> None:
    args = prepare(fleet, name)

    fleet.ok(*args)

    [txn] = fleet.kv.txns
    assert all(isinstance(op, (Cas, DeleteCas, CheckIndex)) for op in txn)
    [audit] = fleet.audit()
    assert (audit.who, audit.when) == ("eve", "2026-06-01T12:00:00Z")
    assert audit.why == ("" if name in REASONED else "because")


@pytest.mark.parametrize("name", CHANGES)
def test_change_loses_to_a_faster_one_and_writes_nothing(fleet: Desk, name: str) -> None:
    args = prepare(fleet, name)

    def faster(ops: Sequence[Op]) -> None:
        first = next(op for op in ops if isinstance(op, (Cas, DeleteCas)))
        fleet.kv.put(first.key, b"somebody else's")

    fleet.kv.before_txn = faster

    answer = fleet.run(*args)

    assert (answer.code, fleet.kv.txns) == (5, []), answer
    assert "somebody else changed" in answer.err


@pytest.mark.parametrize("name", sorted(set(CHANGES) - ONCE))
def test_change_made_again_changes_nothing(fleet: Desk, name: str) -> None:
    args = prepare(fleet, name)
    fleet.ok(*args)
    before = fleet.everything()

    answer = fleet.run(*args)

    # a deleted channel has nothing left to delete: that is worth an error
    assert answer.code == (2 if name == "channel-delete" else 0), answer
    assert fleet.everything() == before


@pytest.mark.parametrize("name", CHANGES)
def test_change_says_the_same_as_json(fleet: Desk, name: str) -> None:
    answer = fleet.ok(*prepare(fleet, name), "-o", "json")

    assert answer.json["schema_version"] == 1
    assert len(answer.json) > 1


def test_unknown_fields_of_a_newer_program_survive(fleet: Desk) -> None:
    key = keys.subscription(COMPLETE)
    document = json.loads(fleet.value(key) or b"")
    fleet.kv.put(key, json.dumps(document | {"surge": 3}).encode())

    fleet.ok("subscribe", COMPLETE, "--drain-time", "10s")

    assert json.loads(fleet.value(key) or b"")["surge"] == 3


def test_rollback_rejects_the_target_and_says_where_services_go(fleet: Desk) -> None:
    """The pin on 2 is what is targeted; it goes, so that the next good release is not held up by it."""
    fleet.kv.put(keys.rejected(PLACES, v(1)), b"")
    fleet.ok("accept", PLACES, v(1))

    answer = fleet.ok("rollback", PLACES, "--reason", "wrong", "-o", "json")

    assert answer.json["rejected"] == v(2)
    assert answer.json["target"] == v(3)
    assert fleet.value(keys.channel_pin(PLACES)) is None


def test_rollback_goes_to_what_was_proven_and_hold_pins_it(fleet: Desk) -> None:
    fleet.ok("unpin", PLACES)

    answer = fleet.ok("rollback", PLACES, "--hold", "-o", "json")

    assert (answer.json["rejected"], answer.json["target"]) == (v(3), v(2))
    assert answer.json["services"] == {COMPLETE: v(2)}
    pin = codec.decode_pin(fleet.value(keys.channel_pin(PLACES)) or b"", "pin")
    assert (pin.version, pin.who, pin.why) == (v(2), "eve", f"rolled back from {v(3)}")


def test_rollback_with_nothing_to_go_back_to_is_refused(fleet: Desk) -> None:
    fleet.ok("unpin", PLACES)
    fleet.ok("reject", PLACES, v(2))

    answer = fleet.run("rollback", PLACES)

    assert (answer.code, "is the only release" in answer.err) == (2, True)


def test_pin_without_version_holds_what_is_targeted(fleet: Desk) -> None:
    fleet.ok("unpin", PLACES)

    assert fleet.ok("pin", PLACES, "-o", "json").json["pin"] == v(3)
    assert fleet.ok("pin", f"service/{COMPLETE}", "-o", "json").json["pin"] == v(3)
    assert fleet.value(keys.service_pin(COMPLETE, "places")) is not None


def test_pin_may_end_by_itself(fleet: Desk) -> None:
    assert fleet.ok("pin", PLACES, v(3), "--for", "2d", "-o", "json").json["until"] == "2026-06-03T12:00:00Z"


def test_pin_to_what_does_not_exist_or_is_rejected_is_refused(fleet: Desk) -> None:
    missing, rejected = fleet.run("pin", PLACES, v(9)), fleet.run("pin", PLACES, v(1))

    assert (missing.code, f"{PLACES} has no release {v(9)}" in missing.err) == (2, True)
    assert (rejected.code, "is rejected" in rejected.err) == (9, True)


def test_pin_of_a_service_with_several_channels_needs_the_alias(fleet: Desk) -> None:
    fleet.ok("channel", "set", "prod/search/ranks")
    fleet.ok("subscribe", COMPLETE, "--channel", PLACES, "--channel", "w=prod/search/ranks")

    answer = fleet.run("pin", f"service/{COMPLETE}", v(2))

    assert (answer.code, "give --alias, one of places, w" in answer.err) == (2, True)
    fleet.ok("pin", f"service/{COMPLETE}", v(2), "--alias", "places")


def test_name_of_a_channel_and_a_service_must_say_which(fleet: Desk) -> None:
    fleet.ok("subscribe", PLACES, "--channel", PLACES)

    answer = fleet.run("pin", PLACES, v(3))

    assert (answer.code, f"say channel/{PLACES} or service/{PLACES}" in answer.err) == (2, True)
    assert fleet.ok("status", PLACES).out.count(PLACES) > 2


def test_channel_that_is_read_is_not_deleted_without_force(fleet: Desk) -> None:
    answer = fleet.run("channel", "delete", PLACES)

    assert (answer.code, f"is read by {COMPLETE}" in answer.err) == (2, True)


def test_deleted_channel_and_unsubscribed_service_leave_tombstones(fleet: Desk) -> None:
    fleet.ok("unsubscribe", COMPLETE, "--reason", "replaced")
    fleet.ok("channel", "delete", PLACES, "--reason", "over")

    subscription = codec.decode(model.Subscription, fleet.value(keys.subscription(COMPLETE)) or b"", "s")
    settings = codec.decode(model.ChannelSettings, fleet.value(keys.settings(PLACES)) or b"", "c")
    note = model.Note(who="eve", when="2026-06-01T12:00:00Z", why="replaced")
    assert subscription.tombstone == note
    assert settings.tombstone == model.Note(who="eve", when="2026-06-01T12:00:00Z", why="over")
    fleet.ok("channel", "set", PLACES, "--restore")
    fleet.ok("subscribe", COMPLETE, "--channel", PLACES)
    again = codec.decode(model.Subscription, fleet.value(keys.subscription(COMPLETE)) or b"", "s")
    assert (again.tombstone, again.channels) == (None, {"places": PLACES})


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--reload", "ftp://x"), "reload 'ftp://x' is none of"),
        (("--confirm", "hope"), "confirm 'hope' is none of"),
        (("--drain", "quickly"), "drain 'quickly' is none of"),
        (("--ram", "swap"), "ram 'swap' is none of"),
        (("--channel", "state=prod/search/places"), "alias 'state' is taken"),
        (("--channel", "A=prod/search/places"), "alias 'A' is not a legal name"),
    ],
)
def test_subscription_that_no_node_could_follow_is_refused(
    fleet: Desk, args: Sequence[str], message: str
) -> None:
    before = fleet.everything()

    answer = fleet.run("subscribe", COMPLETE, *args)

    assert (answer.code, message in answer.err, fleet.everything()) == (2, True, before), answer


def test_budget_is_a_number_a_share_or_what_must_stay(fleet: Desk) -> None:
    def budget(*words: str) -> tuple[object, object]:
        fleet.ok("subscribe", COMPLETE, *words)
        found = codec.decode(model.Subscription, fleet.value(keys.subscription(COMPLETE)) or b"", "it")
        return found.max_unavailable, found.min_available

    assert budget("--max-unavailable", "25%") == ("25%", None)
    assert budget("--min-available", "3") == ("25%", 3)
    assert budget("--drain-time", "1s") == ("25%", 3)
    assert budget("--max-unavailable", "2") == (2, None)
    assert fleet.run("subscribe", COMPLETE, "--max-unavailable", "half").code == 2
    answer = fleet.run("subscribe", COMPLETE, "--max-unavailable", "1", "--min-available", "1")
    assert (answer.code, "not both" in answer.err) == (2, True)


def test_promoted_release_is_the_head_and_no_longer_staged(fleet: Desk) -> None:
    fleet.ok("promote", PLACES)

    assert fleet.value(keys.head(PLACES)) == v(4).encode()
    assert fleet.value(keys.staged(PLACES)) is None
    assert fleet.run("promote", PLACES).code == 2


def test_promotion_at_a_time_is_left_to_the_planner(fleet: Desk) -> None:
    answer = fleet.ok("promote", PLACES, "--at", "2026-06-02T08:00:00+02:00")

    assert "at 2026-06-02T06:00:00Z" in answer.out
    staged = codec.decode(model.Staged, fleet.value(keys.staged(PLACES)) or b"", "it")
    assert (staged.version, staged.at, staged.who) == (v(4), "2026-06-02T06:00:00Z", "eve")
    assert fleet.value(keys.head(PLACES)) == v(3).encode()
    assert fleet.run("promote", PLACES, "--at", "tomorrow").code == 2


def test_rejected_release_is_not_promoted(fleet: Desk) -> None:
    fleet.ok("reject", PLACES, v(4))

    answer = fleet.run("promote", PLACES)

    assert (answer.code, f"hydra accept {PLACES} {v(4)}" in answer.err) == (9, True)


@pytest.mark.parametrize("at", [(), ("--at", "2026-06-02T00:00:00Z")], ids=["now", "at-a-time"])
@pytest.mark.parametrize(
    ("number", "why"), [(2, f"the head is {v(3)}, which is newer"), (9, "no such release")]
)
def test_staged_release_that_must_not_become_the_head_is_not_promoted(
    fleet: Desk, number: int, why: str, at: Sequence[str]
) -> None:
    fleet.kv.put(keys.staged(PLACES), codec.encode(model.Staged(version=v(number))))
    before = fleet.everything()

    answer = fleet.run("promote", PLACES, *at)

    assert (answer.code, why in answer.err, fleet.everything()) == (9, True, before)


def test_live_node_is_not_forgotten(fleet: Desk) -> None:
    answer = fleet.run("node", "forget", "n1")

    assert (answer.code, "is alive" in answer.err) == (2, True)


def test_forgotten_node_leaves_only_its_tombstone_below_nodes(fleet: Desk) -> None:
    fleet.ok("node", "forget", "n2", "--reason", "given back")

    assert list(fleet.kv.list(keys.node("n2")).entries) == [keys.forgotten("n2")]
    tombstone = codec.decode(model.Forgotten, fleet.value(keys.forgotten("n2")) or b"", "n2")
    assert (tombstone.node, tombstone.who, tombstone.why) == ("n2", "eve", "given back")
    assert "forgotten" in fleet.ok("node", "list").out


def test_node_that_lost_its_documents_can_be_forgotten(fleet: Desk) -> None:
    fleet.kv.put(keys.progress("n9"), codec.encode(model.Progress(node="n9")))

    fleet.ok("node", "forget", "n9")

    assert fleet.value(keys.forgotten("n9"))


@pytest.mark.parametrize("health", ["http://127.0.0.1:8080/healthz", "none"])
def test_registered_instance_keeps_its_incarnation(fleet: Desk, health: str) -> None:
    args = ("register", COMPLETE, "Pod 7", "--node", "n1", "--port", "8080", "--health", health)
    fleet.ok(*args)
    first = fleet.value(keys.registrations("n1"))

    assert fleet.ok(*args, "-o", "json").json["changed"] is False
    assert fleet.value(keys.registrations("n1")) == first


def test_retry_overrules_verdicts_and_takes_aborts_back(fleet: Desk) -> None:
    fleet.ok("rollout", "abort", COMPLETE, rid(3))

    answer = fleet.ok("rollout", "retry", COMPLETE, "-o", "json")

    assert (answer.json["retry"], answer.json["abort"]) == (["id3"], [])


def test_abort_without_a_release_means_what_is_going_on(fleet: Desk) -> None:
    fleet.ok("unpin", PLACES)

    assert fleet.ok("rollout", "abort", COMPLETE, "-o", "json").json["abort"] == [rid(3)]
    assert "no rollout of" in fleet.run("rollout", "abort", COMPLETE).err


def test_init_of_another_environment_keeps_the_first(fleet: Desk) -> None:
    assert fleet.ok("init", "--env", "stage", "-o", "json").json["environments"] == ["prod", "stage"]
