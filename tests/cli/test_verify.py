"""`hydra verify` on the root of a node that really synced: what it finds, and what --repair dares to do."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from handlers.adapters.inspection import Copy, units
from handlers.adapters.ram import RamCache
from handlers.core import codec, keys
from handlers.core.holdings import Piece
from handlers.core.integrity import blake3_check
from handlers.core.model import File, Manifest, ManifestRef, Release
from handlers.core.version import ReleaseId
from hydra_cli.verify import sampled
from tests.cli.desk import Desk
from tests.handlers.sync_node import Node
from tests.servers import wait_until

UNIT = 1000
Data = dict[str, dict[str, bytes]]
DATA: Data = {
    "index": {"big": os.urandom(10 * UNIT + 1), "sub/small": b"small"},
    "ranks": {"r": os.urandom(5000)},
}


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "root")


@pytest.fixture
def here(desk: Desk, node: Node) -> Desk:
    """A person on that node."""
    desk.environ["HYDRA_ROOT"] = str(node.root)
    return desk


def synced(node: Node, day: int = 1, level: str = "digest", data: Data = DATA) -> ReleaseId:
    """A release on the node; its files have digests of chunks, an MD5, or nothing but their size."""
    from blake3 import blake3

    release = node.publish(day, data)
    checks: dict[str, Callable[[bytes], str]] = {
        "digest": lambda body: blake3_check(
            (blake3(body[at : at + UNIT]).digest() for at in range(0, len(body), UNIT)), UNIT
        ),
        "etag": lambda body: f"md5:{hashlib.md5(body).hexdigest()}",
        "size": lambda body: "",
    }
    files = {
        name: tuple(
            File(path, len(body), hashlib.md5(body).hexdigest(), checks[level](body))
            for path, body in bodies.items()
        )
        for name, bodies in data.items()
    }
    raw = codec.encode(Manifest(files=files))
    key = keys.release(release.channel, release.version)
    entry, _ = node.kv.get(key)
    assert entry is not None
    header = codec.decode(Release, entry.value, key)
    header = replace(
        header,
        manifest=ManifestRef(digest=codec.digest(raw), bytes=len(raw)),
        datasets={n: replace(d, integrity=level) for n, d in header.datasets.items()},
    )
    node.put(keys.manifest(release.channel, release.version), raw)
    node.put(key, codec.encode(header))
    node.digests[release] = codec.digest(codec.encode(header))
    node.desire(day, release)
    node.run()
    assert node.complete(release)
    return release


def flip(path: Path, at: int) -> None:
    """One bit turns, as on a disk that ages: size and time stay."""
    before = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    path.chmod(0o444)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def damaged(answer: Any) -> list[tuple[str, int | None]]:
    return [(row["path"], row["start"]) for row in answer.json["damaged"]]


def test_good_data_is_good(here: Desk, node: Node) -> None:
    release = synced(node)

    answer = here.ok("verify", "-o", "json").json

    assert answer["damaged"] == []
    assert answer["checked"] == {
        "releases": [release],
        "copies": 2,
        "parts": 17,
        "of_parts": 17,
        "bytes": sum(len(body) for files in DATA.values() for body in files.values()),
    }


def test_a_flipped_bit_is_found_with_its_chunk(here: Desk, node: Node) -> None:
    release = synced(node)
    flip(node.data(release) / "index" / "big", 3 * UNIT + 7)

    answer = here.run("verify", "-o", "json")

    assert answer.code == 7
    assert damaged(answer) == [("big", 3 * UNIT)]
    text = here.run("verify").out
    assert "is not what its digest says in bytes 3000-4000" in text
    assert "1 damaged files" in text


def test_every_flip_is_found_where_the_level_protects(here: Desk, node: Node) -> None:
    """Each bit position once over the file, at the levels that claim protection."""
    for day, level in enumerate(("digest", "etag"), 1):
        release = synced(node, day, level)
        path = node.data(release) / "ranks" / "r"
        for at in range(0, 5000, 131):
            flip(path, at)
            assert here.run("verify", release).code == 7, (level, at)
            flip(path, at)
        assert here.run("verify", release).code == 0


def test_level_size_sees_the_size_only_and_says_so(here: Desk, node: Node) -> None:
    release = synced(node, level="size")
    path = node.data(release) / "ranks" / "r"
    flip(path, 1)

    assert "only sizes can be compared" in here.ok("verify").out
    os.truncate(path, 4000)
    assert here.run("verify").code == 7


def test_missing_and_strange_files_are_found(here: Desk, node: Node) -> None:
    release = synced(node)
    index = node.data(release) / "index"
    for folder in (index, index / "sub"):
        folder.chmod(0o755)
    (index / "sub" / "small").unlink()
    (index / "more").write_text("x")
    (index / "big").rename(index / "aside")
    (index / "big").symlink_to("aside")

    answer = here.run("verify", "-o", "json")

    what = {(row["path"], row["what"]) for row in answer.json["damaged"]}
    assert answer.code == 7
    assert ("sub/small", "is missing") in what
    assert ("more", "is not of this release") in what
    assert ("aside", "is not of this release") in what
    assert any(path == "big" and text.startswith("cannot be read") for path, text in what)


def test_a_ram_copy_is_compared_and_repaired_by_dropping_it(here: Desk, node: Node) -> None:
    release = synced(node)
    ram = RamCache(node.root, node.volumes)
    piece = Piece(release, "ranks")
    ram.fill(piece)
    flip(node.data(release, "ram") / "ranks" / "r", 9)

    answer = here.run("verify", "--repair", "-o", "json")

    assert answer.code == 7
    assert [(row["volume"], row["dataset"]) for row in answer.json["damaged"]] == [("ram", "ranks")]
    assert "dropped" in answer.json["repair"][0]["result"]
    assert not ram.copies()
    assert node.complete(release), "the link leads to the disk copy"
    assert here.run("verify").code == 0


def test_one_release_may_be_asked_for(here: Desk, node: Node) -> None:
    first, second = synced(node, 1), synced(node, 2, data={"ranks": {"r": b"other"}})
    node.desire(3, first, second)
    node.run()
    flip(node.data(first) / "ranks" / "r", 1)

    assert here.run("verify", second).code == 0
    assert here.run("verify", first).code == 7
    assert here.run("verify", first.channel).code == 7
    answer = here.run("verify", "prod/search/none")
    assert answer.code == 2
    assert first in answer.err


def test_repair_fetches_what_is_wrong_and_nothing_else(here: Desk, node: Node) -> None:
    release = synced(node)
    flip(node.data(release) / "index" / "big", 1)
    node.fake_objects.reads.clear()

    answer = here.run("verify", "--repair", "-o", "json")
    assert answer.code == 7
    assert "taken out of use" in answer.json["repair"][0]["result"]
    assert not node.folder(release).exists(), "nobody new begins to read it"
    node.run()

    assert node.complete(release)
    assert not node.leftovers()
    assert {key.rpartition("/")[2] for key, *_ in node.fake_objects.reads} == {"big"}
    assert here.run("verify").code == 0


def test_a_file_that_two_releases_share_is_fetched_for_both(here: Desk, node: Node) -> None:
    """It is one file with two names: one flipped bit damages both, and neither mends the other."""
    first, second = synced(node, 1), synced(node, 2)
    node.desire(3, first, second)
    node.run()
    flip(node.data(first) / "index" / "big", 1)

    answer = here.run("verify", "--repair", "-o", "json")
    assert {row["release"] for row in answer.json["damaged"]} == {first, second}
    node.run()

    assert node.complete(first)
    assert node.complete(second)
    assert here.run("verify").code == 0


def test_repair_leaves_what_a_view_points_to(here: Desk, node: Node) -> None:
    release = synced(node)
    node.view(release)
    flip(node.data(release) / "index" / "big", 1)

    answer = here.run("verify", "--repair", "-o", "json")

    assert answer.code == 7
    assert "a view points to it" in answer.json["repair"][0]["result"]
    assert node.folder(release).exists()
    assert (node.data(release) / "index").exists()


def test_repair_leaves_what_a_process_has_open(here: Desk, node: Node) -> None:
    release = synced(node)
    path = node.data(release) / "index" / "big"
    code = "import sys; f = open(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as reader:
        assert reader.stdout is not None
        wait_until(lambda: reader.stdout and reader.stdout.readline(), what="it is open")
        flip(path, 1)

        answer = here.run("verify", "--repair", "-o", "json")

        assert "not repaired" in answer.json["repair"][0]["result"]
        assert path.exists()
        assert node.folder(release).exists()


def test_a_crash_in_mid_repair_is_mended_by_sync(
    here: Desk, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before each rename: the release is away or whole, never public and half."""
    from handlers.adapters.folder import Folder

    class Killed(BaseException):
        pass

    release, original = synced(node), Folder.move
    for at in range(1, 4):
        flip(node.data(release) / "index" / "big", 1)
        left = at

        def move(self: Folder, *args: Any) -> None:
            nonlocal left
            left -= 1
            if not left:
                raise Killed
            original(self, *args)

        with monkeypatch.context() as patch:
            patch.setattr(Folder, "move", move)
            with contextlib.suppress(Killed):
                here.run("verify", "--repair")
        node.run()
        if here.run("verify").code == 7:  # the dataset was not moved yet, and so is what it was
            here.run("verify", "--repair")
            node.run()
        assert node.complete(release)
        assert here.run("verify").code == 0


