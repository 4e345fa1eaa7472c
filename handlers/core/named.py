"""Which releases something names, so that they stay: heads, pins, targets, instances, and needs of those.

Pure. `retention` removes what is named by nobody and beyond what the channel's settings keep.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from itertools import chain

from handlers.core.model import States
from handlers.core.names import Channel
from handlers.core.version import Version
from handlers.core.world import ChannelFacts, World

Naming = Iterable[tuple[Channel, Version | None, str]]


def keep_and_remove(
    channel: ChannelFacts, named: Mapping[Version, str], now: datetime
) -> tuple[dict[Version, str], dict[Version, str]]:
    """The channel's releases that stay and that may go, each with the reason.

    What is within the count stays, what is younger than the age stays, and so does what is `named`. The
    newest always stays, or the next publisher would use its sequence again.
    """
    keep: dict[Version, str] = {}
    remove: dict[Version, str] = {}
    count, age_s = channel.settings.keep_releases, channel.settings.keep_age_s
    for place, release in enumerate(reversed(channel.releases), start=1):
        age = now - release.version.moment
        if release.version in named:
            keep[release.version] = named[release.version]
        elif place <= max(1, count):
            keep[release.version] = f"among the newest {max(1, count)}"
        elif age_s is not None and age < timedelta(seconds=age_s):
            keep[release.version] = f"younger than {age_s} s"
        else:
            remove[release.version] = f"beyond the newest {count}" + (
                f" and older than {age_s} s" if age_s is not None else ""
            )
    return keep, remove


def named(world: World, now: datetime) -> dict[Channel, dict[Version, str]]:
    """By channel the versions that something names, with who does."""
    found: dict[Channel, dict[Version, str]] = {}
    for channel, version, why in chain(_by_channels(world), _by_services(world), _by_nodes(world)):
        if version is not None:
            found.setdefault(channel, {}).setdefault(version, why)
    for channel, version, why in list(_by_needs(world, found, now)):
        found.setdefault(channel, {}).setdefault(version, why)
    return found


def _by_channels(world: World) -> Naming:
    for channel in world.channels.values():
        yield channel.name, channel.head, "the head"
        yield channel.name, channel.staged.version if channel.staged else None, "staged"
        yield channel.name, channel.pin.version if channel.pin else None, "pinned"


def _by_services(world: World) -> Naming:
    for service in world.services.values():
        channels = service.subscription.channels if service.subscription else {}
        for alias, pin in service.pins.items():
            for name in [channels[alias]] if alias in channels else world.channels:
                yield name, pin.version, f"pinned by {service.name}"
        for name, versions in service.proven.channels.items():
            rejected = world.channels[name].rejected if name in world.channels else {}
            good = [version for version in versions if version not in rejected]
            yield name, good[-1] if good else None, f"proven for {service.name}"


def _by_nodes(world: World) -> Naming:
    for node in world.nodes.values():
        for release in node.desired.releases if node.desired else ():
            yield release.channel, release.version, f"held by {node.name}"
        for plan in node.desired.services.values() if node.desired else ():
            for part in plan.all_aliases():
                yield part.channel, part.target, "targeted"
                yield part.channel, part.start, "what new instances begin with"
        for version in used(node.states):
            # states name aliases; whatever has this version may be what one of them means
            yield from ((name, version, f"in use on {node.name}") for name in world.channels)


def used(states: States | None) -> set[Version]:
    """The versions that instances of a node have loaded, are moving to or should run."""
    found: set[Version] = set()
    for state in states.instances.values() if states else ():
        found.update(state.releases.values(), state.moving.values(), state.target.values())
    return found


def _by_needs(
    world: World, found: Mapping[Channel, Mapping[Version, str]], now: datetime
) -> Iterable[tuple[Channel, Version, str]]:
    """What releases need that stay for another reason; else a chain of needs would keep all that ever was."""
    for channel in world.channels.values():
        keep, _ = keep_and_remove(channel, found.get(channel.name, {}), now)
        for version in keep:
            for name, least in channel.by_version[version].needs.items():
                yield name, least, f"needed by {channel.name}@{version}"
