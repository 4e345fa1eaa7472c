"""`hydra get`: a release in a folder, whatever happens on the way, and nobody else's folder touched."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from handlers.adapters.folder import Folder
from handlers.adapters.local import write_atomic
from handlers.adapters.ports import Source
from handlers.adapters.rooms import Rooms
from handlers.core.errors import Temporary
from handlers.core.holdings import Space
from tests.cli.desk import PLACES, TWO_DATASETS, Desk, v


def published(desk: Desk, day: int, body: bytes) -> None:
    desk.data(day, body=body)
    assert desk.publish("--version", v(day)).code == 0


def tree(folder: Path) -> dict[str, bytes]:
    """What a person sees in the folder."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and ".hydra" not in p.parts)
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def expected(body: bytes) -> dict[str, bytes]:
    return {"index/a": body, "index/b/c": body * 2, "ranks/ranks.bin": body * 3}


def test_the_head_is_fetched_once(desk: Desk, tmp_path: Path) -> None:
    published(desk, 1, b"one")
    folder = tmp_path / "deep" / "here"

    first = desk.ok("get", PLACES, str(folder), "-o", "json").json
    reads = len(desk.objects.reads)
    second = desk.ok("get", PLACES, str(folder), "-o", "json").json

    assert tree(folder) == expected(b"one")
    assert (first["changed"], first["fetched_bytes"], first["bytes"]) == (True, 18, 18)
    assert (second["changed"], second["fetched_bytes"]) == (False, 0)
    assert len(desk.objects.reads) == reads
    assert first["datasets"]["index"] == str(folder / "index")


def test_another_version_takes_the_place_of_the_one_before(desk: Desk, tmp_path: Path) -> None:
    published(desk, 1, b"one")
    published(desk, 2, b"two")
    folder = tmp_path / "here"

    desk.ok("get", f"{PLACES}@{v(1)}", str(folder))
    assert tree(folder) == expected(b"one")
    desk.ok("get", PLACES, str(folder))

    assert tree(folder) == expected(b"two")
    left = [p for p in (folder / ".hydra").rglob("*") if v(1) in str(p)]
    assert left == []


def test_a_dataset_that_a_release_has_no_more_goes(desk: Desk, tmp_path: Path) -> None:
    published(desk, 1, b"one")
    folder = tmp_path / "here"
    desk.ok("get", PLACES, str(folder))
    desk.data(2, body=b"two")
    less = "\n".join(line for line in TWO_DATASETS.splitlines() if "ranks" not in line)
    desk.ok("publish", desk.template(less, "less.py"), "--channel", PLACES, "--version", v(2))

    desk.ok("get", PLACES, str(folder))

    assert set(tree(folder)) == {"index/a", "index/b/c"}
    assert not (folder / "ranks").exists()


def test_a_pin_goes_before_the_head(desk: Desk, tmp_path: Path) -> None:
    published(desk, 1, b"one")
    published(desk, 2, b"two")
    desk.ok("pin", f"channel/{PLACES}", v(1))

    desk.ok("get", PLACES, str(tmp_path / "here"))

    assert tree(tmp_path / "here") == expected(b"one")


def test_a_lost_file_is_fetched_again(desk: Desk, tmp_path: Path) -> None:
    published(desk, 1, b"one")
    folder = tmp_path / "here"
    desk.ok("get", PLACES, str(folder))
    (folder / "ranks" / "ranks.bin").unlink()

    answer = desk.ok("get", PLACES, str(folder), "-o", "json").json

    assert tree(folder) == expected(b"one")
    assert answer["fetched_bytes"] == 9


def test_what_is_fetched_may_be_removed_by_its_owner(desk: Desk, tmp_path: Path) -> None:
    published(desk, 1, b"one")
    desk.ok("get", PLACES, str(tmp_path / "here"))

    modes = [p.stat().st_mode & 0o200 for p in (tmp_path / "here").rglob("*") if p.is_dir()]
    assert all(modes)


