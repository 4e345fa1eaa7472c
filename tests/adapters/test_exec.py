"""A signal to a container, over the protocol by which the API server runs commands in there."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from handlers.adapters.pods import Api
from handlers.core.errors import Denied, HydraError, Temporary

STDERR, ERROR, CLOSE = 2, 3, b"\x88\x02\x03\xe8"
SUCCESS = (ERROR, {"metadata": {}, "status": "Success"})
FAILURE = (ERROR, {"status": "Failure", "message": "command terminated with non-zero exit code"})


class Server(ThreadingHTTPServer):
    """Answers each command with `frames`, or refuses it with `status`; `close`: in order, at the end."""

    frames: tuple[tuple[int, object], ...] = ()
    status, close, command = 101, True, ""


class Shell(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.server.command = " ".join(parse_qs(urlsplit(self.path).query)["command"])
        key = self.headers.get("Sec-WebSocket-Key", "") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(self.server.status)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header(
            "Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        )
        self.send_header("Content-Length", "0")
        self.end_headers()
        for channel, content in self.server.frames if self.server.status == 101 else ():
            body = bytes([channel]) + (
                content if isinstance(content, bytes) else json.dumps(content).encode()
            )
            self.wfile.write(b"\x82" + len(body).to_bytes() + body)
        self.wfile.write(CLOSE if self.server.close else b"")
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Shell) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()


@pytest.fixture
def api(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Api:
    where = {"name": "n", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}
    who = {"name": "n", "user": {"token": "t"}}
    context = {"name": "n", "context": {"cluster": "n", "user": "n"}}
    file = tmp_path / "kubeconfig"
    lists = {"clusters": [where], "users": [who], "contexts": [context]}
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", "current-context": "n", **lists}))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(file))
    return Api({})


def test_signal_that_was_sent_is_done(server: Server, api: Api) -> None:
    server.frames = (SUCCESS,)

    api.signal("search", "reader-1", "reader", "HUP")

    assert server.command == "/bin/sh -c kill -HUP 1"


def test_failure_says_what_the_shell_said(server: Server, api: Api) -> None:
    server.frames = ((STDERR, b"sh: kill: (1) - Operation not permitted\n"), FAILURE)

    with pytest.raises(HydraError, match=r"in container reader: sh: kill: .1. - Operation not permitted$"):
        api.signal("search", "reader-1", "reader", "HUP")


def test_failure_without_a_word_says_what_the_server_said(server: Server, api: Api) -> None:
    server.frames = (FAILURE,)

    with pytest.raises(HydraError, match="command terminated with non-zero exit code"):
        api.signal("search", "reader-1", "reader", "HUP")


@pytest.mark.parametrize("close", [True, False])
def test_end_without_an_answer_may_be_tried_again(server: Server, api: Api, close: bool) -> None:
    server.close = close

    with pytest.raises(Temporary):
        api.signal("search", "reader-1", "reader", "TERM")


@pytest.mark.parametrize(("status", "kind"), [(403, Denied), (500, Temporary), (503, Temporary)])
def test_refusal_is_told_by_its_kind(server: Server, api: Api, status: int, kind: type[HydraError]) -> None:
    server.status = status

    with pytest.raises(kind, match=str(status)):
        api.signal("search", "reader-1", "reader", "HUP")
