"""The object store: what ports.Objects asks for, over S3.

boto3 lists and writes (publishing, `hydra doctor`); reading has a path of its own (`s3_reader`), because
nodes start a handler for each change and boto3 alone takes 400 ms to start. Both take the AWS_ variables:
AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL names another server than Amazon's (plain http is then allowed,
buckets go into the path).
"""

from __future__ import annotations

import contextlib
import os
import ssl
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from handlers.adapters.answers import CONNECT_S
from handlers.adapters.credentials import KeyRing
from handlers.adapters.ports import ObjectInfo, Source, read_object
from handlers.adapters.s3_reader import Place, S3Reader
from handlers.adapters.sigv4 import Credentials
from handlers.core.errors import Conflict, Denied, HydraError, SourceNotReady, Temporary, Usage
from handlers.core.stored import Stored

POOL = 32  # requests at once of whoever publishes
_DENIED = frozenset({401, 403})


class S3Objects:
    """`ports.Objects` over S3. One object may be used by many threads.

    `stall_s` is how long an answer may bring nothing before it counts as broken off. Reads are not retried in
    here: whoever downloads knows what it has already and for how long nothing came.
    """

    def __init__(self, stall_s: float = 30.0, environ: Mapping[str, str] = os.environ) -> None:
        self._stall_s = stall_s
        self._environ = environ
        self._lock = threading.Lock()
        self._client: Any = None
        self._keys = KeyRing(environ)
        place = Place(
            self._endpoint,
            self._region,
            self._current_credentials,
            self._tls_context,
            self._addressing == "virtual",
        )
        self._reader = S3Reader(place, stall_s)

    def head(self, source: Source) -> ObjectInfo:
        """The object's size, ETag and version; `SourceNotReady` when there is none."""
        return self._reader.head(source)

    def stored(self, source: Source) -> Stored:
        """All that S3 knows of the object, its checksums included (`S3Uploads`)."""
        return self._reader.stored(source)

    def part(self, source: Source, number: int) -> int:
        """Bytes of one part of an object that was uploaded in parts; 0 where S3 does not tell."""
        return self._reader.part(source, number)

    def list(self, source: Source) -> Iterator[ObjectInfo]:
        """All objects below the prefix, in key order, page by page."""
        for page in self._pages(source):
            for row in page.get("Contents", ()):
                yield ObjectInfo(row["Key"], row["Size"], row["ETag"].strip('"'))

    def folders(self, source: Source) -> Iterator[str]:
        """The first path part below the prefix of everything there, without slashes."""
        skip = len(source.key)
        for page in self._pages(source, Delimiter="/"):
            names = [row["Prefix"][skip:-1] for row in page.get("CommonPrefixes", ())]
            names += [row["Key"][skip:] for row in page.get("Contents", ())]
            yield from filter(None, names)  # the key of the folder itself has no name below it

    def read_range(
        self, source: Source, etag: str, start: int, length: int, version_id: str = ""
    ) -> Iterator[memoryview]:
        """The bytes of one range in pieces, each valid only until the next; see `ports.Objects`."""
        return self._reader.read_range(source, etag, start, length, version_id)

    def put(self, source: Source, body: bytes) -> None:
        """Write a small object; `Conflict` when it exists with other content, nothing when it is the same."""
        client = self.boto()
        try:
            with boto_errors(source):
                client.put_object(Bucket=source.bucket, Key=source.key, Body=body, IfNoneMatch="*")
        except Conflict:
            if read_object(self, source, self.head(source)) != body:
                raise Conflict(f"{source}: exists already with other content") from None

    def make_bucket(self, bucket: str) -> None:
        """Create a bucket on a server of one's own, as the demo has; fine when it is there."""
        try:
            self.check(bucket)
        except SourceNotReady:
            with boto_errors(f"s3://{bucket}"):
                self.boto().create_bucket(Bucket=bucket)

    def check(self, bucket: str) -> str:
        """The server's Date header; raises what keeps this machine from reading `bucket` (`hydra doctor`)."""
        with boto_errors(f"s3://{bucket}"):
            answer = self.boto().list_objects_v2(Bucket=bucket, MaxKeys=1)
        return str(answer["ResponseMetadata"]["HTTPHeaders"].get("date", ""))

    def _pages(self, source: Source, **options: str) -> Iterator[Mapping[str, Any]]:
        pages = iter(
            self.boto()
            .get_paginator("list_objects_v2")
            .paginate(Bucket=source.bucket, Prefix=source.key, **options)
        )
        while True:
            with boto_errors(source):
                page = next(pages, None)
            if page is None:
                return
            yield page

    @property
    def _endpoint(self) -> str:
        return self._environ.get("AWS_ENDPOINT_URL_S3") or self._environ.get("AWS_ENDPOINT_URL") or ""

    @property
    def _region(self) -> str:
        return self._environ.get("AWS_REGION") or self._environ.get("AWS_DEFAULT_REGION") or "us-east-1"

    @property
    def _addressing(self) -> str:
        return self._environ.get("HYDRA_S3_ADDRESSING", "")

    def boto(self) -> Any:
        """The client for listing and writing, made once."""
        with self._lock:
            if self._client is None:
                import boto3
                from botocore.config import Config

                config = Config(
                    connect_timeout=CONNECT_S,
                    max_pool_connections=POOL,
                    read_timeout=self._stall_s,
                    retries={"mode": "standard", "max_attempts": 4},
                    s3={"addressing_style": self._addressing or ("path" if self._endpoint else "auto")},
                    request_checksum_calculation="when_required",  # not every server knows it
                )
                with boto_errors("S3"):
                    self._client = boto3.session.Session(botocore_session=self._keys.session()).client(
                        "s3", endpoint_url=self._endpoint or None, region_name=self._region, config=config
                    )
            return self._client

    def _current_credentials(self) -> Credentials:
        if given := self._keys.given():
            return given
        with boto_errors("S3"):
            return self._keys.found()

    def _tls_context(self) -> ssl.SSLContext:
        bundle = self._environ.get("AWS_CA_BUNDLE")
        try:
            return ssl.create_default_context(cafile=bundle or None)
        except OSError as e:
            raise Usage(f"AWS_CA_BUNDLE: cannot read {bundle}: {e.strerror or e}") from None


@contextlib.contextmanager
def boto_errors(source: object) -> Iterator[None]:
    """Turn what boto3 raises into our errors."""
    from botocore import exceptions

    try:
        yield
    except exceptions.ClientError as e:
        raise _refused(source, e.response) from None
    except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError) as e:
        raise Denied(
            f"{source}: {e}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile"
        ) from None
    except (exceptions.ParamValidationError, exceptions.ProfileNotFound, ValueError) as e:
        raise Usage(f"{source}: {e}") from None
    except exceptions.BotoCoreError as e:
        raise Temporary(f"{source}: S3 does not answer ({e})") from e


def _refused(source: object, response: Mapping[str, Any]) -> HydraError:
    error = response.get("Error", {})
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    said = f"{error.get('Code', status)} {error.get('Message', '')}".strip()
    if status == 404:
        return SourceNotReady(f"{source}: {said}")
    if status in _DENIED:
        return Denied(f"{source}: S3 refused ({said})")
    if status == 412:
        return Conflict(f"{source}: exists already")
    if 400 <= status < 500 and status not in (408, 409, 429):
        return Usage(f"{source}: S3 will not take this request ({said})")
    return Temporary(f"{source}: S3 fails for now ({said})")
