"""The schedule: the seed tells all of it."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.schedule import GREAT, LASTS, WEIGHTS, Act, Kind, directed, schedule

seeds = st.integers(0, 2**32)


def test_every_kind_of_act_is_chosen_sometimes() -> None:
    assert set(WEIGHTS) == set(Kind)
    chosen = {act.kind for seed in range(20) for act in schedule(seed, 300)}
    assert chosen == set(Kind)


@given(seeds, st.floats(0, 600))
def test_same_seed_and_duration_ask_for_the_same(seed: int, duration_s: float) -> None:
    acts = schedule(seed, duration_s)

    assert acts == schedule(seed, duration_s)
    assert [act.at_s for act in acts] == sorted(act.at_s for act in acts)
    assert all(act.end_s <= duration_s for act in acts)
    assert all((act.lasts_s > 0) == (act.kind in LASTS) for act in acts)
    great = [act for act in acts if act.kind in GREAT]
    assert all(before.end_s <= after.at_s for before, after in pairwise(great))


def test_other_seeds_ask_for_something_else() -> None:
    assert len({schedule(seed, 60) for seed in range(50)}) == 50


def test_acts_that_people_write_are_done_at_their_times() -> None:
    assert directed("20 restore 0 15; 1 publish; 3.5 KILL_HANDLER 0.4") == (
        Act(1, Kind.PUBLISH, 0),
        Act(3.5, Kind.KILL_HANDLER, 0.4),
        Act(20, Kind.RESTORE, 0, 15),
    )


@pytest.mark.parametrize("text", ["", "publish", "1 dance", "1 publish x", "1 publish 0 1 2"])
def test_acts_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each has its own words
        directed(text)
