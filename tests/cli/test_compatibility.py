"""What a release needs and what code reads, as people say it and as commands tell it."""

from __future__ import annotations

import pytest

from handlers.core import codec, keys, model
from handlers.core.names import Channel, Service
from tests.cli.desk import PLACES, TWO_DATASETS, Desk, v
from tests.core.worlds import COMPLETE, ROUTE, STREETS, Cluster

REGIONS = Channel("prod/search/regions")


@pytest.fixture
def fleet(desk: Desk) -> Desk:
    """Streets at 2; a service on n1 that reads both channels, and one that reads places alone."""
    cluster = Cluster()
    cluster.publish(1, STREETS)
    cluster.publish(2, STREETS)
    cluster.publish(1, labels={"format": "4"})
    cluster.subscribe(places=PLACES, streets=STREETS)
    cluster.subscribe(ROUTE, places=PLACES)
    cluster.node("n1", COMPLETE)
    cluster.runs("n1", places=1, streets=1)
    cluster.run()
    desk.put(cluster)
    desk.data(3)
    return desk


def test_need_is_in_the_header_and_shown(fleet: Desk) -> None:
    answer = fleet.publish("--needs", f"{STREETS}@{v(2)}", "--label", "format=5", "-o", "json")

    assert answer.code == 0, answer
    assert answer.json["needs"] == {STREETS: v(2)}
    assert f"{ROUTE} reads {PLACES}, but not {STREETS}: it will not take this over" in answer.err
    assert str(COMPLETE) not in answer.err
    header = codec.decode(model.Release, fleet.value(keys.release(PLACES, v(3))) or b"", "header")
    assert (header.needs, header.labels) == ({STREETS: v(2)}, {"format": "5"})
    shown = fleet.run("channel", "show", PLACES)
    assert f"needs {STREETS}@{v(2)} or newer" in shown.out
    assert "format=5" in shown.out
    assert fleet.run("channel", "show", PLACES, "-o", "json").json["releases"][0]["needs"] == {STREETS: v(2)}


@pytest.mark.parametrize(
    ("needs", "said"),
    [
        ((f"{PLACES}@{v(1)}",), "cannot need one of its own channel"),
        ((f"{STREETS}@{v(1)}", f"{STREETS}@{v(2)}"), "is there already"),
        ((f"{REGIONS}@{v(1)}",), f"channel {REGIONS} does not exist"),
        ((f"{STREETS}@{v(9)}",), f"there is no such release; the newest is {v(2)}"),
        ((STREETS,), "must be ENV/NAMESPACE/NAME@VERSION"),
    ],
)
def test_need_that_can_never_be_met_is_refused(fleet: Desk, needs: tuple[str, ...], said: str) -> None:
    answer = fleet.publish(*(word for need in needs for word in ("--needs", need)))

    assert answer.code == 2
    assert said in " ".join(answer.err.split())
    assert fleet.value(keys.release(PLACES, v(3))) is None


def test_need_of_what_is_rejected_is_refused(fleet: Desk) -> None:
    fleet.ok("reject", STREETS, v(2))

    assert "it is rejected, and so is all that is newer" in fleet.publish("--needs", f"{STREETS}@{v(2)}").err


def test_labels_of_the_template_are_in_the_header_and_those_of_the_command_line_win(fleet: Desk) -> None:
    template = fleet.template(TWO_DATASETS + "LABELS = {'format': 5, 'schema': 'ltr'}")

    answer = fleet.run("publish", template, "--channel", PLACES, "--label", "format=6", "--label", "by=eve")

    assert answer.code == 0, answer
    header = codec.decode(model.Release, fleet.value(keys.release(PLACES, v(3))) or b"", "header")
    assert header.labels == {"format": "6", "schema": "ltr", "by": "eve"}
    assert "labels: by=eve, format=6, schema=ltr" in answer.out
    answer = fleet.run("publish", template, "--channel", PLACES)
    assert (answer.code, "already with other labels" in answer.err) == (5, True)


def test_published_release_with_other_labels_or_needs_is_a_conflict(fleet: Desk) -> None:
    assert fleet.publish("--label", "format=5").code == 0
    assert fleet.publish().code == 0
    assert fleet.publish("--label", "format=5").code == 0

    for words in (("--label", "format=6"), ("--needs", f"{STREETS}@{v(2)}")):
        answer = fleet.publish(*words)
        assert answer.code == 5
        assert "A release never changes" in answer.err


def test_subscription_says_what_the_service_reads(fleet: Desk) -> None:
    answer = fleet.run("subscribe", COMPLETE, "--reads", " places:format<=4  streets:x=1 ")

    assert answer.code == 0, answer
    assert "can read: places:format<=4 streets:x=1" in answer.out
    key = keys.subscription(COMPLETE)
    assert (
        codec.decode(model.Subscription, fleet.value(key) or b"", key).reads == "places:format<=4 streets:x=1"
    )
    assert fleet.run("status", f"service/{COMPLETE}", "-o", "json").json["reads"]


@pytest.mark.parametrize("command", ["subscribe", "register"])
def test_what_says_nothing_is_refused(fleet: Desk, command: str) -> None:
    place = ("two", "--node", "n1") if command == "register" else ()

    answer = fleet.run(command, COMPLETE, *place, "--reads", "format is 4")

    assert answer.code == 2
    assert "does not say what is read" in " ".join(answer.err.split())


def test_alias_that_is_not_read_is_refused(fleet: Desk) -> None:
    answer = fleet.run("subscribe", COMPLETE, "--reads", "roads:format<=4")

    assert (answer.code, "--reads names roads" in answer.err) == (2, True)


def test_instance_says_what_it_reads_itself(fleet: Desk) -> None:
    fleet.ok("register", COMPLETE, "two", "--node", "n1", "--reads", "format<=4")

    key = keys.registrations("n1")
    (instance,) = codec.decode(model.Instances, fleet.value(key) or b"", key).instances.values()
    assert (instance.service, instance.reads) == (Service(COMPLETE), "format<=4")
