"""What a node need not fetch."""

import hypothesis.strategies as st
from hypothesis import given

from handlers.core.integrity import blake3_check
from handlers.core.model import File
from handlers.core.reuse import Offers, changed, same, to_fetch, unchanged

UNIT = 4
MD5 = "md5:" + "ab" * 16


def chunked(path: str, content: str, unit: int = UNIT) -> File:
    """A file of which each letter is a chunk; the last one is half a chunk."""
    size = max(0, len(content) * unit - unit // 2)
    return File(path, size, "e", blake3_check([letter.encode() * 32 for letter in content or "0"], unit))


def test_a_file_with_equal_check_and_size_is_had_at_any_path() -> None:
    held = {"index": [File("old", 10, "e1", MD5)]}

    assert to_fetch({"other": [File("new", 10, "e2", MD5)]}, [held]) == {"other": 0}
    assert to_fetch({"other": [File("new", 11, "e2", MD5)]}, [held]) == {"other": 11}


def test_without_a_check_equal_sizes_and_etags_say_nothing() -> None:
    held = {"index": [File("a", 10, "e")]}

    assert not same(held["index"][0], held["index"][0])
    assert to_fetch(held, [held]) == {"index": 10}


def test_chunks_at_the_same_place_of_the_same_path_are_had() -> None:
    assert changed(chunked("a", "xyz"), chunked("a", "xbz")) == UNIT
    assert changed(chunked("a", "xyz"), chunked("a", "xyb")) == UNIT // 2
    assert changed(chunked("a", "xyzw"), chunked("a", "xyz")) == UNIT // 2
    assert changed(chunked("a", "xyz"), chunked("a", "xyz", unit=8)) == chunked("a", "xyz").size
    held = [{"index": [chunked("a", "xbz")]}, {"index": [chunked("a", "bbb")]}]
    assert to_fetch({"index": [chunked("a", "xyz")]}, held) == {"index": UNIT}
    assert to_fetch({"index": [chunked("b", "xyz")]}, held) == {"index": chunked("b", "xyz").size}
    assert to_fetch({"other": [chunked("a", "xyz")]}, held) == {"other": chunked("a", "xyz").size}


def test_a_file_of_another_level_has_no_chunks() -> None:
    assert changed(chunked("a", "xyz"), File("a", 10, "e", MD5)) == 10
    assert changed(File("a", 10, "e", MD5), chunked("a", "xyz")) == 10


def test_of_several_files_at_a_path_the_one_with_the_fewest_changes_is_taken() -> None:
    new, offers = chunked("a", "xyz"), Offers[int]("d", [chunked("a", "xyz")])
    for where, content in enumerate(("bbz", "xbz", "xbb", "byz")):
        offers.add("d", [chunked("a", content)], where)
        offers.add("elsewhere", [chunked("b", "xyz", unit=8)], where)

    found = offers.alike(new)

    assert found is not None
    assert (found.where, offers.to_fetch(new), offers.used, offers.complete) == (1, UNIT, frozenset(), False)
    had = unchanged(new, found.file)
    assert [had(start) for start in (0, UNIT, 2 * UNIT)] == [True, False, True]
    offers.add("elsewhere", [chunked("moved", "xyz")], 9)
    assert (offers.alike(new), offers.to_fetch(new), offers.complete) == (offers.same(new), 0, True)
    assert offers.used == {9}


FILES = st.dictionaries(st.sampled_from("ab"), st.text("xyz", max_size=4), max_size=2)


@given(FILES, st.lists(FILES, max_size=3))
def test_never_more_than_all_and_nothing_of_what_is_held(
    wanted: dict[str, str], held: list[dict[str, str]]
) -> None:
    new = {"d": [chunked(*row) for row in wanted.items()]}
    old = [{"d": [chunked(*row) for row in one.items()]} for one in held]

    fetched = to_fetch(new, old)["d"]

    assert 0 <= fetched <= sum(f.size for f in new["d"])
    assert to_fetch(new, [*old, new]) == {"d": 0}
    assert to_fetch(new, [*old, {}])["d"] == fetched
