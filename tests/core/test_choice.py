"""Which version a publish takes."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.core.choice import Offer, candidates, choose
from handlers.core.errors import SourceNotReady, Usage
from handlers.core.version import Version

NOW = datetime(2026, 1, 20, tzinfo=UTC)


def v(day: int) -> Version:
    return Version(f"2026-01-{day:02d}T00-00-00")


def offer(
    name: str, *complete: int, listed: tuple[int, ...] = (), own: bool = False, **incomplete: str
) -> Offer:
    return Offer(
        name=name,
        source=f"s3://b/{name}/",
        own=own,
        listed=tuple(v(day) for day in (*complete, *listed)),
        complete=tuple(v(day) for day in complete),
        incomplete={v(int(day[1:])): why for day, why in incomplete.items()},
    )


@pytest.mark.parametrize(
    ("offers", "release", "datasets"),
    [
        pytest.param([offer("a", 3, 2), offer("b", 3)], 3, {"a": 3, "b": 3}, id="all-equal"),
        pytest.param([offer("a", 3, 25), offer("b", 3)], 3, {"a": 3, "b": 3}, id="future-does-not-count"),
        pytest.param([offer("a", 3), offer("b", 1, own=True)], 3, {"a": 3, "b": 1}, id="own-older"),
        pytest.param([offer("a", 3), offer("b", 9, own=True)], 3, {"a": 3, "b": 9}, id="own-newer"),
        pytest.param([offer("a", 3, own=True), offer("b", 5, own=True)], 5, {"a": 3, "b": 5}, id="only-own"),
    ],
)
def test_newest_common_version_is_chosen(offers: list[Offer], release: int, datasets: dict[str, int]) -> None:
    choice = choose(offers, NOW)

    assert (choice.version, choice.datasets) == (v(release), {name: v(day) for name, day in datasets.items()})


def test_newest_versions_differ_shows_what_each_has_and_what_all_have() -> None:
    offers = [offer("index", 4, listed=(3,)), offer("ranks", 3, 2)]

    with pytest.raises(SourceNotReady) as raised:
        choose(offers, NOW)

    advice = "Wait until all have the same newest version (--wait-source 1h), or publish one that all have:"
    assert str(raised.value).splitlines() == [
        "the newest complete versions of the datasets differ:",
        "  DATASET  NEWEST COMPLETE      WHAT ELSE IS THERE",
        f"  index    {v(4)}  {v(3)}",
        f"  ranks    {v(3)}",
        f"{advice} --version {v(3)}",
    ]


def test_nothing_complete_says_why_each_version_does_not_count() -> None:
    offers = [offer("index", listed=(4, 25), d4="has no marker _SUCCESS"), offer("ranks", 4), offer("gone")]

    with pytest.raises(SourceNotReady) as raised:
        choose(offers, NOW)

    text = str(raised.value)
    assert text.startswith("no complete version of index, gone:")
    assert f"{v(4)} has no marker _SUCCESS; {v(25)} is in the future" in text
    assert "nothing like a version below s3://b/gone/" in text


def test_asked_version_in_the_future_is_refused() -> None:
    with pytest.raises(Usage, match="is in the future"):
        choose([offer("a", 25)], NOW, asked=v(25))


def test_asked_version_that_is_not_complete_is_named() -> None:
    with pytest.raises(SourceNotReady, match=f"{v(2)} is not there, or not complete of b"):
        choose([offer("a", 2), offer("b", d2="has no object")], NOW, asked=v(2))


def test_asked_version_is_the_releases_though_a_dataset_has_its_own() -> None:
    choice = choose([offer("a", 2), offer("b", 9, own=True)], NOW, asked=v(2))

    assert (choice.version, choice.datasets["b"]) == (v(2), v(9))


@given(st.lists(st.integers(1, 28)))
def test_candidates_are_newest_first_and_never_in_the_future(days: list[int]) -> None:
    found = candidates([v(day) for day in days], NOW)

    assert found == sorted({v(day) for day in days if day <= 20}, reverse=True)


@given(st.dictionaries(st.sampled_from("abcd"), st.sets(st.integers(1, 28)), min_size=1))
def test_whatever_is_there_the_choice_is_complete_everywhere(found: dict[str, set[int]]) -> None:
    offers = [offer(name, *sorted(days)) for name, days in found.items()]
    try:
        choice = choose(offers, NOW)
    except SourceNotReady:
        newest = {max((day for day in days if day <= 20), default=None) for days in found.values()}
        assert None in newest or len(newest) > 1
    else:
        assert all(choice.version in o.complete and choice.version <= v(20) for o in offers)
