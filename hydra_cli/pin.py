"""`hydra pin` and `unpin`: an operator's override of what is announced, for a channel or for one service."""

from __future__ import annotations

from datetime import timedelta

import click
from msgspec import Struct

from handlers.adapters.ports import KV
from handlers.adapters.snapshot import load
from handlers.core import codec, keys
from handlers.core.errors import Malformed, NotTakenOver, Usage
from handlers.core.model import Pin
from handlers.core.names import Channel, Service
from handlers.core.targeting import service_targets, target
from handlers.core.version import Version
from handlers.core.world import World
from hydra_cli.change import Edit, require_channel, require_release
from hydra_cli.context import Context, Named, Node, object_name
from hydra_cli.options import WRITES, Duration, VersionType, command
from hydra_cli.output import Said


class Place(Struct, frozen=True):
    """Where a pin is: its key, whose it is, and the channel that it speaks of."""

    key: str
    owner: Named
    alias: str
    channel: Channel

    @property
    def text(self) -> str:
        """For people: whose pin this is."""
        return f"{object_name(self.owner)}" + (f" (alias {self.alias})" if self.alias else "")


@command("pin", codes=(*WRITES, 9), examples="""
hydra pin prod/search/places 2026-01-30T00-00-00 --reason "event on Sunday"
hydra pin channel/prod/search/places --for 2d
hydra pin service/prod/search/completion 2026-01-30T00-00-00 --alias places
""")  # fmt: skip
@click.argument("name", metavar="OBJECT")
@click.argument("version", type=VersionType(), required=False)
@click.option("--alias", default="", help="Which channel of a service that reads several.")
@click.option("--reason", default="", help="Why, for whoever asks later.")
@click.option("--for", "duration", type=Duration(), help="The pin ends by itself after this time.")
@click.pass_obj
def pin(
    context: Context, name: str, version: Version | None, alias: str, reason: str, duration: float | None
) -> None:
    """Hold a channel, or one service's use of it, at VERSION (default: what it targets now)."""
    kv = context.kv(_environment(context, name))
    place, world = _place(context, kv, name, alias)
    edit = Edit(context, kv)
    edit.read(place.key)
    facts = require_channel(kv, place.channel)
    now = context.now()
    if version is None:
        of_service = isinstance(place.owner, Service)
        own = (
            service_targets(world, world.service(Service(place.owner)), now)[place.alias]
            if of_service
            else None
        )
        version = own if of_service else target(world, facts, now)
        if version is None:
            raise Usage(f"{place.text} targets nothing now: say which VERSION")
    require_release(facts, version)
    if version in facts.rejected:
        raise NotTakenOver(f"{version} is rejected; `hydra accept {place.channel} {version}` takes that back")
    until = (now + timedelta(seconds=duration)).strftime("%Y-%m-%dT%H:%M:%SZ") if duration else ""
    before = _before(edit, place)
    edit.write(place.key, codec.encode(Pin(version=version, who=context.who, why=reason, until=until)))
    edit.commit(object_name(place.owner), "pinned", before=before, after=version, why=reason)
    text = f"{place.text} is pinned to {version}" + (f" until {until}" if until else "")
    fields = {"object": object_name(place.owner), "alias": place.alias or None, "channel": place.channel}
    context.screen.show(Said(text, {**fields, "pin": version, "until": until or None}))


@command("unpin", codes=WRITES, examples="""
hydra unpin prod/search/places
hydra unpin service/prod/search/completion --alias places --reason "event is over"
""")  # fmt: skip
@click.argument("name", metavar="OBJECT")
@click.option("--alias", default="", help="Which channel of a service that reads several.")
@click.option("--reason", default="", help="Why, for whoever asks later.")
@click.pass_obj
def unpin(context: Context, name: str, alias: str, reason: str) -> None:
    """Take a pin away: what is announced counts again."""
    kv = context.kv(_environment(context, name))
    place, _ = _place(context, kv, name, alias)
    edit = Edit(context, kv)
    edit.read(place.key)
    before = _before(edit, place)
    changed = edit.delete(place.key)
    edit.commit(object_name(place.owner), "unpinned", before=before, why=reason)
    text = f"{place.text} is not pinned any more" if changed else f"{place.text} was not pinned"
    context.screen.show(
        Said(text, {"object": object_name(place.owner), "changed": changed, "before": before or None})
    )


def _place(context: Context, kv: KV, name: str, alias: str) -> tuple[Place, World]:
    """The pin that a name on the command line means, and what is known of services and channels."""
    world = load(kv, keys.SERVICES, keys.CHANNELS, keys.RELEASES, keys.VERDICTS, keys.PROVEN, keys.NODES)
    found = context.named(name, lambda n: n in (world.channels if isinstance(n, Channel) else world.services))
    if len(found) > 1:
        raise Usage(f"{name} is a channel and a service: say channel/{name} or service/{name}")
    owner = found[0]
    if isinstance(owner, Node):
        raise Usage(f"{name}: nodes are not pinned; `hydra node cordon` keeps a node as it is")
    if isinstance(owner, Channel):
        if alias:
            raise Usage("--alias belongs to a service's pin; a channel has one pin for all who read it")
        return Place(keys.channel_pin(owner), owner, "", owner), world
    facts = world.service(owner)
    if facts.subscription is None or facts.deleted:
        raise Usage(f"service {owner} is not subscribed to any channel")
    channels = facts.subscription.channels
    if not alias and len(channels) != 1:
        raise Usage(
            f"service {owner} reads several channels: give --alias, one of {', '.join(sorted(channels))}"
        )
    alias = alias or next(iter(channels))
    if alias not in channels:
        raise Usage(f"service {owner} has no alias {alias!r}; it has {', '.join(sorted(channels))}")
    return Place(keys.service_pin(owner, alias), owner, alias, channels[alias]), world


def _environment(context: Context, name: str) -> str:
    """The environment that a name on the command line says itself."""
    parts = name.removeprefix("channel/").removeprefix("service/").split("/")
    return parts[0] if len(parts) == 3 else context.env


def _before(edit: Edit, place: Place) -> str:
    """The version that was pinned; as it stands there where it cannot be read."""
    entry = edit.read(place.key)
    if entry is None:
        return ""
    try:
        return codec.decode_pin(entry.value, place.key).version
    except Malformed:
        return entry.value.decode(errors="replace").strip()[:40]
