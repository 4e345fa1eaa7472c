"""The way to the agent: environment, TLS, Unix sockets, connections that break, errors."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from handlers.adapters.consul_http import Address, Transport
from handlers.adapters.kv import ConsulKV
from handlers.adapters.ports import Set
from handlers.core.errors import Denied, HydraError, Temporary, Usage
from hydra_cli.dev.ports import free_port
from tests.servers import Consul, consul_server

LONG_S = 30.0


# --- environment ---


@pytest.mark.parametrize(
    ("given", "reached"),
    [
        ({}, "http://127.0.0.1:8500"),
        ({"CONSUL_HTTP_ADDR": ""}, "http://127.0.0.1:8500"),
        ({"CONSUL_HTTP_ADDR": "consul:1234"}, "http://consul:1234"),
        ({"CONSUL_HTTP_ADDR": "consul"}, "http://consul"),
        ({"CONSUL_HTTP_ADDR": "http://consul:1"}, "http://consul:1"),
        ({"CONSUL_HTTP_ADDR": "https://consul:1"}, "https://consul:1"),
        ({"CONSUL_HTTP_ADDR": "https://proxy:1/consul/"}, "https://proxy:1/consul"),
        ({"CONSUL_HTTP_ADDR": "[::1]:8500"}, "http://[::1]:8500"),
        ({"CONSUL_HTTP_ADDR": "unix:///run/consul.sock"}, "unix:///run/consul.sock"),
        ({"CONSUL_HTTP_ADDR": "consul:1", "CONSUL_HTTP_SSL": "true"}, "https://consul:1"),
        ({"CONSUL_HTTP_ADDR": "consul:1", "CONSUL_HTTP_SSL": "1"}, "https://consul:1"),
        ({"CONSUL_HTTP_ADDR": "http://consul:1", "CONSUL_HTTP_SSL": "t"}, "https://consul:1"),
        ({"CONSUL_HTTP_ADDR": "consul:1", "CONSUL_HTTP_SSL": "false"}, "http://consul:1"),
    ],
)
def test_address_is_read_as_the_go_client_reads_it(given: dict[str, str], reached: str) -> None:
    assert str(Address.from_env(given)) == reached


def test_everything_else_is_read_too() -> None:
    given = {
        "CONSUL_HTTP_TOKEN": "secret",
        "CONSUL_HTTP_AUTH": "user:word",
        "CONSUL_HTTP_SSL_VERIFY": "0",
        "CONSUL_CACERT": "ca.pem",
        "CONSUL_CAPATH": "cas",
        "CONSUL_CLIENT_CERT": "cert.pem",
        "CONSUL_CLIENT_KEY": "key.pem",
        "CONSUL_TLS_SERVER_NAME": "server.dc1.consul",
    }

    assert Address.from_env(given) == Address(
        token="secret",
        auth="user:word",
        verify=False,
        ca_file="ca.pem",
        ca_folder="cas",
        client_cert="cert.pem",
        client_key="key.pem",
        server_name="server.dc1.consul",
    )


def test_token_file_wins_over_the_token(tmp_path: Path) -> None:
    file = tmp_path / "token"
    given = {"CONSUL_HTTP_TOKEN": "plain", "CONSUL_HTTP_TOKEN_FILE": str(file)}
    file.write_text(" from-file\n")
    assert Address.from_env(given).token == "from-file"
    file.write_text("\n")
    assert Address.from_env(given).token == "plain"
    file.unlink()
    with pytest.raises(Usage, match="CONSUL_HTTP_TOKEN_FILE"):
        Address.from_env(given)


@pytest.mark.parametrize(
    "given",
    [
        {"CONSUL_HTTP_ADDR": "ftp://consul"},
        {"CONSUL_HTTP_SSL": "yes"},
        {"CONSUL_HTTP_SSL_VERIFY": "off"},
    ],
)
def test_what_the_go_client_would_not_take_is_a_usage_error(given: dict[str, str]) -> None:
    with pytest.raises(Usage, match=next(iter(given))):
        Address.from_env(given)


def test_port_that_is_none_is_a_usage_error() -> None:
    with pytest.raises(Usage, match="CONSUL_HTTP_ADDR"):
        ConsulKV.from_env({"CONSUL_HTTP_ADDR": "consul:port"}).get("a")


def test_secrets_stay_out_of_texts() -> None:
    address = Address(token="my-secret", auth="user:my-secret")

    assert "my-secret" not in f"{address} {address!r}"


# --- other ways in ---


def test_unix_socket_works(tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    settings = {"addresses": {"http": f"unix://{path} 127.0.0.1"}}
    with consul_server(tmp_path / "consul", settings=settings):
        kv = ConsulKV.from_env({"CONSUL_HTTP_ADDR": f"unix://{path}"})
        kv.txn([Set("a", b"1")])

        entry, _ = kv.get("a")
        assert entry is not None
        assert entry.value == b"1"


@dataclass(frozen=True)
class Tls:
    """A Consul server that wants a certificate from its clients."""

    port: int
    folder: Path

    def environment(self, **more: str) -> dict[str, str]:
        given = {
            "CONSUL_HTTP_ADDR": f"https://127.0.0.1:{self.port}",
            "CONSUL_CACERT": str(self.folder / "consul-agent-ca.pem"),
            "CONSUL_CLIENT_CERT": str(self.folder / "dc1-client-consul-0.pem"),
            "CONSUL_CLIENT_KEY": str(self.folder / "dc1-client-consul-0-key.pem"),
        }
        return {name: value for name, value in (given | more).items() if value}


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory, programs: Callable[[str], Path]) -> Iterator[Tls]:
    folder, port = tmp_path_factory.mktemp("tls"), free_port()
    for what in (["ca", "create"], ["cert", "create", "-server"], ["cert", "create", "-client"]):
        call = [str(programs("consul")), "tls", *what]
        subprocess.run(call, cwd=folder, check=True, capture_output=True)
    certificate = {
        "ca_file": str(folder / "consul-agent-ca.pem"),
        "cert_file": str(folder / "dc1-server-consul-0.pem"),
        "key_file": str(folder / "dc1-server-consul-0-key.pem"),
        "verify_incoming": True,
    }
    more = {"tls": {"https": certificate}, "addresses": {"https": "127.0.0.1"}}
    with consul_server(folder / "consul", https_port=port, settings=more):
        yield Tls(port, folder)


def test_tls_with_a_client_certificate_works(tls: Tls) -> None:
    assert ConsulKV.from_env(tls.environment()).get("a")[1] > 0


def test_name_in_the_certificate_may_be_given(tls: Tls) -> None:
    environ = tls.environment(CONSUL_TLS_SERVER_NAME="server.dc1.consul")

    assert ConsulKV.from_env(environ).get("a")[1] > 0


def test_wrong_name_in_the_certificate_is_refused(tls: Tls) -> None:
    environ = tls.environment(CONSUL_TLS_SERVER_NAME="elsewhere.example")

    with pytest.raises(HydraError, match="certificate") as caught:
        ConsulKV.from_env(environ).get("a")
    assert not isinstance(caught.value, Temporary)


def test_unknown_authority_is_refused_unless_verification_is_off(tls: Tls) -> None:
    with pytest.raises(HydraError, match="certificate"):
        ConsulKV.from_env(tls.environment(CONSUL_CACERT="")).get("a")

    unverified = tls.environment(CONSUL_CACERT="", CONSUL_HTTP_SSL_VERIFY="false")
    assert ConsulKV.from_env(unverified).get("a")[1] > 0


def test_missing_client_certificate_is_refused(tls: Tls) -> None:
    with pytest.raises(HydraError):
        ConsulKV.from_env(tls.environment(CONSUL_CLIENT_CERT="")).get("a")


def test_unreadable_certificates_are_a_usage_error(tls: Tls) -> None:
    with pytest.raises(Usage, match="CONSUL_CACERT"):
        ConsulKV.from_env(tls.environment(CONSUL_CACERT="/no/such/file"))


# --- permissions on a real Consul ---


def test_list_that_acls_cut_short_is_denied_without_the_list_policy(tmp_path: Path) -> None:
    """Without `enable_key_list_policy` Consul leaves out what may not be seen, and says so in a header."""
    with consul_server(tmp_path, acl=True, key_list_policy=False) as consul:
        consul.kv().txn([Set("p/open", b"1"), Set("p/secret", b"1")])
        some = consul.kv(consul.token_for('key "p/open" { policy = "read" }'))
        none = consul.kv(consul.token_for('key "q" { policy = "read" }'))
        with pytest.raises(Denied, match="filtered"):
            some.list("p/")
        with pytest.raises(Denied, match="filtered"):
            none.list("p/")


def test_unknown_token_is_denied(consul_acl: Consul) -> None:
    with pytest.raises(Denied):
        consul_acl.kv("00000000-1111-2222-3333-444444444444").list("hydra/")


def test_session_of_another_node_is_denied(consul_acl: Consul) -> None:
    token = consul_acl.token_for('session "n1" { policy = "write" }')

    with pytest.raises(Denied):
        consul_acl.kv(token).create_session("mine", ttl_s=10, behavior="delete")


# --- connections that break: a server that does what Consul does only on bad days ---


@dataclass
class Strange:
    """A server that answers each connection with scripted replies; None = hang up without an answer."""

    script: list[list[bytes | None]]
    requests: list[str] = field(default_factory=list)
    hung_up: threading.Event = field(default_factory=threading.Event)
    port: int = 0

    def serve(self, listener: socket.socket) -> None:
        for replies in self.script:
            connection, _ = listener.accept()
            with connection:
                for reply in replies:
                    if not (request := self._request(connection)):
                        break
                    self.requests.append(request)
                    if reply is None:
                        break
                    connection.sendall(reply)
            self.hung_up.set()

    def _request(self, connection: socket.socket) -> str:
        """The first line of one request, its body read."""
        raw = b""
        while b"\r\n\r\n" not in raw:
            if not (piece := connection.recv(65536)):
                return ""
            raw += piece
        head, _, body = raw.partition(b"\r\n\r\n")
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        missing = int(lengths[0].split(b":")[1]) - len(body) if lengths else 0
        while missing > 0:
            missing -= len(connection.recv(65536))
        return head.split(b"\r\n")[0].decode().rpartition(" ")[0]


@contextmanager
def strange(*script: list[bytes | None]) -> Iterator[tuple[Strange, Transport]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Strange(list(script), port=listener.getsockname()[1])
        thread = threading.Thread(target=server.serve, args=(listener,), daemon=True)
        thread.start()
        yield server, Transport(Address(host=f"127.0.0.1:{server.port}"))
        thread.join(LONG_S)


def reply(status: str, body: bytes = b"{}", headers: Mapping[str, str] = {}) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


OK = reply("200 OK")


def test_connection_is_used_again() -> None:
    with strange([OK, OK, OK]) as (server, transport):
        for _ in range(3):
            assert transport.request("GET", "a", {}).body == b"{}"
    assert server.requests == ["GET /v1/a"] * 3


def test_read_on_a_kept_connection_that_breaks_is_sent_once_more() -> None:
    with strange([OK, None], [OK]) as (server, transport):
        transport.request("GET", "a", {})
        assert transport.request("GET", "b", {}).body == b"{}"
    assert server.requests == ["GET /v1/a", "GET /v1/b", "GET /v1/b"]


def test_read_that_fails_on_a_new_connection_is_not_repeated() -> None:
    with strange([None]) as (server, transport), pytest.raises(Temporary):
        transport.request("GET", "a", {})
    assert server.requests == ["GET /v1/a"]


def test_write_whose_answer_was_lost_is_never_repeated() -> None:
    with strange([OK, None]) as (server, transport):
        transport.request("GET", "a", {})
        with pytest.raises(Temporary):
            transport.request("PUT", "b", {}, b"body")
    assert server.requests == ["GET /v1/a", "PUT /v1/b"]


def test_write_after_the_server_hung_up_goes_over_a_new_connection() -> None:
    """An agent that restarted must not cost the next write: the end of the old connection is seen before."""
    with strange([OK], [OK]) as (server, transport):
        transport.request("GET", "a", {})
        assert server.hung_up.wait(LONG_S)
        transport.request("PUT", "b", {}, b"body")
    assert server.requests == ["GET /v1/a", "PUT /v1/b"]


def test_answer_cut_short_is_temporary() -> None:
    cut = reply("200 OK", b"{}").replace(b"Content-Length: 2", b"Content-Length: 200")
    with strange([cut]) as (_, transport), pytest.raises(Temporary):
        transport.request("GET", "a", {})


def test_silence_is_temporary_and_not_waited_out_twice() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        transport = Transport(Address(host=f"127.0.0.1:{listener.getsockname()[1]}"))
        with pytest.raises(Temporary):
            transport.request("GET", "a", {}, timeout_s=0.2)


def test_connection_that_the_server_closes_in_good_order_is_not_kept() -> None:
    with strange([reply("200 OK", headers={"Connection": "close"})], [OK]) as (server, transport):
        transport.request("GET", "a", {})
        transport.request("PUT", "b", {}, b"")
    assert server.requests == ["GET /v1/a", "PUT /v1/b"]


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        ("400 Bad Request", b"bad", Usage),
        ("401 Unauthorized", b"", Denied),
        ("403 Forbidden", b"ACL not found", Denied),
        ("413 Request Entity Too Large", b"", Usage),
        ("418 Teapot", b"", HydraError),
        ("429 Too Many Requests", b"", Temporary),
        ("500 Internal Server Error", b"No cluster leader", Temporary),
        ("500 Internal Server Error", b"rpc error making call: Permission denied", Denied),
        ("503 Service Unavailable", b"", Temporary),
    ],
)
def test_status_is_the_error_that_it_means(status: str, body: bytes, kind: type[HydraError]) -> None:
    with strange([reply(status, body)]) as (_, transport), pytest.raises(HydraError) as caught:
        transport.request("GET", "kv/a", {})
    assert type(caught.value) is kind
    assert "/v1/kv/a" in str(caught.value)


def test_index_zero_never_reaches_who_blocks() -> None:
    with strange([reply("200 OK", b"[]", {"X-Consul-Index": "0"})]) as (_, transport):
        assert transport.request("GET", "kv/", {"recurse": ""}).index == 1


def test_proxy_prefix_and_odd_names_are_part_of_the_request() -> None:
    with strange([OK]) as (server, _):
        transport = Transport(Address(host=f"127.0.0.1:{server.port}", path_prefix="/consul"))
        transport.request("GET", "kv/a b/ü", {"wait": "1s"})
    assert server.requests == ["GET /consul/v1/kv/a%20b/%C3%BC?wait=1s"]


def test_each_thread_has_a_connection_of_its_own() -> None:
    """A blocking query of one thread must not hold up the reads of another."""
    with strange([OK, None], [OK]) as (server, transport):
        transport.request("GET", "a", {})
        other = threading.Thread(target=transport.request, args=("GET", "b", {}))
        other.start()
        transport._drop()
        other.join(LONG_S)
    assert server.requests == ["GET /v1/a", "GET /v1/b"]
