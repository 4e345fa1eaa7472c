"""Which versions that lie in the object store already may become releases of a channel, and in which order.

Order comes from sequence numbers, which only grow: what is older than a release that is published cannot be
put before it any more. Used by `hydra channel import`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from msgspec import Struct

from handlers.core.version import Version
from handlers.core.world import ChannelFacts

PUBLISHED = "published already"


class Candidate(Struct, frozen=True):
    """One version; `skipped` says why it does not become a release, empty = it does if it is complete."""

    version: Version
    skipped: str = ""


def candidates(
    listed: Mapping[str, Collection[Version]], channel: ChannelFacts | None, now: datetime
) -> Sequence[Candidate]:
    """Every version that any dataset has, newest first. `listed`: versions by dataset."""
    everything = set().union(*listed.values())
    return [
        Candidate(version, _reason(version, listed, channel, now))
        for version in sorted(everything, reverse=True)
    ]


def _reason(
    version: Version, listed: Mapping[str, Collection[Version]], channel: ChannelFacts | None, now: datetime
) -> str:
    if channel and version in channel.by_version:
        return PUBLISHED
    if version > Version.of(now):
        return "is in the future"
    if lacking := sorted(name for name, versions in listed.items() if version not in versions):
        return f"is not there of {', '.join(lacking)}"
    if channel and version in channel.rejected:
        return "is rejected"
    newest = max(channel.by_version, default=None) if channel else None
    if newest and version < newest:
        return f"is older than {newest}, which is published: history only grows at its end"
    return ""
