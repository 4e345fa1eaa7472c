"""Which staged releases become heads now, because somebody gave them a time.

A staged release is complete on the nodes and nobody moves to it. The time is the one clock that decides about
order, and only on a person's word; all else still goes by sequence: a newer head is never replaced, be it
at that time or by `hydra promote` at once.
"""

from __future__ import annotations

from datetime import UTC, datetime

from handlers.core.model import Alarm
from handlers.core.names import Channel
from handlers.core.version import Version
from handlers.core.world import ChannelFacts, World


def promoted(world: World, now: datetime) -> tuple[dict[Channel, Version], list[datetime], list[Alarm]]:
    """The heads that are due, the times of those that come later, and what stands in the way of others."""
    due: dict[Channel, Version] = {}
    later: list[datetime] = []
    alarms: list[Alarm] = []
    for name, channel in sorted(world.channels.items()):
        staged = channel.staged
        if staged is None or not staged.at or channel.deleted or channel.unreadable & {"staged", "head"}:
            continue
        at = _time(staged.at)
        if at is not None and now < at:
            later.append(at)
        elif why := "its time is not one" if at is None else obstacle(channel, staged.version):
            text = f"{staged.version} is staged for {staged.at}, but {why}; it does not become the head"
            alarms.append(Alarm(object=f"channel/{name}", text=text))
        else:
            due[name] = staged.version
    return due, later, alarms


def obstacle(channel: ChannelFacts, version: Version) -> str:
    """Why a staged release must not become the head; empty = it may."""
    if version in channel.rejected:
        return "it is rejected"
    if version not in channel.by_version:
        return "there is no such release"
    head = channel.by_version.get(channel.head) if channel.head else None
    if head is not None and head.sequence > channel.by_version[version].sequence:
        return f"the head is {head.version}, which is newer"
    return ""


def _time(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
