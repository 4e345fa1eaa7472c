"""An instance seen from outside: is it in service, take it out, let it reload, has it the new release.

The only code that talks to services. Used by `reload`; every answer is one moment's, and every call may be
repeated after a crash.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from handlers.adapters import processes
from handlers.adapters.errands import Errands, Kind
from handlers.adapters.local import LocalState
from handlers.adapters.ports import Agent
from handlers.core.errors import HydraError, Malformed, Timeout
from handlers.core.model import Instance
from handlers.core.names import InstanceKey
from handlers.core.pods import HEALTH as BY_KUBERNETES
from handlers.core.policy import (
    ByHealth,
    ByHttp,
    ByMaps,
    CommandCall,
    Confirm,
    ContainerReload,
    DeleteReload,
    Frozen,
    HttpReload,
    NoReload,
    Reload,
    RestartReload,
    SignalReload,
    SystemdReload,
    WarmUp,
)
from handlers.core.version import ReleaseId, Version

if TYPE_CHECKING:
    from handlers.adapters.supervisor import Supervisor

CONNECT_S, HEALTH_S = 2.0, 2.0
BY_HYDRA = "Hydra: reload"  # the reason of a maintenance mode that Hydra set, and may end
DELETION_KNOWN_S = 2.0  # within which a node hears that an instance is being taken away
_MAX_BODY = 1 << 20
_MAX_LINE = 200


class Health(Enum):
    """Whether an instance takes traffic; `GONE` = Consul does not know it (any more)."""

    IN = "in service"
    OUT = "not in service"
    GONE = "gone"
    UNSEEN = "cannot be seen"


class Services:
    """The instances of this node, and the health of those of others."""

    def __init__(
        self,
        consul: Agent,
        root: Path,
        supervisor_url: str = "",
        systemd_user: bool = False,
        commands: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._consul, self._root, self._supervisor_url = consul, root, supervisor_url
        self._systemd_user, self._commands = systemd_user, commands or {}
        self._errands = Errands(LocalState(root))

    def listing(self, consul_name: str, *, after: int = 0, wait_s: float = 0) -> tuple[list[Any], int]:
        """All instances of a Consul service with their checks, and the index to block on.

        Raises `Temporary` and `Denied`: what cannot be read must not look like a service without instances.
        """
        # "near" keeps the agent from answering by a stream of its own, which it takes up again only minutes
        # after a long outage: until then it would have nothing new to tell (agent/rpcclient/health/health.go)
        asked = {"consistent": "", "near": "_agent"}
        rows, index = self._consul.get_json(
            f"health/service/{consul_name}", asked, after=after, wait_s=wait_s
        )
        return (rows or []), index

    def health(self, instance: Instance, node: str, rows: list[Any], ready: bool) -> Health:
        """Whether the instance on `node` is in service.

        `rows` is the `listing` of its Consul service, `ready` whether its state says so.
        """
        match instance.health:
            case "consul":
                return _in_consul(instance, node, rows)
            case "none":
                return Health.IN if ready else Health.OUT
            case "kubernetes":
                return {True: Health.IN, False: Health.OUT, None: Health.UNSEEN}[instance.serving]
            case url:
                return _at_url(_whole(url, instance))

    def maintenance(self, instance: Instance, on: bool) -> None:
        """Set or end Consul's maintenance mode on this agent; one that an operator set is left alone."""
        checks, _ = self._consul.get_json(f"health/checks/{instance.consul_name}")
        mode = f"_service_maintenance:{instance.id}"
        notes = [row.get("Notes", "") for row in checks or [] if row["CheckID"] == mode]
        ours = any(note.startswith(BY_HYDRA) for note in notes)
        if on == bool(notes) or (notes and not ours):
            return
        self._consul.put_json(
            f"agent/service/maintenance/{instance.id}",
            params={"enable": "true", "reason": BY_HYDRA} if on else {"enable": "false"},
        )

    def reload(self, how: Reload, key: InstanceKey, instance: Instance, limit_s: float) -> None:
        """Tell the instance to load what its view points to, and wait until it says so (at most `limit_s`).

        Raises `HydraError` with what went wrong, as people should read it.
        """
        match how:
            case HttpReload(url):
                _post(url.at(instance.address, instance.port), limit_s, instance)
            case SignalReload(name, pidfile, program):
                if program:
                    self._supervisor(limit_s).signal(_filled(program, key), name)
                else:
                    _signal(Path(_filled(pidfile, key)), name)
            case RestartReload(program):
                self._supervisor(limit_s).restart(_filled(program, key))
            case SystemdReload(unit):
                from handlers.adapters.systemd import Systemd

                Systemd(limit_s, self._systemd_user).reload(_filled(unit, key))
            case DeleteReload():
                self._errand(instance, Kind.DELETE, limit_s)
            case ContainerReload(container, name, restart):
                kind = Kind.RESTART if restart else Kind.SIGNAL
                self._errand(instance, kind, limit_s, container=container, signal=name)
            case NoReload() | Frozen():
                return

    def warm_up(self, how: WarmUp, key: InstanceKey, instance: Instance, limit_s: float) -> None:
        """Let the instance get warm with what it has loaded, and wait for it (at most `limit_s`).

        Raises `HydraError` with what went wrong, as people should read it.
        """
        match how:
            case HttpReload():
                self.reload(how, key, instance, limit_s)
            case CommandCall(name):
                from handlers.adapters import commands  # here: most runs of reload warm nobody up

                ended = commands.run(self._commands, name, self._environ(key, instance), limit_s)
                if ended.code:
                    raise HydraError(f"command {name} ended with {ended.code}: {ended.line}")

    def _environ(self, key: InstanceKey, instance: Instance) -> dict[str, str]:
        return {
            "HYDRA_VIEW": str(self._root / "views" / key),
            "HYDRA_SERVICE": str(instance.service),
            "HYDRA_INSTANCE": instance.id,
            "HYDRA_ADDRESS": f"{instance.address or '127.0.0.1'}:{instance.port}",
        }

    def _errand(self, instance: Instance, kind: Kind, limit_s: float, **more: str) -> None:
        if instance.health != BY_KUBERNETES:
            raise HydraError(f"{kind} of its pod: it is no pod")
        self._errands.give(instance.incarnation, kind, limit_s, **more)

    def _supervisor(self, limit_s: float) -> Supervisor:
        # most runs of reload never need it, and start faster without
        from handlers.adapters.supervisor import Supervisor

        # supervisord tells its children, and so theirs, where it listens
        url = self._supervisor_url or os.environ.get("SUPERVISOR_SERVER_URL", "")
        if not url:
            raise HydraError("no supervisord is known: set supervisor.url in the node's configuration")
        return Supervisor(url, limit_s)

    def confirmed(
        self,
        how: Confirm,
        key: InstanceKey,
        instance: Instance,
        new: Mapping[str, ReleaseId],
        old: Mapping[str, ReleaseId],
    ) -> str:
        """Empty when the instance has `new` (by alias) and has let go of `old`; else what is seen instead."""
        match how:
            case ByHealth():
                return ""
            case ByHttp(url, field):
                return _has_field(url.at(instance.address, instance.port), field, new)
            case ByMaps():
                left = {r for a, r in old.items() if new.get(a) != r} - set(new.values())
                return processes.moved(key, self._root, set(new.values()), left)


