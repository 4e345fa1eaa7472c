"""Signature Version 4 of S3 requests without a body, in the header, so that no URL carries a secret.

Own code, because the library that has it takes longer to load than most downloads of a few files take; a test
compares it with that library. The algorithm is Amazon's: a digest of the request, signed with a key that is
derived from the secret, the day, the region and the service.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from urllib.parse import quote

UNSIGNED = "UNSIGNED-PAYLOAD"


@dataclass(frozen=True, slots=True)
class Credentials:
    """An access key; its secret and token are never printed."""

    key: str
    secret: str = field(repr=False)
    token: str = field(default="", repr=False)


def target(path: str, query: Mapping[str, str]) -> str:
    """Path and query of a request as they are sent and signed; `path` is not quoted yet."""
    quoted = quote(path, safe="/-_.~")
    return f"{quoted}?{_query(query)}" if query else quoted


def signed(
    method: str,
    host: str,
    sent: str,
    credentials: Credentials,
    region: str,
    now: datetime,
    more: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, str]:
    """The headers of a signed request, Host among them; `sent` comes from `target`, `now` is UTC.

    `more` are headers to be signed as well, which all of Amazon's own (`x-amz-…`) must be; in lower case.
    """
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    headers = {"host": host, "x-amz-content-sha256": UNSIGNED, "x-amz-date": stamp, **more}
    if credentials.token:
        headers["x-amz-security-token"] = credentials.token
    headers = dict(sorted(headers.items()))
    path, _, query = sent.partition("?")
    names = ";".join(headers)
    lines = [
        method,
        path,
        query,
        *(f"{name}:{value}" for name, value in headers.items()),
        "",
        names,
        UNSIGNED,
    ]
    scope = f"{stamp[:8]}/{region}/s3/aws4_request"
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}"
    signature = _hmac(_signing_key(credentials.secret, stamp[:8], region), text).hex()
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={credentials.key}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return headers


def _query(query: Mapping[str, str]) -> str:
    return "&".join(f"{quote(n, safe='-_.~')}={quote(v, safe='-_.~')}" for n, v in sorted(query.items()))


@functools.lru_cache(maxsize=16)
def _signing_key(secret: str, day: str, region: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (day, region, "s3", "aws4_request"):
        key = _hmac(key, part)
    return key


def _hmac(key: bytes, text: str) -> bytes:
    # not hmac.digest, which lets other threads in for these few bytes and then waits for its turn
    return hmac.new(key, text.encode(), "sha256").digest()
