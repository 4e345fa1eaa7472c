"""What can be read, condition by condition, and what is no condition."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.core.errors import Usage
from handlers.core.reading import EVERYTHING, Reads


@pytest.mark.parametrize(
    ("text", "labels", "can"),
    [
        ("", {}, True),
        ("format<=4", {"format": "4"}, True),
        ("format<=4", {"format": "5"}, False),
        ("format<10", {"format": "9"}, True),  # as numbers, not as text
        ("format>=1.10", {"format": "1.9"}, False),
        ("format=2", {"format": "2.0"}, True),
        ("format>=3,format<=4", {"format": "2"}, False),
        ("format>=3,format<=4", {"format": "3"}, True),
        ("schema=ltr", {"schema": "ltr"}, True),
        ("schema!=ltr", {"schema": "ltr"}, False),
        ("schema!=ltr", {}, True),
        ("format<=4", {}, False),
        ("format<=4", {"format": "new"}, False),
        ("places:format<=4", {"format": "5"}, False),
        ("streets:format<=4", {"format": "5"}, True),  # of another channel
        ("format<=5 places:format<=4", {"format": "5"}, False),
    ],
)
def test_release_is_read_if_its_labels_fulfil_all_conditions(
    text: str, labels: dict[str, str], can: bool
) -> None:
    assert (Reads.parse(text).misfit("places", labels) == "") is can


def test_what_cannot_be_read_is_said_with_the_label_and_the_condition() -> None:
    reads = Reads.parse("places:format<=4,format!=2")

    assert reads.misfit("places", {"format": "5"}) == "has format=5, and only format<=4,format!=2 is read"
    assert reads.misfit("places", {}) == "has no label format, and only format<=4,format!=2 is read"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("format", "does not say what is read"),
        ("format<=", "does not say what is read"),
        ("<=4", "does not say what is read"),
        ("format=<4", "does not say what is read"),
        ("format<=4,", "does not say what is read"),
        ("format <= 4", "does not say what is read"),
        ("schema<ltr", "compares numbers"),
        ("state:format<=4", "alias 'state' is taken"),
        (":format<=4", "alias ''"),
        ("a b:c:d<=1", "does not say what is read"),
    ],
)
def test_what_is_no_condition_is_refused(text: str, said: str) -> None:
    with pytest.raises(Usage, match=said):
        Reads.parse(text)


def test_text_is_kept_with_single_blanks() -> None:
    assert Reads.parse("  places:format<=4   ranks:x=1 ") == "places:format<=4 ranks:x=1"
    assert Reads.parse("  ") == EVERYTHING
    assert Reads.parse("places:format<=4 x=1").aliases == {"places"}


@given(st.integers(0, 30), st.integers(0, 30))
def test_conditions_and_their_opposites_exclude_each_other(label: int, limit: int) -> None:
    labels = {"format": str(label)}

    def can(how: str) -> bool:
        return not Reads.parse(f"format{how}{limit}").misfit("places", labels)

    assert can("<=") is (label <= limit) is not can(">")
    assert can("<") is (label < limit) is not can(">=")
    assert can("=") is (label == limit) is not can("!=")
