"""What releases need of other channels: whether what would be run side by side may be.

A release says in its header the oldest release of another channel beside which it may be run; what is newer
there (by sequence) does as well. `service_plans` asks for targets, `rollout` on a node for what it has.
"""

from __future__ import annotations

from collections.abc import Mapping

from handlers.core.model import Release
from handlers.core.names import Channel
from handlers.core.version import Version
from handlers.core.world import World

Chosen = Mapping[str, Version | None]
"""A release for each alias of a service; None = none."""


def unmet(world: World, channels: Mapping[str, Channel], chosen: Chosen, last: Chosen) -> dict[str, str]:
    """By alias why the release that is chosen may not be run beside the others.

    Where that cannot be told, since a header is lost, what was chosen `last` may.
    """
    found = {}
    for alias, version in sorted(chosen.items()):
        facts = world.channels.get(channels[alias])
        header = facts.by_version.get(version) if facts and version else None
        for name, least in sorted(header.needs.items()) if header else ():
            lack, certain = _lack(world, name, least, [chosen[a] for a in chosen if channels[a] == name])
            if lack and (certain or last.get(alias) != version):
                found[alias] = f"{version} needs {name}@{least} or newer, {lack}"
    return found


def _lack(world: World, name: Channel, least: Version, beside: list[Version | None]) -> tuple[str, bool]:
    """What is wrong with the releases of channel `name` beside a need, and whether that is certain."""
    if not beside:
        return "and the service does not read that channel", True
    facts = world.channels.get(name)
    headers = facts.by_version if facts else {}
    for version in beside:
        if version is None:
            return "and the service has none of that channel", True
        if least not in headers:
            return "which is no release of that channel", False
        if version not in headers:
            return f"and what {version} is cannot be read", False
        if headers[version].sequence < headers[least].sequence:
            return f"and the service targets {version}", True
    return "", True


def sequences(world: World, header: Release) -> dict[Channel, int]:
    """The needs of a release as sequences, as far as the headers that tell them are there."""
    found = {name: world.channels[name] for name in header.needs if name in world.channels}
    return {
        name: facts.by_version[least].sequence
        for name, facts in found.items()
        if (least := header.needs[name]) in facts.by_version
    }
