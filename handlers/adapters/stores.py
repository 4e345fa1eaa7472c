"""One object store out of all that a configuration names: each source goes to the adapter of its scheme.

The table of sources says how; the longest prefix wins. So one release may have datasets in two clouds and on
a web server, each with its own endpoint and credentials.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from handlers.adapters.ports import Body, ObjectInfo, Objects, PartOf, Source, Uploads
from handlers.core.errors import Usage
from handlers.core.source import WEB
from handlers.core.source_table import SourceRow, SourceTable
from handlers.core.stored import NO_S3, Stored


class Stores:
    """`ports.Objects` over all sources. One object may be used by many threads.

    `stall_s` as for each adapter: how long an answer may bring nothing before it counts as broken off.
    """

    def __init__(
        self,
        table: SourceTable | None = None,
        environ: Mapping[str, str] = os.environ,
        stall_s: float = 30.0,
    ) -> None:
        self._table, self._environ, self._stall_s = table or SourceTable(), environ, stall_s
        self._lock = threading.Lock()
        self._made: dict[str, Objects] = {}

    def of(self, source: Source) -> Objects:
        """The adapter for `source`; raises `Usage` where the configuration does not let it be read."""
        row = self._table.of(source)
        with self._lock:
            if row.prefix not in self._made:
                self._made[row.prefix] = self._make(source.scheme, row)
            return self._made[row.prefix]

    def head(self, source: Source) -> ObjectInfo:
        """The object's size, ETag and version."""
        return self.of(source).head(source)

    def list(self, source: Source) -> Iterator[ObjectInfo]:
        """All objects below the prefix, in key order."""
        return self.of(source).list(source)

    def folders(self, source: Source) -> Iterator[str]:
        """The first path part below the prefix of everything there."""
        return self.of(source).folders(source)

    def read_range(
        self, source: Source, etag: str, start: int, length: int, version_id: str = ""
    ) -> Iterator[memoryview]:
        """As `ports.Objects.read_range`."""
        return self.of(source).read_range(source, etag, start, length, version_id)

    def put(self, source: Source, body: bytes) -> None:
        """Write a small object; `Conflict` when it exists with other content, nothing when it is the same."""
        self.of(source).put(source, body)

    def _make(self, scheme: str, row: SourceRow) -> Objects:
        """Each adapter with its imports: a node that reads from S3 alone loads nothing else."""
        if scheme == "s3":
            from handlers.adapters.objects import S3Objects

            return S3Objects(self._stall_s, row.variables(self._environ))
        if scheme == "file":
            from handlers.adapters.files import FileObjects

            return FileObjects(Path(row.prefix.removeprefix("file://")))
        if scheme in WEB:
            from handlers.adapters.web import WebObjects

            return WebObjects(row, self._stall_s)
        from handlers.adapters.cloud import CloudObjects

        return CloudObjects(row, self._stall_s)


class StoresUploads:
    """`ports.Uploads` over all sources: pushes go to S3; of other stores only ETag and size are known."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._lock = threading.Lock()
        self._made: dict[int, Uploads] = {}

    def stored(self, source: Source) -> Stored:
        """What the store knows of an object."""
        if source.scheme == "s3":
            return self._of(source).stored(source)
        info = self._stores.head(source)
        return Stored(size=info.size, etag=info.etag, version_id=info.version_id, encryption=NO_S3)

    def part(self, source: Source, number: int) -> int:
        """Bytes of one part of an object that was uploaded in parts."""
        return self._of(source).part(source, number) if source.scheme == "s3" else 0

    def write(self, source: Source, body: Body, crc: str, *, over: str | None = None) -> Stored:
        """Write or replace an object in one request."""
        return self._of(source).write(source, body, crc, over=over)

    def begun(self, source: Source) -> tuple[str, Sequence[PartOf]]:
        """The newest unfinished upload of this very key."""
        return self._of(source).begun(source)

    def begin(self, source: Source) -> str:
        """Begin an upload in parts."""
        return self._of(source).begin(source)

    def write_part(self, source: Source, upload: str, number: int, body: Body, crc: str) -> PartOf:
        """Upload one part."""
        return self._of(source).write_part(source, upload, number, body, crc)

    def finish(
        self, source: Source, upload: str, parts: Sequence[PartOf], crc: str, *, over: str | None = None
    ) -> Stored:
        """Make the object of its parts."""
        return self._of(source).finish(source, upload, parts, crc, over=over)

    def _of(self, source: Source) -> Uploads:
        from handlers.adapters.objects import S3Objects
        from handlers.adapters.uploads import S3Uploads

        objects = self._stores.of(source)
        if not isinstance(objects, S3Objects):
            raise Usage(f"{source}: data is pushed to s3:// only")
        with self._lock:
            return self._made.setdefault(id(objects), S3Uploads(objects))
