"""`hydra channel`: list, show and change channels."""

from __future__ import annotations

from typing import ClassVar

import click
from msgspec.structs import replace

from handlers.adapters.snapshot import load
from handlers.core import codec, keys
from handlers.core.errors import NotTakenOver, Usage
from handlers.core.integrity import Level
from handlers.core.model import ChannelSettings
from handlers.core.version import Version
from hydra_cli.change import Edit, document, note, require_channel, require_environment, require_release
from hydra_cli.channel_views import Channels, OneChannel, readers_of
from hydra_cli.context import Context
from hydra_cli.options import WRITES, Duration, Group, Lazy, VersionType, command, group
from hydra_cli.output import Said


class ChannelGroup(Group):
    """`import` looks at the object store; the others need none of that."""

    lazy: ClassVar[Lazy] = {
        "import": (
            "hydra_cli.channel_import",
            "import_channel",
            "Make releases of the versions that lie on S3 already.",
        )
    }


@group("channel", cls=ChannelGroup, examples="""
hydra channel list
hydra channel show prod/search/places
hydra channel set prod/search/places --keep-releases 20 --keep-on-nodes 3
""")  # fmt: skip
def channel() -> None:
    """List, show and change channels: ordered lists of releases, named ENV/NAMESPACE/NAME."""


@command("list", examples="""
hydra channel list
hydra channel list --env prod -o json
""")  # fmt: skip
@click.pass_obj
def list_channels(context: Context) -> None:
    """List all channels, or those of one environment (--env) and namespace (-n)."""
    world = load(context.kv(), keys.CHANNELS, keys.RELEASES)
    wanted = [
        facts
        for name, facts in sorted(world.channels.items())
        if name.env == (context.given_env or name.env)
        and name.namespace == (context.given_namespace or name.namespace)
    ]
    context.screen.show(Channels(wanted, context.now()))


@command("show", examples="""
hydra channel show prod/search/places
hydra channel show prod/search/places -o json
""")  # fmt: skip
@click.argument("name", metavar="CHANNEL")
@click.pass_obj
def show(context: Context, name: str) -> None:
    """Show one channel: head, pin, settings, releases, and the services that read it."""
    channel = context.channel(name)
    kv = context.kv(channel.env)
    world = load(kv, keys.SERVICES, keys.channel(channel), keys.releases(channel))
    facts = world.channels.get(channel)
    if facts is None:
        raise Usage(f"there is no channel {channel}: `hydra channel list` shows what there is")
    readers = readers_of(world, channel)
    context.screen.show(OneChannel(facts, readers, context.now()))


@command("set", codes=WRITES, examples="""
hydra channel set prod/search/places --keep-releases 20
hydra channel set prod/search/places --keep-age 30d --keep-on-nodes 3
hydra channel set prod/search/places --least-integrity checksum
hydra channel set prod/search/places --propagate
hydra channel set prod/search/places --restore
""")  # fmt: skip
@click.argument("name", metavar="CHANNEL")
@click.option("--keep-releases", type=click.IntRange(1), help="How many releases stay.")
@click.option("--keep-age", type=Duration(), help="Younger ones stay as well (0s: age does not count).")
@click.option("--keep-on-nodes", type=click.IntRange(1), help="How many releases nodes hold for going back.")
@click.option(
    "--least-integrity",
    type=click.Choice([str(level) for level in Level]),
    help="Refuse releases whose bytes are protected less than this.",
)
@click.option(
    "--propagate/--no-propagate",
    default=None,
    help="What the canaries of one service find bad is bad for all services of the channel.",
)
@click.option("--restore", is_flag=True, help="Bring a deleted channel back.")
@click.pass_obj
def set_channel(
    context: Context,
    name: str,
    keep_releases: int | None,
    keep_age: float | None,
    keep_on_nodes: int | None,
    least_integrity: str | None,
    propagate: bool | None,
    restore: bool,
) -> None:
    """Change how a channel keeps its releases and what it demands of them; makes it if it is new.

    What is not given stays. Nodes do not fetch releases below --least-integrity either; what they have stays.
    """
    channel = context.channel(name)
    kv = context.kv(channel.env)
    require_environment(kv, channel.env)
    edit = Edit(context, kv)
    before = document(edit, ChannelSettings, keys.settings(channel)) or ChannelSettings()
    if before.tombstone and not restore:
        raise Usage(f"channel {channel} is deleted; --restore brings it back")
    after = replace(
        before,
        keep_releases=keep_releases or before.keep_releases,
        keep_age_s=before.keep_age_s if keep_age is None else round(keep_age) or None,
        keep_on_nodes=keep_on_nodes or before.keep_on_nodes,
        least_integrity=least_integrity or before.least_integrity,
        propagate=before.propagate if propagate is None else propagate,
        tombstone=None,
    )
    changed = edit.write(keys.settings(channel), codec.encode(after))
    edit.commit(f"channel/{channel}", "set", before=before.title(), after=after.title())
    text = f"channel {channel}: {after.title().lower()}" + ("" if changed else " (unchanged)")
    context.screen.show(Said(text, {"channel": channel, "changed": changed, "settings": after.title()}))