def _post(url: str, limit_s: float, instance: Instance) -> None:
    """Any 2xx means that it has loaded. Who breaks off or refuses is asked once more: the process of one that
    is taken away may end before that is known here, and says nothing of the release. By then it is known.
    """
    try:
        status, body = _request("POST", url, limit_s)
    except Timeout:
        raise
    except HydraError:
        if instance.health not in (BY_KUBERNETES, "consul"):
            raise
        time.sleep(DELETION_KNOWN_S)
        status, body = _request("POST", url, limit_s)
    if not 200 <= status < 300:
        raise HydraError(f"HTTP {status}: {_first_line(body)}")


def _in_consul(instance: Instance, node: str, rows: list[Any]) -> Health:
    """Ids are unique on one agent only, and the agent may know the node under another name than Hydra."""
    same = [row for row in rows if row["Service"]["ID"] == instance.id]
    own = [row for row in same if row["Node"]["Node"] == node]
    own = own or [row for row in same if str(row["Service"].get("CreateIndex")) == instance.incarnation]
    own = own or (same if len(same) == 1 else [])
    if not own:
        return Health.GONE if not same else Health.UNSEEN
    checks = own[0].get("Checks") or []
    return Health.OUT if any(check["Status"] == "critical" for check in checks) else Health.IN


