"""What a good S3 server never does: stalls, cut bodies, foreign ETags, packed bodies, full houses."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator

import pytest

from handlers.adapters.objects import S3Objects
from handlers.adapters.ports import Source
from handlers.core.errors import Denied, HydraError, Integrity, SourceNotReady, Temporary

X = Source("bucket", "x")
ETAG = "5d41402abc4b2a76b9719d911017c592"
BODY = b"hello world " * 1000


class Server(socketserver.ThreadingTCPServer):
    """Answers every request with `head` and `body`, then hangs or closes."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer = b""
        self.hang = threading.Event()
        self.hang.set()
        self.requests: list[bytes] = []


class Handler(socketserver.BaseRequestHandler):
    server: Server

    def handle(self) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            more = self.request.recv(65536)
            if not more:
                return
            request += more
        self.server.requests.append(request)
        self.request.sendall(self.server.answer)
        self.server.hang.wait(60)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.hang.set()
        server.shutdown()


@pytest.fixture
def objects(server: Server) -> S3Objects:
    return store_on(server)


def store_on(server: Server, stall_s: float = 20) -> S3Objects:
    environ = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_address[1]}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }
    return S3Objects(stall_s=stall_s, environ=environ)


def answer(
    status: str = "206 Partial Content", body: bytes = BODY, length: int | None = None, **more: str
) -> bytes:
    headers = {
        "Content-Length": str(len(BODY) if length is None else length),
        "Content-Range": f"bytes 0-{len(BODY) - 1}/{len(BODY)}",
        "ETag": f'"{ETAG}"',
        "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT",
        **{name.replace("_", "-"): value for name, value in more.items()},
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body


def read(objects: S3Objects) -> bytes:
    return b"".join(bytes(piece) for piece in objects.read_range(X, ETAG, 0, len(BODY)))


def test_a_good_answer_is_taken_and_was_asked_for_with_if_match(objects: S3Objects, server: Server) -> None:
    server.answer = answer()

    assert read(objects) == BODY
    asked = server.requests[0].lower()
    assert f'if-match: "{ETAG}"'.encode() in asked
    assert f"range: bytes=0-{len(BODY) - 1}".encode() in asked


def test_a_stall_is_noticed(server: Server) -> None:
    server.answer = answer(body=BODY[:5000])
    server.hang.clear()

    with pytest.raises(Temporary, match="s3://bucket/x"):
        read(store_on(server, stall_s=1))
    assert not server.hang.is_set()  # it would have answered no more


def test_a_cut_body_is_temporary(objects: S3Objects, server: Server) -> None:
    server.answer = answer(body=BODY[:5000])

    pieces: list[bytes] = []
    with pytest.raises(Temporary, match="s3://bucket/x"):
        pieces.extend(bytes(piece) for piece in objects.read_range(X, ETAG, 0, len(BODY)))
    assert b"".join(pieces) == BODY[:5000], "what came before the cut is not lost"


@pytest.mark.parametrize(
    ("given", "error"),
    [
        pytest.param(answer(ETag='"another"'), Integrity, id="another object in spite of If-Match"),
        pytest.param(answer(Content_Encoding="gzip"), Integrity, id="packed on the way"),
        pytest.param(answer("200 OK"), Integrity, id="the whole object instead of a range"),
        pytest.param(
            answer(Content_Range=f"bytes 1-{len(BODY)}/{len(BODY) + 1}"), Integrity, id="another range"
        ),
        pytest.param(answer("412 Precondition Failed", b"", 0), Integrity, id="412"),
        pytest.param(answer("416 Range Not Satisfiable", b"", 0), Integrity, id="416"),
        pytest.param(answer("404 Not Found", b"", 0), SourceNotReady, id="404"),
        pytest.param(answer("403 Forbidden", b"", 0), Denied, id="403"),
        pytest.param(answer("401 Unauthorized", b"", 0), Denied, id="401"),
        pytest.param(answer("503 Slow Down", b"", 0), Temporary, id="503"),
        pytest.param(answer("429 Too Many Requests", b"", 0), Temporary, id="429"),
        pytest.param(answer("500 Internal Server Error", b"", 0), Temporary, id="500"),
        pytest.param(b"", Temporary, id="closed without a word"),
    ],
)
def test_each_fault_has_its_error(
    given: bytes, error: type[HydraError], objects: S3Objects, server: Server
) -> None:
    server.answer = given

    with pytest.raises(error, match="s3://bucket/x"):
        read(objects)
    assert len(server.requests) <= 2, "trying again is for whoever downloads"