@command("set-head", codes=(*WRITES, 9), examples="""
hydra channel set-head prod/search/places 2026-01-30T00-00-00 --reason "31st was built from old logs"
""")  # fmt: skip
@click.argument("name", metavar="CHANNEL")
@click.argument("version", type=VersionType())
@click.option("--reason", default="", help="Why, for the history.")
@click.pass_obj
def set_head(context: Context, name: str, version: Version, reason: str) -> None:
    """Announce a published release again: services move to it, until something else is published."""
    channel = context.channel(name)
    kv = context.kv(channel.env)
    edit = Edit(context, kv)
    entry = edit.read(keys.head(channel))
    edit.hold(keys.release(channel, version))
    facts = require_channel(kv, channel)
    require_release(facts, version)
    if version in facts.rejected:
        raise NotTakenOver(
            f"{version} of {channel} is rejected; `hydra accept {channel} {version}` takes that back"
        )
    before = entry.value.decode(errors="replace").strip() if entry else ""
    changed = before != version and edit.write(keys.head(channel), version.encode())
    edit.commit(f"channel/{channel}", "set-head", before=before, after=version, why=reason)
    pinned = f"; but it is pinned to {facts.pin.version}" if facts.pin else ""
    text = f"head of {channel}: {before or 'none'} -> {version}{pinned}"
    context.screen.show(
        Said(text, {"channel": channel, "before": before or None, "head": version, "changed": changed})
    )


@command("delete", codes=WRITES, examples="""
hydra channel delete dev/search/trial --reason "trial is over"
""")  # fmt: skip
@click.argument("name", metavar="CHANNEL")
@click.option("--reason", default="", help="Why, for whoever looks for it later.")
@click.option(
    "--force", is_flag=True, help="Also while services read it: they keep what they have, with an alarm."
)
@click.pass_obj
def delete(context: Context, name: str, reason: str, force: bool) -> None:
    """Delete a channel: its releases go from Consul and from nodes; what is on S3 stays."""
    channel = context.channel(name)
    kv = context.kv(channel.env)
    edit = Edit(context, kv)
    before = document(edit, ChannelSettings, keys.settings(channel)) or ChannelSettings()
    require_channel(kv, channel)
    readers = readers_of(load(kv, keys.SERVICES), channel)
    if readers and not force:
        raise Usage(
            f"{channel} is read by {', '.join(sorted(readers))}: `hydra unsubscribe` first, or --force"
        )
    after = replace(before, tombstone=note(context, reason))
    edit.write(keys.settings(channel), codec.encode(after))
    edit.commit(f"channel/{channel}", "deleted", why=reason)
    context.screen.show(Said(f"channel {channel} is deleted", {"channel": channel, "deleted": True}))


for _member in (list_channels, show, set_channel, set_head, delete):
    channel.add_command(_member)