def test_a_sample_reads_its_share_and_can_be_had_again(here: Desk, node: Node) -> None:
    synced(node)

    first = here.ok("verify", "--sample", "25%", "-o", "json").json
    again = here.ok("verify", "--sample", "25%", "--seed", str(first["seed"]), "-o", "json").json

    assert first["checked"]["parts"] == 4
    assert first["checked"]["of_parts"] == 17
    assert first["checked"] == again["checked"]
    assert f"--seed {first['seed']}" in here.ok("verify", "--sample", "25%", "--seed", str(first["seed"])).out


def test_samples_reach_every_part_sooner_or_later() -> None:
    check = blake3_check([b"\0" * 32] * 20, UNIT)
    copy = Copy(
        "disk", Piece(ReleaseId("prod/a/b@2026-01-01T00-00-00"), "x"), [File("f", 20 * UNIT, "e", check)]
    )
    everything = list(units(copy))

    picked = {unit.span for seed in range(200) for unit in sampled(everything, 0.05, seed)}

    assert len(everything) == 20
    assert picked == {unit.span for unit in everything}
    assert [len(sampled(everything, 0.05, seed)) for seed in range(5)] == [1] * 5


@pytest.mark.parametrize("text", ["5", "0%", "101%", "-1%", "half", "%"])
def test_a_sample_that_is_no_percentage_is_refused(here: Desk, node: Node, text: str) -> None:
    synced(node)

    assert here.run("verify", "--sample", text).code == 2


def test_a_machine_that_is_no_node_is_told_so(desk: Desk, tmp_path: Path) -> None:
    desk.environ["HYDRA_ROOT"] = str(tmp_path / "nothing")

    answer = desk.run("verify")

    assert answer.code == 2
    assert "no node" in answer.err


def test_it_needs_neither_consul_nor_the_store(here: Desk, node: Node) -> None:
    synced(node)
    here.kv.away = True
    here.objects.away = True

    assert json.loads(here.ok("verify", "-o", "json").out)["damaged"] == []
