"""`hydra rollback`, `reject` and `accept`: calling a release bad, and taking that back."""

from __future__ import annotations

import click

from handlers.adapters.ports import KV
from handlers.adapters.snapshot import load
from handlers.core import codec, keys
from handlers.core.errors import Usage
from handlers.core.model import Pin, Rejected
from handlers.core.targeting import target, targets, without
from handlers.core.version import Version
from handlers.core.world import World
from hydra_cli.change import Edit, require_channel, require_release
from hydra_cli.context import Context
from hydra_cli.options import WRITES, VersionType, command
from hydra_cli.output import Said, Tone


@command("rollback", codes=WRITES, examples="""
hydra rollback prod/search/places --reason "half of Bavaria is missing"
hydra rollback prod/search/places --hold --reason "nothing new before Monday"
""")  # fmt: skip
@click.argument("name", metavar="CHANNEL")
@click.option("--reason", default="", help="Why, for whoever asks later.")
@click.option("--hold", is_flag=True, help="Pin the channel to the release gone back to: new ones must wait.")
@click.pass_obj
def rollback(context: Context, name: str, reason: str, hold: bool) -> None:
    """Reject what a channel targets now, so that its services go back to what they had proven before.

    The next release that is published goes ahead, unless --hold pins. Doing it again goes one release further
    back.
    """
    channel = context.channel(name)
    kv = context.kv(channel.env)
    edit = Edit(context, kv)
    pin = edit.read(keys.channel_pin(channel))
    edit.hold(keys.head(channel))
    facts = require_channel(kv, channel)
    world = _readers(kv)
    bad = target(world, facts, context.now())
    if bad is None:
        raise Usage(f"nobody targets any release of {channel}: there is nothing to go back from")
    after = without(facts, bad)
    good = target(world, after, context.now())
    if good is None:
        raise Usage(
            f"{bad} is the only release of {channel} that may be used: there is nothing to go back to. "
            f"`hydra reject {channel} {bad}` rejects it all the same"
        )
    edit.write(keys.rejected(channel, bad), codec.encode(_rejection(context, reason)))
    if hold:
        held = Pin(version=good, who=context.who, why=reason or f"rolled back from {bad}")
        edit.write(keys.channel_pin(channel), codec.encode(held))
    elif pin and facts.pin and facts.pin.version == bad:
        edit.delete(keys.channel_pin(channel))
    edit.commit(f"channel/{channel}", "rolled back", before=bad, after=good, why=reason)
    moves = {service: v or None for service, v in targets(world, after, context.now()).items()}
    services = "".join(f"\n  {service} -> {v or 'nothing'}" for service, v in moves.items())
    pinned = f", and {channel} is pinned to it" if hold else ""
    text = f"rolled back {channel}: {bad} is rejected, {good} is the target now{pinned}{services}"
    fields = {"channel": channel, "rejected": bad, "target": good, "held": hold, "services": moves}
    context.screen.show(Said(text, fields, Tone.GOOD))


@command("reject", codes=WRITES, examples="""
hydra reject prod/search/places 2026-01-31T00-00-00 --reason "ranking is off"
""")  # fmt: skip
@click.argument("name", metavar="CHANNEL")
@click.argument("version", type=VersionType())
@click.option("--reason", default="", help="Why, for whoever asks later.")
@click.pass_obj
def reject(context: Context, name: str, version: Version, reason: str) -> None:
    """Call a release bad: nobody moves to it, and who runs it goes back to what was proven before."""
    channel = context.channel(name)
    kv = context.kv(channel.env)
    edit = Edit(context, kv)
    key = keys.rejected(channel, version)
    there = edit.read(key)
    require_release(require_channel(kv, channel), version)
    if there is None:
        edit.write(key, codec.encode(_rejection(context, reason)))
        edit.commit(f"channel/{channel}", "rejected", before=version, why=reason)
    text = f"{version} of {channel} is rejected" + (" already" if there else "")
    context.screen.show(Said(text, {"channel": channel, "rejected": version, "changed": there is None}))


@command("accept", codes=WRITES, examples="""
hydra accept prod/search/places 2026-01-31T00-00-00 --reason "it was the monitoring"
""")  # fmt: skip
@click.argument("name", metavar="CHANNEL")
@click.argument("version", type=VersionType())
@click.option("--reason", default="", help="Why, for whoever asks later.")
@click.pass_obj
def accept(context: Context, name: str, version: Version, reason: str) -> None:
    """Take back a rejection: the release may be targeted again."""
    channel = context.channel(name)
    kv = context.kv(channel.env)
    edit = Edit(context, kv)
    changed = edit.delete(keys.rejected(channel, version))
    if not changed:
        require_release(require_channel(kv, channel), version)
    edit.commit(f"channel/{channel}", "accepted", after=version, why=reason)
    text = f"{version} of {channel} is accepted" if changed else f"{version} of {channel} was not rejected"
    context.screen.show(Said(text, {"channel": channel, "accepted": version, "changed": changed}))


def _readers(kv: KV) -> World:
    """What decides about the targets of the channel's readers."""
    return load(kv, keys.SERVICES, keys.CHANNELS, keys.RELEASES, keys.VERDICTS, keys.PROVEN, keys.NODES)


def _rejection(context: Context, reason: str) -> Rejected:
    return Rejected(who=context.who, when=context.stamp(), why=reason)
