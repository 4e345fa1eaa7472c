"""`https://`: single objects of a web server as an object store that cannot be listed or written.

The server has to know ranges and strong ETags (nginx, Caddy, Apache, object stores and CDNs do): without an
ETag nothing would show that an object was replaced between two ranges. Redirects are not followed: a header
that carries a secret would go to whoever the server names.
"""

from __future__ import annotations

import re
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urljoin, urlsplit

from handlers.adapters.http1 import Answer, Connection, Connections, Origin
from handlers.adapters.ports import ObjectInfo, Source
from handlers.adapters.s3_reader import check_range
from handlers.core.errors import (
    Denied,
    HydraError,
    Integrity,
    SlowDown,
    SourceNotReady,
    Temporary,
    Untrusted,
    Usage,
)
from handlers.core.source import shown
from handlers.core.source_table import SourceRow

CONNECT_S = 5.0
_PORTS = {"http": 80, "https": 443}
_HEADER = re.compile(r"([A-Za-z0-9-]+): ?([\x20-\x7e]+)")
_AS_IT_IS = "/%:@!$&'()*+,;=~-._"  # of a path that may be quoted already


class WebObjects:
    """`ports.Objects` over the web servers of one row of the table of sources, for many threads."""

    def __init__(self, row: SourceRow, stall_s: float = 30.0) -> None:
        self._row = row
        self._connections = Connections(stall_s, CONNECT_S)
        self._lock = threading.Lock()
        self._tls: ssl.SSLContext | None = None

    def head(self, source: Source) -> ObjectInfo:
        """Size and ETag; `SourceNotReady` when there is no such object, `Usage` without a strong ETag."""
        answer, connection = self._ask("HEAD", source, {})
        if answer.status != 200:
            raise _refused(source, answer, connection)
        size, etag = answer.headers.get("content-length", ""), answer.headers.get("etag", "")
        if not size.isdecimal():
            raise Usage(f"{source}: the server does not tell its size")
        if not etag or etag.startswith("W/"):
            raise Usage(
                f"{source}: the server tells {'only a weak' if etag else 'no'} ETag, so nothing would show "
                "that the object was replaced in mid-download; put it on one that does, or on an object store"
            )
        return ObjectInfo(source.key, int(size), etag.strip('"'))

    def list(self, source: Source) -> Iterator[ObjectInfo]:
        """Not possible."""
        raise Usage(f"{source}: a web server cannot be listed: it serves single objects")

    def folders(self, source: Source) -> Iterator[str]:
        """Not possible: which versions there are, whoever publishes has to say."""
        raise Usage(f"{source}: a web server cannot be listed: say which version with --version")

    def read_range(
        self, source: Source, etag: str, start: int, length: int, version_id: str = ""
    ) -> Iterator[memoryview]:
        """As `ports.Objects.read_range`."""
        del version_id
        wanted = {"range": f"bytes={start}-{start + length - 1}", "if-match": f'"{etag}"'}
        answer, connection = self._ask("GET", source, wanted)
        try:
            if answer.status not in (200, 206):
                raise _refused(source, answer, connection)
            check_range(source, etag, (start, length), answer)
        except HydraError:
            connection.close()
            raise
        try:
            yield from connection.body(answer)
        except OSError as e:
            raise Temporary(f"{source}: {e.strerror or e}") from None

    def put(self, source: Source, body: bytes) -> None:
        """Not possible."""
        del body
        raise Usage(f"{source}: Hydra does not write to web servers")

    def _ask(self, method: str, source: Source, more: dict[str, str]) -> tuple[Answer, Connection]:
        origin = self._origin(source)
        headers = {"host": source.bucket, "accept-encoding": "identity", **more, **self._own_headers()}
        connection = self._connections.to(origin)
        try:
            return connection.ask(method, f"/{quote(source.key, safe=_AS_IT_IS)}", headers), connection
        except ssl.SSLCertVerificationError as e:
            raise Untrusted(
                f"{source}: the certificate of {origin.host} is not trusted ({e.verify_message}); "
                "ca_file in the table of sources names the authorities to trust"
            ) from None
        except OSError as e:
            raise Temporary(f"{source}: {origin.host}:{origin.port}: {e.strerror or e}") from None

    def _origin(self, source: Source) -> Origin:
        parts = urlsplit(str(source))
        try:
            port = parts.port or _PORTS[source.scheme]
        except ValueError as e:
            raise Usage(f"{source}: {e}") from None
        return Origin(parts.hostname or "", port, self._context() if source.scheme == "https" else None)

    def _context(self) -> ssl.SSLContext:
        """Made once: connections are known by it."""
        with self._lock:
            if self._tls is None:
                bundle = self._row.fields.get("ca_file")
                try:
                    self._tls = ssl.create_default_context(cafile=bundle)
                except OSError as e:
                    raise Usage(f"sources: cannot read ca_file {bundle}: {e.strerror or e}") from None
            return self._tls

    def _own_headers(self) -> dict[str, str]:
        """What the row's file says, read each time: tokens are renewed. Nothing of it is in an error."""
        path = self._row.fields.get("header_file")
        if not path:
            return {}
        try:
            lines = Path(path).read_text("ascii").splitlines()
        except (OSError, UnicodeDecodeError) as e:
            raise Usage(
                f"sources: cannot read header_file {path}: {getattr(e, 'strerror', 'not ASCII')}"
            ) from None
        headers = {}
        for number, line in enumerate(filter(None, lines), 1):
            if not (match := _HEADER.fullmatch(line)):
                raise Usage(
                    f"sources: header_file {path}, line {number}: must be like Authorization: Bearer …"
                )
            headers[match.group(1).lower()] = match.group(2)
        return headers


def _refused(source: Source, answer: Answer, connection: Connection) -> HydraError:
    """The error for a status that is no success; the connection is closed, since its body is not read."""
    connection.close()
    status = answer.status
    if status == 412:
        return Integrity(f"{source}: is not the object any more that the release names: it was replaced")
    if status == 416:
        return Integrity(f"{source}: has not the size that the release names")
    if status in (404, 410):
        return SourceNotReady(f"{source}: no such object ({status})")
    if status in (401, 403, 407):
        return Denied(f"{source}: the server refused to let it be read ({status})")
    if status in (429, 503):
        wait = answer.headers.get("retry-after", "")
        return SlowDown(
            f"{source}: asks for fewer requests ({status})",
            min(60.0, float(wait)) if wait.isdecimal() else 0.0,
        )
    if status >= 500 or status == 408:
        return Temporary(f"{source}: the server fails for now ({status})")
    if 300 <= status < 400:
        place = shown(urljoin(str(source), answer.headers.get("location", "")))
        return Usage(f"{source}: redirects to {place}, which is not followed; name that address itself")
    return Usage(f"{source}: the server will not take this request ({status})")
