"""`gs://` and `az://`: Google Cloud Storage and Azure Blob Storage through obstore; its only importer.

EXPERIMENTAL: tests run gs:// against an emulator and az:// against nothing; no real server has served either.
Credentials: the files that the row names, else what obstore finds by itself (GOOGLE_APPLICATION_CREDENTIALS,
AZURE_*, the machine's own identity).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handlers.adapters.ports import ObjectInfo, Source, read_object
from handlers.core.errors import Conflict, Denied, HydraError, Integrity, SourceNotReady, Temporary, Usage
from handlers.core.source_table import SourceRow

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

CONNECT_S = 5.0
PIECE_BYTES = 1024**2


class CloudObjects:
    """`ports.Objects` over the buckets of one row of the table of sources. May be used by many threads."""

    def __init__(self, row: SourceRow, stall_s: float = 30.0) -> None:
        self._row, self._stall_s = row, stall_s
        self._lock = threading.Lock()
        self._stores: dict[tuple[str, str], Any] = {}

    def head(self, source: Source) -> ObjectInfo:
        """The object's size, ETag and version; `SourceNotReady` when there is none."""
        import obstore

        with _errors(source):
            meta = obstore.head(self._store(source), source.key)
        return _info(source.key, meta)

    def list(self, source: Source) -> Iterator[ObjectInfo]:
        """All objects below the prefix, in key order."""
        import obstore

        with _errors(source):
            pages = obstore.list(self._store(source), source.key.removesuffix("/"))
            found = [_info(meta["path"], meta) for page in pages for meta in page]
        yield from sorted(found, key=lambda info: info.key)

    def folders(self, source: Source) -> Iterator[str]:
        """The first path part below the prefix of everything there."""
        import obstore

        with _errors(source):
            found = obstore.list_with_delimiter(self._store(source), source.key.removesuffix("/"))
        names = [*found["common_prefixes"], *(meta["path"] for meta in found["objects"])]
        yield from sorted(filter(None, (name[len(source.key) :] for name in names)))

    def read_range(
        self, source: Source, etag: str, start: int, length: int, version_id: str = ""
    ) -> Iterator[memoryview]:
        """As `ports.Objects.read_range`."""
        import obstore

        wanted = (start, start + length)
        options: dict[str, Any] = {"if_match": f'"{etag}"', "range": wanted}
        if version_id:
            options["version"] = version_id
        with _errors(source):
            result = obstore.get(self._store(source), source.key, options=options)  # type: ignore[arg-type]
            if (got := _bare(result.meta["e_tag"])) != etag:
                raise Integrity(f"{source}: is ETag {got} now, the release names {etag}: it was replaced")
            if tuple(result.range) != wanted:
                raise Integrity(f"{source}: has bytes {result.range}, wanted were {wanted}")
            if packing := result.attributes.get("Content-Encoding"):
                raise Integrity(f"{source}: comes packed as {packing}; upload it without Content-Encoding")
            left = length
            for piece in result.stream(min_chunk_size=PIECE_BYTES):
                left -= len(piece)
                if left < 0:
                    raise Integrity(f"{source}: more bytes than the range that was asked for")
                yield memoryview(piece)
            if left:
                raise Temporary(f"{source}: the answer ended {left} bytes early")

    def put(self, source: Source, body: bytes) -> None:
        """Write a small object; `Conflict` when it exists with other content, nothing when it is the same."""
        import obstore
        from obstore.exceptions import AlreadyExistsError

        try:
            with _errors(source):
                try:
                    obstore.put(self._store(source), source.key, body, mode="create")
                except AlreadyExistsError:
                    raise Conflict(f"{source}: exists already") from None
        except Conflict:
            if read_object(self, source, self.head(source)) != body:
                raise Conflict(f"{source}: exists already with other content") from None

    def _store(self, source: Source) -> Any:
        """The client of one bucket, made once: it keeps its connections."""
        from obstore.exceptions import BaseError
        from obstore.store import AzureStore, GCSStore

        with self._lock:
            name = (source.scheme, source.bucket)
            if name not in self._stores:
                fields = self._row.fields
                client: ClientConfig = {
                    "allow_http": fields.get("endpoint", "").startswith("http://"),
                    "connect_timeout": timedelta(seconds=CONNECT_S),
                    "read_timeout": timedelta(seconds=self._stall_s),
                    "timeout": timedelta(days=1),  # a large range over a slow line is no fault; a stall is
                }
                if bundle := fields.get("ca_file"):
                    client["root_certificate"] = _content(bundle).encode()
                retry: RetryConfig = {
                    "max_retries": 0
                }  # whoever downloads tries again, and knows for how long
                kind = GCSStore if source.scheme == "gs" else AzureStore
                given: Any = _google(fields) if source.scheme == "gs" else _azure(fields)
                if "anonymous" in fields:
                    given["skip_signature"] = True
                try:
                    self._stores[name] = kind(
                        source.bucket, client_options=client, retry_config=retry, **given
                    )
                except (
                    BaseError
                ) as e:  # a file of credentials that it cannot read, a field that it does not know
                    raise Usage(f"sources.{self._row.prefix!r}: {_first_line(e)}") from None
            return self._stores[name]


