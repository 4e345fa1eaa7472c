"""Channels and their releases, as people and programs read them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from msgspec import Struct

from handlers.core.integrity import Level
from handlers.core.model import Release
from handlers.core.names import Channel, Service
from handlers.core.version import Version
from handlers.core.world import ChannelFacts, World
from hydra_cli.integrity_views import level_cell, unprotected, weakest_of
from hydra_cli.output import Block, Cell, Line, Table, Tone, ago, size, span

_OF_DATASET = ("source", "placement", "version", "files", "bytes", "integrity", "pushed")


class Channels(Struct, frozen=True):
    """All channels of one or of every environment."""

    channels: Sequence[ChannelFacts]
    now: datetime

    def data(self) -> Mapping[str, Any]:
        """One object per channel."""
        return {"channels": [summary(facts) for facts in self.channels]}

    def blocks(self) -> Iterator[Block]:
        """A table."""
        yield Table(
            ("CHANNEL", "HEAD", "PIN", "REJECTED", "RELEASES", "PUBLISHED", "SIZE"),
            [self._row(facts) for facts in self.channels],
            empty="no channels; `hydra publish` makes one",
            right=frozenset({"REJECTED", "RELEASES", "SIZE"}),
        )

    def _row(self, facts: ChannelFacts) -> list[Cell | str]:
        head = facts.by_version.get(facts.head) if facts.head else None
        return [
            Cell(facts.name, Tone.DIM if facts.deleted else Tone.PLAIN),
            Cell("deleted", Tone.DIM) if facts.deleted else head_cell(facts),
            Cell(facts.pin.version, Tone.WARN) if facts.pin else "",
            str(len(facts.rejected) or ""),
            str(len(facts.releases)),
            f"{ago(head.when, self.now)} ago" if head and head.when else "",
            size(release_bytes(head)) if head else "",
        ]


class OneChannel(Struct, frozen=True):
    """One channel with its releases, newest first, and who reads it."""

    facts: ChannelFacts
    readers: Mapping[Service, Sequence[str]]
    now: datetime

    def data(self) -> Mapping[str, Any]:
        """The channel, its settings, releases and readers."""
        settings = self.facts.settings
        kept = ("keep_releases", "keep_age_s", "keep_on_nodes", "least_integrity")
        return {
            **summary(self.facts),
            "settings": {name: getattr(settings, name) for name in kept},
            "releases": [release_data(self.facts, release) for release in reversed(self.facts.releases)],
            "readers": {service: list(aliases) for service, aliases in self.readers.items()},
        }

    def blocks(self) -> Iterator[Block]:
        """What counts, then releases and readers."""
        facts, settings = self.facts, self.facts.settings
        yield Line(f"channel {facts.name}", Tone.HEAD)
        if facts.deleted and settings.tombstone:
            yield Line(f"deleted by {settings.tombstone.who}: {settings.tombstone.why}", Tone.BAD)
        yield Line(f"head  {facts.head or 'none'}")
        if facts.pin:
            who = f" by {facts.pin.who}" if facts.pin.who else ""
            yield Line(
                f"pin   {facts.pin.version}{who}" + (f": {facts.pin.why}" if facts.pin.why else ""), Tone.WARN
            )
        for bad in sorted(facts.unreadable):
            yield Line(f"{bad} cannot be read: look at it with `consul kv get`", Tone.BAD)
        age = f" and all younger than {span(settings.keep_age_s)}" if settings.keep_age_s else ""
        yield Line(f"keeps {settings.keep_releases} releases{age}, {settings.keep_on_nodes} of them on nodes")
        if settings.least_integrity != Level.SIZE:
            yield Line(f"takes only releases with integrity {settings.least_integrity} or better")
        yield from unprotected((r.version, weakest_of(r.datasets.values())) for r in reversed(facts.releases))
        yield Table(
            ("RELEASE", "VERSION", "", "PUBLISHED", "BY", "DATASETS", "SIZE", "INTEGRITY", "LABELS", "NOTE"),
            [self._row(release) for release in reversed(facts.releases)],
            title="Releases",
            right=frozenset({"RELEASE", "DATASETS", "SIZE"}),
        )
        rows = [(service, ", ".join(aliases)) for service, aliases in self.readers.items()]
        yield Table(
            ("SERVICE", "ALIAS"), rows, title="Read by", empty="nobody; `hydra subscribe` changes that"
        )

    def _row(self, release: Release) -> list[Cell | str]:
        marks = marks_of(self.facts, release.version)
        tone = Tone.BAD if "rejected" in marks else Tone.GOOD if "head" in marks else Tone.PLAIN
        return [
            str(release.sequence),
            Cell(release.version, tone),
            Cell(", ".join(marks), tone),
            f"{ago(release.when, self.now)} ago" if release.when else "",
            release.who,
            str(len(release.datasets)),
            size(release_bytes(release)),
            level_cell(weakest_of(release.datasets.values())),
            ", ".join(f"{name}={value}" for name, value in sorted(release.labels.items())),
            "; ".join(filter(None, (release.note, *needs_of(release)))),
        ]


def head_cell(facts: ChannelFacts) -> Cell:
    """The head, in a tone that says whether it can be targeted."""
    if "head" in facts.unreadable:
        return Cell("cannot be read", Tone.BAD)
    if facts.head is None:
        return Cell("none", Tone.DIM)
    if facts.head in facts.rejected:
        return Cell(f"{facts.head} (rejected)", Tone.WARN)
    return (
        Cell(facts.head)
        if facts.head in facts.by_version
        else Cell(f"{facts.head} (no such release)", Tone.BAD)
    )


def head_of(facts: ChannelFacts) -> Release | None:
    """The release that the head names."""
    return facts.by_version.get(facts.head) if facts.head else None


def marks_of(facts: ChannelFacts, version: Version) -> list[str]:
    """What a release is in its channel: `head`, `pinned`, `rejected`."""
    pinned = facts.pin is not None and facts.pin.version == version
    marks = (("head", facts.head == version), ("pinned", pinned), ("rejected", version in facts.rejected))
    return [word for word, true in marks if true]


def summary(facts: ChannelFacts) -> dict[str, Any]:
    """A channel as JSON, without its releases; `integrity` is that of the head."""
    head = head_of(facts)
    return {
        "channel": facts.name,
        "head": facts.head,
        "pin": facts.pin.version if facts.pin else None,
        "rejected": {version: said.why for version, said in sorted(facts.rejected.items())},
        "deleted": facts.deleted,
        "unreadable": sorted(facts.unreadable),
        "release_count": len(facts.releases),
        "integrity": weakest_of(head.datasets.values()) if head else "",
    }


def release_data(facts: ChannelFacts, release: Release) -> dict[str, Any]:
    """A release as JSON."""
    return {
        "version": release.version,
        "sequence": release.sequence,
        "marks": marks_of(facts, release.version),
        "who": release.who,
        "when": release.when,
        "note": release.note,
        "labels": dict(release.labels),
        "needs": dict(release.needs),
        "bytes": release_bytes(release),
        "integrity": weakest_of(release.datasets.values()),
        "datasets": {
            name: {field: getattr(dataset, field) for field in _OF_DATASET}
            for name, dataset in sorted(release.datasets.items())
        },
    }  # fmt: skip


def needs_of(release: Release) -> list[str]:
    """What it needs of other channels, as sentences."""
    return [f"needs {channel}@{version} or newer" for channel, version in sorted(release.needs.items())]


def release_bytes(release: Release) -> int:
    """Bytes of all datasets."""
    return sum(dataset.bytes for dataset in release.datasets.values())


def readers_of(world: World, channel: Channel) -> dict[Service, list[str]]:
    """The services that read a channel, with their aliases for it."""
    return {
        service: sorted(alias for alias, c in facts.subscription.channels.items() if c == channel)
        for service, facts in sorted(world.services.items())
        if facts.subscription and not facts.deleted and channel in facts.subscription.channels.values()
    }
