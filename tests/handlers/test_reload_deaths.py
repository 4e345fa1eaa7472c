"""A run of `reload` that dies anywhere is finished by the next; two at once take nothing from each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from handlers.adapters.ports import Op
from handlers.adapters.views import Views
from handlers.core import keys
from handlers.core.errors import Conflict
from handlers.core.model import (
    Step,
)
from handlers.core.names import InstanceKey
from tests.handlers.reload_fleet import (
    V1,
    V2,
    Fleet,
    S,
    serving,
    started,
)


class Crash(BaseException):
    """kill -9"""


def dying_at(fleet: Fleet, monkeypatch: pytest.MonkeyPatch, number: int) -> list[int]:
    """Die at the `number`-th of: before and after each transaction, before and after each flip."""
    left = [number]

    def point(*_: object) -> None:
        left[0] -= 1
        if left[0] == 0:
            fleet.fake.away = True  # nothing that a dying process did reached Consul
            raise Crash

    fleet.fake.before_txn = fleet.fake.after_txn = point
    real = Views.flip

    def flip(self: Views, *args: object, **more: object) -> None:
        point()
        real(self, *args, **more)  # type: ignore[arg-type]
        point()

    monkeypatch.setattr(Views, "flip", flip)
    return left


@pytest.mark.parametrize("what", ["move", "new", "failure", "end"])
def test_a_run_that_dies_anywhere_is_finished_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    for number in range(1, 100):
        fleet = Fleet(tmp_path / str(number))
        with fleet.rendering(), monkeypatch.context() as patch:
            node = fleet.node("n1", "a", "b")
            if what != "new":
                started(fleet)
                fleet.want(V2)
            if what == "failure":
                fleet.refused.add(V2)
            if what == "end":
                node.deregister(InstanceKey.of(S, "a"))
            left = dying_at(fleet, patch, number)
            died = False
            try:
                node.run()
            except Crash:
                died = True
            fleet.fake.away = False
            fleet.fake.before_txn = fleet.fake.after_txn = lambda _: None
            patch.undo()

            node.run()

            assert fleet.errors == []
            expected = V1 if what in ("new", "failure") else V2
            assert serving(fleet) == {(expected, True)}, f"died at {number}"
            assert fleet.most_out <= (2 if what == "new" else 1), f"died at {number}"
            assert fleet.slots().out == {}, f"died at {number}"
            assert bool(fleet.verdicts().releases) == (what == "failure")
            assert all(s.step is Step.IDLE for s in node.states().instances.values())
            assert node.views.instances() == node.instances.keys()
        if not died:
            assert left[0] > 0
            return
    raise AssertionError("it never came to its end")


def test_a_race_for_the_last_slot_is_lost_in_peace(fleet: Fleet) -> None:
    started(fleet, n1=("a",))
    left = [2]

    def race(ops: Sequence[Op]) -> None:
        if any(op.key == keys.slots(S) for op in ops) and left[0]:
            left[0] -= 1
            raise Conflict("slots: index is stale")

    fleet.fake.before_txn = race
    fleet.want(V2)

    fleet.run()

    assert serving(fleet) == {(V2, True)}
