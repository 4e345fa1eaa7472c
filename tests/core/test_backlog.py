"""Which versions of the store may become releases: a table of reasons."""

from __future__ import annotations

from datetime import UTC, datetime

from handlers.core.backlog import PUBLISHED, candidates
from handlers.core.model import ManifestRef, Rejected, Release
from handlers.core.names import Channel
from handlers.core.version import Version
from handlers.core.world import ChannelFacts

C = Channel("prod/search/places")
NOW = datetime(2026, 1, 20, 12, tzinfo=UTC)


def v(day: int) -> Version:
    return Version(f"2026-01-{day:02}T00-00-00")


def channel(*days: int, rejected: int = 0) -> ChannelFacts:
    releases = tuple(
        Release(channel=C, version=v(d), sequence=n, datasets={}, manifest=ManifestRef(digest="", bytes=0))
        for n, d in enumerate(days, 1)
    )
    return ChannelFacts(name=C, releases=releases, rejected={v(rejected): Rejected()} if rejected else {})


def reasons(listed: dict[str, set[int]], facts: ChannelFacts | None = None) -> dict[int, str]:
    found = candidates({name: {v(d) for d in days} for name, days in listed.items()}, facts, NOW)
    assert [c.version for c in found] == sorted((c.version for c in found), reverse=True)
    return {int(c.version[8:10]): c.skipped for c in found}


def test_a_channel_that_is_new_takes_all_that_is_common() -> None:
    assert reasons({"a": {1, 2, 3}, "b": {1, 3, 4}}) == {
        1: "",
        2: "is not there of b",
        3: "",
        4: "is not there of a",
    }


def test_the_future_is_left_out() -> None:
    assert reasons({"a": {19, 21}}) == {19: "", 21: "is in the future"}


def test_history_grows_at_its_end_only() -> None:
    older = f"is older than {v(5)}, which is published: history only grows at its end"

    assert reasons({"a": {1, 3, 5, 7}}, channel(3, 5)) == {1: older, 3: PUBLISHED, 5: PUBLISHED, 7: ""}


def test_what_is_rejected_stays_so() -> None:
    assert reasons({"a": {1, 2}}, channel(rejected=2)) == {1: "", 2: "is rejected"}
