"""Statistics and the table of the benchmarks."""

import pytest

from tests.bench.report import Row, amount, median, percentile, table, verdicts


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([7.0], 0.99, 7.0),
        ([3.0, 1.0, 2.0], 0.5, 2.0),
        ([1.0, 2.0, 3.0, 4.0], 0.5, 2.0),
        ([float(n) for n in range(1, 101)], 0.99, 99.0),
        ([float(n) for n in range(1, 102)], 0.99, 100.0),
        ([1.0, 2.0], 1, 2.0),
    ],
)
def test_percentile_is_a_value_that_was_measured(values: list[float], share: float, expected: float) -> None:
    assert percentile(values, share) == expected


def test_median_of_an_even_count_lies_between_the_two_in_the_middle() -> None:
    assert median([4.0, 1.0, 3.0, 2.0]) == 2.5
    assert median([9.0, 1.0, 2.0]) == 2.0


@pytest.mark.parametrize("statistic", [median, lambda values: percentile(values, 0.5)])
def test_nothing_measured_has_no_statistics(statistic: object) -> None:
    assert callable(statistic)
    with pytest.raises(ValueError, match="no values"):
        statistic([])


@pytest.mark.parametrize(
    ("value", "text"), [(7.344, "7.34 ms"), (52.06, "52.1 ms"), (1020.4, "1,020 ms"), (0.0, "0.00 ms")]
)
def test_amount_has_three_digits_that_matter(value: float, text: str) -> None:
    assert amount(value, "ms") == text


def test_aim_is_held_against_the_statistic_that_counts() -> None:
    values = [10.0] * 99 + [70.0]
    assert not Row(1, "x", values, aim=60, counts="median").missed
    assert not Row(1, "x", values, aim=60, counts="p99").missed
    assert Row(1, "x", values, aim=60, counts="max").missed
    assert not Row(1, "x", values).missed


def test_table_names_what_missed_its_aim() -> None:
    lines = table([Row(1, "quick", [1.0], aim=60), Row(2, "slow", [90.0, 61.0], aim=60)]).splitlines()

    assert lines[1].split() == [
        "(1)",
        "quick",
        "max",
        "≤",
        "60.0",
        "ms",
        "1.00",
        "ms",
        "1.00",
        "ms",
        "1.00",
        "ms",
        "1",
        "met",
    ]
    assert lines[2].endswith("MISSED")
    assert lines[1].index("met") == lines[2].index("MISSED")


def test_verdicts_name_each_missed_aim_with_its_number() -> None:
    rows = [Row(1, "quick", [1.0], aim=60), Row(2, "slow", [90.0, 61.0], aim=60), Row(2, "other", [5000.0])]

    assert verdicts(rows) == ["MISSED: (2) slow: max 90.0 ms, aim 60.0 ms"]
    assert verdicts(rows[:1]) == ["All 1 aims are met."]
    assert verdicts(rows[2:]) == ["No aim was measured."]
