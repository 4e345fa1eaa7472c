"""Versions: one format, real dates, text order is time order."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.core.errors import Usage
from handlers.core.names import Channel
from handlers.core.version import ReleaseId, Version, newest_common

MOMENTS = st.datetimes(timezones=st.just(UTC)).map(lambda moment: moment.replace(microsecond=0))
PLACES = Channel("prod/search/places")


@pytest.mark.parametrize(
    "text", ["2026-01-31T23-59-59", " 2026-01-31T23-59-59\n", "0001-01-01T00-00-00", "2024-02-29T00-00-00"]
)
def test_version_with_white_space_around(text: str) -> None:
    assert Version.parse(text) == text.strip()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "latest",
        "2026-01-31",
        "2026-01-31T23:59:59",
        "2026-01-31 23-59-59",
        "2026-01-31T23-59-59Z",
        "2026-1-31T23-59-59",
        "2026-02-29T00-00-00",
        "2026-13-01T00-00-00",
        "2026-01-01T24-00-00",
        "2026-01-01T23-59-60",
        "0000-01-01T00-00-00",
        "2026-01-31T23-59-59 2026-01-31T23-59-59",
        "٢٠٢٦-01-31T23-59-59",
        "../2026-01-31T23-59-59",
    ],
)
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(Usage, match="is not a date and time like"):
        Version.parse(text)


@given(MOMENTS)
def test_moment_round_trip(moment: datetime) -> None:
    version = Version.of(moment)

    assert Version.parse(version) == version
    assert version.moment == moment


@given(MOMENTS, MOMENTS)
def test_text_order_is_time_order(one: datetime, other: datetime) -> None:
    assert (Version.of(one) < Version.of(other)) == (one < other)


def test_version_is_in_utc() -> None:
    moment = datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=2)))
    assert Version.of(moment) == "2025-12-31T23-00-00"


def test_release_id_and_its_parts() -> None:
    release = ReleaseId.parse("prod/search/places@2026-01-31T23-59-59")

    assert release == ReleaseId.of(PLACES, Version("2026-01-31T23-59-59"))
    assert (release.channel, release.version) == (PLACES, "2026-01-31T23-59-59")
    assert isinstance(release.channel, Channel)
    assert isinstance(release.version, Version)


@pytest.mark.parametrize(
    "text", ["", "prod/search/places", "a/b@2026-01-31T23-59-59", "prod/search/places@", "@", "a@b@c"]
)
def test_what_is_no_release_is_refused(text: str) -> None:
    with pytest.raises(Usage):
        ReleaseId.parse(text)


def test_newest_version_that_is_not_in_the_future() -> None:
    old, now, future = (Version(f"2026-01-0{day}T00-00-00") for day in (1, 2, 3))

    found = newest_common({"a": [old, now, future], "b": [old], "c": [future], "d": []}, now.moment)

    assert found == {"a": now, "b": old, "c": None, "d": None}
