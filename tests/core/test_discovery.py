"""An instance appears at once, and goes only when it is surely gone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from handlers.core.codec import decode, encode
from handlers.core.discovery import Discovery, Reading, Registered, discover
from handlers.core.model import Instance, Instances
from handlers.core.names import InstanceKey, Service

PLACES = Service("prod/search/places")
DROP_S = 60.0


def row(instance_id: str, service: str | None = PLACES, **more: object) -> Registered:
    meta = {} if service is None else {"hydra_service": service}
    base = Registered(id=instance_id, name="places", address="10.0.0.1", port=80, incarnation="7", meta=meta)
    return structs.replace(base, **more)


def reading(*rows: Registered, by_hand: dict[InstanceKey, Instance] | None = None) -> Reading:
    return Reading(catalog=rows, agent_ids=frozenset(r.id for r in rows), by_hand=by_hand or {})


def hand(instance_id: str, health: str = "none") -> dict[InstanceKey, Instance]:
    instance = Instance(service=PLACES, id=instance_id, incarnation="1", health=health)
    return {InstanceKey.of(PLACES, instance_id): instance}


def key(instance_id: str) -> InstanceKey:
    return InstanceKey.of(PLACES, instance_id)


def test_registered_service_is_an_instance_at_once() -> None:
    found = discover(Discovery(), reading(row("places-1")), 0, DROP_S)

    assert found.instances == {
        key("places-1"): Instance(
            service=PLACES, id="places-1", incarnation="7", address="10.0.0.1", port=80, consul_name="places"
        )
    }
    assert found.alarms == ()


def test_registered_service_says_what_it_reads() -> None:
    meta = {"hydra_service": PLACES, "hydra_reads": "format<=4"}
    before = discover(Discovery(), reading(row("places-1", meta=meta)), 0, DROP_S)
    assert before.instances[key("places-1")].reads == "format<=4"

    wrong = {**meta, "hydra_reads": "format"}
    after = discover(before, reading(row("places-1", meta=wrong), row("places-2", meta=wrong)), 1, DROP_S)

    assert after.instances == before.instances
    assert all("meta hydra_reads: 'format' does not say what is read" in alarm for alarm in after.alarms)


def test_service_without_the_meta_is_none_of_ours() -> None:
    assert discover(Discovery(), reading(row("db", None)), 0, DROP_S) == Discovery()


def test_registered_anew_is_another_incarnation() -> None:
    before = discover(Discovery(), reading(row("places-1")), 0, DROP_S)
    after = discover(before, reading(row("places-1", incarnation="9")), 1, DROP_S)

    assert after.instances[key("places-1")].incarnation == "9"


def test_missing_instance_goes_only_in_a_second_read_far_enough_apart() -> None:
    there = discover(Discovery(), reading(row("places-1")), 0, DROP_S)
    first = discover(there, reading(), 100, DROP_S)
    between = discover(first, reading(), 159, DROP_S)
    second = discover(between, reading(), 160, DROP_S)

    assert key("places-1") in first.instances
    assert key("places-1") in between.instances
    assert second.instances == {}
    assert second.dropped == (key("places-1"),)


def test_instance_that_comes_back_in_between_starts_its_time_anew() -> None:
    there = discover(Discovery(), reading(row("places-1")), 0, DROP_S)
    gone = discover(there, reading(), 10, DROP_S)
    back = discover(gone, reading(row("places-1")), 30, DROP_S)
    gone_again = discover(back, reading(), 71, DROP_S)

    assert back.missing == {}
    assert gone_again.missing == {key("places-1"): 71}
    assert key("places-1") in gone_again.instances


def test_even_without_a_time_one_read_is_not_enough() -> None:
    there = discover(Discovery(), reading(row("places-1")), 0, 0)

    assert key("places-1") in discover(there, reading(), 1, 0).instances


@pytest.mark.parametrize("unreadable", ["catalog", "agent_ids", "by_hand"])
def test_nothing_goes_while_something_is_unreadable(unreadable: str) -> None:
    start = reading(row("places-1"), by_hand=hand("job-1"))
    state = discover(Discovery(), start, 0, DROP_S)
    blind = structs.replace(reading(), **{unreadable: None})
    for now in (100, 200, 300):
        state = discover(state, blind, now, DROP_S)

    assert state.instances.keys() == {key("places-1"), key("job-1")}
    assert state.missing == {}


def test_service_that_the_agent_has_and_the_catalog_lost_stays() -> None:
    """A restored Consul forgets younger services until their agents register them again, minutes later."""
    state = discover(Discovery(), reading(row("places-1")), 0, DROP_S)
    restored = Reading(catalog=(), agent_ids=frozenset({"places-1"}), by_hand={})
    for now in (100, 200, 300):
        state = discover(state, restored, now, DROP_S)

    assert key("places-1") in state.instances


def test_service_that_a_restored_catalog_lists_and_the_agent_has_not_is_no_new_instance() -> None:
    """It was deregistered since; what is known already stays until both have lost it."""
    both = (row("places-1"), row("places-2"))
    state = discover(Discovery(), reading(row("places-1")), 0, DROP_S)

    ghost = Reading(catalog=both, agent_ids=frozenset(), by_hand={})

    assert discover(state, ghost, 1, DROP_S).instances.keys() == {key("places-1")}


def test_service_that_only_the_agent_knows_is_an_instance_while_the_catalog_is_away() -> None:
    """Created while all of Consul's servers are away: it needs its view now."""
    state = discover(Discovery(), reading(row("places-1")), 0, DROP_S)
    of_agent = (row("places-1", incarnation=""), row("places-2", incarnation=""), row("db", None))
    alone = Reading(catalog=None, agent_ids=None, by_hand=None, agent=of_agent)

    state = discover(state, alone, 1, DROP_S)

    found = {key: instance.incarnation for key, instance in state.instances.items()}
    assert found == {key("places-1"): "7", key("places-2"): ""}
    state = discover(state, structs.replace(alone, agent=of_agent[:1]), 100, DROP_S)
    assert state.instances.keys() == found.keys()
    state = discover(state, reading(row("places-1"), row("places-2", incarnation="9")), 200, DROP_S)
    assert state.instances[key("places-2")].incarnation == "9"


