"""One HTTP exchange over a real socket: what answers may look like, and which are none."""

from __future__ import annotations

import socket

import pytest

from handlers.adapters.http11 import BadAnswer, Connection, Response, split_host, tcp

LIMIT_S = 30.0
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def exchanged(raw: bytes, body: bytes | None = None) -> tuple[Response, bytes, bool]:
    """The answer read from `raw`, the request that went out, and whether the connection may be used again."""
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(raw)
        connection = Connection(lambda _limit: ours, {"Host": "consul:8500"})
        theirs.shutdown(socket.SHUT_WR)
        method = "GET" if body is None else "PUT"
        try:
            response = connection.exchange(method, "/v1/kv/a", body, LIMIT_S)
            kept = connection._socket is not None
        finally:
            connection.close()
        return response, theirs.recv(65536), kept


def test_request_is_one_piece_with_its_length() -> None:
    _, sent, kept = exchanged(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"body")

    assert sent == b"PUT /v1/kv/a HTTP/1.1\r\nHost: consul:8500\r\nContent-Length: 4\r\n\r\nbody"
    assert kept


@pytest.mark.parametrize(
    ("raw", "status", "body", "kept"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", 200, b"abc", True),
        (b"HTTP/1.1 200\r\ncontent-length:3 \r\n\r\nabc", 200, b"abc", True),
        (b"HTTP/1.1 404 Not Found\nContent-Length: 0\n\n", 404, b"", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: Close\r\n\r\na", 200, b"a", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na", 200, b"a", False),
        (b"HTTP/1.1 200 OK\r\n\r\nto the end", 200, b"to the end", False),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na", 200, b"a", True),
        (CHUNKED + b"3\r\nab\n\r\nA;x=1\r\n0123456789\r\n0\r\n\r\n", 200, b"ab\n0123456789", True),
        (CHUNKED + b"1\r\na\r\n0\r\nX-After: 1\r\n\r\n", 200, b"a", True),
    ],
)
def test_answer_is_read_whole(raw: bytes, status: int, body: bytes, kept: bool) -> None:
    response, _, usable = exchanged(raw)

    assert (response.status, response.body, usable) == (status, body, kept)


def test_header_names_are_told_in_small_letters() -> None:
    response, _, _ = exchanged(b"HTTP/1.1 200 OK\r\nX-Consul-Index: 7\r\nContent-Length: 0\r\n\r\n")

    assert response.headers["x-consul-index"] == "7"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfive\r\nabc",
        b"HTTP/1.1 fine\r\n\r\n",
        b"HTTP/1.1\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x15\x03\x01\x00\x02\x02\x16",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\n\r\n",
    ],
)
def test_what_is_no_whole_answer_is_an_error(raw: bytes) -> None:
    with pytest.raises(BadAnswer):
        exchanged(raw)


def test_silence_ends_with_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connection = Connection(tcp("127.0.0.1", listener.getsockname()[1]), {})
        with pytest.raises(TimeoutError):
            connection.exchange("GET", "/", None, 0.1)
        connection.close()


def test_connection_that_was_ended_over_there_is_not_usable() -> None:
    ours, theirs = socket.socketpair()
    connection = Connection(lambda _limit: ours, {})
    seen = [connection.usable]
    theirs.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    connection.exchange("GET", "/", None, LIMIT_S)
    seen.append(connection.usable)
    theirs.close()
    seen.append(connection.usable)
    connection.close()

    assert seen == [False, True, False]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("consul:8500", ("consul", 8500)),
        ("consul", ("consul", 80)),
        ("consul:", ("consul", 80)),
        ("[::1]:8500", ("::1", 8500)),
        ("[::1]", ("::1", 80)),
    ],
)
def test_host_and_port_are_told_apart(text: str, expected: tuple[str, int]) -> None:
    assert split_host(text, 80) == expected


def test_port_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        split_host("consul:port", 80)
