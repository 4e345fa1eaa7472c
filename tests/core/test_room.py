"""What makes room for a release that is needed, in which order, and what never does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from handlers.core.diff import Delete, Download, diff
from handlers.core.holdings import Facts, Inventory, Piece, Space, start_delay_s
from handlers.core.model import DISK, RAM, Hold, State
from handlers.core.room import expendable, freed, joint_room
from tests.core.test_diff import NOW, body, facts, rid

SOON, LATER = "2026-06-01T00:00:00Z", "2026-06-02T00:00:00Z"


def node(
    free: int, held: Mapping[int, int], kept: Mapping[int, str], new: int = 100, **more: object
) -> Facts:
    """A node that needs release 9 of `new` bytes. `held`: bytes by day; `kept`: `until` of those desired."""
    bodies = {day: body(day, {"a": size}) for day, size in held.items()} | {9: body(9, {"a": 100})}
    made = facts(
        bodies,
        (*kept, 9),
        complete=dict.fromkeys(held, ("a",)),
        released=tuple(held),
        space={"disk": Space(free, 100)},
        undesired_since={rid(day): NOW for day in held if day not in kept},
        **more,
    )
    holds = {rid(day): Hold(digest="x", sequence=day, until=until) for day, until in kept.items()}
    return replace(made, desired={**made.desired, **holds}, policy=replace(made.policy, brake_share=1.0))


def gone(given_: Facts) -> list[int]:
    return [int(a.release.version[8:10]) for a in diff(given_).actions if isinstance(a, Delete)]


def test_order_is_oldest_undesired_then_what_a_rollback_needs_least_likely() -> None:
    given_ = node(0, {1: 1, 2: 1, 3: 1, 4: 1, 5: 1}, {1: LATER, 2: SOON, 5: ""})

    assert expendable(given_) == [rid(3), rid(4), rid(2), rid(1)]


@pytest.mark.parametrize(
    ("free", "goes"),
    [
        pytest.param(100, [], id="it fits: everything has its grace"),
        pytest.param(60, [3], id="the oldest that is not desired"),
        pytest.param(20, [3, 4], id="both"),
        pytest.param(-20, [2, 3, 4], id="and what is kept for a rollback"),
        pytest.param(-60, [1, 2, 3, 4], id="also the likely one"),
        pytest.param(-61, [], id="it would not help: nothing goes"),
    ],
)
def test_under_pressure_grace_is_given_up_as_far_as_needed(free: int, goes: list[int]) -> None:
    held = {1: 40, 2: 40, 3: 40, 4: 40, 5: 40}

    assert sorted(gone(node(free, held, {1: LATER, 2: SOON, 5: ""}))) == goes


def test_what_does_not_help_stays() -> None:
    """The small one would go first, and is not enough without the big one, which is enough alone."""
    assert gone(node(0, {3: 5, 4: 100}, {})) == [4]


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({"used": {rid(3): "process 1 has it open"}}, id="in use"),
        pytest.param({"hold": "the KV is behind"}, id="held off"),
        pytest.param({"running": {rid(3): {"b": "disk"}}}, id="being downloaded"),
    ],
)
def test_never_goes_what_somebody_may_need(more: dict[str, Any]) -> None:
    given_ = node(0, {3: 200}, {}, **more)

    assert gone(given_) == []
    assert diff(given_).statuses[rid(9)].state is State.WAITING


def test_brake_holds_also_under_pressure() -> None:
    given_ = node(0, {3: 50, 4: 50}, {})

    assert gone(given_) == [3, 4]
    for share in (0.5, 0.25):
        assert gone(replace(given_, policy=replace(given_.policy, brake_share=share))) == []
    small = node(50, {3: 50, 4: 50}, {})
    assert gone(replace(small, policy=replace(small.policy, brake_share=0.5))) == [3]


def test_release_kept_for_a_rollback_is_fetched_only_where_there_is_room_for_all() -> None:
    needed = node(100, {}, {})
    kept = replace(needed, bodies={**needed.bodies, rid(1): body(1, {"a": 50})})
    kept = replace(kept, desired={**kept.desired, rid(1): Hold(digest="x", sequence=1, until=SOON)})
    kept = replace(kept, needs={**kept.needs, Piece(rid(1), "a"): Space(50, 1)})

    assert [a.release for a in diff(kept).actions] == [rid(9)]
    assert "nothing needs it now" in diff(kept).statuses[rid(1)].reason
    roomy = replace(kept, space={"disk": Space(150, 100)})
    assert {a.release for a in diff(roomy).actions} == {rid(1), rid(9)}


def test_shared_files_come_free_with_the_last_that_has_them() -> None:
    both, one = frozenset([rid(3), rid(4)]), frozenset([rid(3)])
    shares = {both: {"disk": Space(90, 1)}, one: {"disk": Space(10, 1)}}
    given_ = node(0, {3: 100, 4: 90}, {}, shares=shares)

    assert freed(given_, [rid(3)]) == {"disk": Space(10, 1)}
    assert gone(given_) == [3, 4]
    assert gone(replace(given_, space={"disk": Space(-1, 9)})) == []


def test_files_are_not_counted_as_linked_from_what_goes() -> None:
    """Release 9 would need 10 bytes beside release 3, and 100 without it."""
    piece = Piece(rid(9), "a")
    linked: dict[str, Any] = {
        "saves": {piece: {"disk": Space(90, 0)}},
        "sources": {piece: frozenset([rid(3)])},
    }

    assert [type(a) for a in diff(node(10, {3: 50}, {}, **linked)).actions] == [Download]
    assert gone(node(9, {3: 50}, {}, **linked)) == []
    assert gone(node(9, {3: 91}, {}, **linked)) == [3]


def test_namespace_has_a_room_of_its_own_on_a_volume() -> None:
    space = {"disk": Space(1000, 100), "disk/prod/search": Space(99, 100), "disk/prod/maps": Space(0, 0)}
    given_ = replace(node(0, {}, {}), space=space)

    assert diff(given_).statuses[rid(9)].state is State.FAILED
    assert "on volume disk/prod/search" in diff(given_).statuses[rid(9)].reason
    wide = replace(given_, space={**space, "disk/prod/search": Space(100, 100)})
    assert [type(a) for a in diff(wide).actions] == [Download]


def test_release_of_the_same_namespace_makes_room_in_its_budget() -> None:
    given_ = replace(node(0, {3: 60}, {}), space={"disk": Space(1000, 9), "disk/prod/search": Space(40, 9)})

    assert gone(given_) == [3]


def test_two_releases_never_get_the_same_last_bytes() -> None:
    bodies = {1: body(1, {"a": 60}), 2: body(2, {"a": 60})}
    decision = diff(facts(bodies, (1, 2), space={"disk": Space(100, 10)}))

    assert [type(a) for a in decision.actions] == [Download]
    assert sorted(s.state for s in decision.statuses.values()) == [State.DOWNLOADING, State.FAILED]


def test_volumes_on_one_file_system_do_not_give_the_same_last_bytes_twice() -> None:
    room = joint_room(["fast", "disk"])
    bodies = {1: body(1, {"a": 60}), 2: body(2, {"a": 60}, "nvme")}
    given_ = replace(
        facts(bodies, (1, 2), classes={"disk": DISK, "fast": "nvme"}),
        space={"disk": Space(100, 10), "fast": Space(100, 10), room: Space(100, 10)},
    )

    decision = diff(given_)

    assert [type(a) for a in decision.actions] == [Download]
    states = {s.state: s.reason for s in decision.statuses.values()}
    assert "on volume disk+fast, free above its reserve are 40 bytes" in states[State.FAILED]
    roomy = replace(given_, space={**given_.space, room: Space(120, 10)})
    assert [type(a) for a in diff(roomy).actions] == [Download, Download]


def test_what_goes_makes_room_for_all_volumes_of_its_file_system() -> None:
    made = node(50, {3: 60}, {})
    here = replace(made, space={**made.space, joint_room(["disk", "other"]): Space(50, 100)})

    assert gone(here) == [3]

    # its own room is what a budget leaves: what goes from the other volume makes room as well
    bodies = {3: body(3, {"a": 60}, "nvme"), 9: body(9, {"a": 100})}
    other = replace(here, bodies={rid(day): header for day, header in bodies.items()})
    moved = Inventory(dict.fromkeys(here.inventory.complete, "other"), {}, here.inventory.released)
    rooms = {"disk": Space(1000, 100), "other": Space(1000, 100), "disk+other": Space(50, 100)}
    assert gone(replace(other, inventory=moved, space=rooms)) == [3]


def test_of_volumes_of_one_class_the_one_is_taken_that_has_most_free_with_all_that_share_it() -> None:
    given_ = facts({1: body(1, {"a": 5})}, (1,), classes={"big": DISK, "other": DISK, "fast": "nvme"})
    rooms = {"big": Space(1000, 9), "fast": Space(1000, 9), "big+fast": Space(20, 9), "other": Space(30, 9)}

    (action,) = diff(replace(given_, space=rooms)).actions

    assert isinstance(action, Download)
    assert action.volumes == {"a": "other"}


def test_downloads_wait_for_their_turn_among_many_nodes_but_have_their_room() -> None:
    bodies = {1: body(1, {"a": 60}), 2: body(2, {"a": 50})}
    given_ = facts(bodies, (1, 2), space={"disk": Space(100, 10)}, starts={rid(2): NOW + 7})

    early, later = diff(given_), diff(replace(given_, now=NOW + 7))

    assert early.actions == ()
    assert (early.start_at, early.statuses[rid(2)].state) == (NOW + 7, State.WAITING)
    assert [a.release for a in later.actions] == [rid(2)]
    assert later.start_at is None


def test_class_by_name_is_taken_from_volumes_of_that_class_only() -> None:
    given_ = facts({1: body(1, {"a": 5}, "nvme")}, (1,), classes={"disk": DISK, "fast": "nvme", "ram": RAM})
    fast = replace(given_, space={**given_.space, "fast": Space(5, 5)})

    assert diff(fast).actions == (Download(rid(1), {"a": "fast"}, "5 bytes are missing"),)
    without = replace(fast, classes={"disk": DISK, "ram": RAM})
    assert "no volume of class nvme" in diff(without).statuses[rid(1)].reason


@pytest.mark.parametrize(("crowd", "most"), [(1, 0.0), (10, 0.0), (100, 5.0), (1000, 30.0)])
def test_starts_are_spread_over_the_fleet_as_far_as_it_is_large(crowd: int, most: float) -> None:
    delays = [start_delay_s(f"n{number}", rid(1), crowd, 30.0) for number in range(crowd)]

    assert max(delays) <= most
    assert delays == [start_delay_s(f"n{number}", rid(1), crowd, 30.0) for number in range(crowd)]
    for part in range(4) if most else ():  # evenly: no quarter of the time has half of the nodes
        share = sum(most * part / 4 <= delay < most * (part + 1) / 4 for delay in delays)
        assert share < crowd / 2


@given(
    free=st.integers(-50, 300),
    held=st.dictionaries(st.integers(1, 8), st.integers(1, 80), max_size=8),
    kept=st.dictionaries(st.integers(1, 8), st.sampled_from(["", SOON, LATER]), max_size=8),
    used=st.sets(st.integers(1, 8)),
)
def test_evictions_make_room_or_do_not_happen(
    free: int, held: dict[int, int], kept: dict[int, str], used: set[int]
) -> None:
    kept = {day: until for day, until in kept.items() if day in held}
    given_ = node(free, held, kept, used=dict.fromkeys(map(rid, used), "a view points to it"))

    going = gone(given_)

    assert not {day for day in going if day in used or kept.get(day) == ""}
    left = Inventory({p: v for p, v in given_.inventory.complete.items() if p.release not in map(rid, going)})
    after = replace(given_, inventory=left, space={"disk": Space(free + sum(held[d] for d in going), 100)})
    assert bool(going) <= any(a.release == rid(9) for a in diff(after).actions if isinstance(a, Download))
    if free < 100 <= free + sum(s for d, s in held.items() if d not in used and kept.get(d) != ""):
        assert going