def _google(fields: Mapping[str, str]) -> dict[str, Any]:
    given: dict[str, Any] = {"base_url": fields["endpoint"]} if "endpoint" in fields else {}
    if path := fields.get("credentials_file"):
        # of a service account, or what `gcloud` and workload identity write
        own = '"private_key"' in _content(path)
        given["service_account" if own else "application_credentials"] = path
    return given


def _azure(fields: Mapping[str, str]) -> dict[str, Any]:
    names = {"endpoint": "endpoint", "account": "account_name"}
    given: dict[str, Any] = {theirs: fields[ours] for ours, theirs in names.items() if ours in fields}
    if path := fields.get("account_key_file"):
        given["account_key"] = _content(path).strip()
    if path := fields.get("sas_token_file"):
        given["sas_key"] = _content(path).strip()
    return given


def _content(path: str) -> str:
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as e:
        raise Usage(f"sources: cannot read {path}: {getattr(e, 'strerror', None) or 'not text'}") from None


def _info(key: str, meta: Mapping[str, Any]) -> ObjectInfo:
    if not (etag := _bare(meta["e_tag"])):
        raise Usage(f"{key}: the store tells no ETag, so nothing would show that it was replaced")
    return ObjectInfo(key, meta["size"], etag, meta["version"] or "")


def _bare(etag: str | None) -> str:
    return (etag or "").strip('"')


# whole phrases: a bare "416" is also in elapsed times and ports, which the text of other errors holds
_WRONG_SIZE = (
    "NotPartial",
    "UnexpectedRange",
    "416 Range Not Satisfiable",
    "416 Requested Range",
    "InvalidRange",
)


@contextlib.contextmanager
def _errors(source: Source) -> Iterator[None]:
    """Turn what obstore raises into our errors. The cause of many is in their text only."""
    from obstore import exceptions

    try:
        yield
    except HydraError:
        raise
    except FileNotFoundError:
        raise SourceNotReady(f"{source}: no such object") from None
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as e:
        raise Denied(f"{source}: the store refused ({_first_line(e)})") from None
    except exceptions.PreconditionError:
        raise Integrity(
            f"{source}: is not the object any more that the release names: it was replaced"
        ) from None
    except (exceptions.InvalidPathError, ValueError) as e:
        raise Usage(f"{source}: not possible there ({_first_line(e)})") from None
    except exceptions.BaseError as e:
        text = str(e)
        if any(sign in text for sign in _WRONG_SIZE):
            raise Integrity(f"{source}: has not the size that the release names") from None
        raise Temporary(f"{source}: cannot be read for now ({_first_line(e)})") from e


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:200]