def test_service_whose_meta_was_taken_away_goes() -> None:
    state = discover(Discovery(), reading(row("places-1")), 0, DROP_S)
    for now in (100, 160):
        state = discover(state, reading(row("places-1", None)), now, DROP_S)

    assert state.dropped == (key("places-1"),)


@pytest.mark.parametrize(
    "bad", ["", "prod", "prod/search", "prod/search/Places", "../x/y", "prod/search/places/1"]
)
def test_bad_meta_is_an_alarm_and_takes_nothing_away(bad: str) -> None:
    state = discover(Discovery(), reading(row("places-1")), 0, DROP_S)
    for now in (100, 200, 300):
        state = discover(state, reading(row("places-1", bad), row("places-2")), now, DROP_S)

    assert state.instances.keys() == {key("places-1"), key("places-2")}
    assert len(state.alarms) == 1
    assert "'places-1'" in state.alarms[0]


def test_registrations_by_hand_are_instances_and_go_like_the_others() -> None:
    state = discover(Discovery(), reading(by_hand=hand("job-1")), 0, DROP_S)
    first = discover(state, reading(), 1, DROP_S)
    second = discover(first, reading(), 61, DROP_S)

    assert state.instances[key("job-1")].health == "none"
    assert key("job-1") in first.instances
    assert second.instances == {}


def test_catalog_wins_over_a_registration_of_the_same_instance() -> None:
    found = discover(Discovery(), reading(row("places-1"), by_hand=hand("places-1")), 0, DROP_S)

    assert found.instances[key("places-1")].health == "consul"
    assert "places-1" in found.alarms[0]


HOSTILE = [
    "../../etc/passwd",
    "/",
    "a b",
    "A",
    ".",
    "..",
    "x" * 500,
    "line\nbreak",
    "nul\0",
    "ünïcode",
    'quote"',
    "-rf",
]


def test_hostile_ids_become_harmless_keys_of_their_own() -> None:
    found = discover(Discovery(), reading(*map(row, HOSTILE)), 0, DROP_S)

    assert {i.id for i in found.instances.values()} == set(HOSTILE)
    for each in found.instances:
        assert InstanceKey.parse(each) == each
    document = Instances(instances=found.instances)
    assert decode(Instances, encode(document), "test") == document


def test_id_made_to_look_like_another_is_left_out_with_an_alarm() -> None:
    twin = InstanceKey.of(PLACES, "a b").segment

    found = discover(Discovery(), reading(row("a b"), row(twin)), 0, DROP_S)

    assert [i.id for i in found.instances.values()] == ["a b"]
    assert repr(twin) in found.alarms[0]


ids = st.sampled_from(["a", "b", "c", "D d"])
rows = st.lists(st.builds(row, ids, st.sampled_from([PLACES, "bad meta", None])), max_size=4)
reads = st.lists(
    st.builds(
        Reading,
        catalog=st.none() | rows.map(tuple),
        agent_ids=st.none() | st.frozensets(ids),
        by_hand=st.none() | st.just({}) | st.just(hand("job")),
        agent=rows.map(tuple),
    ),
    max_size=12,
)


@given(reads, st.lists(st.floats(0, 100), min_size=12, max_size=12))
def test_whatever_is_read_nothing_goes_without_being_missing_for_long(
    all_reads: list[Reading], steps: list[float]
) -> None:
    state, now = Discovery(), 0.0
    for each, step in zip(all_reads, steps, strict=False):
        now += step
        after = discover(state, each, now, DROP_S)
        for gone in state.instances.keys() - after.instances.keys():
            assert now - state.missing[gone] >= DROP_S
        assert after.missing.keys() <= after.instances.keys()
        state = after
