"""An S3 server that misbehaves by a script, and counts what it was asked for.

Without rules it answers like a good server, as far as nodes, publishers and boto3 ask: ranges, If-Match,
versions, stored checksums, listings; `test_server` holds it against the real one. Signatures are not checked.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import socketserver
import struct
import sys
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import NamedTuple, Self

from tests.faults import listing
from tests.faults.rules import End, Fault, Reply, Rule, answer
from tests.faults.store import Store, Stored

_SMALL = 65536
REGION = "us-east-1"
DATE = "Thu, 01 Jan 2026 00:00:00 GMT"


@dataclass
class Seen:
    """One request, `sent` bytes of the answer's body, and the time of both ends on the monotonic clock."""

    method: str
    key: str
    start: int
    end: int
    began: float
    status: int = 0
    sent: int = 0
    ended: float = 0.0


class Request(NamedTuple):
    """What a client asks; header names in lower case."""

    method: str
    bucket: str
    key: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


class FaultyS3(socketserver.ThreadingTCPServer):
    """The server; use it in a `with` block. `store` holds the objects, `rules` may change at any time."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 256
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.store = Store()
        self.store.make("bucket")
        self.rules: list[Rule] = []
        self.seen: list[Seen] = []
        self.heeds_if_match = True
        self._lock = threading.Lock()
        self.over = threading.Event()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.shutdown()
        self.server_close()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def environment(self) -> dict[str, str]:
        """What a client of this server has to have in its environment."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
        }

    def put(self, objects: Mapping[str, bytes]) -> None:
        """Write objects by key into `bucket`."""
        for key, body in objects.items():
            self.store.put("bucket", key, body)

    def rule(self, fault: Fault, key: str = "*", **how: object) -> Rule:
        """Add a rule; see `Rule`."""
        rule = Rule(fault, key, **how)  # type: ignore[arg-type]
        self.rules = [*self.rules, rule]
        return rule

    def forget(self) -> None:
        """Behave from now on, and begin to count anew."""
        self.rules = []
        with self._lock:
            self.seen = []

    def gets(self, key: str = "") -> list[Seen]:
        """The requests for bodies, of one object or of all."""
        with self._lock:
            return [s for s in self.seen if s.method == "GET" and s.key and key in ("", s.key)]

    def requests(self) -> Counter[str]:
        """How many requests for the body of each object there were."""
        return Counter(seen.key for seen in self.gets())

    def is_quiet(self) -> bool:
        """Whether no answer is on its way: all that was sent is counted."""
        with self._lock:
            return all(seen.ended for seen in self.seen)

    def bytes_sent(self, key: str = "") -> int:
        """The bytes of bodies that left the server."""
        return sum(seen.sent for seen in self.gets(key))

    @contextlib.contextmanager
    def counted(self, seen: Seen) -> Iterator[None]:
        """While this request is being answered."""
        with self._lock:
            self.seen.append(seen)
        try:
            yield
        finally:
            seen.ended = time.monotonic()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is none of the server's concern; anything else is a bug of it."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Connection(socketserver.StreamRequestHandler):
    server: FaultyS3
    rbufsize = _SMALL
    disable_nagle_algorithm = True

    def setup(self) -> None:
        # what is sent is soon received, so that the counted bytes are those which the client got
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 512 * 1024)
        super().setup()

    def handle(self) -> None:
        while (request := self._read()) is not None and self._serve(request):
            pass

    def _read(self) -> Request | None:
        """The next request of this connection; None at its end."""
        line = self.rfile.readline()
        if not line.strip():
            return None
        method, target, _ = line.decode("ascii").split(" ", 2)
        headers = {}
        while (line := self.rfile.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode("utf-8").partition(":")
            headers[name.lower()] = value.strip()
        path, _, query = target.partition("?")
        bucket, _, key = path.removeprefix("/").partition("/")
        if headers.get("expect", "").lower() == "100-continue":
            self.request.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = self.rfile.read(int(headers.get("content-length", 0)))
        asked = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
        return Request(method, bucket, urllib.parse.unquote(key), asked, headers, body)

    def _serve(self, request: Request) -> bool:
        """Answer; whether the connection goes on."""
        stored = self.server.store.get(request.bucket, request.key) if self._has(request) else None
        start, end = _range(request, stored.size if stored else 0) or (0, stored.size if stored else 0)
        seen = Seen(request.method, request.key, start, end, time.monotonic())
        with self.server.counted(seen):
            reply = self._good(request)
            for rule in self.server.rules:
                if rule.applies(request.method, request.key, start, end):
                    reply = rule.fault(reply)
            seen.status = reply.status
            self._send(reply, seen, bare=request.method == "HEAD")
        return self._end(reply.end)

    def _has(self, request: Request) -> bool:
        return bool(request.key) and self.server.store.has(request.bucket)

    def _good(self, request: Request) -> Reply:
        """What a good server answers."""
        if not self.server.store.has(request.bucket):
            return _error(404, "NoSuchBucket")
        if not request.key:
            text = listing.page(self.server.store, request.bucket, request.query)
            return Reply(
                status=200,
                headers={"Content-Type": "application/xml"},
                pieces=iter((memoryview(text),)),
                length=len(text),
            )
        if request.method == "PUT":
            return self._put(request)
        stored = self.server.store.get(request.bucket, request.key, request.query.get("versionId", ""))
        if stored is None:
            return _error(404, "NoSuchKey")
        wanted = request.headers.get("if-match", "*") if self.server.heeds_if_match else "*"
        if not _matches(wanted, stored):
            return _error(412, "PreconditionFailed")
        return _object(request, stored, request.bucket in self.server.store.versioned)

    def _put(self, request: Request) -> Reply:
        there = self.server.store.get(request.bucket, request.key)
        if request.headers.get("if-none-match") == "*" and there is not None:
            return _error(412, "PreconditionFailed")
        stored = self.server.store.put(request.bucket, request.key, request.body)
        return Reply(status=200, headers={"ETag": f'"{stored.etag}"'})

    def _send(self, reply: Reply, seen: Seen, *, bare: bool) -> None:
        if reply.silent:
            return
        fixed = {"Content-Length": str(reply.length), "Date": DATE, "Server": "faults"}
        headers = "".join(f"{name}: {value}\r\n" for name, value in {**fixed, **reply.headers}.items())
        phrase = HTTPStatus(reply.status).phrase
        unsent = f"HTTP/1.1 {reply.status} {phrase}\r\n{headers}\r\n".encode()
        for piece in () if bare else reply.pieces:
            if unsent and len(piece) <= _SMALL:
                self.request.sendall(unsent + piece)
            else:
                self.request.sendall(unsent)
                self.request.sendall(piece)
            unsent = b""
            seen.sent += len(piece)
        if unsent:
            self.request.sendall(unsent)

    def _end(self, end: End) -> bool:
        if end is End.RESET:
            self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.request.detach())  # a shutdown in order would come first otherwise
        if end is End.HANG:
            while not self.server.over.wait(0.02):
                readable, _, _ = select.select([self.request], [], [], 0)
                if readable and not self.request.recv(_SMALL):
                    break
        return end is End.KEEP


