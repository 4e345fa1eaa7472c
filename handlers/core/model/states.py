"""Documents of instances: what reload says of each, rendered into the readiness files."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from msgspec import field

from handlers.core.model.base import Doc, Part, count
from handlers.core.names import Channel, InstanceKey, Service
from handlers.core.version import Version


class Ready(StrEnum):
    """The word in a view's `state` file."""

    WAITING = "waiting"
    READY = "ready"
    DRAINING = "draining"


class Step(StrEnum):
    """How far a move of an instance is; `IDLE` between moves. See `handlers.core.rollout`."""

    IDLE = "idle"
    FILL = "fill"
    ADMIT = "admit"
    DRAIN = "drain"
    FLIP = "flip"
    RELOAD = "reload"
    CONFIRM = "confirm"
    WARM = "warm"
    RETURN = "return"


class InstanceState(Part, frozen=True, kw_only=True):
    """What reload says of one instance.

    `releases` are what it has confirmed, by alias, and `channels` where these are from (an alias that is not
    there: from the channel that its service reads); `moving` what it is on its way to (empty when idle).
    `served` = it was in service at least once in this incarnation. `media` names, by `<alias>/<dataset>`,
    from which medium a dataset was loaded where that is RAM. `reason` is a sentence for people.
    `back` = this move returns to the old release after a failure.
    """

    service: Service
    id: str
    incarnation: str
    state: Ready
    step: Step = Step.IDLE
    reason: str = ""
    releases: Mapping[str, Version] = field(default_factory=dict)
    moving: Mapping[str, Version] = field(default_factory=dict)
    target: Mapping[str, Version] = field(default_factory=dict)
    media: Mapping[str, str] = field(default_factory=dict)
    served: bool = False
    back: bool = False
    since: str = ""
    channels: Mapping[str, Channel] = field(default_factory=dict)

    def runs(self, alias: str, channel: Channel | None, version: Version | None) -> bool:
        """Whether it has confirmed this version, of the channel if that is given: an alias may change it."""
        return self.releases.get(alias) == version and channel in (None, self.channels.get(alias, channel))


class States(Doc, frozen=True, kw_only=True):
    """`states/<node>`: consul-template renders readiness files from it. `sequence` rises at each write."""

    node: str
    sequence: int = 0
    instances: Mapping[InstanceKey, InstanceState] = field(default_factory=dict)

    def title(self) -> str:
        ready = sum(i.state is Ready.READY for i in self.instances.values())
        return f"Node {self.node} has {ready} of {count(len(self.instances), 'instance')} ready"
