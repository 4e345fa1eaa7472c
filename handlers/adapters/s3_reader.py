"""Reading from S3 as nodes do it: HEAD and ranges pinned to one object, over `http1`, signed by `sigv4`."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from urllib.parse import urlsplit

from handlers.adapters import answers
from handlers.adapters.http1 import Answer, Connection, Connections, Origin
from handlers.adapters.ports import ObjectInfo, Source
from handlers.adapters.sigv4 import Credentials, signed, target
from handlers.core.errors import Denied, HydraError, Temporary, Usage
from handlers.core.stored import ORDER, Stored

_EXPIRED = frozenset({"ExpiredToken", "TokenRefreshRequired"})


@dataclass(frozen=True)
class Place:
    """Where buckets are: `endpoint` is empty for Amazon's own, else a URL below which buckets are paths.

    With `virtual` they are in front of the host's name there, as some servers want it.

    `credentials` is asked for each request, since those of a machine's role change; `tls` only if needed.
    """

    endpoint: str
    region: str
    credentials: Callable[[], Credentials] = field(repr=False)
    tls: Callable[[], ssl.SSLContext] = ssl.create_default_context
    virtual: bool = False


class S3Reader:
    """HEAD and ranged GET; may be used by many threads, each with connections of its own."""

    def __init__(self, place: Place, stall_s: float) -> None:
        self._place = place
        self._connections = Connections(stall_s, answers.CONNECT_S)
        self._origins: dict[str, tuple[Origin, str, str]] = {}
        self._tls: ssl.SSLContext | None = None

    def head(self, source: Source) -> ObjectInfo:
        """The object's size, ETag and version; `SourceNotReady` when there is none."""
        answer = self._head(source, {}, {})
        return ObjectInfo(source.key, _size(source, answer), answers.etag_of(answer), _version(answer))

    def _head(self, source: Source, query: Mapping[str, str], more: Mapping[str, str]) -> Answer:
        answer, connection = self._ask("HEAD", source, query, {}, more)
        if answer.status not in (200, 206):
            raise _refused(source, answer, connection.text(answer))
        return answer

    def stored(self, source: Source) -> Stored:
        """All that the store knows of the object, its checksums included."""
        return _stored(source, self._head(source, {}, {"x-amz-checksum-mode": "ENABLED"}))

    def part(self, source: Source, number: int) -> int:
        """Bytes of one part of an object that was uploaded in parts; 0 where the store does not tell."""
        answer = self._head(source, {"partNumber": str(number)}, {})
        return _size(source, answer) if "x-amz-mp-parts-count" in answer.headers else 0

    def read_range(
        self, source: Source, etag: str, start: int, length: int, version_id: str = ""
    ) -> Iterator[memoryview]:
        """As `ports.Objects.read_range`."""
        query = {"versionId": version_id} if version_id else {}
        return answers.read_range(
            source,
            etag,
            (start, length),
            lambda headers: self._ask("GET", source, query, headers),
            lambda answer, connection: _refused(source, answer, connection.text(answer)),
        )

    def _ask(
        self,
        method: str,
        source: Source,
        query: Mapping[str, str],
        more: Mapping[str, str],
        with_signature: Mapping[str, str] = MappingProxyType({}),
    ) -> tuple[Answer, Connection]:
        origin, host, above = self._origin(source.bucket)
        sent = target(f"{above}/{source.key}", query)
        credentials, now = self._place.credentials(), datetime.now(UTC)
        headers = signed(method, host, sent, credentials, self._place.region, now, with_signature)
        request = (method, sent, {**headers, **more})
        return answers.sent(self._connections, origin, request, source, "AWS_CA_BUNDLE")

    def _origin(self, bucket: str) -> tuple[Origin, str, str]:
        """Where the bucket is, the Host header, and the path of the bucket there."""
        if bucket not in self._origins:
            url = self._place.endpoint or _amazon(bucket, self._place.region)
            if self._place.endpoint and self._place.virtual:
                url = url.replace("://", f"://{bucket}.", 1)
            parts = urlsplit(url)
            if parts.scheme not in answers.PORTS or not parts.hostname:
                raise Usage(f"AWS_ENDPOINT_URL: {url!r} must be http://HOST[:PORT] or https://HOST[:PORT]")
            if parts.scheme == "https" and self._tls is None:
                self._tls = self._place.tls()
            tls = self._tls if parts.scheme == "https" else None
            origin = Origin(parts.hostname, parts.port or answers.PORTS[parts.scheme], tls)
            own_host = self._place.virtual if self._place.endpoint else "." not in bucket
            self._origins[bucket] = (
                origin,
                parts.netloc.rpartition("@")[2],
                "" if own_host else f"{parts.path.rstrip('/')}/{bucket}",
            )
        return self._origins[bucket]


def _amazon(bucket: str, region: str) -> str:
    """Amazon's address of a bucket; one with a dot does not fit their certificate and goes into the path."""
    domain = f"s3.{region}.amazonaws.com{'.cn' if region.startswith('cn-') else ''}"
    return f"https://{domain}" if "." in bucket else f"https://{bucket}.{domain}"


def _stored(source: Source, answer: Answer) -> Stored:
    headers = answer.headers
    own_key = "x-amz-server-side-encryption-customer-algorithm" in headers
    found = {name: headers.get(f"x-amz-checksum-{name}", "") for name in ORDER}
    return Stored(
        size=_size(source, answer),
        etag=answers.etag_of(answer),
        version_id=_version(answer),
        checksums={name: value for name, value in found.items() if value},
        kind=headers.get("x-amz-checksum-type", ""),
        encryption="customer" if own_key else headers.get("x-amz-server-side-encryption", ""),
    )


def _size(source: Source, answer: Answer) -> int:
    size = answer.headers.get("content-length", "")
    if not size.isdecimal():
        raise Temporary(f"{source}: its size is not told")
    return int(size)


def _version(answer: Answer) -> str:
    """The object's version; `null` is what buckets have that once kept none, and may be replaced."""
    found = answer.headers.get("x-amz-version-id", "")
    return "" if found == "null" else found


def _refused(source: Source, answer: Answer, body: str) -> HydraError:
    """The error for a status that is no success, with S3's own code where the body has one."""
    code, status = _tag("Code", body), answer.status
    said = " ".join(filter(None, (str(status), code, _tag("Message", body))))[:300]
    if code in _EXPIRED:
        return Denied(f"{source}: S3 refused to let it be read ({said})")
    if error := answers.refusal(source, answer, "S3", said):
        return error
    if region := answer.headers.get("x-amz-bucket-region"):
        said += f"; its bucket is in region {region}: set AWS_REGION"
    return Usage(f"{source}: S3 will not take this request ({said})")


def _tag(name: str, body: str) -> str:
    found = re.search(f"<{name}>([^<]*)</{name}>", body)
    return found.group(1) if found else ""
