"""HTTP to the Consul agent: the environment of the Go command line, kept-alive connections, typed errors.

Used by `adapters.kv` only. Everything that the `consul` command reads from its environment counts here as
well, so that one environment file serves `consul watch`, consul-template and the handlers.
"""

from __future__ import annotations

import base64
import http.client
import os
import select
import socket
import ssl
import threading
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, urlencode

from msgspec import Struct

from handlers.core.errors import Denied, HydraError, Temporary, Usage

DEFAULT_ADDRESS = "127.0.0.1:8500"
ANSWER_TIMEOUT_S = 15.0
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})


class Address(Struct, frozen=True):
    """How to reach an agent. `socket_path` (a Unix socket) wins over `host`; `path_prefix` is a proxy's."""

    host: str = DEFAULT_ADDRESS
    socket_path: str = ""
    path_prefix: str = ""
    tls: bool = False
    verify: bool = True
    token: str = ""
    auth: str = ""
    ca_file: str = ""
    ca_folder: str = ""
    client_cert: str = ""
    client_key: str = ""
    server_name: str = ""

    def __str__(self) -> str:
        if self.socket_path:
            return f"unix://{self.socket_path}"
        return f"{'https' if self.tls else 'http'}://{self.host}{self.path_prefix}"

    def __repr__(self) -> str:
        """Without the secrets, which would end up in tracebacks and logs."""
        return f"Address({self})"

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Address:
        """Read the CONSUL_ variables as the Go client does; raises `Usage` on values that it refuses."""
        scheme, _, rest = (environ.get("CONSUL_HTTP_ADDR") or DEFAULT_ADDRESS).rpartition("://")
        if scheme not in ("", "http", "https", "unix"):
            raise Usage(f"CONSUL_HTTP_ADDR: unknown scheme {scheme!r}; known are http, https, unix")
        host, slash, prefix = rest.partition("/") if scheme in ("http", "https") else (rest, "", "")
        return cls(
            host="localhost" if scheme == "unix" else host,
            socket_path=rest if scheme == "unix" else "",
            path_prefix=(slash + prefix).rstrip("/"),
            # a plain http:// does not take back what CONSUL_HTTP_SSL asked for
            tls=scheme == "https" or _flag(environ, "CONSUL_HTTP_SSL", False),
            verify=_flag(environ, "CONSUL_HTTP_SSL_VERIFY", True),
            token=_token(environ),
            auth=environ.get("CONSUL_HTTP_AUTH", ""),
            ca_file=environ.get("CONSUL_CACERT", ""),
            ca_folder=environ.get("CONSUL_CAPATH", ""),
            client_cert=environ.get("CONSUL_CLIENT_CERT", ""),
            client_key=environ.get("CONSUL_CLIENT_KEY", ""),
            server_name=environ.get("CONSUL_TLS_SERVER_NAME", ""),
        )


def _flag(environ: Mapping[str, str], name: str, default: bool) -> bool:
    value = environ.get(name, "")
    if value and value not in _TRUE | _FALSE:
        raise Usage(f"{name}: {value!r} is neither true nor false")
    return value in _TRUE if value else default


def _token(environ: Mapping[str, str]) -> str:
    """The file wins over the variable, as in the Go client; an empty file counts as none."""
    name = environ.get("CONSUL_HTTP_TOKEN_FILE", "")
    if name:
        try:
            from_file = Path(name).read_text().strip()
        except OSError as e:
            raise Usage(f"CONSUL_HTTP_TOKEN_FILE: cannot read {name}: {e.strerror}") from None
        if from_file:
            return from_file
    return environ.get("CONSUL_HTTP_TOKEN", "")


class Answer(Struct, frozen=True):
    """A complete answer: status 200 or 404, index to block on (0 where there is none), body, Date header."""

    status: int
    index: int
    body: bytes
    date: str = ""