def _object(request: Request, stored: Stored, versioned: bool) -> Reply:
    """The object or a range of it, with all that S3 says of it."""
    size, headers = stored.size, _headers(request, stored, versioned)
    if "partNumber" in request.query and stored.part_bytes:
        count = max(1, -(-size // stored.part_bytes))
        headers["x-amz-mp-parts-count"] = str(count)
        first = min(stored.part_bytes, size)
        headers["Content-Range"] = f"bytes 0-{first - 1}/{size}"
        return Reply(status=206, headers=headers, pieces=stored.body.pieces(0, first), length=first)
    wanted = _range(request, size)
    start, end = wanted or (0, size)
    if wanted and start >= end:
        return replace(_error(416, "InvalidRange"), headers={"Content-Range": f"bytes */{size}"})
    if wanted:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    return Reply(
        status=206 if wanted else 200,
        headers=headers,
        pieces=stored.body.pieces(start, end),
        length=end - start,
        start=start,
        whole=stored.body.pieces,
        size=size,
    )


def _headers(request: Request, stored: Stored, versioned: bool) -> dict[str, str]:
    headers = {
        "ETag": f'"{stored.etag}"',
        "Last-Modified": DATE,
        "Accept-Ranges": "bytes",
        "Content-Type": "binary/octet-stream",
    }
    if versioned:
        headers["x-amz-version-id"] = stored.version
    if request.headers.get("x-amz-checksum-mode") == "ENABLED" and stored.checksums:
        headers |= {f"x-amz-checksum-{name}": value for name, value in stored.checksums.items()}
        headers["x-amz-checksum-type"] = "FULL_OBJECT"
    return headers


def _matches(wanted: str, stored: Stored) -> bool:
    return wanted == "*" or stored.etag in {tag.strip().strip('"') for tag in wanted.split(",")}


def _range(request: Request, size: int) -> tuple[int, int] | None:
    """From and before which byte; None for the whole object."""
    unit, _, text = request.headers.get("range", "").partition("=")
    first, dash, last = text.partition("-")
    if unit != "bytes" or not dash:
        return None
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1) if last else size


def _error(status: int, code: str) -> Reply:
    return answer(status, code)(Reply(status=status))
