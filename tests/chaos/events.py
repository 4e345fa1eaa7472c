"""What can be seen of a cluster from outside, as one list of events.

`at` is in seconds of the monotonic clock of the machine; times of files and of the traffic log are put on it.
Events that were read in one answer of Consul have the same time, and are in the order of their index.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Event:
    """`objects` are the names by which it belongs to somebody's history; none = to everybody's."""

    at: float

    @property
    def objects(self) -> frozenset[str]:
        """Instances, nodes and versions that it is about."""
        return frozenset()


@dataclass(frozen=True)
class Instance:
    """One instance in `states/<node>`."""

    incarnation: str = ""
    state: str = "ready"
    step: str = "idle"
    release: str = ""
    moving: str = ""
    served: bool = True


@dataclass(frozen=True)
class Reported(Event):
    """A document `states/<node>`; `sequence` rises with each that the node writes."""

    node: str
    sequence: int
    instances: Mapping[str, Instance]

    @property
    def objects(self) -> frozenset[str]:
        return frozenset({self.node, *self.instances})


@dataclass(frozen=True)
class InService(Event):
    """Who passes all checks, in the eyes of Consul."""

    instances: frozenset[str]

    @property
    def objects(self) -> frozenset[str]:
        return self.instances


@dataclass(frozen=True)
class Dead(Event):
    """The nodes that have no `alive`, or whose agent Consul has lost."""

    nodes: frozenset[str]


@dataclass(frozen=True)
class Budget(Event):
    """How many may be out, as the subscription says it."""

    max_unavailable: int | str = 1
    min_available: int | str | None = None


@dataclass(frozen=True)
class Slots(Event):
    """The instances entered in `slots/<service>`."""

    instances: frozenset[str]

    @property
    def objects(self) -> frozenset[str]:
        return self.instances


@dataclass(frozen=True)
class Releases(Event):
    """All releases of the channel: the sequence and the digest of each header."""

    known: Mapping[str, tuple[int, str]]


@dataclass(frozen=True)
class Head(Event):
    """The head of the channel; empty = none."""

    version: str

    @property
    def objects(self) -> frozenset[str]:
        return frozenset({self.version})


@dataclass(frozen=True)
class Pinned(Event):
    """The versions that the channel and the service are pinned to."""

    versions: frozenset[str]

    @property
    def objects(self) -> frozenset[str]:
        return self.versions


@dataclass(frozen=True)
class Bad(Event):
    """The versions that are rejected, or have a verdict of the service."""

    versions: frozenset[str]

    @property
    def objects(self) -> frozenset[str]:
        return self.versions


@dataclass(frozen=True)
class Wanted(Event):
    """The versions that `desired/<node>` names as the node has taken it over: it may be cut off."""

    node: str
    versions: frozenset[str]

    @property
    def objects(self) -> frozenset[str]:
        return frozenset({self.node})


@dataclass(frozen=True)
class Held(Event):
    """The versions that are complete on the disk of a node."""

    node: str
    versions: frozenset[str]

    @property
    def objects(self) -> frozenset[str]:
        return frozenset({self.node})


@dataclass(frozen=True)
class Viewed(Event):
    """The version that the view of an instance points to; empty = there is no view."""

    instance: str
    node: str
    version: str

    @property
    def objects(self) -> frozenset[str]:
        return frozenset({self.instance, self.node})


@dataclass(frozen=True)
class Shown(Event):
    """A new word in the state file of an instance, or `flip` when its view was flipped."""

    instance: str
    word: str

    @property
    def objects(self) -> frozenset[str]:
        return frozenset({self.instance})


@dataclass(frozen=True)
class Asked(Event):
    """A request was sent; `versions` are those of the parts of its answer, if there was a good one."""

    instance: str
    versions: tuple[str, ...] = ()
    trouble: str = ""

    @property
    def objects(self) -> frozenset[str]:
        return frozenset({self.instance})


@dataclass(frozen=True)
class Did(Event):
    """`what` was done to `whom`: see `schedule.Kind`, or `restored`, `recover`, `stop` (no more faults)."""

    what: str
    whom: str = ""
    said: str = ""


def history(events: Iterable[Event], objects: frozenset[str], since: float, until: float) -> list[str]:
    """The events of a span that concern `objects`, a line each."""
    return [
        told(event)
        for event in events
        if since <= event.at <= until and (not event.objects or event.objects & objects)
    ]


def told(event: Event) -> str:
    """One event as a line: kind, time, and what is in it."""
    plain = {name: value for name, value in _plain(event).items() if name != "at"}
    return f"{event.at:12.3f} {type(event).__name__:9} {json.dumps(plain, sort_keys=True)}"


def as_line(event: Event) -> str:
    """One event as a line of JSON, for a file."""
    return json.dumps({"event": type(event).__name__, **_plain(event)}, sort_keys=True)


def from_line(line: str) -> Event:
    """The event of such a line."""
    plain: dict[str, Any] = json.loads(line)
    kind = _KINDS[plain.pop("event")]
    return kind(**{name: _read(kind, name, value) for name, value in plain.items()})


def _plain(event: Event) -> dict[str, Any]:
    return {name: sorted(v) if isinstance(v, frozenset) else v for name, v in asdict(event).items()}


def _read(kind: type[Event], name: str, value: Any) -> Any:
    if kind is Reported and name == "instances":
        return {name: Instance(**fields) for name, fields in value.items()}
    if kind is Releases:
        return {version: tuple(known) for version, known in value.items()} if name == "known" else value
    if isinstance(value, list):
        return tuple(value) if kind is Asked else frozenset(value)
    return value


_KINDS: Mapping[str, type[Event]] = {
    kind.__name__: kind
    for kind in (
        Reported,
        InService,
        Dead,
        Budget,
        Slots,
        Releases,
        Head,
        Pinned,
        Bad,
        Wanted,
        Held,
        Viewed,
        Shown,
        Asked,
        Did,
    )
}
