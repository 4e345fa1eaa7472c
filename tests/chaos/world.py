"""What promises have in common: what they are, how a breach is told, and which reports of nodes count."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from tests.chaos.events import Event, Reported

RESTORED = "restored"  # what is done when a restore of the KV has ended
UNDOING_S = 10.0  # within which everybody has seen that a disk was wiped, or the KV was restored


@dataclass(frozen=True)
class Breach:
    """A promise was broken: `objects` are those whose history tells how."""

    at: float
    promise: str
    text: str
    objects: frozenset[str]


class Promise(Protocol):
    """One promise; it is given all events in order, then told that there are no more."""

    name: str

    def take(self, event: Event) -> Iterator[Breach]: ...

    def end(self, at: float) -> Iterator[Breach]: ...


class AtOnce:
    """One that is judged at each event, and waits for nothing."""

    def end(self, at: float) -> Iterator[Breach]:
        """Nothing was waited for."""
        return iter(())


class Reports:
    """The newest `states/<node>` of each node; what a restored KV brings back is not what nodes say."""

    def __init__(self) -> None:
        self.latest: dict[str, Reported] = {}

    def take(self, event: Reported) -> bool:
        """Whether the document is newer than all before."""
        before = self.latest.get(event.node)
        if before and event.sequence <= before.sequence:
            return False
        self.latest[event.node] = event
        return True
