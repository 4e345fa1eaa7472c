"""`https://`: single objects of a web server as an object store that cannot be listed or written.

The server has to know ranges and strong ETags (nginx, Caddy, Apache, object stores and CDNs do): without an
ETag nothing would show that an object was replaced between two ranges. Redirects are not followed: a header
that carries a secret would go to whoever the server names.
"""

from __future__ import annotations

import re
import ssl
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote, urljoin, urlsplit

from handlers.adapters import answers
from handlers.adapters.http1 import Answer, Connection, Connections, Origin
from handlers.adapters.ports import ObjectInfo, Source
from handlers.core.errors import HydraError, Usage
from handlers.core.source import shown
from handlers.core.source_table import SourceRow

_HEADER = re.compile(r"([A-Za-z0-9-]+): ?([\x20-\x7e]+)")
_AS_IT_IS = "/%:@!$&'()*+,;=~-._"  # of a path that may be quoted already


class WebObjects:
    """`ports.Objects` over the web servers of one row of the table of sources, for many threads."""

    def __init__(self, row: SourceRow, stall_s: float = 30.0) -> None:
        self._row = row
        self._connections = Connections(stall_s, answers.CONNECT_S)
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
        return answers.read_range(
            source,
            etag,
            (start, length),
            lambda headers: self._ask("GET", source, headers),
            lambda answer, connection: _refused(source, answer, connection),
        )

    def put(self, source: Source, body: bytes) -> None:
        """Not possible."""
        del body
        raise Usage(f"{source}: Hydra does not write to web servers")

    def _ask(self, method: str, source: Source, more: Mapping[str, str]) -> tuple[Answer, Connection]:
        origin = self._origin(source)
        headers = {"host": source.bucket, "accept-encoding": "identity", **more, **self._own_headers()}
        request = (method, f"/{quote(source.key, safe=_AS_IT_IS)}", headers)
        return answers.sent(self._connections, origin, request, source, "ca_file in the table of sources")

    def _origin(self, source: Source) -> Origin:
        parts = urlsplit(str(source))
        try:
            port = parts.port or answers.PORTS[source.scheme]
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
    if error := answers.refusal(source, answer, "the server", str(status)):
        return error
    if 300 <= status < 400:
        place = shown(urljoin(str(source), answer.headers.get("location", "")))
        return Usage(f"{source}: redirects to {place}, which is not followed; name that address itself")
    return Usage(f"{source}: the server will not take this request ({status})")