@pytest.mark.parametrize(
    "there", ["a file", "other files", "another .hydra", "another channel", "a broken state"]
)
def test_what_is_somebody_elses_is_refused_untouched(desk: Desk, tmp_path: Path, there: str) -> None:
    published(desk, 1, b"one")
    folder = tmp_path / "here"
    match there:
        case "a file":
            folder.write_text("mine")
        case "other files":
            folder.mkdir()
            (folder / "notes").write_text("mine")
        case "another .hydra":
            (folder / ".hydra").mkdir(parents=True)
            (folder / ".hydra" / "config.yaml").write_text("mine")
        case "another channel":
            (folder / ".hydra").mkdir(parents=True)
            state = {
                "format": 1,
                "channel": "prod/a/b",
                "release": "",
                "digest": "",
                "ours": [],
                "placed": [],
            }
            (folder / ".hydra" / "get.json").write_text(json.dumps(state))
        case "a broken state":
            (folder / ".hydra").mkdir(parents=True)
            (folder / ".hydra" / "get.json").write_text('{"format": 1, "channel": 7}')
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    answer = desk.run("get", PLACES, str(folder))

    assert answer.code == 2
    assert str(folder) in answer.err
    assert {p: p.read_bytes() for p in before} == before
    assert not (folder / "index").exists()


def test_a_name_that_is_taken_in_our_own_folder_is_refused(desk: Desk, tmp_path: Path) -> None:
    published(desk, 1, b"one")
    folder = tmp_path / "here"
    less = "\n".join(line for line in TWO_DATASETS.splitlines() if "ranks" not in line)
    desk.data(2, body=b"two")
    desk.ok("publish", desk.template(less, "less.py"), "--channel", PLACES, "--version", v(2))
    desk.ok("get", PLACES, str(folder))
    (folder / "ranks").mkdir()
    (folder / "ranks" / "mine").write_text("mine")

    answer = desk.run("get", f"{PLACES}@{v(1)}", str(folder))

    assert answer.code == 2
    assert "ranks" in answer.err
    assert (folder / "ranks" / "mine").read_text() == "mine"
    assert (folder / "index" / "a").read_bytes() == b"two"


def test_an_object_that_was_replaced_ends_it_and_what_was_there_stays(desk: Desk, tmp_path: Path) -> None:
    published(desk, 1, b"one")
    published(desk, 2, b"two")
    folder = tmp_path / "here"
    desk.ok("get", f"{PLACES}@{v(1)}", str(folder))
    desk.objects.write(f"s3://data/ranks/{v(2)}/ranks.bin", b"else else")

    answer = desk.run("get", PLACES, str(folder))

    assert answer.code == 7
    assert "ranks.bin" in answer.err
    assert tree(folder) == expected(b"one")
    desk.objects.write(f"s3://data/ranks/{v(2)}/ranks.bin", b"two" * 3)
    again = desk.ok("get", PLACES, str(folder), "-o", "json").json
    assert tree(folder) == expected(b"two")
    assert again["fetched_bytes"] == 9, "the other dataset was complete"


def test_an_object_that_is_gone_is_not_ready(desk: Desk, tmp_path: Path) -> None:
    published(desk, 1, b"one")
    del desk.objects.buckets["data"][f"ranks/{v(1)}/ranks.bin"]

    assert desk.run("get", PLACES, str(tmp_path / "here")).code == 11


