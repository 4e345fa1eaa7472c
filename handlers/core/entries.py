"""Bytes of Consul's KV by key → the `World`: which document lies where, and whether it belongs there.

Called by `adapters.snapshot`, which does the reading, and by tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeVar

from handlers.core import codec, keys, model
from handlers.core.errors import Malformed, Usage
from handlers.core.names import Channel, Service, check_alias, segment
from handlers.core.version import Version
from handlers.core.world import ChannelFacts, NodeFacts, ServiceFacts, World

D = TypeVar("D", bound=model.Doc)


def read(entries: Mapping[str, bytes], indexes: Mapping[str, int] | None = None) -> World:
    """The world in `entries` (whole keys → bytes); keys that are of no interest here are passed over."""
    desk = _Desk()
    for key in sorted(entries):
        if not key.endswith("/"):  # a folder that somebody made in the Consul UI
            desk.take(key, entries[key])
    return desk.world(indexes or {})


Parse = Callable[[bytes, str], Any]


def _document(cls: type[D]) -> Parse:
    return partial(codec.decode, cls)


_CHANNEL: Mapping[str, Parse] = {
    "settings": _document(model.ChannelSettings),
    "head": codec.decode_version,
    "pin": codec.decode_pin,
    "unfetchable": _document(model.Unfetchable),
    "staged": _document(model.Staged),
}
_SERVICE = {
    "subscription": _document(model.Subscription),
    "control": _document(model.Control),
    "verdicts": _document(model.Verdicts),
    "proven": _document(model.Proven),
    "slots": _document(model.Slots),
    "rollouts": _document(model.Rollout),
    "gates": _document(model.Tally),
}
_NODE = {
    "info": _document(model.NodeInfo),
    "instances": _document(model.Instances),
    "registrations": _document(model.Instances),
    "cordon": _document(model.Cordon),
    "forgotten": _document(model.Forgotten),
    "desired": _document(model.Desired),
    "actual": _document(model.Actual),
    "states": _document(model.States),
    "progress": _document(model.Progress),
    "alive": lambda _raw, _where: True,
}
_NOTES: Mapping[str, model.Doc] = {
    "rejected": model.Rejected(),
    "unfetchable": model.Unfetchable(),
    "cordon": model.Cordon(),
    "forgotten": model.Forgotten(),
}
"""Documents whose key says it all: they count also where a person wrote a bare word into them."""
_TOP = {"meta": _document(model.Meta), "alarms": _document(model.Alarms)}
_PASSED = frozenset({"manifests", "locks", "audit", "served", "recorded"})


class _Place(NamedTuple):
    """Whose document a key is: `owner` (a Channel, a Service, a node's segment, or empty), and which one."""

    kind: str
    owner: str
    part: str
    parse: Parse


class _Desk:
    """Sorts documents by their owners while they are parsed."""

    def __init__(self) -> None:
        self.parts: dict[tuple[str, str], dict[str, Any]] = {}
        self.unreadable: dict[tuple[str, str], set[str]] = {}
        self.alarms: list[model.Alarm] = []

    def take(self, key: str, raw: bytes) -> None:
        try:
            place = _place(key)
        except (Usage, ValueError) as e:
            self.alarms.append(model.Alarm(object=f"kv/{key}", text=f"this key is of no use: {e}"))
            return
        if place is None:
            return
        owner = (place.kind, place.owner)
        self.parts.setdefault(owner, {})
        self.unreadable.setdefault(owner, set())
        try:
            self.parts[owner][place.part] = _checked(place, place.parse(raw, key), key)
        except Malformed as e:
            self.malformed(place, raw, str(e))

    def malformed(self, place: _Place, raw: bytes, text: str) -> None:
        note = _NOTES.get(place.part.partition("/")[0])
        if note is None:
            self.unreadable[place.kind, place.owner].add(place.part)
            text += "; the last good state is held"
        else:
            self.parts[place.kind, place.owner][place.part] = note
            text += "; the key counts without its reason"
        if note is None or raw.strip():
            name = "/".join(filter(None, (place.kind, place.owner)))
            self.alarms.append(model.Alarm(object=name, text=text))

    def world(self, indexes: Mapping[str, int]) -> World:
        top = self.parts.get(("meta", ""), {})
        nodes = [_node(name, *self._of("node", name)) for name in self._names("node")]
        return World(
            meta=top.get("meta"),
            published=top.get("alarms", model.Alarms()),
            unreadable=frozenset(self.unreadable.get(("meta", ""), ())),
            channels={
                Channel(c): _channel(Channel(c), *self._of("channel", c)) for c in self._names("channel")
            },
            services={
                Service(s): _service(Service(s), *self._of("service", s)) for s in self._names("service")
            },
            nodes={node.segment: node for node in nodes},
            alarms=tuple(self.alarms),
            indexes=indexes,
        )

    def _names(self, kind: str) -> list[str]:
        return sorted(owner for which, owner in self.parts if which == kind)

    def _of(self, kind: str, owner: str) -> tuple[dict[str, Any], frozenset[str]]:
        return self.parts[kind, owner], frozenset(self.unreadable[kind, owner])


def _place(key: str) -> _Place | None:
    """Where `key` belongs; None = of no interest. Raises `Usage` or ValueError for what fits nowhere."""
    folder, *rest = keys.rest(keys.ROOT, key)
    if folder in _TOP and not rest:
        return _Place("meta", "", folder, _TOP[folder])
    if folder in _PASSED:
        return None
    if folder in ("desired", "actual", "states", "progress"):
        (name,) = rest
        return _Place("node", name, folder, _NODE[folder])
    if folder == "nodes":
        name, part = rest
        return _Place("node", name, part, _known(_NODE, part))
    env, namespace, last, *parts = rest
    name = f"{env}/{namespace}/{last}"
    if folder == "releases":
        (version,) = parts
        return _release_place(Channel.parse(name), Version.parse(version))
    if folder == "channels":
        return _channel_place(Channel.parse(name), parts)
    return _service_place(Service.parse(name), folder, parts)


def _channel_place(channel: Channel, parts: list[str]) -> _Place:
    if len(parts) == 2 and parts[0] == "rejected":
        return _Place("channel", channel, f"rejected/{Version.parse(parts[1])}", _document(model.Rejected))
    (part,) = parts
    return _Place("channel", channel, part, _known(_CHANNEL, part))


def _release_place(channel: Channel, version: Version) -> _Place:
    def parse(raw: bytes, where: str) -> tuple[model.Release, str]:
        return codec.decode(model.Release, raw, where), codec.digest(raw)

    return _Place("channel", channel, f"releases/{version}", parse)


def _service_place(service: Service, folder: str, parts: list[str]) -> _Place | None:
    if folder == "services":
        if len(parts) == 2 and parts[0] == "pin":
            return _Place("service", service, f"pin/{check_alias(parts[1])}", codec.decode_pin)
        (folder,) = parts
    elif folder == "slots" and len(parts) == 1:
        return None  # the lock of one instance's slot
    elif parts:
        raise ValueError(f"nothing is known below {service}")
    return _Place("service", service, folder, _known(_SERVICE, folder))


def _known(table: Mapping[str, Parse], part: str) -> Parse:
    if part not in table:
        raise ValueError(f"{part!r} is none of {', '.join(table)}")
    return table[part]


def _checked(place: _Place, value: Any, key: str) -> Any:
    """`value`, if it belongs where it lies: a document that was copied to another key must not act there."""
    if place.kind == "node" and (name := getattr(value, "node", None)) is not None:
        if segment(name) != place.owner:
            raise Malformed(f"{key}: it is the document of node {name!r}")
    elif place.part.startswith("releases/"):
        release = value[0]
        if (release.channel, f"releases/{release.version}") != (place.owner, place.part):
            raise Malformed(f"{key}: it is the header of {release.channel}@{release.version}")
    return value


def _below(parts: Mapping[str, Any], folder: str) -> dict[str, Any]:
    return {part.partition("/")[2]: value for part, value in parts.items() if part.startswith(f"{folder}/")}


def _channel(name: Channel, parts: dict[str, Any], unreadable: frozenset[str]) -> ChannelFacts:
    found: list[tuple[model.Release, str]] = list(_below(parts, "releases").values())
    releases = sorted((release for release, _ in found), key=lambda r: (r.sequence, r.version))
    return ChannelFacts(
        name=name,
        settings=parts.get("settings", model.ChannelSettings()),
        head=parts.get("head"),
        pin=parts.get("pin"),
        staged=parts.get("staged"),
        rejected={Version(v): note for v, note in _below(parts, "rejected").items()},
        releases=tuple(releases),
        digests={release.version: digest for release, digest in found},
        unfetchable=parts.get("unfetchable", model.Unfetchable()),
        unreadable=unreadable,
    )


def _service(name: Service, parts: dict[str, Any], unreadable: frozenset[str]) -> ServiceFacts:
    documents = {part: value for part, value in parts.items() if part in _SERVICE}
    return ServiceFacts(name=name, pins=_below(parts, "pin"), unreadable=unreadable, **documents)


def _node(name: str, parts: dict[str, Any], unreadable: frozenset[str]) -> NodeFacts:
    own = {"info", "instances", "registrations", "cordon", "alive"}
    naming = (parts.get(part) for part in ("info", "desired", "actual", "states", "forgotten"))
    return NodeFacts(
        segment=name,
        name=next((document.node for document in naming if document and document.node), name),
        known=not own.isdisjoint(parts.keys() | unreadable),
        unreadable=unreadable,
        **parts,
    )
