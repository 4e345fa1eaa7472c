"""The publisher's side of S3: what it knows of an object, and uploads that can be taken up again.

`ports.Uploads` over boto3. Every upload carries the CRC64NVME of its bytes, so that S3 refuses what was
damaged on the way and keeps the checksum of the whole object, also of one that was sent in parts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from handlers.adapters.objects import S3Objects, boto_errors
from handlers.adapters.parallel import patiently
from handlers.adapters.ports import Body, PartOf, Source
from handlers.core.errors import Conflict, SourceNotReady, Temporary, Usage
from handlers.core.stored import ORDER, Stored

_ALGORITHM = "CRC64NVME"
T = TypeVar("T")


class S3Uploads:
    """`ports.Uploads` with the client of `objects`. One object may be used by many threads."""

    def __init__(self, objects: S3Objects) -> None:
        self._objects = objects

    def stored(self, source: Source) -> Stored:
        """What HeadObject tells, over the reader's own sockets: a release may have 100,000 objects."""
        return patiently(lambda: self._objects.stored(source))

    def part(self, source: Source, number: int) -> int:
        """The length of one part, which HeadObject tells in place of the object's."""
        return patiently(lambda: self._objects.part(source, number))

    def write(self, source: Source, body: Body, crc: str, *, over: str | None = None) -> Stored:
        """One PutObject."""
        only = _only(over)
        return _stored(len(body), self._ask("put_object", source, Body=body, ChecksumCRC64NVME=crc, **only))

    def begun(self, source: Source) -> tuple[str, Sequence[PartOf]]:
        """What ListMultipartUploads has of this key; uploads without our checksum cannot be completed."""
        with boto_errors(source):
            pages = self._client.get_paginator("list_multipart_uploads").paginate(
                Bucket=source.bucket, Prefix=source.key
            )
            rows = [row for page in pages for row in page.get("Uploads", ())]
        own = [r for r in rows if r["Key"] == source.key and r.get("ChecksumAlgorithm") == _ALGORITHM]
        if not own:
            return "", ()
        upload = str(max(own, key=lambda row: row["Initiated"])["UploadId"])
        with boto_errors(source):
            pages = self._client.get_paginator("list_parts").paginate(
                Bucket=source.bucket, Key=source.key, UploadId=upload
            )
            parts = [row for page in pages for row in page.get("Parts", ())]
        return upload, [
            PartOf(r["PartNumber"], r["Size"], r["ETag"].strip('"'), r.get("ChecksumCRC64NVME", ""))
            for r in parts
        ]

    def begin(self, source: Source) -> str:
        """CreateMultipartUpload with a checksum of the whole."""
        row = self._ask(
            "create_multipart_upload", source, ChecksumAlgorithm=_ALGORITHM, ChecksumType="FULL_OBJECT"
        )
        return str(row["UploadId"])

    def write_part(self, source: Source, upload: str, number: int, body: Body, crc: str) -> PartOf:
        """One UploadPart."""
        row = self._ask(
            "upload_part", source, UploadId=upload, PartNumber=number, Body=body, ChecksumCRC64NVME=crc
        )
        return PartOf(number, len(body), row["ETag"].strip('"'), crc)

    def finish(
        self, source: Source, upload: str, parts: Sequence[PartOf], crc: str, *, over: str | None = None
    ) -> Stored:
        """CompleteMultipartUpload."""
        rows = [
            {"PartNumber": p.number, "ETag": p.etag} | ({"ChecksumCRC64NVME": p.crc} if p.crc else {})
            for p in parts
        ]
        row = self._ask(
            "complete_multipart_upload",
            source,
            UploadId=upload,
            MultipartUpload={"Parts": rows},
            ChecksumType="FULL_OBJECT",
            ChecksumCRC64NVME=crc,
            **_only(over),
        )
        return _stored(sum(part.size for part in parts), row)

    @property
    def _client(self) -> Any:
        return self._objects.boto()

    def _ask(self, operation: str, source: Source, **more: Any) -> Mapping[str, Any]:
        call: Callable[..., Mapping[str, Any]] = getattr(self._client, operation)
        try:
            with boto_errors(source):
                return call(Bucket=source.bucket, Key=source.key, **more)
        except SourceNotReady as e:
            if "IfMatch" in more:
                raise Conflict(f"{source}: is gone") from None
            raise e from None
        except Usage as e:
            if "BadDigest" in str(e):
                raise Temporary(f"{source}: other bytes arrived than were sent ({e})") from None
            raise


def _only(over: str | None) -> dict[str, str]:
    """The condition of a write: in place of what; see `ports.Uploads.write`."""
    if over is None:
        return {}
    return {"IfMatch": f'"{over}"'} if over else {"IfNoneMatch": "*"}


def _stored(size: int, row: Mapping[str, Any]) -> Stored:
    values = {name: row.get(f"Checksum{name.upper()}") for name in ORDER}
    return Stored(
        size=int(size),
        etag=str(row.get("ETag", "")).strip('"'),
        version_id=_version(row),
        checksums={name: str(value) for name, value in values.items() if value},
        kind=str(row.get("ChecksumType", "")),
        encryption="customer"
        if row.get("SSECustomerAlgorithm")
        else str(row.get("ServerSideEncryption", "")),
    )


def _version(row: Mapping[str, Any]) -> str:
    """The object's version; `null` is what buckets have that once kept none, and may be replaced."""
    found = str(row.get("VersionId", ""))
    return "" if found == "null" else found
