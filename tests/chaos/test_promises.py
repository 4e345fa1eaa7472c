"""The checker: it finds nothing in a rollout as it should be, and each promise in it that is broken."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.events import (
    Asked,
    Bad,
    Budget,
    Dead,
    Did,
    Event,
    Head,
    Held,
    InService,
    Instance,
    Pinned,
    Releases,
    Reported,
    Shown,
    Slots,
    Viewed,
    Wanted,
    as_line,
    from_line,
    history,
)
from tests.chaos.promises import CONVERGED_S, RECOVER, STOP, awaited, broken
from tests.chaos.schedule import Kind
from tests.chaos.world import RESTORED

V1, V2, V3 = (f"2026-01-0{day}T00-00-00" for day in (1, 2, 3))
AT_REST = Instance(incarnation="7", release=V1)


class Tale:
    """Events as a cluster with one instance per node makes them; every second something happens."""

    def __init__(self, instances: int, budget: Budget | None = None) -> None:
        self.now = 100.0
        self.names = [f"i{number}" for number in range(instances)]
        self.states = dict.fromkeys(self.names, AT_REST)
        self.sequences = dict.fromkeys(self.names, 0)
        self.healthy = set(self.names)
        self.releases = {V1: (1, "a")}
        self.held = {V1}
        self.events: list[Event] = [
            replace(budget or Budget(0.0), at=self.now),
            Dead(self.now, frozenset()),
            Releases(self.now, dict(self.releases)),
            Head(self.now, V1),
            InService(self.now, frozenset(self.names)),
        ]
        for name in self.names:
            self.report(name, AT_REST)
            self.events += [
                Viewed(self.now, name, node(name), V1),
                Shown(self.now, name, "ready"),
                Wanted(self.now, node(name), frozenset({V1})),
                Held(self.now, node(name), frozenset({V1})),
            ]

    def add(self, event: Event, after_s: float = 1.0) -> None:
        self.now += after_s
        self.events.append(replace(event, at=self.now))

    def report(self, name: str, state: Instance, after_s: float = 0.0) -> None:
        self.states[name] = state
        self.sequences[name] += 1
        self.add(Reported(0.0, node(name), self.sequences[name], {name: state}), after_s)

    def health(self, *healthy: str, after_s: float = 0.5) -> None:
        self.healthy = set(healthy)
        self.add(InService(0.0, frozenset(healthy)), after_s)

    def publish(self, version: str) -> None:
        self.releases[version] = (max(s for s, _ in self.releases.values()) + 1, version)
        self.add(Releases(0.0, dict(self.releases)))
        self.add(Head(0.0, version), 0.0)
        self.held.add(version)
        for name in self.names:
            self.add(Wanted(0.0, node(name), frozenset(self.releases)))
            self.add(Held(0.0, node(name), frozenset(self.held)))

    def leave(self, name: str, version: str, after_s: float = 2.0) -> None:
        """Out of service, drained, view flipped."""
        out = replace(self.states[name], state="draining", step="drain", moving=version)
        self.report(name, out, after_s)
        self.add(Shown(0.0, name, "draining"), 0.1)
        self.health(*self.healthy - {name})
        self.add(Asked(0.0, name, (V1, V1)), 0.1)
        self.add(Shown(0.0, name, "flip"), 2.0)
        self.add(Viewed(0.0, name, node(name), version), 0.0)

    def come_back(self, name: str, version: str) -> None:
        """Loaded, in service, at rest."""
        self.report(name, replace(self.states[name], state="ready", step="return"), 1.0)
        self.add(Shown(0.0, name, "ready"), 0.1)
        self.health(*self.healthy | {name})
        self.add(Asked(0.0, name, (version, version)), 0.1)
        done = Instance(incarnation="7", release=version)
        self.report(name, done, 0.5)

    def move(self, name: str, version: str) -> None:
        self.leave(name, version)
        self.come_back(name, version)

    @property
    def breaches(self) -> list[tuple[str, str]]:
        return [(breach.promise, breach.text) for breach in broken(self.events)]


def node(name: str) -> str:
    return f"node-of-{name}"


@given(st.integers(1, 5), st.permutations(list(range(20))))
def test_rollout_of_two_releases_and_the_way_back_break_nothing(instances: int, order: list[int]) -> None:
    tale = Tale(instances)
    names = [f"i{number}" for number in order if number < instances]
    for version in (V2, V3):
        tale.publish(version)
        for name in names:
            tale.move(name, version)
    tale.add(Did(0.0, STOP))
    assert tale.breaches == []
    tale.add(Bad(0.0, frozenset({V3})))
    for name in names:
        tale.move(name, V2)

    assert tale.breaches == []


@given(
    st.integers(1, 9),
    st.integers(0, 9),
    st.integers(0, 9),
    st.one_of(
        st.builds(Budget, st.just(0.0), st.integers(0, 9)),
        st.builds(Budget, st.just(0.0), st.integers(0, 100).map(lambda share: f"{share}%")),
        st.builds(Budget, st.just(0.0), st.just(1), st.integers(0, 9)),
        st.builds(Budget, st.just(0.0), st.just(1), st.integers(0, 100).map(lambda share: f"{share}%")),
    ),
)
def test_going_out_is_a_breach_exactly_when_the_budget_is_used_up(
    others: int, draining: int, sick: int, budget: Budget
) -> None:
    draining, sick = min(draining, others), min(sick, max(0, others - draining))
    tale = Tale(others + 1, replace(budget, max_unavailable=10))
    me, *rest = tale.names
    for name in rest[:draining]:
        tale.leave(name, V2)
    tale.health(me, *rest[draining + sick :])
    tale.add(budget)
    tale.leave(me, V2, after_s=5.0)
    promised = limit(budget, others + 1)

    found = [
        text for promise, text in tale.breaches if promise == "within the budget" and text.startswith(me)
    ]

    assert bool(found) == (draining + sick + 1 > promised)


def limit(budget: Budget, total: int) -> int:
    """The same arithmetic in other words: the largest number out that the words of the budget allow."""
    if budget.min_available is not None:
        text = str(budget.min_available)
        enough = [
            out
            for out in range(total + 1)
            if (total - out) * (100 if "%" in text else 1)
            >= int(text.strip("%")) * (total if "%" in text else 1)
        ]
        return max(enough, default=0)
    text = str(budget.max_unavailable)
    if "%" not in text:
        return int(text)
    share = int(text.strip("%"))
    most = max(out for out in range(total + 1) if 100 * out <= share * total)
    return max(most, 1) if share else 0


def out_beside(after_s: float, *, sick: bool) -> Tale:
    """Somebody is out or sick, and `after_s` later somebody else goes out."""
    tale = Tale(3)
    tale.publish(V2)
    if sick:
        tale.health("i1", "i2")
    else:
        tale.report("i0", replace(AT_REST, state="draining", step="drain", moving=V2))
    tale.report("i1", replace(AT_REST, state="draining", step="drain", moving=V2), after_s)
    return tale


@pytest.mark.parametrize(
    ("after_s", "sick", "caught"),
    [
        (0.01, False, True),  # both are in one store: no time is too short
        (5.0, False, True),
        (0.9, True, False),  # this could not be known
        (5.0, True, True),
    ],
)
def test_second_that_goes_out_is_caught_as_soon_as_it_could_be_known(
    after_s: float, sick: bool, caught: bool
) -> None:
    found = out_beside(after_s, sick=sick).breaches

    assert [promise for promise, _ in found] == ["within the budget"] * caught


def test_one_that_is_down_anyway_may_go_out() -> None:
    tale = Tale(2)
    tale.health()
    tale.leave("i1", V2, after_s=5.0)

    assert tale.breaches == []


def test_instances_on_dead_nodes_do_not_count() -> None:
    tale = Tale(3)
    tale.leave("i0", V2)
    tale.add(Dead(0.0, frozenset({node("i0")})))
    tale.health("i1", "i2")
    tale.leave("i1", V2, after_s=5.0)

    assert tale.breaches == []


def test_instance_in_service_on_a_node_whose_hydra_is_not_back_yet_counts() -> None:
    tale = Tale(4)
    tale.add(Budget(0.0, max_unavailable="50%"))
    tale.leave("i0", V2)
    tale.add(Dead(0.0, frozenset({node("i3")})))
    tale.health("i1", "i2", "i3")
    tale.leave("i1", V2, after_s=5.0)

    assert tale.breaches == []


def test_one_that_was_taken_away_does_not_count() -> None:
    tale = Tale(3)
    tale.add(Did(0.0, Kind.REMOVE, "i0"))
    tale.health("i1", "i2")
    tale.leave("i1", V2, after_s=5.0)

    assert tale.breaches == []


@pytest.mark.parametrize("restored", [False, True])
def test_one_that_was_taken_away_counts_again_when_a_restored_kv_lists_it(restored: bool) -> None:
    """Until its node says more; what is in the KV then is all that anybody can know."""
    tale = Tale(3, Budget(0.0, min_available=1))
    tale.add(Did(0.0, Kind.REMOVE, "i0"))
    tale.add(Reported(0.0, node("i0"), 2, {}))
    tale.health("i1", "i2")
    tale.leave("i1", V2, after_s=5.0)
    if restored:
        tale.add(Reported(0.0, node("i0"), 1, {"i0": AT_REST}))
    tale.leave("i2", V2, after_s=5.0)

    assert [promise for promise, _ in tale.breaches] == ["within the budget"] * (not restored)


def test_one_that_was_taken_away_counts_again_once_consul_has_it_in_service() -> None:
    tale = Tale(3, Budget(0.0, min_available=1))
    tale.add(Did(0.0, Kind.REMOVE, "i0"))
    tale.leave("i1", V2, after_s=5.0)
    tale.leave("i2", V2, after_s=5.0)

    assert tale.breaches == []


@pytest.mark.parametrize("put_right", [False, True])
def test_one_that_drains_counts_as_what_a_restored_kv_says_until_its_node_says_more(put_right: bool) -> None:
    tale = Tale(3)
    tale.leave("i1", V2, after_s=5.0)
    tale.add(Reported(0.0, node("i1"), 1, {"i1": AT_REST}))
    tale.health("i0", "i1", "i2")
    if put_right:
        tale.report("i1", tale.states["i1"], after_s=5.0)
    tale.leave("i2", V2, after_s=5.0)

    assert [promise for promise, _ in tale.breaches] == ["within the budget"] * put_right


def test_one_that_has_never_served_does_not_count() -> None:
    tale = Tale(3)
    tale.report("i0", replace(AT_REST, served=False))
    tale.health("i1", "i2")
    tale.leave("i1", V2, after_s=5.0)

    assert tale.breaches == []


def test_order_that_changes_on_the_way_does_not_go_out_again() -> None:
    tale = Tale(2)
    tale.leave("i0", V2)
    tale.report("i0", replace(tale.states["i0"], state="ready", step="return"), 1.0)
    tale.health("i0")
    tale.report("i0", replace(tale.states["i0"], state="draining", step="drain", moving=V3), 5.0)

    assert tale.breaches == []


def test_documents_that_a_restored_kv_brings_back_are_no_moves() -> None:
    tale = Tale(2)
    tale.publish(V2)
    tale.move("i0", V2)
    tale.add(Did(0.0, Kind.RESTORE))
    tale.add(Reported(0.0, node("i0"), 2, {"i0": replace(AT_REST, state="draining", moving=V2)}))
    tale.add(Reported(0.0, node("i0"), 1, {"i0": AT_REST}))

    assert tale.breaches == []


def late(tale: Tale) -> None:
    tale.leave("i0", V2)
    tale.add(Asked(0.0, "i0", (V2, V2)))


def mixed(tale: Tale) -> None:
    tale.add(Asked(0.0, "i0", (V1, V2, V1)))


def back(tale: Tale) -> None:
    tale.publish(V2)
    tale.move("i0", V2)
    tale.move("i0", V1)


def deleted_under_a_view(tale: Tale) -> None:
    tale.publish(V2)
    tale.add(Wanted(0.0, node("i0"), frozenset({V2})))
    tale.add(Held(0.0, node("i0"), frozenset({V2})))


def deleted_though_wanted(tale: Tale) -> None:
    tale.publish(V2)
    tale.add(Held(0.0, node("i0"), frozenset({V1})))


def deleted_from_kv(tale: Tale) -> None:
    tale.publish(V2)
    tale.add(Releases(0.0, {V2: tale.releases[V2]}))


def head_deleted(tale: Tale) -> None:
    tale.publish(V2)
    tale.add(Releases(0.0, {V1: tale.releases[V1]}))


def head_back(tale: Tale) -> None:
    tale.publish(V2)
    tale.add(Head(0.0, V1))


def head_of_nothing(tale: Tale) -> None:
    tale.add(Head(0.0, V3))


def release_changed(tale: Tale) -> None:
    tale.add(Releases(0.0, {V1: (1, "b")}))


def sequence_twice(tale: Tale) -> None:
    tale.publish(V2)
    tale.add(Releases(0.0, {**tale.releases, V3: (2, "c")}))


def not_converged(tale: Tale) -> None:
    tale.publish(V2)
    tale.move("i0", V2)
    tale.add(Did(0.0, STOP))
    tale.move("i1", V1)
    tale.add(Asked(0.0, "i0", (V2, V2)), CONVERGED_S)


def not_in_service(tale: Tale) -> None:
    tale.health("i0")
    tale.add(Did(0.0, STOP))


def slot_left(tale: Tale) -> None:
    tale.add(Slots(0.0, frozenset({"i0"})))
    tale.add(Did(0.0, STOP))


def too_late(tale: Tale) -> None:
    tale.publish(V2)
    tale.add(Did(0.0, STOP))
    tale.move("i0", V2)
    tale.now += CONVERGED_S
    tale.move("i1", V2)


def two_out(tale: Tale) -> None:
    tale.leave("i0", V2)
    tale.leave("i1", V2)


@pytest.mark.parametrize(
    ("story", "promise"),
    [
        (two_out, "within the budget"),
        (late, "no request after the drain"),
        (mixed, "no mixed answer"),
        (back, "no way back without an order"),
        (deleted_under_a_view, "nothing needed is deleted"),
        (deleted_though_wanted, "nothing needed is deleted"),
        (deleted_from_kv, "nothing needed is deleted"),
        (head_deleted, "nothing needed is deleted"),
        (head_back, "heads are linear"),
        (head_of_nothing, "heads are linear"),
        (release_changed, "heads are linear"),
        (sequence_twice, "heads are linear"),
        (not_converged, "converged a minute later"),
        (not_in_service, "converged a minute later"),
        (slot_left, "converged a minute later"),
        (too_late, "converged a minute later"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_broken_promise_is_caught(story: object, promise: str) -> None:
    tale = Tale(2)
    assert callable(story)
    story(tale)

    assert {found for found, _ in tale.breaches} == {promise}
    (breach, *_) = broken(tale.events)
    assert history(tale.events, breach.objects, 0.0, breach.at)


ORDERS = (
    Pinned(0.0, frozenset({V1})),
    Bad(0.0, frozenset({V2})),
    Bad(0.0, frozenset({V3})),  # what is between was never proven
    Did(0.0, RECOVER),
)


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_way_back_is_free_while_an_order_is_in_force_and_soon_after(order: Event) -> None:
    tale = Tale(2)
    tale.publish(V2)
    tale.move("i0", V2)
    tale.add(order)
    tale.add(Pinned(0.0, frozenset()))  # the node may hear of this only after the move
    tale.add(Bad(0.0, frozenset()))
    tale.move("i0", V1)
    assert tale.breaches == []

    tale.move("i0", V2)
    tale.move("i0", V1)

    assert [promise for promise, _ in tale.breaches] == ["no way back without an order"]


@pytest.mark.parametrize("order", [Pinned(0.0, frozenset({V2})), Bad(0.0, frozenset({V1}))], ids=str)
def test_order_about_something_else_is_none(order: Event) -> None:
    tale = Tale(2)
    tale.publish(V2)
    tale.move("i0", V2)
    tale.add(order)
    tale.move("i0", V1)

    assert [promise for promise, _ in tale.breaches] == ["no way back without an order"]


def test_order_that_is_given_on_the_way_to_the_newer_version_counts() -> None:
    tale = Tale(2)
    tale.publish(V2)
    tale.leave("i0", V2)
    tale.add(Did(0.0, RECOVER))
    tale.come_back("i0", V2)
    tale.move("i0", V1)

    assert tale.breaches == []


def test_new_incarnation_may_begin_with_an_older_version() -> None:
    tale = Tale(1)
    tale.publish(V2)
    tale.move("i0", V2)
    tale.report("i0", Instance(incarnation="8", release=V1), 1.0)

    assert tale.breaches == []


def test_request_to_a_replica_that_ended_is_not_late() -> None:
    tale = Tale(2)
    tale.leave("i0", V2)
    tale.add(Viewed(0.0, "i0", node("i0"), ""))
    tale.add(Asked(0.0, "i0", (), "Connection refused"))

    assert tale.breaches == []


def test_request_to_a_replica_that_was_taken_away_is_not_late_though_a_restored_consul_lists_it() -> None:
    tale = Tale(2)
    tale.add(Did(0.0, Kind.REMOVE, "i0"))
    tale.add(Did(0.0, Kind.RESTORE))
    tale.now += 60
    tale.leave("i0", V2)
    tale.add(Asked(0.0, "i0", (), "Connection refused"))

    assert tale.breaches == []


@pytest.mark.parametrize("order", [("draining", Kind.RESTORE), (Kind.RESTORE, "draining")])
def test_request_to_one_that_a_restored_consul_has_in_service_while_it_drains_is_not_late(
    order: tuple[str, str],
) -> None:
    tale = Tale(2)
    for what in order:
        tale.add(Did(0.0, what) if what == Kind.RESTORE else Shown(0.0, "i0", what))
    tale.add(Did(0.0, RESTORED))
    tale.add(Shown(0.0, "i0", "flip"))
    tale.add(Asked(0.0, "i0", (V2, V2)))
    assert tale.breaches == []

    tale.add(Shown(0.0, "i0", "ready"))
    tale.leave("i0", V2)
    tale.add(Asked(0.0, "i0", (V2, V2)))
    assert [promise for promise, _ in tale.breaches] == ["no request after the drain"]


def test_replica_that_ended_and_is_listed_again_may_begin_with_an_older_version() -> None:
    tale = Tale(1)
    tale.publish(V2)
    tale.move("i0", V2)
    tale.sequences["i0"] += 1
    tale.add(Reported(0.0, node("i0"), tale.sequences["i0"], {}))
    tale.report("i0", AT_REST, 1.0)

    assert tale.breaches == []


def test_what_a_wiped_disk_loses_is_not_deleted_by_hydra() -> None:
    tale = Tale(2)
    tale.add(Did(0.0, Kind.WIPE, node("i0")))
    tale.add(Held(0.0, node("i0"), frozenset()))
    assert tale.breaches == []
    tale.add(Held(0.0, node("i1"), frozenset()))

    assert [promise for promise, _ in tale.breaches] == ["nothing needed is deleted"]


def test_what_nobody_needs_may_go() -> None:
    tale = Tale(2)
    tale.publish(V2)
    for name in tale.names:
        tale.move(name, V2)
        tale.add(Wanted(0.0, node(name), frozenset({V2})))
        tale.add(Held(0.0, node(name), frozenset({V2})))
    tale.add(Releases(0.0, {V2: tale.releases[V2]}))

    assert tale.breaches == []


def test_restored_kv_begins_anew() -> None:
    tale = Tale(2)
    tale.publish(V2)
    tale.move("i0", V2)
    tale.add(Did(0.0, Kind.RESTORE))
    tale.add(Releases(0.0, {V1: (1, "a")}))
    tale.add(Head(0.0, V1))
    tale.releases = {V1: (1, "a")}
    tale.now += 20
    tale.publish(V3)

    assert tale.breaches == []


def test_awaited_says_what_is_missing_until_nothing_is() -> None:
    tale = Tale(2)
    tale.publish(V2)
    tale.move("i0", V2)
    assert awaited(tale.events) == f"i1 is ready, idle, on {V1}"
    tale.move("i1", V2)

    assert awaited(tale.events) == ""


def test_events_are_read_as_they_were_written() -> None:
    tale = Tale(2, Budget(0.0, "25%", None))
    tale.publish(V2)
    tale.move("i0", V2)
    for event in (
        Pinned(1.0, frozenset({V1})),
        Bad(1.0, frozenset()),
        Slots(1.0, frozenset({"i0"})),
        Did(1.0, STOP, "", "said"),
    ):
        tale.add(event)

    assert [from_line(as_line(event)) for event in tale.events] == tale.events
