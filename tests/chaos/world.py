"""What several promises need: how a breach is told, and which reports of nodes count."""

from __future__ import annotations

from dataclasses import dataclass

from tests.chaos.events import Reported


@dataclass(frozen=True)
class Breach:
    """A promise was broken: `objects` are those whose history tells how."""

    at: float
    promise: str
    text: str
    objects: frozenset[str]


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
