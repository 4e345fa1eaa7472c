"""How the instances of a service are moved, as the texts of its subscription say it.

    reload    http://:PORT/PATH      POST to the instance's address; no PORT (`http://:/PATH`) = its own port
              signal:HUP@pidfile:/run/places-{id}.pid      signal:HUP@supervisor:places-{id}
              restart:supervisor:places-{id}
              systemd:places@{id}.service        reload the unit, or restart it where it cannot reload
              delete                 its pod is deleted; the one that comes instead begins with the release
              signal:HUP@container:NAME, restart:container:NAME      of its pod, in place
              none                   the service watches `..data` itself
              frozen                 an instance keeps what it started with until it ends
    confirm   health                 it is in service again
              http://:PORT/PATH#FIELD    FIELD of the JSON answer is the version (`http:` may precede the URL)
              maps                   it has files of the new release open or mapped, and none of the old
    drain     check                  its health check reads the view's `state` file
              maintenance            Hydra sets Consul's maintenance mode
    warm-up   http://:PORT/PATH      POST, after the confirmation and before `ready`
              command:NAME           a command of the node's configuration
    ram       via-disk               what does not fit beside the old copy is read from disk in between

`{id}` is the instance's id as it stands in paths, so that one subscription serves several replicas on a node.
The command line checks a subscription with `parse`; nodes use what it returns.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Protocol, TypeVar

from msgspec import Struct

from handlers.core.errors import Usage
from handlers.core.model import Subscription

SIGNALS = ("HUP", "USR1", "USR2", "TERM", "INT", "WINCH")
LATER = ("command:",)
_Word = TypeVar("_Word", bound=StrEnum)
_URL = re.compile(r"http://(?P<host>localhost|127\.0\.0\.1)?:(?P<port>\d{0,5})(?P<path>/[^\s#]*)")
_PROGRAM = re.compile(r"(?:[A-Za-z0-9_.:-]|\{id\})+")
_UNIT = re.compile(r"(?!-)(?:[A-Za-z0-9_.:@-]|\{id\})+\.service")
_PIDFILE = re.compile(r"/(?:[^\s{}]|\{id\})+")
_CONTAINER = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_COMMAND = re.compile(r"[A-Za-z0-9_-]+")
_FIELD = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")


class Url(Struct, frozen=True):
    """An endpoint of an instance: no `host` = the instance's address, `port` 0 = its own port."""

    path: str
    port: int = 0
    host: str = ""

    def at(self, address: str, port: int) -> str:
        """The whole URL for an instance at `address` (empty = this machine) and `port`."""
        host = self.host or address or "127.0.0.1"
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port or port}{self.path}"


class HttpReload(Struct, frozen=True):
    """POST to the instance; any 2xx means that it has loaded what its view points to."""

    url: Url


class SignalReload(Struct, frozen=True):
    """Send a signal to the process named by a pid file or by supervisord."""

    signal: str
    pidfile: str = ""
    program: str = ""


class ContainerReload(Struct, frozen=True):
    """Send a signal to process 1 of a container of the pod; `restart`: TERM, and wait for the next one."""

    container: str
    signal: str = "TERM"
    restart: bool = False


class DeleteReload(Struct, frozen=True):
    """Delete the pod: an instance is never given other data, another one takes its place."""


class RestartReload(Struct, frozen=True):
    """Restart a program of supervisord and wait until it runs."""

    program: str


class SystemdReload(Struct, frozen=True):
    """Let a unit of systemd reload, or restart where it cannot, and wait for it."""

    unit: str


class NoReload(Struct, frozen=True):
    """The service sees the flip of its view by itself."""


class Frozen(Struct, frozen=True):
    """An instance is never moved while it lives."""


PodReload = ContainerReload | DeleteReload
Reload = HttpReload | SignalReload | RestartReload | SystemdReload | PodReload | NoReload | Frozen


def makes_another(reload: Reload) -> bool:
    """Whether a pod gets another process for other data: the one that waited for its view needs no call."""
    return isinstance(reload, DeleteReload) or (isinstance(reload, ContainerReload) and reload.restart)


class CommandCall(Struct, frozen=True):
    """Run a command that the node's configuration defines; exit code 0 means done."""

    name: str


WarmUp = HttpReload | CommandCall


class ByHealth(Struct, frozen=True):
    """Being in service again is the confirmation."""


class ByHttp(Struct, frozen=True):
    """`field` (parts joined by dots) of the JSON at `url` equals the version, or the versions by alias."""

    url: Url
    field: str


class ByMaps(Struct, frozen=True):
    """The instance's processes have files of the new release open or mapped, and none of the old."""


Confirm = ByHealth | ByHttp | ByMaps


class Drain(StrEnum):
    """Who takes an instance out of service."""

    CHECK = "check"
    MAINTENANCE = "maintenance"


class RamPolicy(StrEnum):
    """What happens where a new RAM copy does not fit beside the old one."""

    VIA_DISK = "via-disk"
    DRAIN_NODE = "drain-node"


class Policy(Struct, frozen=True):
    """The texts of one subscription, understood."""

    reload: Reload
    confirm: Confirm
    drain: Drain
    ram: RamPolicy
    warm_up: WarmUp | None = None


class Texts(Protocol):
    """A `Subscription` or a `ServicePlan`."""

    @property
    def reload(self) -> str: ...
    @property
    def confirm(self) -> str: ...
    @property
    def drain(self) -> str: ...
    @property
    def ram(self) -> str: ...
    @property
    def warm_up(self) -> str: ...


