"""Ranges of objects over `http1`, and what the answers of servers mean: for S3 and web servers alike.

Answers are believed only as far as they are checked: another ETag, another range, a packed body or a whole
object in place of a range are errors, since servers and proxies exist that do each of these in silence.
Nothing is tried again in here: whoever downloads knows what it has and for how long nothing came.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Mapping

from handlers.adapters.http1 import Answer, Connection, Connections, Origin
from handlers.adapters.ports import Source
from handlers.core.errors import (
    Denied,
    HydraError,
    Integrity,
    SlowDown,
    SourceNotReady,
    Temporary,
    Untrusted,
)

CONNECT_S = 5.0
PORTS = {"http": 80, "https": 443}
LONGEST_WAIT_S = 60.0
_UNPACKED = frozenset({"", "identity", "aws-chunked"})  # the last is how it was uploaded, not how it comes

Ask = Callable[[Mapping[str, str]], tuple[Answer, Connection]]
"""Sends a request with these headers besides those that all requests to this server have."""

Refused = Callable[[Answer, Connection], HydraError]
"""The error for an answer whose status is no success."""


def read_range(
    source: Source, etag: str, wanted: tuple[int, int], ask: Ask, refused: Refused
) -> Iterator[memoryview]:
    """The bytes of a range (start, length) of the object with this ETag, as `ports.Objects.read_range`."""
    start, length = wanted
    answer, connection = ask({"range": f"bytes={start}-{start + length - 1}", "if-match": f'"{etag}"'})
    try:
        if answer.status not in (200, 206):
            raise refused(answer, connection)
        _check_range(source, etag, wanted, answer)
    except HydraError:
        connection.close()
        raise
    try:
        yield from connection.body(answer)
    except OSError as e:
        raise Temporary(f"{source}: {_said(e)}") from None


def sent(
    connections: Connections,
    origin: Origin,
    request: tuple[str, str, Mapping[str, str]],
    source: Source,
    authorities: str,
) -> tuple[Answer, Connection]:
    """Send `request` (method, target, headers); `authorities` is what names those that are to be trusted."""
    connection = connections.to(origin)
    try:
        return connection.ask(*request), connection
    except ssl.SSLCertVerificationError as e:
        raise Untrusted(
            f"{source}: the certificate of {origin.host} is not trusted ({e.verify_message}); "
            f"{authorities} names the authorities to trust"
        ) from None
    except OSError as e:
        raise Temporary(f"{source}: {origin.host}:{origin.port}: {_said(e)}") from None


def refusal(source: Source, answer: Answer, server: str, said: str) -> HydraError | None:
    """The error for a status that means the same everywhere; `said` is the server's word, or the status."""
    status = answer.status
    if status == 412:
        return Integrity(f"{source}: is not the object any more that the release names: it was replaced")
    if status == 416:
        return Integrity(f"{source}: has not the size that the release names")
    if status in (404, 410):
        return SourceNotReady(f"{source}: no such object ({said})")
    if status in (401, 403, 407):
        return Denied(f"{source}: {server} refused to let it be read ({said})")
    if status in (429, 503):
        wait = answer.headers.get("retry-after", "")  # a date says nothing that could be waited for
        pause_s = min(LONGEST_WAIT_S, float(wait)) if wait.isdecimal() else 0.0
        return SlowDown(f"{source}: {server} asks for fewer requests ({said})", pause_s)
    if status >= 500 or status == 408:
        return Temporary(f"{source}: {server} fails for now ({said})")
    return None


def etag_of(answer: Answer) -> str:
    """The ETag without its quotes; empty where none is told."""
    return answer.headers.get("etag", "").strip('"')


def _check_range(source: Source, etag: str, wanted: tuple[int, int], answer: Answer) -> None:
    start, length = wanted
    if (got := etag_of(answer)) != etag:
        raise Integrity(f"{source}: is ETag {got} now, the release names {etag}: it was replaced")
    found = answer.headers.get("content-range", "none")
    if answer.status != 206 or not found.startswith(f"bytes {start}-{start + length - 1}/"):
        raise Integrity(f"{source}: answers with range {found!r}, wanted were {length} bytes from {start}")
    if (packing := answer.headers.get("content-encoding", "")) not in _UNPACKED:
        raise Integrity(f"{source}: comes packed as {packing}; upload it without Content-Encoding")
    if answer.length != length:
        raise Integrity(f"{source}: {answer.length} bytes are announced for a range of {length}")


def _said(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__
