"""The checks of bodies, made by the plain libraries: what a publisher would have put into the release."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from handlers.core.integrity import CHUNK_BYTES, blake3_check, chunks
from tests.faults.store import Body, Plain, Zeros, etag_of

LEVELS = {"digest": "digest", "sha256": "checksum", "crc64nvme": "checksum", "md5": "etag", "parts": "etag"}
"""Each kind of check that claims protection, with its level."""


class Mark(NamedTuple):
    """The check of a file, and how S3 holds its object."""

    check: str
    etag: str
    stored: Mapping[str, Any]


def mark(kind: str, body: bytes | Body, unit: int = CHUNK_BYTES) -> Mark:
    """Of a body; `unit`: bytes of a chunk or of a part of an upload. `kind`: one of LEVELS, or empty."""
    held = Plain(body) if isinstance(body, bytes) else body
    if kind == "digest":
        return Mark(_digest(held, unit), etag_of(held), {})
    if kind == "parts":
        etag = etag_of(held, unit)
        return Mark(f"md5/{unit}:{etag}", etag, {"part_bytes": unit})
    if kind == "md5":
        return Mark(f"md5:{etag_of(held)}", etag_of(held), {})
    if not kind:
        return Mark("", etag_of(held), {})
    value = base64.b64encode(_whole(kind, held)).decode()
    # an ETag that is no MD5, as that of an encrypted object, so that only the checksum can tell
    return Mark(
        f"{kind}:{value}", f"{etag_of(held)}-9", {"checksums": {kind: value}, "etag": f"{etag_of(held)}-9"}
    )


def _digest(body: Body, unit: int) -> str:
    if isinstance(body, Zeros):
        count = chunks(body.size, unit)
        return blake3_check([_zeros(unit)] * (count - 1) + [_zeros(body.size - (count - 1) * unit)], unit)
    spans = ((n * unit, min((n + 1) * unit, body.size)) for n in range(chunks(body.size, unit)))
    return blake3_check([_blake3(body, start, end) for start, end in spans], unit)


@functools.cache
def _zeros(size: int) -> bytes:
    return _blake3(Zeros(size), 0, size)


def _blake3(body: Body, start: int, end: int) -> bytes:
    from blake3 import blake3

    hasher = blake3()
    for piece in body.pieces(start, end):
        hasher.update(piece)
    return hasher.digest()


def _whole(kind: str, body: Body) -> bytes:
    if kind == "crc64nvme":
        from awscrt import checksums

        value = 0
        for piece in body.pieces(0, body.size):
            value = checksums.crc64nvme(piece, value)
        return value.to_bytes(8, "big")
    hasher = hashlib.new(kind)
    for piece in body.pieces(0, body.size):
        hasher.update(piece)
    return hasher.digest()
