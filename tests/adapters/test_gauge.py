"""What a look at canaries by PromQL says: `Gauge` against a real Prometheus that scrapes two instances."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from handlers.adapters.gauge import Gauge, Subject, Target
from handlers.core.gate import Look, parse_check
from tests.core.worlds import COMPLETE, rid
from tests.prometheus import page, prometheus
from tests.servers import wait_until

CANARY, OTHER = Target("places.1", "127.0.0.1", 1), Target("placesx1", "127.0.0.1", 2)
PAGES = {CANARY: "errors 0.5\nlatency NaN\n", OTHER: "errors 1.5\n"}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prometheus that has seen both instances."""
    with page(PAGES[CANARY]) as canary, page(PAGES[OTHER]) as other:
        targets = {CANARY.id: canary, OTHER.id: other}
        with prometheus(tmp_path_factory.mktemp("prometheus"), targets, every_s=5) as address:
            wait_until(lambda: look(address, "count(errors)>=2")[0] is Look.GOOD, what="both were scraped")
            yield address


def look(url: str, query: str, compare: float = 0.0) -> tuple[Look, str]:
    releases = (rid(2),)
    subject = Subject(
        service=COMPLETE, releases=releases, canaries=(CANARY,), others=(OTHER,), compare=compare
    )
    return Gauge({}, url).look(parse_check(f"prometheus:{query}"), subject)


@pytest.mark.parametrize(
    ("query", "found", "said"),
    [
        pytest.param('errors{instance=~"{instances}"}<=1', Look.GOOD, "is 0.5 (wanted <=1)", id="vector"),
        pytest.param('errors{instance=~"{instances}"}<=0.4', Look.BAD, "is 0.5 (wanted <=0.4)", id="bad"),
        pytest.param('scalar(errors{instance="places.1"})<1', Look.GOOD, "is 0.5 (wanted <1)", id="scalar"),
        pytest.param("nobody_has_this<=1", Look.NOTHING, "is unknown", id="empty"),
        pytest.param('latency{instance=~"{instances}"}<=1', Look.NOTHING, "is nan", id="nan"),
        pytest.param("errors<=2", Look.NOTHING, "the query has 2 results, and must have one", id="two"),
        pytest.param("errors[1m]<=1", Look.NOTHING, "cannot be understood", id="matrix"),
        pytest.param("sum(errors<=1", Look.NOTHING, "Prometheus refuses the query: ", id="error"),
    ],
)
def test_answer_of_prometheus_is_good_bad_or_no_evidence(
    url: str, query: str, found: Look, said: str
) -> None:
    look_is, seen = look(url, query)

    assert (look_is, said in seen) == (found, True), seen


def test_canaries_are_compared_with_the_others(url: str) -> None:
    query = 'errors{instance=~"{instances}"}<=1'

    assert look(url, query, compare=0.5)[0] is Look.GOOD
    found, seen = look(url, query, compare=0.2)

    assert found is Look.BAD
    assert "is 0.5, 1.5 where nobody has moved" in seen
