"""What a look at canaries says, and how all looks together end."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.core.errors import Usage
from handlers.core.gate import (
    Bound,
    CommandCheck,
    HttpCheck,
    Look,
    Outcome,
    PrometheusCheck,
    look_at,
    looks_due,
    outcome,
    parse_check,
)
from handlers.core.model import Subscription, Tally
from handlers.core.policy import Url


@pytest.mark.parametrize(
    ("text", "check"),
    [
        ("http://:/healthz", HttpCheck(Url("/healthz"))),
        ("http://:9100/stats", HttpCheck(Url("/stats", 9100))),
        ("http://:/stats#errors.share<=0.01", HttpCheck(Url("/stats"), "errors.share", Bound("<=", 0.01))),
        ("http://:/stats#answered > 5", HttpCheck(Url("/stats"), "answered", Bound(">", 5))),
        ("command:compare-ranking", CommandCheck("compare-ranking")),
        (
            'prometheus:sum(rate(errors{i=~"{instances}"}[1m])) <= 1e-3',
            PrometheusCheck('sum(rate(errors{i=~"{instances}"}[1m]))', Bound("<=", 0.001)),
        ),
        ("prometheus:a > 1 or b < 2", PrometheusCheck("a > 1 or b", Bound("<", 2))),
    ],
)
def test_check_is_understood(text: str, check: object) -> None:
    assert parse_check(text) == check


@pytest.mark.parametrize(
    "text",
    [
        "", "true", "command:", "command:rm -rf /", "command:../x", "prometheus:up", "prometheus:<=1",
        "http://example.com/healthz", "http://:/stats#", "http://:/stats#errors", "http://:/stats#a b<=1",
    ],
)  # fmt: skip
def test_check_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(Usage):
        parse_check(text)


@pytest.mark.parametrize(
    ("value", "others", "compare", "look"),
    [
        (0.5, None, 0, Look.GOOD),
        (1.0, None, 0, Look.GOOD),
        (1.1, None, 0, Look.BAD),
        (None, None, 0, Look.NOTHING),  # no traffic
        (math.nan, None, 0, Look.NOTHING),
        (math.inf, None, 0, Look.NOTHING),
        (0.5, 0.5, 1.2, Look.GOOD),
        (0.7, 0.5, 1.2, Look.BAD),
        (0.5, None, 1.2, Look.NOTHING),  # nobody to compare with
        (1.1, None, 1.2, Look.BAD),
    ],
)
def test_number_is_within_its_bound_and_near_that_of_the_others(
    value: float | None, others: float | None, compare: float, look: Look
) -> None:
    assert look_at(Bound("<=", 1.0), value, others, compare) is look


TEXTS = Subscription(check_interval_s=10, check_time_s=45, check_failures=1, check_least=3)


@pytest.mark.parametrize(
    ("good", "bad", "nothing", "expected"),
    [
        (0, 0, 0, None),
        (4, 0, 0, None),  # five looks are due
        (5, 0, 0, Outcome.GOOD),
        (4, 1, 0, Outcome.GOOD),
        (0, 2, 0, Outcome.BAD),  # as soon as it is sure
        (3, 2, 0, Outcome.BAD),
        (3, 0, 2, Outcome.GOOD),
        (2, 1, 2, Outcome.GOOD),
        (2, 0, 3, Outcome.INCONCLUSIVE),
        (0, 0, 5, Outcome.INCONCLUSIVE),
    ],
)
def test_outcome(good: int, bad: int, nothing: int, expected: Outcome | None) -> None:
    assert looks_due(TEXTS) == 5
    assert outcome(TEXTS, Tally(good=good, bad=bad, nothing=nothing)) == expected


counts = st.integers(0, 20)


@given(counts, counts, counts, counts, st.integers(1, 20), st.floats(0, 100), st.floats(0, 1000))
def test_nothing_never_passes(
    good: int, bad: int, nothing: int, failures: int, least: int, interval_s: float, time_s: float
) -> None:
    texts = Subscription(
        check_interval_s=interval_s, check_time_s=time_s, check_failures=failures, check_least=least
    )

    found = outcome(texts, Tally(good=good, bad=bad, nothing=nothing))

    if found is Outcome.GOOD:
        assert good > 0
        assert good + bad >= least
        assert bad <= failures
    assert (found is Outcome.BAD) == (bad > failures)
