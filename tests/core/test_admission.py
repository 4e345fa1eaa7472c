"""Who may be out of service at the same time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.core.admission import Admit, Blocked, Member, Repair, admission, admission_together
from handlers.core.budget import Budget
from handlers.core.model import SlotEntry

WELL = Member("n1", in_service=True, served=True)
SICK = Member("n2", in_service=False, served=True)
NEW = Member("n2", in_service=False, served=False)
UNSEEN = Member("n2", in_service=None, served=True)


def entry(node: str = "n2") -> SlotEntry:
    return SlotEntry(node=node, instance="b", incarnation="1")


@pytest.mark.parametrize(
    ("members", "out", "dead", "budget", "expected"),
    [
        ({"a": WELL, "b": WELL}, {}, set(), 1, Admit),
        ({"a": WELL}, {}, set(), 1, Admit),
        ({"a": WELL}, {}, set(), 0, Blocked),
        ({"a": WELL, "b": WELL}, {"b": entry()}, set(), 1, Blocked),
        ({"a": WELL, "b": WELL}, {"b": entry()}, set(), 2, Admit),
        ({"a": WELL, "b": WELL}, {"b": entry()}, {"n2"}, 1, Admit),
        ({"a": WELL, "b": SICK}, {}, set(), 1, Blocked),
        ({"a": WELL, "b": SICK}, {}, {"n2"}, 1, Admit),
        ({"a": WELL, "b": SICK}, {"b": entry()}, set(), 2, Admit),
        ({"a": WELL, "b": NEW}, {}, set(), 1, Admit),
        ({"a": WELL, "b": UNSEEN}, {}, set(), 1, Blocked),
        ({"a": WELL, "gone": WELL}, {"gone": entry()}, set(), 1, Blocked),
        ({"a": WELL}, {"a": entry("n1")}, set(), 1, Admit),
        ({"a": SICK, "b": SICK}, {"b": entry()}, set(), 1, Repair),
        ({"a": UNSEEN}, {}, set(), 1, Blocked),
        ({}, {}, set(), 1, Blocked),
    ],
)
def test_admission(
    members: dict[str, Member], out: dict[str, SlotEntry], dead: set[str], budget: int, expected: type
) -> None:
    assert isinstance(admission("a", out, members, dead, Budget(budget)), expected)


def test_blocked_names_who_and_how_many() -> None:
    answer = admission("a", {"b": entry()}, {"a": WELL, "b": WELL, "c": SICK}, set(), Budget(1))

    assert answer == Blocked("waits: 1 out for a reload and 1 not in service, of 1 allowed: b, c")


member = st.builds(
    Member,
    node=st.sampled_from(["n1", "n2", "n3"]),
    in_service=st.sampled_from([True, False, None]),
    served=st.booleans(),
)
slot = st.sampled_from("abcdef")
amounts = st.integers(0, 4) | st.integers(0, 100).map(lambda share: f"{share}%")
budgets = st.builds(Budget, amounts, st.none() | amounts)


@given(
    members=st.dictionaries(slot, member, min_size=1),
    out=st.dictionaries(slot, st.builds(entry, st.sampled_from(["n1", "n2", "n3"]))),
    dead=st.sets(st.sampled_from(["n2", "n3"])),
    budget=budgets,
)
def test_admitted_only_within_the_budget(
    members: dict[str, Member], out: dict[str, SlotEntry], dead: set[str], budget: Budget
) -> None:
    me = min(members)

    answer = admission(me, out, members, dead, budget)

    away = {s for s, e in out.items() if e.node not in dead}
    sick = {s for s, m in members.items() if m.served and m.in_service is not True and m.node not in dead}
    well = {s for s, m in members.items() if m.in_service and m.node not in dead}
    if isinstance(answer, Admit):
        assert members[me].in_service
        assert len(away | sick | {me}) <= budget.of(len(away | sick | well | {me}))
    assert isinstance(answer, Repair) == (members[me].in_service is False)


@pytest.mark.parametrize(
    ("budget", "others", "allowed"),
    [
        pytest.param(2, {}, True, id="just enough"),
        pytest.param(1, {}, False, id="too small for both"),
        pytest.param(2, {"n2.c": Member("n2", False, True)}, False, id="another one is sick"),
        pytest.param(3, {"n2.c": Member("n2", False, True)}, True, id="and counted"),
        pytest.param(2, {"n9.c": Member("n9", False, True)}, True, id="a dead node is not"),
        pytest.param(
            "50%", {"n2.c": Member("n2", True, True), "n2.d": Member("n2", True, True)}, True, id="share"
        ),
    ],
)
def test_several_go_out_together_or_not_at_all(
    budget: int | str, others: dict[str, Member], allowed: bool
) -> None:
    mine = {"n1.a": Member("n1", True, True), "n1.b": Member("n1", True, True)}

    answer = admission_together(list(mine), {}, {**mine, **others}, ["n9"], Budget(budget), "9 bytes")

    assert isinstance(answer, Admit) is allowed
    if isinstance(answer, Blocked):
        assert answer.reason.startswith("waits: 9 bytes; 2 instances here must be out at once")


def test_nobody_goes_out_together_with_one_that_cannot_be_seen() -> None:
    mine = {"n1.a": Member("n1", True, True), "n1.b": Member("n1", None, True)}

    answer = admission_together(list(mine), {}, mine, (), Budget(2), "9 bytes")

    assert isinstance(answer, Blocked)
    assert "n1.b" in answer.reason
