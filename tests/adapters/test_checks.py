import base64
import hashlib
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from awscrt import checksums
from blake3 import blake3

from handlers.adapters import checks
from handlers.core import integrity
from handlers.core.integrity import Check

SIZE = 2_500_000
UNIT = 1024**2
BODY = random.Random(4).randbytes(SIZE)


def every_check() -> Iterator[str]:
    units = [BODY[at : at + UNIT] for at in range(0, SIZE, UNIT)]
    yield integrity.blake3_check([blake3(unit).digest() for unit in units], UNIT)
    for kind, width in (("crc64nvme", 8), ("crc32c", 4), ("crc32", 4)):
        value = getattr(checksums, kind)(BODY).to_bytes(width, "big")
        yield f"{kind}:{base64.b64encode(value).decode()}"
    yield f"sha256:{base64.b64encode(hashlib.sha256(BODY).digest()).decode()}"
    yield f"sha1:{base64.b64encode(hashlib.sha1(BODY).digest()).decode()}"
    yield f"md5:{hashlib.md5(BODY).hexdigest()}"
    of_parts = hashlib.md5(b"".join(hashlib.md5(unit).digest() for unit in units)).hexdigest()
    yield f"md5/{UNIT}:{of_parts}-{len(units)}"


CHECKS = {text.partition(":")[0]: text for text in every_check()}


def check(text: str, size: int = SIZE) -> Check:
    parsed = integrity.parse(text, size)
    assert parsed is not None
    return parsed


@pytest.fixture
def file(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    path = tmp_path / "file"
    path.write_bytes(BODY)
    fd = os.open(path, os.O_RDONLY)
    yield fd, path
    os.close(fd)


@pytest.mark.parametrize("kind", CHECKS)
def test_a_right_file_has_nothing_wrong(kind: str, file: tuple[int, Path]) -> None:
    seen: list[int] = []
    assert checks.wrong(file[0], SIZE, check(CHECKS[kind]), seen.append) == []
    assert sum(seen) == SIZE


@pytest.mark.parametrize("kind", CHECKS)
def test_every_flipped_bit_is_seen_where_it_is(kind: str, file: tuple[int, Path]) -> None:
    fd, path = file
    chance = random.Random(kind)
    for _ in range(40):
        at = chance.randrange(SIZE)
        body = bytearray(BODY)
        body[at] ^= 1 << chance.randrange(8)
        path.write_bytes(body)
        first = at - at % UNIT
        chunk = (first, min(first + UNIT, SIZE)) if kind.startswith("blake3") else (0, SIZE)
        assert checks.wrong(fd, SIZE, check(CHECKS[kind])) == [chunk]


@pytest.mark.parametrize("kind", CHECKS)
@pytest.mark.parametrize("size", [SIZE - 1, SIZE + 1, 0])
def test_a_file_of_another_size_is_wrong(kind: str, size: int, file: tuple[int, Path]) -> None:
    os.truncate(file[1], size)
    assert checks.wrong(file[0], SIZE, check(CHECKS[kind])) == [(0, SIZE)]


def test_digests_of_a_file_make_its_check(file: tuple[int, Path]) -> None:
    text = integrity.blake3_check(checks.digests(file[0], SIZE, UNIT), UNIT)
    assert text == CHECKS[f"blake3/{UNIT}"]


def test_an_empty_file_has_one_empty_chunk(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "empty", os.O_RDWR | os.O_CREAT)
    try:
        text = integrity.blake3_check(checks.digests(fd, 0))
        assert checks.wrong(fd, 0, check(text, 0)) == []
    finally:
        os.close(fd)


def test_who_watches_may_end_it(file: tuple[int, Path]) -> None:
    def enough(_count: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        checks.digests(file[0], SIZE, UNIT, enough)