def parse(texts: Texts) -> Policy:
    """All at once; raises `Usage` that names the wrong one."""
    return Policy(
        reload=parse_reload(texts.reload),
        confirm=parse_confirm(texts.confirm),
        drain=_word(Drain, "drain", texts.drain),
        ram=parse_ram(texts.ram),
        warm_up=parse_warm_up(texts.warm_up) if texts.warm_up else None,
    )


def of_subscription(subscription: Subscription) -> Policy:
    """The same of a subscription, which says as well in which order instances move; raises `Usage`."""
    found = parse(subscription)
    if isinstance(found.reload, DeleteReload) and (subscription.canaries or subscription.check):
        raise Usage(
            "reload 'delete' lets other instances take the place of those that are there, so none of these "
            "can go first: leave out canaries and check"
        )
    return found


def parse_reload(text: str) -> Reload:
    """How an instance is told to load what its view points to; raises `Usage`."""
    if text.startswith(LATER):
        raise Usage(f"reload {text!r} is not supported by this version")
    match text.split(":", 1):
        case ["none"]:
            return NoReload()
        case ["frozen"]:
            return Frozen()
        case ["delete"]:
            return DeleteReload()
        case ["http", _]:
            return HttpReload(parse_url(text, "reload"))
        case ["signal", rest]:
            return _signal(text, rest)
        case ["restart", rest] if rest.startswith(("container:", "supervisor:")):
            return _restart(text, rest)
        case ["systemd", unit] if _UNIT.fullmatch(unit):
            return SystemdReload(unit)
        case ["systemd", unit]:
            raise Usage(
                f"reload {text!r}: {unit!r} is not a unit of systemd, like places.service (with {{id}})"
            )
    raise Usage(
        f"reload {text!r} is none of http://:PORT/PATH, signal:NAME@pidfile:/PATH, "
        "signal:NAME@supervisor:NAME, restart:supervisor:NAME, systemd:UNIT, delete, "
        "signal:NAME@container:NAME, restart:container:NAME, none, frozen"
    )


def parse_warm_up(text: str) -> WarmUp:
    """What is done with new data before traffic comes; raises `Usage`."""
    kind, _, name = text.partition(":")
    if kind == "command" and _COMMAND.fullmatch(name):
        return CommandCall(name)
    if kind == "http":
        return HttpReload(parse_url(text, "warm-up"))
    raise Usage(f"warm-up {text!r} is none of http://:PORT/PATH, command:NAME")


def parse_confirm(text: str) -> Confirm:
    """How an instance shows that it runs the new release; raises `Usage`."""
    if text == "health":
        return ByHealth()
    if text == "maps":
        return ByMaps()
    if not text.startswith("http:"):
        raise Usage(f"confirm {text!r} is none of health, http://:PORT/PATH#FIELD, maps")
    url, mark, field = text.removeprefix("http:").rpartition("#")
    if not mark or not _FIELD.fullmatch(field):
        raise Usage(
            f"confirm {text!r} must end in #FIELD, the field of the JSON answer that holds the version"
        )
    return ByHttp(parse_url(url if url.startswith("http://") else f"http:{url}", "confirm"), field)


def parse_ram(text: str) -> RamPolicy:
    """What happens where RAM is short; raises `Usage`."""
    return _word(RamPolicy, "ram", text)


def _word(kind: type[_Word], what: str, text: str) -> _Word:
    try:
        return kind(text)
    except ValueError:
        raise Usage(f"{what} {text!r} is none of {', '.join(kind)}") from None


def _signal(text: str, rest: str) -> SignalReload | ContainerReload:
    name, _, where = rest.partition("@")
    if name not in SIGNALS:
        raise Usage(f"reload {text!r}: signal {name!r} is none of {', '.join(SIGNALS)}")
    kind, _, target = where.partition(":")
    if kind == "supervisor":
        return SignalReload(name, program=_program(text, target))
    if kind == "container":
        return ContainerReload(_container(text, target), name)
    if kind == "pidfile" and _PIDFILE.fullmatch(target):
        return SignalReload(name, pidfile=target)
    raise Usage(
        f"reload {text!r} must go on with @pidfile:/ABSOLUTE/PATH, @supervisor:NAME or @container:NAME"
    )


def _restart(text: str, rest: str) -> RestartReload | ContainerReload:
    kind, _, target = rest.partition(":")
    if kind == "container":
        return ContainerReload(_container(text, target), restart=True)
    return RestartReload(_program(text, target))


def _container(text: str, name: str) -> str:
    if not _CONTAINER.fullmatch(name):
        raise Usage(f"reload {text!r}: {name!r} is not the name of a container")
    return name


def _program(text: str, name: str) -> str:
    if not _PROGRAM.fullmatch(name):
        raise Usage(
            f"reload {text!r}: {name!r} is not a program of supervisord (NAME or GROUP:NAME, with {{id}})"
        )
    return name


def parse_url(text: str, what: str) -> Url:
    """Only ports of the instance itself: a subscription must not make nodes call whatever it likes."""
    found = _URL.fullmatch(text)
    if not found:
        raise Usage(
            f"{what} {text!r} must be http://:PORT/PATH, or http://:/PATH for the instance's own port"
        )
    port = int(found["port"] or 0)
    if port > 65535:
        raise Usage(f"{what} {text!r}: there is no port {port}")
    return Url(found["path"], port, found["host"] or "")
