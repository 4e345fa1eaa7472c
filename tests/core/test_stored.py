"""Which check an object has by what the store says of it."""

import base64

import pytest
from blake3 import blake3

from handlers.core import integrity
from handlers.core.stored import OF_NOTHING, Stored, check_of, parts

MD5 = "0123456789abcdef0123456789abcdef"
NVME, CRC = (base64.b64encode(bytes(n)).decode() for n in (8, 4))


def stored(etag: str = MD5, **more: object) -> Stored:
    return Stored(**{"size": 100, "etag": etag, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (stored(checksums={"crc64nvme": NVME}, kind="FULL_OBJECT"), f"crc64nvme:{NVME}"),
        (stored(checksums={"crc32": CRC, "crc32c": CRC}, kind="FULL_OBJECT"), f"crc32c:{CRC}"),
        (stored(checksums={"crc32": CRC}, kind="COMPOSITE"), f"md5:{MD5}"),
        (stored(checksums={"crc32": f"{CRC}-2"}), f"md5:{MD5}"),  # of parts, though the server does not say
        (stored(checksums={"crc32": CRC}), f"crc32:{CRC}"),
        (stored(checksums={"crc64nvme": CRC}, kind="FULL_OBJECT"), f"md5:{MD5}"),  # four bytes are none
        (stored(), f"md5:{MD5}"),
        (stored(encryption="AES256"), f"md5:{MD5}"),
        (stored(encryption="aws:kms"), ""),
        (stored(encryption="aws:kms:dsse"), ""),
        (stored(encryption="customer"), ""),
        (stored("not-an-md5"), ""),
        (stored(MD5.upper()), ""),
        (stored(checksums={"sha256": NVME}, kind="FULL_OBJECT", encryption="aws:kms"), ""),
        (
            stored(checksums={"crc64nvme": NVME}, kind="FULL_OBJECT", encryption="aws:kms"),
            f"crc64nvme:{NVME}",
        ),
    ],
)
def test_the_strongest_that_a_node_can_verify_is_taken(facts: Stored, expected: str) -> None:
    assert check_of(facts) == expected
    assert parts(facts) == 0


@pytest.mark.parametrize(
    ("count", "first", "last", "fits"),
    [
        (3, 40, 20, True),
        (3, 34, 32, True),
        (1, 100, 100, True),
        (2, 50, 50, True),
        (3, 40, 40, False),  # parts of several sizes
        (3, 30, 40, False),
        (3, 50, 0, False),
        (2, 100, 0, False),
        (3, 0, 0, False),
    ],
)
def test_md5_of_parts_counts_only_where_all_parts_have_one_size(
    count: int, first: int, last: int, fits: bool
) -> None:
    facts = stored(f"{MD5}-{count}")

    check = check_of(facts, first, last)

    assert parts(facts) == count
    assert check == (f"md5/{first}:{MD5}-{count}" if fits else "")
    if fits:
        assert integrity.parse(check, 100) is not None


def test_parts_are_not_asked_for_where_they_say_nothing() -> None:
    assert parts(stored(f"{MD5}-3", encryption="aws:kms")) == 0
    assert parts(stored(f"{MD5}-3", checksums={"crc64nvme": NVME}, kind="FULL_OBJECT")) == 0
    assert parts(stored(f"{MD5}-0")) == 0


def test_check_of_an_empty_file_is_the_digest_of_nothing() -> None:
    assert integrity.blake3_check([blake3(b"").digest()]) == OF_NOTHING
