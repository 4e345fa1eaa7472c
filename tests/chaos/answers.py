"""The promises that clients see: nobody is asked after its drain, and no answer is mixed."""

from __future__ import annotations

from collections.abc import Iterator

from tests.chaos import world
from tests.chaos.events import Asked, Did, Event, Shown, Viewed
from tests.chaos.schedule import Kind
from tests.chaos.world import AtOnce, Breach


class NoLateRequest(AtOnce):
    """No request starts on an instance after its drain: from the flip of its view until it shows `ready`.

    There is nobody to ask once people have taken it away, or its view is gone, whatever a restored Consul
    lists. A restored Consul also has those in service again that were draining, until their agents tell it
    everything anew: these are not judged before they are back.
    """

    name = "no request after the drain"

    def __init__(self) -> None:
        self._draining: set[str] = set()
        self._gone: dict[str, float] = {}
        self._restoring = False
        self._unknown: set[str] = set()
        self._removed: set[str] = set()

    def take(self, event: Event) -> Iterator[Breach]:
        """Follow what instances show and what is done to them, and judge the requests."""
        match event:
            case Did(_, Kind.RESTORE):
                self._restoring, self._unknown = True, self._unknown | self._draining
            case Did(_, world.RESTORED):
                self._restoring = False
            case Did(_, Kind.REMOVE, whom):
                self._removed.add(whom)
            case Shown():
                self._shown(event)
            case Viewed(_, instance, _, ""):
                self._gone.pop(instance, None)
            case Asked() if event.instance in self._gone.keys() - self._unknown - self._removed:
                since = self._gone[event.instance]
                text = f"{event.instance} got a request {event.at - since:.3f} s after its drain was over"
                yield Breach(event.at, self.name, text, event.objects)

    def _shown(self, event: Shown) -> None:
        name = event.instance
        if event.word == "flip":
            if name in self._draining:
                self._gone.setdefault(name, event.at)
        elif event.word == "draining":
            self._draining.add(name)
            if self._restoring:  # Consul may have heard of it just before
                self._unknown.add(name)
        else:
            self._draining.discard(name)
            if event.word == "ready":
                self._gone.pop(name, None)
                self._unknown.discard(name)


class NoMixedAnswer(AtOnce):
    """All parts of an answer are of one release."""

    name = "no mixed answer"

    def take(self, event: Event) -> Iterator[Breach]:
        """Judge the answers."""
        if isinstance(event, Asked) and len(set(event.versions)) > 1:
            text = f"{event.instance} answered from {', '.join(event.versions)}"
            yield Breach(event.at, self.name, text, event.objects | frozenset(event.versions))
