"""The mutants still change what they were made to change, are still Python, and leave out no promise."""

from __future__ import annotations

import ast

import pytest

from tests.chaos.mutants import CHECKOUT, MUTANTS, Mutant, changed
from tests.chaos.promises import names
from tests.chaos.schedule import directed


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_mutant_changes_each_place_and_does_what_there_is_to_do(mutant: Mutant) -> None:
    for change in mutant.changes:
        before = (CHECKOUT / change.file).read_text()

        after = changed(change, before)

        assert after != before
        if change.file.endswith(".py"):
            ast.parse(after)
    assert directed(mutant.acts)


def test_each_promise_has_a_mutant_that_breaks_it() -> None:
    assert {mutant.promise for mutant in MUTANTS.values()} == names()
