"""Documents of services: what they read, and who of them is out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from handlers.core.budget import Amount
from handlers.core.model.base import Doc, Note, Part
from handlers.core.names import Channel
from handlers.core.version import ReleaseId, Version


@dataclass(frozen=True, kw_only=True)
class Subscription(Doc):
    """`services/<s>/subscription`: channels by alias and how instances are moved; or a tombstone.

    `reload`, `confirm`, `drain` are texts as in `handlers.core.policy`, the budget (`max_unavailable`, or
    `min_available` in its place) as in `handlers.core.budget`. Seconds in `_s`.
    """

    channels: Mapping[str, Channel] = field(default_factory=dict)
    reload: str = "none"
    confirm: str = "health"
    drain: str = "check"
    drain_s: float = 5.0
    deadline_s: float = 300.0
    max_unavailable: Amount = 1
    min_available: Amount | None = None
    ram: str = "via-disk"
    tombstone: Note | None = None

    def title(self) -> str:
        if self.tombstone:
            return f"This service is unsubscribed ({self.tombstone.why or 'no reason given'})"
        return "Reads " + ", ".join(f"{a} from {c}" for a, c in sorted(self.channels.items()))


@dataclass(frozen=True, kw_only=True)
class Control(Doc):
    """`services/<s>/control`: an operator's orders for the rollouts of one service.

    `retry` names verdict ids that no longer hold; `abort` releases that nobody may run or move to.
    """

    paused: bool = False
    retry: tuple[str, ...] = ()
    abort: tuple[ReleaseId, ...] = ()
    who: str = ""
    when: str = ""
    why: str = ""

    def title(self) -> str:
        return "Rollouts are paused" if self.paused else "Rollouts may go on"


@dataclass(frozen=True, kw_only=True)
class Verdict(Part):
    """What an instance found of one release: `halted` (moves stop) or `bad` (instances go back)."""

    id: str
    verdict: str
    reason: str
    node: str
    instance: str
    when: str = ""


@dataclass(frozen=True, kw_only=True)
class Verdicts(Doc):
    """`verdicts/<s>`."""

    releases: Mapping[ReleaseId, Verdict] = field(default_factory=dict)

    def title(self) -> str:
        found = [f"{r} {v.verdict}: {v.reason}" for r, v in sorted(self.releases.items())]
        return "; ".join(found) or "No verdict"


@dataclass(frozen=True, kw_only=True)
class SlotEntry(Part):
    """One instance that is out of service for a reload; outlives the session that made it."""

    node: str
    instance: str
    incarnation: str
    since: str = ""


@dataclass(frozen=True, kw_only=True)
class Slots(Doc):
    """`slots/<s>`: who is out, by `<node>.<id>`."""

    out: Mapping[str, SlotEntry] = field(default_factory=dict)

    def title(self) -> str:
        return f"Out of service for a reload: {', '.join(sorted(self.out)) or 'nobody'}"


@dataclass(frozen=True, kw_only=True)
class Proven(Doc):
    """`proven/<s>`, written by plan: what nobody sees from one node alone.

    `channels`: by channel what all live instances confirmed, newest last. `nodes`: the real names of all
    nodes with instances of the service, dead ones included; here and not in each node's `desired`, since a
    thousand documents with a thousand names each would be rewritten whenever one instance moves.
    """

    channels: Mapping[Channel, tuple[Version, ...]] = field(default_factory=dict)
    nodes: tuple[str, ...] = ()

    def title(self) -> str:
        newest = ", ".join(f"{c}@{v[-1]}" for c, v in sorted(self.channels.items()) if v)
        return f"Proven: {newest or 'nothing yet'}"