def test_no_room_is_said_before_the_first_byte(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(desk, 1, b"one")
    monkeypatch.setattr(Rooms, "space", lambda self, name: Space(1000, 1000))
    reads = len(desk.objects.reads)

    answer = desk.run("get", PLACES, str(tmp_path / "here"))

    assert answer.code == 10
    assert "are needed" in answer.err
    assert len(desk.objects.reads) == reads


def test_a_rejected_head_has_to_be_named(desk: Desk, tmp_path: Path) -> None:
    published(desk, 1, b"one")
    desk.ok("reject", PLACES, v(1))

    assert desk.run("get", PLACES, str(tmp_path / "here")).code == 9
    desk.ok("get", f"{PLACES}@{v(1)}", str(tmp_path / "here"))


@pytest.mark.parametrize("name", ["prod/search/none", f"{PLACES}@2026-01-09T00-00-00", f"{PLACES}@yesterday"])
def test_unknown_names_are_usage_errors(desk: Desk, tmp_path: Path, name: str) -> None:
    published(desk, 1, b"one")

    assert desk.run("get", name, str(tmp_path / "here")).code == 2


def test_what_the_version_before_has_is_not_fetched_again(desk: Desk, tmp_path: Path) -> None:
    """Equal files are taken from the folder, under whatever name, after their bytes were compared."""
    published(desk, 1, b"one")
    folder = tmp_path / "here"
    desk.ok("get", PLACES, str(folder))
    desk.objects.write(f"s3://data/index/{v(2)}/renamed", b"one")
    desk.objects.write(f"s3://data/index/{v(2)}/b/c", b"other")
    desk.objects.write(f"s3://data/ranks/{v(2)}/ranks.bin", b"one" * 3)
    assert desk.publish("--version", v(2)).code == 0
    damaged = folder / "ranks" / "ranks.bin"
    damaged.chmod(0o644)
    damaged.write_bytes(b"one-oneone")

    answer = desk.ok("get", PLACES, str(folder), "-o", "json").json

    assert tree(folder) == {"index/renamed": b"one", "index/b/c": b"other", "ranks/ranks.bin": b"one" * 3}
    assert answer["fetched_bytes"] == len(b"other") + len(b"one" * 3)
    kept = {p.name for p in (folder / ".hydra/state").rglob("2026*")}
    assert kept == {v(2)}


def test_what_is_there_counts_also_after_a_version_that_did_not_come_whole(
    desk: Desk, tmp_path: Path
) -> None:
    """From the first release to the third, with a second in between of which only a part came."""
    published(desk, 1, b"one")
    published(desk, 2, b"two")
    published(desk, 3, b"one")
    folder = tmp_path / "here"
    desk.ok("get", f"{PLACES}@{v(1)}", str(folder))
    del desk.objects.buckets["data"][f"ranks/{v(2)}/ranks.bin"]
    assert desk.run("get", f"{PLACES}@{v(2)}", str(folder)).code == 11
    (folder / "index" / "a").unlink()

    answer = desk.ok("get", PLACES, str(folder), "-o", "json").json

    assert tree(folder) == expected(b"one")
    assert answer["fetched_bytes"] == len(b"one")
    assert {p.name for p in (folder / ".hydra/state").rglob("2026*")} == {v(3)}


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("at", range(1, 13))
def test_a_crash_anywhere_is_finished_by_the_next_run(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Before each write of the state and each rename of a dataset, from one release to the next."""
    published(desk, 1, b"one")
    published(desk, 2, b"two")
    folder = tmp_path / "here"
    desk.ok("get", f"{PLACES}@{v(1)}", str(folder))
    count = 0

    def crashing(original: Any) -> Any:
        def step(*args: Any, **more: Any) -> Any:
            nonlocal count
            count += threading.current_thread() is threading.main_thread()
            if count == at:
                raise Killed
            return original(*args, **more)

        return step

    with monkeypatch.context() as patch:
        patch.setattr("hydra_cli.get_folder.write_atomic", crashing(write_atomic))
        patch.setattr(Folder, "unseal", crashing(Folder.unseal))
        patch.setattr(Folder, "move", crashing(Folder.move))
        with pytest.raises(Killed):
            desk.run("get", PLACES, str(folder))

    desk.ok("get", PLACES, str(folder))
    assert tree(folder) == expected(b"two")
    assert desk.ok("get", PLACES, str(folder), "-o", "json").json["changed"] is False


def test_one_process_at_a_time(desk: Desk, tmp_path: Path) -> None:
    published(desk, 1, b"one")
    folder = tmp_path / "here"
    answers = []

    def meanwhile(source: Source, at: int) -> None:
        desk.objects.before_piece = lambda source, at: None
        answers.append(desk.run("get", PLACES, str(folder)))

    desk.objects.before_piece = meanwhile
    desk.ok("get", PLACES, str(folder))

    assert [answer.code for answer in answers] == [5]
    assert tree(folder) == expected(b"one")


def test_an_interruption_keeps_what_was_fetched(desk: Desk, tmp_path: Path) -> None:
    """As Ctrl-C does it: the download is told to stop, and the next run goes on from there."""
    published(desk, 1, b"one")
    folder = tmp_path / "here"
    failed: list[int] = []

    def broken(source: Source, at: int) -> None:
        if source.key.endswith("ranks.bin") and not failed:
            failed.append(at)
            raise Temporary("the line broke")

    desk.objects.before_piece = broken
    desk.ok("get", PLACES, str(folder))

    assert failed
    assert tree(folder) == expected(b"one")
