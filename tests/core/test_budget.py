"""How many may be out: numbers, shares, and what must stay."""

import pytest

from handlers.core import codec
from handlers.core.budget import Amount, Budget, parse_amount
from handlers.core.errors import Malformed, Usage
from handlers.core.model import Subscription


@pytest.mark.parametrize(
    ("maximum", "minimum", "instances", "allowed"),
    [
        (1, None, 8, 1),
        (0, None, 8, 0),
        ("25%", None, 8, 2),
        ("25%", None, 7, 1),  # rounded down
        ("25%", None, 3, 1),  # but at least 1,
        ("0%", None, 8, 0),  # unless it says 0
        ("100%", None, 3, 3),
        (1, 3, 8, 5),
        (1, 3, 3, 0),
        (1, 3, 2, 0),
        (1, "50%", 5, 2),  # what must stay is rounded up
        (1, "100%", 5, 0),
        (1, "0%", 5, 5),
    ],
)
def test_budget_of_a_number_of_instances(
    maximum: Amount, minimum: Amount | None, instances: int, allowed: int
) -> None:
    assert Budget(maximum, minimum).of(instances) == allowed


def test_budget_says_what_it_is_made_of() -> None:
    assert Budget(2).say(8) == "2"
    assert Budget("25%").say(8) == "2 (25% of 8)"
    assert Budget(1, 3).say(4) == "1 (3 of 4 must be available)"
    assert Budget(0, by="PodDisruptionBudget a/b").say(8) == "0 (by PodDisruptionBudget a/b)"
    assert Budget("25%", by="PodDisruptionBudget a/b").say(8) == "2 (25% of 8, by PodDisruptionBudget a/b)"


@pytest.mark.parametrize(("text", "amount"), [(3, 3), ("3", 3), ("25%", "25%"), ("025%", "25%"), (0, 0)])
def test_amount_of_documents_and_options(text: object, amount: Amount) -> None:
    assert parse_amount(text) == amount


@pytest.mark.parametrize("text", [-1, True, 1.5, "", "%", "101%", "-1", "2.5%", "25 %", "25%x", "²", None])
def test_amount_that_is_none_is_refused(text: object) -> None:
    with pytest.raises(Usage, match="neither a number like 3 nor a percentage"):
        parse_amount(text)


def test_documents_hold_numbers_as_numbers_and_shares_as_text() -> None:
    document = Subscription(max_unavailable="25%")

    assert b'"max_unavailable": "25%"' in codec.encode(document)
    assert b'"max_unavailable": 1\n' in codec.encode(Subscription()).replace(b",\n", b"\n")
    assert codec.decode(Subscription, codec.encode(document), "s") == document
    with pytest.raises(Malformed, match="max_unavailable: '1 or 2' is neither"):
        codec.decode(Subscription, b'{"format": 1, "max_unavailable": "1 or 2"}', "s")
