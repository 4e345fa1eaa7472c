"""`hydra channel import`: prefixes that were there before Hydra become a channel with history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from handlers.adapters.ports import Cas, Delete, Op
from handlers.core import codec, keys
from handlers.core.errors import Temporary
from handlers.core.model import Release
from tests.cli.desk import PLACES, TWO_DATASETS, Desk, v

SOURCE = "s3://data/index/{VERSION_PLACEHOLDER}/"
OWN = """
DATA_TEMPLATE = {
    "index": {"SourcePath": f"s3://data/index/{VERSION_PLACEHOLDER}/", "Placement": DISK},
    "slow": {"SourcePath": f"s3://data/slow/{VERSION_PLACEHOLDER}/", "Placement": DISK, "Version": "own"},
}
"""


def imported(desk: Desk, *args: str) -> Any:
    return desk.ok("channel", "import", *args, "--channel", PLACES, "-o", "json").json


def releases(desk: Desk) -> dict[int, Release]:
    """By sequence."""
    found = desk.kv.list(keys.releases(PLACES)).entries.values()
    headers = [codec.decode(Release, entry.value, entry.key) for entry in found]
    return {header.sequence: header for header in headers}


def head(desk: Desk) -> str:
    return (desk.value(keys.head(PLACES)) or b"").decode()


def test_prefixes_become_releases_in_their_order(desk: Desk) -> None:
    for day in (3, 1, 2):
        desk.data(day)

    answer = imported(desk, SOURCE)

    assert [(row["version"], row["result"]) for row in answer["versions"]] == [
        (v(d), "imported") for d in (1, 2, 3)
    ]
    assert {n: h.version for n, h in releases(desk).items()} == {1: v(1), 2: v(2), 3: v(3)}
    assert head(desk) == answer["head"] == v(3)
    assert set(releases(desk)[1].datasets) == {"index"}
    assert releases(desk)[1].datasets["index"].source == f"s3://data/index/{v(1)}/"


def test_each_release_is_one_transaction_and_only_the_last_moves_the_head(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    for day in (1, 2, 3):
        desk.data(day)
    heads: list[str] = []
    original = desk.kv.txn

    def txn(ops: Sequence[Op]) -> Mapping[str, int]:
        result = original(ops)
        assert sum(isinstance(op, Cas) and op.key.startswith(keys.releases(PLACES)) for op in ops) == 1
        heads.append(head(desk))
        return result

    monkeypatch.setattr(desk.kv, "txn", txn)
    imported(desk, SOURCE)

    assert heads == ["", "", v(3)]


def test_a_second_run_does_nothing(desk: Desk) -> None:
    for day in (1, 2):
        desk.data(day)
    imported(desk, SOURCE)
    before = desk.everything()

    answer = imported(desk, SOURCE)

    assert answer["changed"] is False
    assert {row["result"] for row in answer["versions"]} == {"published"}
    assert desk.everything() == before


@pytest.mark.parametrize("at", [1, 2, 3])
def test_an_import_that_ends_half_way_is_continued(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    for day in (1, 2, 3):
        desk.data(day)
    left, original = at, desk.kv.txn

    def txn(ops: Sequence[Op]) -> Mapping[str, int]:
        nonlocal left
        left -= 1
        if not left:
            raise Temporary("Consul went away")
        return original(ops)

    with monkeypatch.context() as patch:
        patch.setattr(desk.kv, "txn", txn)
        assert desk.run("channel", "import", SOURCE, "--channel", PLACES).code == 10
    assert len(releases(desk)) == at - 1
    assert head(desk) == ""

    imported(desk, SOURCE)

    assert {n: h.version for n, h in releases(desk).items()} == {1: v(1), 2: v(2), 3: v(3)}
    assert head(desk) == v(3)


def test_a_head_that_a_broken_import_left_out_is_set(desk: Desk) -> None:
    """The version that was to be the last is gone from the store by the next run."""
    for day in (1, 2):
        desk.data(day)
    imported(desk, SOURCE)
    desk.kv.txn([Delete(keys.head(PLACES))])

    answer = imported(desk, SOURCE)

    assert head(desk) == answer["head"] == v(2)


def test_as_many_as_the_channel_keeps(desk: Desk) -> None:
    for day in range(1, 6):
        desk.data(day)
    desk.ok("channel", "set", PLACES, "--keep-releases", "3")

    imported(desk, SOURCE)

    assert [h.version for _, h in sorted(releases(desk).items())] == [v(3), v(4), v(5)]


def test_last_says_how_many_and_warns_of_what_goes_again(desk: Desk) -> None:
    for day in range(1, 6):
        desk.data(day)
    desk.ok("channel", "set", PLACES, "--keep-releases", "2")

    assert desk.ok("channel", "import", SOURCE, "--channel", PLACES, "--last", "2").err.count("warning") == 0
    desk.data(6)
    answer = desk.ok("channel", "import", SOURCE, "--channel", PLACES, "--last", "4")

    assert "keeps 2 releases" in answer.err
    assert [h.version for _, h in sorted(releases(desk).items())] == [v(4), v(5), v(6)]


def test_incomplete_versions_are_left_out_with_the_reason(desk: Desk) -> None:
    for day in (1, 2, 3):
        desk.data(day)
    del desk.objects.buckets["data"][f"ranks/{v(2)}/ranks.bin"]

    answer = imported(desk, "--template", desk.template())

    results = {row["version"]: (row["result"], row["why"]) for row in answer["versions"]}
    assert results[v(2)] == ("skipped", "is not there of ranks")
    assert {h.version for h in releases(desk).values()} == {v(1), v(3)}
    assert set(releases(desk)[1].datasets) == {"index", "ranks"}


def test_a_marker_decides_what_is_complete(desk: Desk) -> None:
    for day in (1, 2):
        desk.data(day)
    desk.objects.write(f"s3://data/index/{v(1)}/_SUCCESS", b"")
    text = TWO_DATASETS.replace('"Placement": DISK}', '"Placement": DISK, "Marker": "_SUCCESS"}')

    answer = imported(desk, "--template", desk.template(text))

    assert [row["result"] for row in answer["versions"]] == ["imported", "skipped"]
    assert "_SUCCESS" in answer["versions"][1]["why"]
    assert head(desk) == v(1)


def test_a_dataset_of_its_own_rhythm_gets_its_version_of_that_time(desk: Desk) -> None:
    for day in (2, 4, 6):
        desk.data(day)
    for day in (1, 5):
        desk.objects.write(f"s3://data/slow/{v(day)}/x", b"slow")

    imported(desk, "--template", desk.template(OWN))

    assert {h.version: h.datasets["slow"].version for h in releases(desk).values()} == {
        v(2): v(1),
        v(4): v(1),
        v(6): v(5),
    }


def test_history_before_what_is_published_is_refused(desk: Desk) -> None:
    desk.data(3)
    assert desk.publish("--version", v(3)).code == 0
    for day in (1, 2, 4):
        desk.data(day)

    answer = imported(desk, "--template", desk.template())

    assert [row["result"] for row in answer["versions"]] == ["skipped", "skipped", "published", "imported"]
    assert "only grows at its end" in answer["versions"][0]["why"]
    assert head(desk) == v(4)


def test_a_dry_run_writes_nothing_and_shows_what_would_come(desk: Desk) -> None:
    for day in (1, 2):
        desk.data(day)
    before = desk.everything()

    answer = imported(desk, SOURCE, "--dry-run")
    text = desk.ok("channel", "import", SOURCE, "--channel", PLACES, "--dry-run").out

    assert [(row["result"], row["sequence"]) for row in answer["versions"]] == [
        ("planned", 1),
        ("planned", 2),
    ]
    assert "2 releases would be imported" in text
    assert desk.everything() == before


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((), "SOURCE or --template"),
        ((SOURCE, "--template", "x.py"), "one of them"),
        (("s3://data/index/",), "VERSION_PLACEHOLDER"),
        (("data/{VERSION_PLACEHOLDER}/",), "must be s3://"),
        (("s3://data/My Index/{VERSION_PLACEHOLDER}/",), "--dataset"),
        ((SOURCE, "--placement", "FLOPPY DISK"), "Placement"),
        (("https://host/x/{VERSION_PLACEHOLDER}/y",), "cannot be listed"),
    ],
)
def test_mistakes_are_named(desk: Desk, args: tuple[str, ...], said: str) -> None:
    from handlers.adapters.stores import Stores

    desk.store = Stores() if args and args[0].startswith("https") else None
    answer = desk.run("channel", "import", *args, "--channel", PLACES)

    assert answer.code == 2, answer
    assert said in answer.err


def test_a_place_without_versions_is_not_ready(desk: Desk) -> None:
    desk.objects.write("s3://data/other/file", b"x")

    answer = desk.run("channel", "import", "s3://data/other/{VERSION_PLACEHOLDER}/", "--channel", PLACES)

    assert answer.code == 11
    assert "s3://data/other/" in answer.err