def _at_url(url: str) -> Health:
    """No answer is an answer: whoever sends traffic there gets none either."""
    try:
        status, _ = _request("GET", url, HEALTH_S)
    except HydraError:
        return Health.OUT
    return Health.IN if 200 <= status < 300 else Health.OUT


def _has_field(url: str, field: str, new: Mapping[str, ReleaseId]) -> str:
    try:
        status, body = _request("GET", url, HEALTH_S)
    except HydraError as e:
        return str(e)
    if not 200 <= status < 300:
        return f"HTTP {status}: {_first_line(body)}"
    try:
        value = json.loads(body)
        for part in field.split("."):
            value = value[part]
    except (ValueError, KeyError, TypeError):
        return f"no field {field} in {_first_line(body)}"
    wanted: dict[str, Version] = {alias: release.version for alias, release in new.items()}
    if isinstance(value, dict):
        has = {alias: value.get(alias) for alias in wanted}
        return "" if has == wanted else f"{field} is {json.dumps(has)[:_MAX_LINE]}"
    return "" if {value} == set(wanted.values()) else f"{field} is {json.dumps(value)[:_MAX_LINE]}"


def _request(method: str, url: str, limit_s: float) -> tuple[int, bytes]:
    """One request without redirects or proxies; raises `HydraError`, `Timeout` without a whole answer."""
    import http.client  # here: most runs of reload ask no service anything, and start faster without

    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=min(CONNECT_S, limit_s))
    target = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
    with contextlib.closing(connection):
        try:
            connection.connect()
            connection.sock.settimeout(max(limit_s, 0.1))
            connection.request(method, target, body=b"" if method == "POST" else None)
            response = connection.getresponse()
            return response.status, response.read(_MAX_BODY)
        except TimeoutError as e:
            raise Timeout(f"{method} {url}: no answer within {limit_s:g} s") from e
        except (OSError, http.client.HTTPException, ValueError) as e:
            reason = getattr(e, "strerror", None) or str(e) or type(e).__name__
            raise HydraError(f"{method} {url}: {reason}") from e


def _whole(url: str, instance: Instance) -> str:
    """`http://:PORT/PATH` stands for the instance's own address, as in reload texts."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or instance.port
    except ValueError as e:
        raise Malformed(f"health {url!r}: {e}") from None
    if host:
        return url
    address = instance.address or "127.0.0.1"
    return parts._replace(netloc=f"{f'[{address}]' if ':' in address else address}:{port}").geturl()


def _signal(pidfile: Path, name: str) -> None:
    try:
        os.kill(int(pidfile.read_text()), signal.Signals[f"SIG{name}"])
    except (OSError, ValueError) as e:
        raise HydraError(f"signal {name} by {pidfile}: {getattr(e, 'strerror', None) or e}") from e


def _filled(text: str, key: InstanceKey) -> str:
    return text.replace("{id}", key.segment)


def _first_line(body: bytes) -> str:
    lines = body.decode(errors="replace").strip().splitlines()
    return lines[0][:_MAX_LINE] if lines else "(no text)"
