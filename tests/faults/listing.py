"""Pages of ListObjectsV2, as S3 writes them."""

from __future__ import annotations

import base64
import urllib.parse
from collections.abc import Mapping
from xml.sax.saxutils import escape

from tests.faults.store import Store

_MOST = 1000
_WHEN = "2026-01-01T00:00:00.000Z"


def page(store: Store, bucket: str, query: Mapping[str, str]) -> bytes:
    """One page of the bucket: its objects below a prefix, and with a delimiter the folders instead."""
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    after = (
        _decode(query["continuation-token"])
        if "continuation-token" in query
        else query.get("start-after", "")
    )
    most = min(_MOST, int(query.get("max-keys", _MOST)))
    rows: list[str] = []
    folders: list[str] = []
    last, truncated = "", False
    for key in store.keys(bucket):
        folder = _folder(key, prefix, delimiter)
        if not key.startswith(prefix) or (folder or key).encode() <= after.encode() or folder in folders[-1:]:
            continue
        if len(rows) + len(folders) == most:
            truncated = True
            break
        last = folder or key
        if folder:
            folders.append(folder)
        elif (stored := store.get(bucket, key)) is not None:
            rows.append(_row(key, stored.size, stored.etag))
    parts = [
        f"<Name>{bucket}</Name><Prefix>{_quoted(prefix)}</Prefix><MaxKeys>{most}</MaxKeys>",
        f"<EncodingType>url</EncodingType><KeyCount>{len(rows) + len(folders)}</KeyCount>",
        f"<IsTruncated>{str(truncated).lower()}</IsTruncated>",
        f"<NextContinuationToken>{_encode(last)}</NextContinuationToken>" if truncated else "",
        *rows,
        *(f"<CommonPrefixes><Prefix>{_quoted(f)}</Prefix></CommonPrefixes>" for f in folders),
    ]
    head = '<?xml version="1.0" encoding="UTF-8"?>'
    space = "http://s3.amazonaws.com/doc/2006-03-01/"
    return f'{head}<ListBucketResult xmlns="{space}">{"".join(parts)}</ListBucketResult>'.encode()


def _folder(key: str, prefix: str, delimiter: str) -> str:
    """The common prefix in which a key is shown; empty for one that is shown itself."""
    if not delimiter or not key.startswith(prefix):
        return ""
    first, found, _ = key[len(prefix) :].partition(delimiter)
    return prefix + first + found if found else ""


def _row(key: str, size: int, etag: str) -> str:
    return (
        f"<Contents><Key>{_quoted(key)}</Key><LastModified>{_WHEN}</LastModified>"
        f"<ETag>&quot;{etag}&quot;</ETag><Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
    )


def _quoted(text: str) -> str:
    return escape(urllib.parse.quote(text, safe="/"))


def _encode(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


def _decode(token: str) -> str:
    return base64.urlsafe_b64decode(token).decode()
