"""`hydra diff`: datasets and files that differ between two releases, and what a node has to fetch."""

from __future__ import annotations

from pathlib import Path

import pytest

from handlers.core.model import Dataset, File, ManifestRef, Release
from handlers.core.version import Version
from hydra_cli.diff import compared
from tests.cli.desk import PLACES, Desk, v


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """Release 1, and release 2 in which one file of `index` is another one and one is new."""
    made = Desk(tmp_path)
    made.init()
    made.data(1)
    assert made.publish("--version", v(1)).code == 0
    made.data(2)
    made.objects.write(f"s3://data/index/{v(2)}/a", b"something else")
    made.objects.write(f"s3://data/index/{v(2)}/new", b"n" * 100)
    assert made.publish("--version", v(2)).code == 0
    return made


def test_files_and_bytes_of_every_dataset_that_differs_are_shown(desk: Desk) -> None:
    said = desk.ok("diff", PLACES, v(1), v(2), "-o", "json").json

    index, ranks = said["datasets"]["index"], said["datasets"]["ranks"]
    assert [(f["path"], f["how"], f["before"], f["after"]) for f in index["files"]] == [
        ("a", "changed", 1, 14),
        ("new", "added", None, 100),
    ]
    assert (index["change"], index["bytes_to_fetch"]) == ("changed", 114)
    assert (ranks["change"], ranks["files"], ranks["bytes_to_fetch"]) == ("same", [], 0)
    assert (said["differs"], said["bytes_to_fetch"]) == (True, 114)

    text = desk.ok("diff", PLACES, v(2), v(1)).out
    assert "removed  new" in text
    assert f"a node that has {v(2)} fetches 1 B for {v(1)}" in text


def test_exit_code_tells_whether_releases_differ(desk: Desk) -> None:
    assert desk.run("diff", PLACES, v(1), v(2), "--detailed-exitcode").code == 3
    assert desk.run("diff", PLACES, v(1), v(2)).code == 0
    assert desk.run("diff", PLACES, v(1), v(1), "--detailed-exitcode").code == 0


def test_release_that_does_not_exist_is_named(desk: Desk) -> None:
    answer = desk.run("diff", PLACES, v(1), v(9))

    assert answer.code == 2
    assert f"no release {v(9)}; the newest are" in answer.err


def header(version: Version, *names: str, placement: str = "DISK") -> Release:
    dataset = Dataset(source="s3://b/x/", placement=placement, files=1, bytes=10, version=version)
    ref = ManifestRef(digest="sha256:1", bytes=1)
    return Release(
        channel=PLACES, version=version, sequence=1, datasets=dict.fromkeys(names, dataset), manifest=ref
    )


def test_dataset_that_comes_goes_or_is_placed_elsewhere_is_changed() -> None:
    files = (File("f", 10, "e", "md5:aa"),)
    found = compared(
        header(v(1), "gone", "stays"), header(v(2), "new", "stays"), {"gone": files, "stays": files},
        {"new": files, "stays": files},
    )  # fmt: skip
    assert {one.name: (one.how, one.fetch) for one in found.datasets} == {
        "gone": ("removed", 0),
        "new": ("added", 0),  # its bytes are here, in another dataset
        "stays": ("same", 0),
    }

    moved = compared(header(v(1), "x"), header(v(2), "x", placement="RAM"), {"x": files}, {"x": files})
    assert [one.how for one in moved.datasets] == ["changed"]


def test_files_without_checksums_are_told_apart_by_their_etags() -> None:
    before, after = {"x": (File("f", 10, "one"),)}, {"x": (File("f", 10, "two"),)}

    assert not compared(header(v(1), "x"), header(v(2), "x"), before, before).differs
    found = compared(header(v(1), "x"), header(v(2), "x"), before, after)
    assert [change.how for change in found.datasets[0].files] == ["changed"]
    assert found.datasets[0].fetch == 10
