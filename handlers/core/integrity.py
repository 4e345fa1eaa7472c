"""How the bytes of a file are known to be right: what a release says of it, and how much that protects.

    digest     blake3 of every chunk, by whoever made the data: any change anywhere is seen, chunk by chunk
    checksum   a checksum of the whole object that S3 stored at the upload (CRC64NVME, CRC32C, SHA-256, ...)
    etag       the ETag, where it is an MD5: of the object, or of its parts of a known size
    size       size and ETag only: protects against nothing but truncation

The third word of a file in a list of files after path and size is its ETag, which pins a download to one
object; the fourth is its check, one text:

    blake3/<chunk bytes>:<base64 of the chunks' 32-byte digests, one after the other>
    crc64nvme:<base64>  crc32c:<base64>  crc32:<base64>  sha256:<base64>  sha1:<base64>     as S3 stores them
    md5:<hex>           md5/<part bytes>:<hex>-<number of parts>                            as S3's ETags are

An empty check is level `size`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from enum import StrEnum

from msgspec import Struct

from handlers.core.errors import Malformed, Usage

CHUNK_BYTES = 8 * 1024**2
DIGEST_BYTES = 32
_STORED_BYTES = {"crc64nvme": 8, "crc32c": 4, "crc32": 4, "sha256": 32, "sha1": 20}
_MD5_BYTES = 16
STORED = tuple(_STORED_BYTES)
"""The checksums that S3 stores, best first."""


class Level(StrEnum):
    """How much is checked; a later one is weaker."""

    DIGEST = "digest"
    CHECKSUM = "checksum"
    ETAG = "etag"
    SIZE = "size"

    @property
    def strength(self) -> int:
        """Higher is stronger."""
        return -list(Level).index(self)


class Check(Struct, frozen=True):
    """A parsed check. `unit`: bytes of a chunk or part, 0 where the whole file is one.

    `parts`: of how many parts an MD5 of MD5s was made, 0 elsewhere. `value`: the digests, joined.
    """

    kind: str
    value: bytes
    unit: int = 0
    parts: int = 0

    @property
    def level(self) -> Level:
        """How much this protects."""
        if self.kind == "blake3":
            return Level.DIGEST
        return Level.ETAG if self.kind == "md5" else Level.CHECKSUM

    def digest_of(self, number: int) -> bytes:
        """The digest that chunk `number` must have."""
        return self.value[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES]

    def __str__(self) -> str:
        if self.kind == "md5":
            return (
                f"md5/{self.unit}:{self.value.hex()}-{self.parts}"
                if self.parts
                else f"md5:{self.value.hex()}"
            )
        text = base64.b64encode(self.value).decode()
        return f"{self.kind}/{self.unit}:{text}" if self.unit else f"{self.kind}:{text}"


def parse(text: str, size: int) -> Check | None:
    """The check of a file of `size` bytes; None for an empty text. Raises `Malformed`."""
    if not text:
        return None
    head, _, value = text.partition(":")
    kind, slash, unit_text = head.partition("/")
    try:
        unit = int(unit_text) if slash else 0
        if (unit <= 0) == bool(slash):
            raise ValueError("its unit is no size")
        return _blake3(value, unit, size) if kind == "blake3" else _whole(kind, value, unit)
    except (ValueError, binascii.Error) as e:
        raise Malformed(f"check {text[:60]!r}: {e}") from None


def _blake3(value: str, unit: int, size: int) -> Check:
    raw = base64.b64decode(value, validate=True)
    if not unit or len(raw) != DIGEST_BYTES * chunks(size, unit):
        raise ValueError(f"does not fit a file of {size} bytes")
    return Check("blake3", raw, unit)


def _whole(kind: str, value: str, unit: int) -> Check:
    if kind == "md5":
        text, dash, parts = value.partition("-")
        raw = bytes.fromhex(text)
        if len(raw) != _MD5_BYTES or bool(dash) != bool(unit):
            raise ValueError("is no MD5 of an ETag")
        return Check("md5", raw, unit, int(parts) if dash else 0)
    raw = base64.b64decode(value, validate=True)
    if unit or len(raw) != _STORED_BYTES.get(kind, -1):
        raise ValueError(f"is none of blake3, md5, {', '.join(STORED)}")
    return Check(kind, raw)


def chunks(size: int, unit: int) -> int:
    """How many chunks of `unit` bytes a file has; an empty one has one, which is empty."""
    return max(1, -(-size // unit))


def blake3_check(digests: Iterable[bytes], unit: int = CHUNK_BYTES) -> str:
    """The check of a file whose chunks have these digests, in order."""
    return str(Check("blake3", b"".join(digests), unit))


def level_of(check: str) -> Level:
    """The level of a check without parsing its value."""
    if not check:
        return Level.SIZE
    if check.startswith("blake3"):
        return Level.DIGEST
    return Level.ETAG if check.startswith("md5") else Level.CHECKSUM


def level_named(text: str) -> Level:
    """The level called `text`; raises `Usage`."""
    try:
        return Level(text)
    except ValueError:
        raise Usage(f"integrity {text!r} is none of {', '.join(Level)}") from None


def below(levels: Mapping[str, str], least: str) -> list[str]:
    """What is protected less than `least` demands, by its name in `levels`, for people.

    A demand that is none of the levels is met by nothing: whoever wrote it wanted more than nothing.
    """
    needed = Level(least).strength if least in set(Level) else 1
    strengths = {name: Level(level).strength if level in set(Level) else -9 for name, level in levels.items()}
    return [f"{name} has {levels[name]}" for name, strength in sorted(strengths.items()) if strength < needed]


def weakest(checks: Iterable[str]) -> Level:
    """The level of a dataset with files of these checks: that of the least protected one."""
    return min((level_of(check) for check in checks), key=lambda level: level.strength, default=Level.DIGEST)
