"""What the demo can see of the cluster, kept fresh by threads; every scene waits for a condition on it.

It only looks: at Consul as a reader would (`states/`, `actual/`, `slots/`, `verdicts/`, the channel), and at
the files in the replicas' views, whose times are the kernel's and not ours. Nothing here is asked of the
handlers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from handlers.adapters.ports import KV, Entry
from handlers.core import codec, keys
from handlers.core.errors import HydraError, Malformed, Timeout
from handlers.core.gate import Outcome
from handlers.core.model import (
    Actual,
    Desired,
    Doc,
    InstanceState,
    Ready,
    ReleaseStatus,
    Slots,
    State,
    States,
    Step,
    Verdicts,
)
from handlers.core.names import Channel, Service
from hydra_cli.dev.demo.figures import Mark
from hydra_cli.dev.demo.sight import Eye, Replica, bytes_of

WAIT_S = 10.0  # of one blocking query
AWAY_S = 0.2
LOOK_AGAIN_S = 0.25  # for conditions on more than what the threads see
GLANCE_S = 0.01  # between two looks at the views; the times themselves come from the files
D = TypeVar("D", bound=Doc)


@dataclass
class Seen:
    """What was seen last, and what has to be remembered for the figures."""

    states: Mapping[str, States] = field(default_factory=dict)
    actual: Mapping[str, Actual] = field(default_factory=dict)
    slots: Slots = field(default_factory=Slots)
    heads: dict[str, float] = field(default_factory=dict)  # version → when it was announced
    rejected: dict[str, float] = field(default_factory=dict)  # version → when it was rejected
    bad: dict[str, float] = field(default_factory=dict)  # version → when its canaries were found bad
    why_bad: dict[str, str] = field(default_factory=dict)  # version → for what reason
    most_out: int = 0
    marks: list[Mark] = field(default_factory=list)
    first_bytes: dict[str, dict[str, float]] = field(default_factory=dict)  # version → node → when
    traffic: dict[str, Any] = field(default_factory=dict)  # the client's last report

    def instance(self, replica: Replica, service: Service) -> InstanceState | None:
        """What its node says of a replica."""
        states = self.states.get(replica.node)
        found = (
            (s for s in states.instances.values() if s.service == service and s.id == replica.id)
            if states
            else ()
        )
        return next(iter(found), None)

    def troubles(self) -> list[str]:
        """What nodes complain about: the reasons of failed releases, of instances, and alarms."""
        said = [f"{node}: {alarm}" for node, actual in self.actual.items() for alarm in actual.alarms]
        for node, actual in self.actual.items():
            said += [
                f"{node}: {r}: {s.reason}" for r, s in actual.releases.items() if s.state is State.FAILED
            ]
        for states in self.states.values():
            said += [f"{state.id}: {state.reason}" for state in states.instances.values() if state.reason]
        return said

    def status(self, node: str, channel: Channel, version: str) -> ReleaseStatus | None:
        """How far a node is with a release."""
        actual = self.actual.get(node)
        found = (s for r, s in actual.releases.items() if r == f"{channel}@{version}") if actual else ()
        return next(iter(found), None)


class World:
    """The threads that look, and the condition that the scenes wait on."""

    def __init__(
        self,
        kv: KV,
        channel: Channel,
        service: Service,
        replicas: tuple[Replica, ...],
        roots: Mapping[str, Path],
    ) -> None:
        self.channel, self.service, self.replicas, self.roots = channel, service, replicas, roots
        self.seen = Seen()
        self._kv = kv
        self._changed = threading.Condition()
        self._end = threading.Event()
        self._threads = [
            threading.Thread(target=self._follow, args=(prefix, take), name=f"look-{prefix}", daemon=True)
            for prefix, take in (
                (keys.STATES, self._take_states),
                (keys.ACTUAL, self._take_actual),
                (keys.slots(service), self._take_slots),
                (keys.channel(channel), self._take_channel),
                (keys.verdicts(service), self._take_verdicts),
            )
        ]
        self._threads.append(threading.Thread(target=self._watch_files, name="look-files", daemon=True))

    def start(self) -> None:
        """Begin to look."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Look no more; a look that waits for Consul ends by itself, or with the process."""
        self._end.set()

    def wait(self, what: str, condition: Callable[[], object], limit_s: float) -> None:
        """Return as soon as `condition` is true; raises `Timeout` with what the nodes complain of."""
        until = time.monotonic() + limit_s
        with self._changed:
            while not condition():
                left_s = until - time.monotonic()
                if left_s <= 0:
                    raise Timeout(
                        "; ".join([f"after {limit_s:.0f} s still not: {what}", *self.seen.troubles()])
                    )
                self._changed.wait(min(left_s, LOOK_AGAIN_S))

    def take_traffic(self, report: dict[str, Any]) -> None:
        """The traffic client's newest report."""
        with self._changed:
            self.seen.traffic = report
            self._changed.notify_all()

    def holds(self, node: str, version: str) -> bool:
        """The node has the whole release."""
        status = self.seen.status(node, self.channel, version)
        return status is not None and status.state is State.SUCCESS

    def wanted_on(self, node: str) -> set[str]:
        """The versions that the node should hold."""
        entry, _ = self._kv.get(keys.desired(node))
        if entry is None:
            return set()
        desired = codec.decode(Desired, entry.value, keys.desired(node))
        return {release.version for release in desired.releases if release.channel == self.channel}

    def runs(self, replica: Replica, version: str) -> bool:
        """Its node says that the replica is ready on the release, and not on its way anywhere."""
        state = self.seen.instance(replica, self.service)
        return (
            state is not None
            and (state.state, state.step) == (Ready.READY, Step.IDLE)
            and set(state.releases.values()) == {version}
        )

    def answers(self, replica: Replica, version: str) -> bool:
        """The replica is in service and answered from the release, in the eyes of the traffic client."""
        report = self.seen.traffic
        return (
            bool(report) and replica.id in report["passing"] and report["serves"].get(replica.id) == version
        )

    def _follow(self, prefix: str, take: Callable[[Mapping[str, Entry], float], None]) -> None:
        index = 0
        while not self._end.is_set():
            try:
                listing = self._kv.list(prefix, after=index, wait_s=WAIT_S)
            except HydraError:
                self._end.wait(AWAY_S)  # Consul is away for a moment; what is seen stays
                continue
            if listing.index != index:
                index = listing.index
                with self._changed:
                    take(listing.entries, time.time())
                    self._changed.notify_all()

    def _take_states(self, entries: Mapping[str, Entry], _: float) -> None:
        """One listing is one moment on all nodes: whoever is not `ready` in it is out at the same time."""
        self.seen.states = {states.node: states for states in _documents(States, entries)}
        out = [
            state
            for states in self.seen.states.values()
            for state in states.instances.values()
            if state.service == self.service and state.served and state.state is not Ready.READY
        ]
        self.seen.most_out = max(self.seen.most_out, len(out))

    def _take_actual(self, entries: Mapping[str, Entry], _: float) -> None:
        self.seen.actual = {actual.node: actual for actual in _documents(Actual, entries)}

    def _take_slots(self, entries: Mapping[str, Entry], _: float) -> None:
        own = {key: entry for key, entry in entries.items() if key == keys.slots(self.service)}
        self.seen.slots = next(iter(_documents(Slots, own)), Slots())
        self.seen.most_out = max(self.seen.most_out, len(self.seen.slots.out))

    def _take_verdicts(self, entries: Mapping[str, Entry], now: float) -> None:
        own = {key: entry for key, entry in entries.items() if key == keys.verdicts(self.service)}
        for verdicts in _documents(Verdicts, own):
            for release, verdict in verdicts.releases.items():
                if release.channel == self.channel and verdict.verdict == Outcome.BAD:
                    self.seen.bad.setdefault(release.version, now)
                    self.seen.why_bad[release.version] = verdict.reason

    def _take_channel(self, entries: Mapping[str, Entry], now: float) -> None:
        folder = keys.channel(self.channel)
        for key, entry in entries.items():
            match keys.rest(folder, key):
                case ["head"]:
                    self.seen.heads.setdefault(entry.value.decode().strip(), now)
                case ["rejected", version]:
                    self.seen.rejected.setdefault(version, now)

    def _watch_files(self) -> None:
        eyes = [Eye(replica) for replica in self.replicas]
        while not self._end.wait(GLANCE_S):
            marks = [mark for eye in eyes for mark in eye.look()]
            first = self._first_bytes()
            if marks or first:
                with self._changed:
                    self.seen.marks += marks
                    for version, node, at in first:
                        self.seen.first_bytes.setdefault(version, {}).setdefault(node, at)
                    self._changed.notify_all()

    def _first_bytes(self) -> list[tuple[str, str, float]]:
        """Announced versions of which a node has got something since the last look."""
        now = time.time()
        return [
            (version, node, now)
            for version in list(self.seen.heads)
            for node, root in self.roots.items()
            if node not in self.seen.first_bytes.get(version, {}) and bytes_of(root, self.channel, version)
        ]


def _documents(kind: type[D], entries: Mapping[str, Entry]) -> list[D]:
    """What parses; a document that does not is the business of the handlers' alarms, not of a spectator."""
    found = []
    for key, entry in entries.items():
        try:
            found.append(codec.decode(kind, entry.value, key))
        except Malformed:
            continue
    return found
