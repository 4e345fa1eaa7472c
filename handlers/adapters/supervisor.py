"""supervisord over its XML-RPC interface, on a Unix socket or TCP: signal, stop and start what it runs."""

from __future__ import annotations

import http.client
import socket
import xmlrpc.client
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from handlers.core.errors import Denied, HydraError, Temporary, Usage

TIMEOUT_S = 30.0
_NO_SUCH_NAME, _ALREADY_STARTED, _NOT_RUNNING = 10, 60, 70  # supervisor.xmlrpc.Faults


class Supervisor:
    """One supervisord, by the address that it gives its children: `unix:///path` or `http://host:port`.

    `timeout_s` is for each answer; a restart is answered only once the process is up.
    """

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("unix", "http"):
            raise Usage(f"supervisor address {url!r} must be unix:///path or http://host:port")
        self._url = url
        self._connect = (
            _unix(parts.path, timeout_s) if parts.scheme == "unix" else _tcp(parts.netloc, timeout_s)
        )

    def signal_group(self, group: str, signal: str) -> None:
        """Send a signal to every running process of a group; one that is not running is passed over."""
        self._call("supervisor.signalProcessGroup", group, signal)

    def signal(self, name: str, signal: str) -> None:
        """Send a signal to a process; `Usage` for an unknown name, `Temporary` when it does not run."""
        self._call("supervisor.signalProcess", name, signal)

    def restart(self, name: str) -> None:
        """Stop the process if it runs, then start it and wait until it is up."""
        self._call("supervisor.stopProcess", name, True, fine=(_NOT_RUNNING,))
        self._call("supervisor.startProcess", name, True, fine=(_ALREADY_STARTED,))

    def pid(self, name: str) -> int:
        """The process id; 0 when it does not run."""
        return int(self._call("supervisor.getProcessInfo", name)["pid"])

    def down(self) -> list[str]:
        """The programs that should run and do not, without those that an operator stopped."""
        rows = self._call("supervisor.getAllProcessInfo")
        return [row["name"] for row in rows if row["statename"] not in ("RUNNING", "STOPPED", "STARTING")]

    def _call(self, method: str, *args: Any, fine: Iterable[int] = ()) -> Any:
        what = f"supervisord at {self._url}: {method}{args}"
        body = xmlrpc.client.dumps(args, method).encode()
        connection = self._connect()
        try:
            connection.request("POST", "/RPC2", body, {"Content-Type": "text/xml"})
            response = connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException) as e:
            raise Temporary(f"{what}: {e}") from e
        finally:
            connection.close()
        if response.status == 401:
            raise Denied(f"{what}: wrong user or password")
        if response.status != 200:
            raise HydraError(f"{what}: {response.status} {response.reason}")
        try:
            (value,), _ = xmlrpc.client.loads(answer)
        except xmlrpc.client.Fault as e:
            if e.faultCode in fine:
                return None
            kind = {_NO_SUCH_NAME: Usage, _NOT_RUNNING: Temporary}.get(e.faultCode, HydraError)
            raise kind(f"{what}: {e.faultString}") from None
        return value


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(self._path)
        except OSError:
            self.sock.close()
            raise


def _unix(path: str, timeout_s: float) -> Any:
    return lambda: _UnixConnection(path, timeout_s)


def _tcp(host: str, timeout_s: float) -> Any:
    return lambda: http.client.HTTPConnection(host, timeout=timeout_s)
