"""Documents of `record`: who served what, which orders were seen, and what is still to be told."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import field

from handlers.core.model.base import Doc, Part, count


class ServedChange(Part, frozen=True, kw_only=True):
    """Since `when`, these `instances` (`<node>/<id>`) run `releases`; empty: nothing, they are gone."""

    when: str
    releases: str
    instances: tuple[str, ...]


class Served(Doc, frozen=True, kw_only=True):
    """`served/<s>/now`, and `served/<s>/<time>` of the past: who of a service ran what.

    `start` are the instances by what they ran at the time `since` (`<alias> <version>`, joined by commas),
    `changes` what came after that, in their order. `until` is empty in the document that goes on.
    """

    since: str
    until: str = ""
    start: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    changes: tuple[ServedChange, ...] = ()

    def title(self) -> str:
        return f"Who ran what since {self.since}: {count(len(self.changes), 'change')}"


class Orders(Doc, frozen=True, kw_only=True):
    """`recorded/channels`, `recorded/services`, `recorded/nodes`: the orders that were looked at last.

    By key (below the version folder) its ModifyIndex, followed by the version that it names, if it does.
    `index` is the highest index that was seen there.
    """

    index: int = 0
    seen: Mapping[str, str] = field(default_factory=dict)

    def title(self) -> str:
        return f"{count(len(self.seen), 'order')} as last looked at by record"


class Event(Part, frozen=True, kw_only=True):
    """Something that `[notify]` tells: `kind` is published, halted, returned or stuck."""

    kind: str
    object: str
    text: str
    when: str


class Told(Doc, frozen=True, kw_only=True):
    """`recorded/told`: what was noticed so far, and `pending`, which must still be delivered.

    `heads` by channel; `halted` verdict ids; `leaving` those whose release some instance still runs or moves
    to; `common` by `<service> <alias>` the version that all instances ran last; `waiting` by
    `<node>/<instance key>` since when an instance is not where it should be; `stuck` the services of those
    for which that is too long.
    """

    heads: Mapping[str, str] = field(default_factory=dict)
    halted: tuple[str, ...] = ()
    leaving: tuple[str, ...] = ()
    common: Mapping[str, str] = field(default_factory=dict)
    waiting: Mapping[str, str] = field(default_factory=dict)
    stuck: tuple[str, ...] = ()
    pending: tuple[Event, ...] = ()

    def title(self) -> str:
        return f"{count(len(self.pending), 'event')} to be told"