class Transport:
    """Requests to one agent; each thread has a connection of its own, kept alive between requests."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._own = threading.local()
        self._headers = {"X-Consul-Token": address.token} if address.token else {}
        if address.auth:
            self._headers["Authorization"] = "Basic " + base64.b64encode(address.auth.encode()).decode()
        self._tls = _tls_context(address) if address.tls else None

    def request(
        self,
        method: str,
        path: str,
        params: Mapping[str, str],
        body: bytes | None = None,
        timeout_s: float = ANSWER_TIMEOUT_S,
        accept: frozenset[int] = frozenset({200, 404}),
    ) -> Answer:
        """One request to `/v1/<path>`; a status not in `accept` and a filtered list are raised as errors.

        A GET on a kept connection that turns out to be closed is sent once more. A write is not: when its
        answer is lost, it may have happened, and only the caller can find out (`Temporary`).
        """
        target = f"{self.address.path_prefix}/v1/{quote(path, safe='/')}"
        if params:
            target += "?" + urlencode(params)
        what = f"{method} {self.address}/v1/{path}"
        connection, reused = self._connection(timeout_s)
        try:
            answer, header = self._exchange(connection, method, target, body)
        except (OSError, http.client.HTTPException) as e:
            self._drop()
            if isinstance(e, ssl.SSLCertVerificationError):
                raise HydraError(f"{what}: the agent's certificate: {e.verify_message}") from e
            if method != "GET" or not reused or isinstance(e, TimeoutError):
                raise Temporary(f"{what}: no answer from Consul ({_reason(e)})") from e
            return self.request(method, path, params, body, timeout_s, accept)
        if answer.status not in accept:
            raise _error(answer, what)
        if header.get("X-Consul-Results-Filtered-By-ACLs", "").lower() == "true":
            raise Denied(f"{what}: the token may not see all of this; a filtered list must not look short")
        return answer

    def _exchange(
        self, connection: http.client.HTTPConnection, method: str, target: str, body: bytes | None
    ) -> tuple[Answer, http.client.HTTPMessage]:
        connection.request(method, target, body=body, headers=self._headers)
        response = connection.getresponse()
        data = response.read()
        if response.will_close:
            self._drop()
        index = response.headers.get("X-Consul-Index", "")
        # index 0 would turn every blocking query into a busy loop
        known = max(1, int(index)) if index.isdecimal() else 0
        return Answer(response.status, known, data, response.headers.get("Date", "")), response.headers

    def _connection(self, timeout_s: float) -> tuple[http.client.HTTPConnection, bool]:
        """This thread's connection and whether it was used before."""
        kept: http.client.HTTPConnection | None = getattr(self._own, "connection", None)
        if kept is not None and kept.sock is not None and not _closed_by_peer(kept.sock):
            kept.timeout = timeout_s
            kept.sock.settimeout(timeout_s)
            return kept, True
        self._drop()
        self._own.connection = fresh = self._open(timeout_s)
        return fresh, False

    def _open(self, timeout_s: float) -> http.client.HTTPConnection:
        if self.address.socket_path:
            return _UnixConnection(self.address.socket_path, timeout_s)
        try:
            if self._tls:
                return _TlsConnection(self.address, self._tls, timeout_s)
            return _TcpConnection(self.address.host, timeout=timeout_s)
        except http.client.InvalidURL as e:
            raise Usage(f"CONSUL_HTTP_ADDR: {e}") from None

    def _drop(self) -> None:
        kept: http.client.HTTPConnection | None = getattr(self._own, "connection", None)
        if kept is not None:
            kept.close()
        self._own.connection = None


class _Connection(http.client.HTTPConnection):
    """Closes itself: it ends with its thread, which knows nothing of it."""

    def __del__(self) -> None:
        self.close()


class _TcpConnection(_Connection):
    """Header and body leave at once: with Nagle's algorithm a small PUT would wait for an acknowledgement."""

    def connect(self) -> None:
        super().connect()
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class _UnixConnection(_Connection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class _TlsConnection(_TcpConnection):
    """TLS with CONSUL_TLS_SERVER_NAME as the name that the certificate must have."""

    default_port = http.client.HTTPS_PORT

    def __init__(self, address: Address, context: ssl.SSLContext, timeout_s: float) -> None:
        super().__init__(address.host, timeout=timeout_s)
        self._context = context
        self._server_name = address.server_name or self.host

    def connect(self) -> None:
        super().connect()
        self.sock = self._context.wrap_socket(self.sock, server_hostname=self._server_name)


def _tls_context(address: Address) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=address.ca_file or None, capath=address.ca_folder or None)
        if address.client_cert:
            context.load_cert_chain(address.client_cert, address.client_key or None)
    except OSError as e:
        raise Usage(f"CONSUL_CACERT, CONSUL_CAPATH, CONSUL_CLIENT_CERT or _KEY: {e}") from None
    if not address.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _closed_by_peer(sock: socket.socket) -> bool:
    """True when an idle connection has something to read, which can only be its end."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def _reason(e: BaseException) -> str:
    return getattr(e, "strerror", None) or str(e) or type(e).__name__


def _error(answer: Answer, what: str) -> HydraError:
    text = answer.body.decode(errors="replace").strip()[:300]
    said = f"{what}: {answer.status} {text}"
    match answer.status:
        case 401 | 403:
            return Denied(said)
        case 413:
            return Usage(f"{said} (more than Consul takes at once)")
        case 429:
            return Temporary(f"{said} (raise limits.http_max_conns_per_client on the agent)")
        case status if status >= 500:
            # an agent passes on with 500 what its server refused
            if "Permission denied" in text or "ACL not found" in text:
                return Denied(said)
            return Usage(said) if "Invalid Session TTL" in text else Temporary(said)
        case 400:
            return Usage(said)
    return HydraError(said)
