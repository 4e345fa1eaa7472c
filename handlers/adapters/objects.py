"""The object store: what ports.Objects asks for, over S3; the only importer of boto3 and obstore.

boto3 lists and writes (publishing, `hydra doctor`); obstore reads, because nodes start a handler for each
change and boto3 alone takes 400 ms to start. Both take the AWS_ variables: AWS_ENDPOINT_URL_S3 or
AWS_ENDPOINT_URL names another server than Amazon's (plain http is then allowed, buckets go into the path).
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handlers.adapters.ports import ObjectInfo, Source
from handlers.core.errors import Conflict, Denied, HydraError, Integrity, SourceNotReady, Temporary, Usage

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Store

CONNECT_S = 5.0
PIECE_BYTES = 1024**2
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
        self._stores: dict[str, S3Store] = {}

    def head(self, source: Source) -> ObjectInfo:
        """The object's size and ETag; `SourceNotReady` when there is none."""
        import obstore

        with _read_errors(source):
            meta = obstore.head(self._store(source.bucket), source.key)
        return ObjectInfo(source.key, meta["size"], _bare(meta["e_tag"]))

    def list(self, source: Source) -> Iterator[ObjectInfo]:
        """All objects below the prefix, in key order, page by page."""
        for page in self._pages(source):
            for row in page.get("Contents", ()):
                yield ObjectInfo(row["Key"], row["Size"], _bare(row["ETag"]))

    def folders(self, source: Source) -> Iterator[str]:
        """The first path part below the prefix of everything there, without slashes."""
        skip = len(source.key)
        for page in self._pages(source, Delimiter="/"):
            names = [row["Prefix"][skip:-1] for row in page.get("CommonPrefixes", ())]
            names += [row["Key"][skip:] for row in page.get("Contents", ())]
            yield from filter(None, names)  # the key of the folder itself has no name below it

    def read_range(self, source: Source, etag: str, start: int, length: int) -> Iterator[bytes]:
        """The bytes of one range in pieces of about 1 MiB; `Integrity` when `etag` is not the object's.

        `Temporary` when the body ends early or stalls: what was yielded until then is right.
        """
        import obstore

        with _read_errors(source):
            result = obstore.get(
                self._store(source.bucket),
                source.key,
                options={"if_match": f'"{etag}"', "range": (start, start + length)},
            )
            self._check_answer(source, etag, (start, start + length), result)
            left = length
            for piece in result.stream(min_chunk_size=PIECE_BYTES):
                left -= len(piece)
                if left < 0:
                    raise Integrity(f"{source}: more bytes than the range that was asked for")
                yield bytes(piece)
            if left:
                raise Temporary(f"{source}: the answer ended {left} bytes early")

    def put(self, source: Source, body: bytes) -> None:
        """Write a small object; `Conflict` when it exists with other content, nothing when it is the same."""
        client = self.boto()
        try:
            with boto_errors(source):
                client.put_object(Bucket=source.bucket, Key=source.key, Body=body, IfNoneMatch="*")
        except Conflict:
            with boto_errors(source):
                there = client.get_object(Bucket=source.bucket, Key=source.key)["Body"].read()
            if there != body:
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

    def _check_answer(self, source: Source, etag: str, wanted: tuple[int, int], result: Any) -> None:
        """Servers and proxies that ignore If-Match or pack the body would otherwise go unnoticed."""
        if (got := _bare(result.meta["e_tag"])) != etag:
            raise Integrity(f"{source}: is ETag {got} now, the release names {etag}: it was replaced")
        if tuple(result.range) != wanted:
            raise Integrity(f"{source}: has bytes {result.range}, wanted were {wanted}: its size is another")
        if packing := result.attributes.get("Content-Encoding"):
            raise Integrity(f"{source}: comes packed as {packing}; upload it without Content-Encoding")

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
                    s3={"addressing_style": "path" if self._endpoint else "auto"},
                    request_checksum_calculation="when_required",  # not every server knows it
                )
                with boto_errors("S3"):
                    self._client = boto3.session.Session(**self._credentials()).client(
                        "s3", endpoint_url=self._endpoint or None, region_name=self._region, config=config
                    )
            return self._client

    def _store(self, bucket: str) -> S3Store:
        """The reader of one bucket, made once: it keeps its connections."""
        with self._lock:
            if bucket not in self._stores:
                from obstore.store import S3Store

                client: ClientConfig = {
                    "allow_http": self._endpoint.startswith("http://"),
                    "connect_timeout": timedelta(seconds=CONNECT_S),
                    "read_timeout": timedelta(seconds=self._stall_s),
                    "timeout": timedelta(days=1),  # a large range over a slow line is no fault; a stall is
                }
                if bundle := self._environ.get("AWS_CA_BUNDLE"):
                    client["root_certificate"] = _ca_bundle(bundle)
                retry: RetryConfig = {"max_retries": 0}
                self._stores[bucket] = S3Store(
                    bucket,
                    client_options=client,
                    retry_config=retry,
                    virtual_hosted_style_request=not self._endpoint,
                    region=self._region,
                    **self._place(),
                )
            return self._stores[bucket]

    def _credentials(self) -> dict[str, str]:
        """What boto3 would take from the process: here only the given environment counts."""
        key, secret = self._environ.get("AWS_ACCESS_KEY_ID"), self._environ.get("AWS_SECRET_ACCESS_KEY")
        if key and secret:
            token = self._environ.get("AWS_SESSION_TOKEN")
            keys = {"aws_access_key_id": key, "aws_secret_access_key": secret}
            return keys | ({"aws_session_token": token} if token else {})
        profile = self._environ.get("AWS_PROFILE")
        return {"profile_name": profile} if profile else {}

    def _place(self) -> dict[str, Any]:
        """Endpoint and credentials. obstore reads variables and machine roles, only boto3 knows profiles."""
        given: dict[str, Any] = {"endpoint": self._endpoint} if self._endpoint else {}
        key, secret = self._environ.get("AWS_ACCESS_KEY_ID"), self._environ.get("AWS_SECRET_ACCESS_KEY")
        if key and secret:
            token = self._environ.get("AWS_SESSION_TOKEN")
            return (
                given
                | {"access_key_id": key, "secret_access_key": secret}
                | ({"token": token} if token else {})
            )
        files = (self._environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials", "~/.aws/config")
        if self._environ.get("AWS_PROFILE") or any(Path(f).expanduser().exists() for f in files):
            from obstore.auth.boto3 import Boto3CredentialProvider

            given["credential_provider"] = Boto3CredentialProvider()
        return given


def _bare(etag: str | None) -> str:
    return (etag or "").strip('"')


def _ca_bundle(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as e:
        raise Usage(f"AWS_CA_BUNDLE: cannot read {path}: {e.strerror}") from None


# whole phrases: a bare "416" is also in elapsed times and ports, which the text of other errors holds
_WRONG_SIZE = ("NotPartial", "UnexpectedRange", "416 Range Not Satisfiable", "InvalidRange")


@contextlib.contextmanager
def _read_errors(source: Source) -> Iterator[None]:
    """Turn what obstore raises into our errors. The cause of many is in their text only."""
    from obstore import exceptions

    try:
        yield
    except HydraError:
        raise
    except FileNotFoundError:
        raise SourceNotReady(f"{source}: no such object") from None
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as e:
        raise Denied(f"{source}: S3 refused to let it be read ({_first_line(e)})") from None
    except exceptions.PreconditionError:
        raise Integrity(
            f"{source}: is not the object any more that the release names: it was replaced"
        ) from None
    except exceptions.InvalidPathError as e:
        raise Usage(f"{source}: not a legal key ({_first_line(e)})") from None
    except exceptions.BaseError as e:
        text = str(e)
        if any(sign in text for sign in _WRONG_SIZE):
            raise Integrity(f"{source}: has not the size that the release names") from None
        raise Temporary(f"{source}: cannot be read for now ({_first_line(e)})") from e


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


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:200]
