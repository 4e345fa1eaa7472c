"""The strongest check of an object that the store itself knows: what `publish` takes without a manifest.

A checksum of the whole object that was stored with it; else its ETag where that is an MD5, of the object or
of parts of one known size. Checksums of parts (`COMPOSITE`) say nothing that a node could verify.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping

from msgspec import Struct, field

from handlers.core import integrity
from handlers.core.errors import Malformed

WHOLE = "FULL_OBJECT"
ORDER = ("crc64nvme", "crc32c", "sha256", "crc32", "sha1")
"""Checksums that S3 stores, best first: how fast a node computes them counts as well."""
OF_NOTHING = "blake3/8388608:rxNJufX5oaagQE3qNtzJSZvLJcmtwRK3zJqTyuQfMmI="
"""The check of an empty file, whose size says all of it."""
_MD5 = re.compile(r"([0-9a-f]{32})(?:-([1-9][0-9]{0,4}))?")
NO_S3 = "unknown"
"""In place of an encryption: another kind of store, whose ETags may be anything."""
_OTHER_ETAGS = ("aws:kms", "aws:kms:dsse", "customer", NO_S3)  # with which an ETag is no MD5


class Stored(Struct, frozen=True, kw_only=True):
    """What the store says of one object: `checksums` by kind as base64, `kind` of them `FULL_OBJECT` or not.

    `encryption` is empty, `AES256`, `aws:kms`, …, `customer` for a key of the customer's, or `NO_S3`.
    """

    size: int
    etag: str
    version_id: str = ""
    checksums: Mapping[str, str] = field(default_factory=dict)
    kind: str = ""
    encryption: str = ""


def parts(stored: Stored) -> int:
    """Of how many parts the ETag is, where their size would give a check; else 0."""
    found = _MD5.fullmatch(stored.etag)
    if _whole(stored) or not found or stored.encryption in _OTHER_ETAGS:
        return 0
    return int(found[2] or 0)


def check_of(stored: Stored, first: int = 0, last: int = 0) -> str:
    """The check of the object; empty where there is none.

    `first` and `last` are the bytes of the first and last part where there are `parts`: parts of other sizes
    than these say are no check, or nodes would refuse data that is right.
    """
    if whole := _whole(stored):
        return whole
    found = _MD5.fullmatch(stored.etag)
    if not found or stored.encryption in _OTHER_ETAGS:
        return ""
    count = int(found[2] or 0)
    if not count:
        return f"md5:{found[1]}"
    fits = first > 0 and last == stored.size - (count - 1) * first and 0 < last <= first
    return f"md5/{first}:{stored.etag}" if fits else ""


def _whole(stored: Stored) -> str:
    """The best stored checksum of the whole object."""
    # a server that names no kind at all has whole ones only, as Amazon's before 2025; parts show in the value
    for name in ORDER if stored.kind in (WHOLE, "") else ():
        if value := stored.checksums.get(name):
            with contextlib.suppress(Malformed):
                integrity.parse(text := f"{name}:{value}", stored.size)
                return text
    return ""
