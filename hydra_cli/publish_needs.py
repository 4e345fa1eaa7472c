"""What a release to be published needs of other channels: that there is such a thing, and who reads both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from handlers.adapters.ports import KV
from handlers.adapters.snapshot import load
from handlers.core import keys
from handlers.core.errors import Conflict, Denied, Usage
from handlers.core.model import Release
from handlers.core.names import Channel
from handlers.core.version import ReleaseId, Version
from hydra_cli.context import Context


def of(channel: Channel, given: Sequence[ReleaseId]) -> dict[Channel, Version]:
    """The needs by channel; raises `Usage` for one of the channel itself, and for two of one channel."""
    found: dict[Channel, Version] = {}
    for release in given:
        if release.channel == channel:
            raise Usage(f"--needs {release}: a release cannot need one of its own channel")
        if release.channel in found:
            raise Usage(f"--needs {release}: {release.channel} is there already, at {found[release.channel]}")
        found[release.channel] = release.version
    return found


def check(context: Context, kv: KV, channel: Channel, needs: Mapping[Channel, Version]) -> None:
    """Refuse what could never be met; say which services could not take the release over.

    Raises `Usage` for a channel or a release that does not exist, or that is rejected.
    """
    if not needs:
        return
    world = load(kv, keys.CHANNELS, keys.RELEASES)
    for name, least in sorted(needs.items()):
        facts, option = world.channels.get(name), f"--needs {name}@{least}"
        if facts is None or facts.deleted:
            raise Usage(f"{option}: channel {name} {'is deleted' if facts else 'does not exist'}")
        if least not in facts.by_version:
            newest = facts.releases[-1].version if facts.releases else "none"
            raise Usage(f"{option}: there is no such release; the newest is {newest}")
        order = facts.by_version[least].sequence
        if all(r.version in facts.rejected for r in facts.releases if r.sequence >= order):
            raise Usage(f"{option}: it is rejected, and so is all that is newer")
    try:
        services = load(kv, keys.SERVICES).services
    except Denied as e:
        context.screen.note(f"whether services read what this release needs is not known: {e}")
        return
    for service, known in sorted(services.items()):
        reads = known.subscription.channels.values() if known.subscription and not known.deleted else ()
        if channel in reads and (missing := sorted(needs.keys() - set(reads))):
            context.screen.note(
                f"{service} reads {channel}, but not {', '.join(missing)}: it will not take this over"
            )


def refuse_other(header: Release, labels: Mapping[str, str], needs: Mapping[Channel, Version]) -> None:
    """Raise `Conflict` where a release that is published already says other things than are asked for now."""
    for what, there, wanted in (("labels", header.labels, labels), ("needs", header.needs, needs)):
        if wanted and dict(wanted) != dict(there):
            said = ", ".join(f"{k}={v}" for k, v in sorted(there.items())) or "none"
            raise Conflict(
                f"{header.version} of {header.channel} is published already with other {what} ({said}). "
                "A release never changes: give the data a new version"
            )
