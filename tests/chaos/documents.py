"""From Hydra's keys to events: what changed between two answers of Consul, in the order of its index."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

from handlers.adapters.ports import Entry
from handlers.core import codec, keys
from handlers.core.errors import Malformed
from handlers.core.model import Desired, InstanceState, Pin, Release, Slots, States, Subscription, Verdicts
from handlers.core.names import Channel, Service
from tests.chaos import events
from tests.chaos.events import Event

ALIAS = "data"
Entries = Mapping[str, Entry]


class Documents:
    """The documents of one channel and one service, and those of all nodes."""

    def __init__(self, channel: Channel, service: Service) -> None:
        self._channel, self._service = channel, service
        self._channel_folder, self._service_folder = keys.channel(channel), f"{keys.SERVICES}{service}/"
        self._releases = f"{keys.RELEASES}{channel}/"
        self._without_alive: frozenset[str] = frozenset()
        self._dead: frozenset[str] | None = None

    def changes(self, at: float, before: Entries, now: Entries, agents: frozenset[str]) -> list[Event]:
        """What is new in `now`; `agents` are the nodes whose agents Consul has lost."""
        fresh = sorted(
            (entry for key, entry in now.items() if key not in before or before[key].index != entry.index),
            key=lambda entry: entry.index,
        )
        touched = {entry.key for entry in fresh} | (before.keys() - now.keys())
        found = list(self._nodes(at, now, agents))
        if any(key.startswith(self._releases) for key in touched):
            found.append(self._known(at, now))
        found += [event for entry in fresh for event in self._one(at, entry)]
        if any(
            key.startswith((self._channel_folder, self._service_folder, keys.VERDICTS)) for key in touched
        ):
            found += self._said(at, now)
        return found

    def dead(self, at: float, agents: frozenset[str]) -> list[Event]:
        """The nodes that are dead, if that is new."""
        dead = self._without_alive | agents
        if dead == self._dead:
            return []
        self._dead = dead
        return [events.Dead(at, dead)]

    def wanted(self, raw: bytes) -> frozenset[str]:
        """The versions that a node's `desired` names."""
        releases = codec.decode(Desired, raw, keys.DESIRED).releases
        return frozenset(str(r.version) for r in releases if r.channel == self._channel)

    def _nodes(self, at: float, now: Entries, agents: frozenset[str]) -> Iterator[Event]:
        names = {keys.rest(keys.NODES, key)[0] for key in now if key.startswith(keys.NODES)}
        self._without_alive = frozenset(name for name in names if keys.alive(name) not in now)
        yield from self.dead(at, agents)

    def _known(self, at: float, now: Entries) -> Event:
        headers = {k: e.value for k, e in now.items() if k.startswith(self._releases)}
        known = {}
        for key, raw in headers.items():
            header = codec.decode(Release, raw, key)
            known[str(header.version)] = header.sequence, hashlib.sha256(raw).hexdigest()[:12]
        return events.Releases(at, known)

    def _one(self, at: float, entry: Entry) -> Iterator[Event]:
        if entry.key == keys.head(self._channel):
            yield events.Head(at, entry.value.decode().strip())
        elif entry.key == keys.subscription(self._service):
            told = codec.decode(Subscription, entry.value, entry.key)
            if told.tombstone is None:
                yield events.Budget(at, told.max_unavailable, told.min_available)
        elif entry.key.startswith(keys.STATES):
            yield self._reported(at, codec.decode(States, entry.value, entry.key))
        elif entry.key == keys.slots(self._service):
            slots = codec.decode(Slots, entry.value, entry.key)
            yield events.Slots(at, frozenset(slot.instance for slot in slots.out.values()))

    def _reported(self, at: float, states: States) -> Event:
        own = [state for state in states.instances.values() if state.service == self._service]
        return events.Reported(at, states.node, states.sequence, {s.id: _instance(s) for s in own})

    def _said(self, at: float, now: Entries) -> Sequence[Event]:
        pins = (keys.channel_pin(self._channel), keys.service_pin(self._service, ALIAS))
        pinned = frozenset(_pin(now[key].value) for key in pins if key in now)
        rejected = f"{self._channel_folder}rejected/"
        bad = {key.removeprefix(rejected) for key in now if key.startswith(rejected)}
        if entry := now.get(keys.verdicts(self._service)):
            verdicts = codec.decode(Verdicts, entry.value, entry.key)
            bad |= {str(r.version) for r in verdicts.releases if r.channel == self._channel}
        return [events.Pinned(at, pinned), events.Bad(at, frozenset(bad))]


def _pin(raw: bytes) -> str:
    """The version that a pin names, bare or in a document."""
    try:
        return str(codec.decode(Pin, raw, "pin").version)
    except Malformed:
        return raw.decode().strip()


def _instance(state: InstanceState) -> events.Instance:
    return events.Instance(
        incarnation=state.incarnation,
        state=str(state.state),
        step=str(state.step),
        release=str(state.releases.get(ALIAS, "")),
        moving=str(state.moving.get(ALIAS, "")),
        served=state.served,
    )
