"""S3 over TLS: answers of every size and kind arrive, faults are noticed, and nobody unknown is talked to."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from handlers.adapters.objects import S3Objects
from handlers.adapters.ports import Source
from handlers.core.errors import Temporary, Untrusted, Usage

X = Source("bucket", "x")
BODY = os.urandom(3_000_001)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory, programs: Callable[[str], Path]) -> Path:
    """A folder with an authority, a certificate for localhost, and another authority."""
    folder = tmp_path_factory.mktemp("tls")
    for what in (["ca", "create"], ["cert", "create", "-server"], ["ca", "create", "-domain", "other"]):
        command = [str(programs("consul")), "tls", *what]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder


class Server:
    """Answers each request on each connection with what `answer` makes of its `Range`."""

    def __init__(self, folder: Path) -> None:
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(folder / "dc1-server-consul-0.pem", folder / "dc1-server-consul-0-key.pem")
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.connections = 0
        self.send = len(BODY)
        self.says_goodbye = False
        self.hang = threading.Event()
        self.hang.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self.hang.set()
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # a close alone does not wake who accepts
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                plain, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(plain,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        try:
            with self._tls.wrap_socket(plain, server_side=True) as secure:
                reader = secure.makefile("rb")
                while lines := _head(reader):
                    wanted = next(line for line in lines if line.lower().startswith(b"range:"))
                    start, end = map(int, wanted.split(b"=")[1].split(b"-"))
                    secure.sendall(
                        f"HTTP/1.1 206 Partial Content\r\nContent-Length: {end + 1 - start}\r\n"
                        f'Content-Range: bytes {start}-{end}/{len(BODY)}\r\nETag: "e"\r\n\r\n'.encode()
                    )
                    secure.sendall(BODY[start : min(end + 1, self.send)])
                    if self.send < end + 1:
                        self.hang.wait(60)
                        if self.says_goodbye:
                            secure.unwrap()
                        return
        except OSError:
            return


def _head(reader: BinaryIO) -> list[bytes]:
    """The lines of the next request; none once the other side has closed."""
    lines = []
    while (line := reader.readline()) not in (b"", b"\r\n"):
        lines.append(line)
    return lines


@pytest.fixture
def server(authority: Path) -> Iterator[Server]:
    server = Server(authority)
    yield server
    server.close()


def objects(server: Server, ca: Path | str, stall_s: float = 20) -> S3Objects:
    environ = {
        "AWS_ENDPOINT_URL": f"https://localhost:{server.port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_CA_BUNDLE": str(ca),
    }
    return S3Objects(stall_s=stall_s, environ=environ)


def read(store: S3Objects, start: int = 0, length: int = len(BODY)) -> bytes:
    return b"".join(bytes(piece) for piece in store.read_range(X, "e", start, length))


def test_ranges_arrive_over_one_connection(authority: Path, server: Server) -> None:
    store = objects(server, authority / "consul-agent-ca.pem")

    for start, length in ((0, len(BODY)), (5, 1), (0, 1), (70_000, 65_536), (len(BODY) - 1, 1)):
        assert read(store, start, length) == BODY[start : start + length]
    assert server.connections == 1


@pytest.mark.parametrize("sent", [0, 1000, 2_000_000])
@pytest.mark.parametrize("says_goodbye", [False, True])
def test_a_cut_answer_is_temporary(says_goodbye: bool, sent: int, authority: Path, server: Server) -> None:
    server.send, server.says_goodbye = sent, says_goodbye

    with pytest.raises(Temporary, match="s3://bucket/x: the answer broke off"):
        read(objects(server, authority / "consul-agent-ca.pem"))


@pytest.mark.parametrize("sent", [0, 1000, 2_000_000])
def test_a_stall_is_noticed(sent: int, authority: Path, server: Server) -> None:
    server.send = sent
    server.hang.clear()

    with pytest.raises(Temporary, match=r"s3://bucket/x: .* bytes in 2 s"):
        read(objects(server, authority / "consul-agent-ca.pem", stall_s=4))


def test_a_certificate_of_somebody_else_is_refused(authority: Path, server: Server) -> None:
    with pytest.raises(Untrusted, match="AWS_CA_BUNDLE"):
        read(objects(server, authority / "other-agent-ca.pem"))


def test_a_bundle_that_is_not_there_is_named(server: Server) -> None:
    with pytest.raises(Usage, match="AWS_CA_BUNDLE: cannot read /nowhere"):
        read(objects(server, "/nowhere"))
