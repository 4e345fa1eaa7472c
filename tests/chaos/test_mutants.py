"""The mutants still change what they were made to change, and are still Python."""

from __future__ import annotations

import ast

import pytest

from tests.chaos.mutants import CHECKOUT, MUTANTS, Mutant, changed


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_mutant_changes_one_place(mutant: Mutant) -> None:
    before = (CHECKOUT / mutant.file).read_text()

    after = changed(mutant, before)

    assert after != before
    ast.parse(after)
