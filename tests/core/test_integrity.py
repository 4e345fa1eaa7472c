import base64

import hypothesis.strategies as st
import pytest
from hypothesis import given

from handlers.core import integrity
from handlers.core.errors import Malformed, Usage
from handlers.core.integrity import Level

B64 = base64.b64encode


@pytest.mark.parametrize(
    ("text", "size", "level"),
    [
        (f"blake3/8:{B64(bytes(64)).decode()}", 9, Level.DIGEST),
        (f"blake3/8:{B64(bytes(32)).decode()}", 0, Level.DIGEST),
        (f"crc64nvme:{B64(bytes(8)).decode()}", 9, Level.CHECKSUM),
        (f"crc32c:{B64(bytes(4)).decode()}", 9, Level.CHECKSUM),
        (f"sha256:{B64(bytes(32)).decode()}", 9, Level.CHECKSUM),
        ("md5:" + "ab" * 16, 9, Level.ETAG),
        ("md5/5242880:" + "ab" * 16 + "-2", 9, Level.ETAG),
    ],
)
def test_a_check_reads_back_as_it_was_written(text: str, size: int, level: Level) -> None:
    check = integrity.parse(text, size)
    assert check is not None
    assert str(check) == text
    assert check.level is level
    assert integrity.level_of(text) is level


@pytest.mark.parametrize(
    "text",
    [
        "blake3:" + B64(bytes(32)).decode(),
        "blake3/0:" + B64(bytes(32)).decode(),
        "blake3/-8:" + B64(bytes(32)).decode(),
        "blake3/8:" + B64(bytes(32)).decode(),  # a file of 9 bytes has two chunks of 8
        "blake3/8:not base64",
        "crc64nvme/8:" + B64(bytes(8)).decode(),
        "crc64nvme:" + B64(bytes(4)).decode(),
        "md5:abc",
        "md5:" + "ab" * 16 + "-2",
        "md5/5:" + "ab" * 16,
        "md5/5:" + "ab" * 16 + "-x",
        "rot13:" + B64(bytes(4)).decode(),
        "no colon",
    ],
)
def test_what_is_no_check_is_refused(text: str) -> None:
    with pytest.raises(Malformed, match="check"):
        integrity.parse(text, 9)


def test_no_check_protects_nothing_but_the_size() -> None:
    assert integrity.parse("", 9) is None
    assert integrity.level_of("") is Level.SIZE


@given(st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=20))
def test_each_chunk_finds_its_own_digest(digests: list[bytes]) -> None:
    check = integrity.parse(integrity.blake3_check(digests, 4), 4 * len(digests))
    assert check is not None
    assert [check.digest_of(n) for n in range(len(digests))] == digests


def test_a_dataset_is_as_protected_as_its_least_protected_file() -> None:
    md5, crc = "md5:" + "ab" * 16, f"crc32c:{B64(bytes(4)).decode()}"
    assert integrity.weakest([crc, md5]) is Level.ETAG
    assert integrity.weakest([crc, ""]) is Level.SIZE
    assert integrity.weakest([crc]) is Level.CHECKSUM


def test_levels_are_ordered_and_named() -> None:
    assert sorted(Level, key=lambda level: level.strength) == [
        Level.SIZE,
        Level.ETAG,
        Level.CHECKSUM,
        Level.DIGEST,
    ]
    assert integrity.level_named("etag") is Level.ETAG
    with pytest.raises(Usage, match="is none of digest, checksum, etag, size"):
        integrity.level_named("best")


@pytest.mark.parametrize(
    ("least", "expected"),
    [
        ("size", ["d has nonsense"]),
        ("etag", ["c has size", "d has nonsense"]),
        ("checksum", ["b has etag", "c has size", "d has nonsense"]),
        ("digest", ["b has etag", "c has size", "d has nonsense"]),
        ("unheard-of", ["a has digest", "b has etag", "c has size", "d has nonsense"]),
    ],
)
def test_what_is_below_a_demand_is_named(least: str, expected: list[str]) -> None:
    levels = {"a": "digest", "b": "etag", "c": "size", "d": "nonsense"}

    assert integrity.below(levels, least) == expected
