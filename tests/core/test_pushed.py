"""Where a manifest object is looked for, and what differs between it and what is there."""

import random

import pytest
from msgspec.structs import replace

from handlers.core import pushed
from handlers.core.errors import Integrity
from handlers.core.model import File, Pushed
from handlers.core.version import Version

V = Version("2026-01-01T00-00-00")


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (f"words/{V}/", [(f"words/{V}.hydra.json", f"words/{V}/")]),
        (
            f"words/{V}/a/b/",
            [
                (f"words/{V}/a/b.hydra.json", f"words/{V}/a/b/"),
                (f"words/{V}/a.hydra.json", f"words/{V}/a/"),
                (f"words/{V}.hydra.json", f"words/{V}/"),
            ],
        ),
        (
            f"model/{V}/weights.bin",
            [
                (f"model/{V}/weights.bin.hydra.json", f"model/{V}/"),
                (f"model/{V}.hydra.json", f"model/{V}/"),
            ],
        ),
        (f"model/w-{V}.bin", [(f"model/w-{V}.bin.hydra.json", "model/")]),
        (f"{V}/", [(f"{V}.hydra.json", f"{V}/")]),
        (f"{V}", [(f"{V}.hydra.json", "")]),
    ],
)
def test_places_go_from_the_source_up_to_the_folder_with_the_version(
    key: str, expected: list[tuple[str, str]]
) -> None:
    assert [*pushed.places(key, V)] == expected


def test_a_push_of_a_folder_names_the_files_of_each_dataset_in_it() -> None:
    doc = Pushed(files=(File("a/x", 1, "e"), File("ab", 1, "e"), File("b", 1, "e")))

    assert set(pushed.below(doc, f"w/{V}/", f"w/{V}/a/")) == {f"w/{V}/a/x"}
    assert set(pushed.below(doc, f"w/{V}/", f"w/{V}/b")) == {f"w/{V}/b"}
    assert pushed.below(doc, f"w/{V}/", f"w/{V}/c/") == {}


def test_differences_name_each_file_and_what_is_wrong() -> None:
    was = {n: File(n, 1, "e") for n in ("gone", "same", "longer", "other")}
    now = {
        "new": File("new", 1, "e"),
        "same": was["same"],
        "longer": File("longer", 2, "e"),
        "other": File("other", 1, "f"),
    }

    assert pushed.differences(was, now) == [
        "gone is gone",
        "new is new",
        "longer has 2 bytes, not 1",
        "other was replaced: its ETag is f, not e",
    ]
    assert pushed.differences(was, was) == []


def test_a_long_list_of_differences_is_cut() -> None:
    assert pushed.shown([str(n) for n in range(7)]) == "0; 1; 2; 3; 4; and 2 more"


@pytest.mark.parametrize("raw", [b"", b"{}", b"[1]", b'{"format":1,"files":[["a",-1,"e"]]}', b"\xff"])
def test_what_is_no_manifest_is_refused_by_name(raw: bytes) -> None:
    with pytest.raises(Integrity, match=r"s3://b/x\.hydra\.json.*no manifest of `hydra push`"):
        pushed.read(raw, "s3://b/x.hydra.json")


def test_of_a_thousand_flips_none_changes_what_a_manifest_says() -> None:
    """Some change nothing (white space, the sentence for people), all others are refused."""
    files = tuple(File(f"f{n}", n, f"{n:032x}", "md5:" + f"{n:032x}", "v") for n in range(5))
    raw = pushed.seal(Pushed(files=files, who="ann", when="now"))
    chance, refused = random.Random(1), 0

    for _ in range(1000):
        flipped = bytearray(raw)
        flipped[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
        try:
            assert pushed.read(bytes(flipped), "x") == pushed.read(raw, "x")
        except Integrity:
            refused += 1

    assert refused > 800


def test_a_manifest_reads_back_as_it_was_written() -> None:
    doc = Pushed(files=(File("a", 1, "e", "md5:" + "ab" * 16, "v1"),), who="ann", when="now")

    assert replace(pushed.read(pushed.seal(doc), "x"), digest="") == doc
    assert doc.title() == "The 1 file that ann pushed here"
    assert Pushed(complete=False).title().startswith("Not complete")
