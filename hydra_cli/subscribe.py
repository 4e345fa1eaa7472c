"""`hydra subscribe` and `unsubscribe`: which channels a service reads, and how its instances are moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click
from msgspec.structs import replace

from handlers.adapters.ports import KV
from handlers.adapters.snapshot import load
from handlers.core import codec, gate, keys, policy
from handlers.core.errors import Usage
from handlers.core.model import Subscription
from handlers.core.names import Channel, Service, check_alias
from handlers.core.selector import parse_nodes
from hydra_cli.change import Edit, document, note, require_environment
from hydra_cli.context import Context
from hydra_cli.options import WRITES, AmountType, Duration, ReadsType, command
from hydra_cli.output import Said, Tone, span

OPTIONS = {
    "reads": "can read",
    "reload": "reload",
    "confirm": "confirm",
    "drain": "drain",
    "drain_s": "drain time",
    "deadline_s": "deadline",
    "max_unavailable": "most unavailable at a time",
    "min_available": "least available",
    "warm_up": "warm-up",
    "ram": "short of RAM",
    "data_first": "all nodes have the data first",
    "canaries": "go first",
    "check": "check of those",
    "check_interval_s": "time between looks",
    "check_time_s": "time of the check",
    "check_failures": "looks that may fail",
    "check_least": "looks with evidence",
    "check_compare": "times the others",
    "wave_by": "waves by label",
    "wave_pause_s": "pause between waves",
    "nodes": "nodes that hold the data anyway",
}


@command("subscribe", codes=WRITES, examples="""
hydra subscribe prod/search/completion --channel prod/search/places --reload http://:/reload
hydra subscribe prod/search/completion --channel prod/search/places --channel weights=prod/search/ranking
hydra subscribe prod/search/completion --reload signal:HUP@supervisor:completion-{id} --confirm maps
hydra subscribe prod/search/completion --max-unavailable 25% --drain-time 10s --deadline 5m
hydra subscribe prod/search/completion --min-available 3
hydra subscribe prod/search/completion --canaries 2 --check 'http://:/stats#error_rate<=0.01' --check-time 5m
hydra subscribe prod/search/completion --data-first --wave-by zone --wave-pause 10m
hydra subscribe prod/search/completion --nodes pool=search
hydra subscribe prod/search/completion --reads 'places:format<=4 ranking:schema=ltr'
""")  # fmt: skip
@click.argument("name", metavar="SERVICE")
@click.option(
    "--channel",
    "channels",
    multiple=True,
    metavar="[ALIAS=]CHANNEL",
    help="A channel to read; its alias is the channel's name, if not given. All that it reads, each time.",
)
@click.option(
    "--reads",
    type=ReadsType(),
    help="Labels of releases that it can read: LABEL<=VALUE (or = != < > >=), several joined by commas, "
    "ALIAS: before them for one channel; empty = everything (default).",
)
@click.option(
    "--reload",
    help="http://:PORT/PATH, signal:HUP@pidfile:/PATH, signal:HUP@supervisor:NAME, "
    "restart:supervisor:NAME, systemd:UNIT, none, or frozen; of pods also delete, signal:HUP@container:NAME, "
    "restart:container:NAME (default: none).",
)
@click.option("--confirm", help="health, http://:PORT/PATH#FIELD, or maps (default: health).")
@click.option("--drain", help="check or maintenance (default: check).")
@click.option(
    "--drain-time", "drain_s", type=Duration(), help="From out of traffic to the reload (default: 5s)."
)
@click.option(
    "--deadline", "deadline_s", type=Duration(), help="How long one instance may take (default: 5m)."
)
@click.option(
    "--max-unavailable",
    type=AmountType(),
    metavar="N|N%",
    help="How many may be out at a time: a number, or a percentage of the instances, rounded down, but at "
    "least 1 (default: 1). May change in mid-rollout; 0 lets nobody out.",
)
@click.option(
    "--min-available",
    type=AmountType(),
    metavar="N|N%",
    help="In its place: how many stay in service, however many there are.",
)
@click.option(
    "--data-first/--no-data-first", default=None, help="Move nobody before all live nodes have the data."
)
@click.option("--canaries", type=click.IntRange(0), help="How many move first (default: 0, 1 with a check).")
@click.option(
    "--check",
    help="How those are checked: http://:PORT/PATH, http://:PORT/PATH#FIELD<=NUMBER, command:NAME, "
    "prometheus:QUERY<=NUMBER; empty = not at all (default).",
)
@click.option(
    "--check-interval", "check_interval_s", type=Duration(), help="Between two looks (default: 10s)."
)
@click.option("--check-time", "check_time_s", type=Duration(), help="How long it is looked (default: 1m).")
@click.option("--check-failures", type=click.IntRange(0), help="How many looks may fail (default: 0).")
@click.option(
    "--check-least",
    type=click.IntRange(1),
    help="How many looks must say anything; else the check is inconclusive (default: 1).",
)
@click.option(
    "--check-compare",
    type=click.FloatRange(0),
    help="A number must also be within so many times that of instances that did not move (default: 0 = off).",
)
@click.option("--wave-by", metavar="LABEL", help="One wave per value of this node label; empty = none.")
@click.option("--wave-pause", "wave_pause_s", type=Duration(), help="Before each wave (default: 0s).")
@click.option(
    "--nodes",
    metavar="LABEL=VALUE,…",
    help="Nodes that hold the data also without an instance, by their labels (LABEL!=VALUE for others, * for "
    "all nodes); empty = none (default).",
)
@click.option("--ram", help="Where RAM is short for two releases: via-disk (default), drain-node.")
@click.option(
    "--warm-up", help="Before it is ready: http://:PORT/PATH, or command:NAME of the node's configuration."
)
@click.pass_obj
def subscribe(context: Context, /, name: str, channels: tuple[str, ...], **given: Any) -> None:
    """Let a service read channels, or change how its instances are moved. What is not given stays."""
    service = context.service(name)
    kv = context.kv(service.env)
    require_environment(kv, service.env)
    edit = Edit(context, kv)
    key = keys.subscription(service)
    before = document(edit, Subscription, key)
    old = before if before and not before.tombstone else Subscription(extra=before.extra if before else {})
    wanted = _channels(context, channels) if channels else old.channels
    if not wanted:
        raise Usage(f"which channels does {service} read? give --channel [ALIAS=]ENV/NAMESPACE/NAME")
    _require(kv, service, [c for c in wanted.values() if c not in old.channels.values()])
    after = replace(old, channels=wanted, tombstone=None, origin="", budget_by="", **_changes(given))
    policy.of_subscription(after)
    parse_nodes(after.nodes)
    if unknown := sorted(after.reads.aliases - wanted.keys()):
        raise Usage(f"--reads names {', '.join(unknown)}, but {service} reads {', '.join(sorted(wanted))}")
    if after.check:
        gate.parse_check(after.check)
    changed = edit.write(key, codec.encode(after))
    edit.commit(f"service/{service}", "subscribed", before=_title(before), after=after.title())
    context.screen.show(_said(service, after, changed))


@command("unsubscribe", codes=WRITES, examples="""
hydra unsubscribe prod/search/completion --reason "replaced by completion2"
""")  # fmt: skip
@click.argument("name", metavar="SERVICE")
@click.option("--reason", default="", help="Why, for whoever looks for it later.")
@click.pass_obj
def unsubscribe(context: Context, name: str, reason: str) -> None:
    """End a service's subscription: its data goes from nodes once nothing uses it any more."""
    service = context.service(name)
    edit = Edit(context, context.kv(service.env))
    key = keys.subscription(service)
    before = document(edit, Subscription, key)
    if before is None:
        raise Usage(f"service {service} is not subscribed to anything")
    changed = before.tombstone is None
    if changed:
        edit.write(key, codec.encode(replace(before, tombstone=note(context, reason))))
    edit.commit(f"service/{service}", "unsubscribed", before=before.title(), why=reason)
    text = f"service {service} is unsubscribed" + ("" if changed else " already")
    context.screen.show(Said(text, {"service": service, "changed": changed}))


def _changes(given: Mapping[str, Any]) -> dict[str, Any]:
    """What the options ask for; one way of saying the budget takes the place of the other."""
    changes = {field: value for field, value in given.items() if value is not None}
    if {"max_unavailable", "min_available"} <= changes.keys():
        raise Usage("give --max-unavailable or --min-available, not both")
    return {"min_available": None, **changes} if "max_unavailable" in changes else changes


def _channels(context: Context, texts: Sequence[str]) -> Mapping[str, Channel]:
    """`[ALIAS=]CHANNEL` texts; raises `Usage` when two have the same alias, or one is no name of a folder."""
    found: dict[str, Channel] = {}
    for text in texts:
        alias, equals, name = text.rpartition("=")
        channel = context.channel(name)
        alias = alias if equals else channel.name
        check_alias(alias)
        if alias in found:
            raise Usage(
                f"alias {alias!r} would stand for {found[alias]} and {channel}: give one another alias, "
                f"as in --channel other={channel}"
            )
        found[alias] = channel
    return found


def _require(kv: KV, service: Service, channels: Sequence[Channel]) -> None:
    """Refuse channels that do not exist: the service would wait for ever."""
    if not channels:
        return
    world = load(kv, keys.CHANNELS, keys.RELEASES)
    for channel in channels:
        facts = world.channels.get(channel)
        if facts is None or facts.deleted:
            why = "is deleted" if facts else "does not exist"
            raise Usage(
                f"{service} cannot read {channel}: it {why}; `hydra publish` or `hydra channel set` makes it"
            )


def _title(before: Subscription | None) -> str:
    return before.title() if before else ""


def _said(service: Service, after: Subscription, changed: bool) -> Said:
    shown = {name: getattr(after, name) for name in OPTIONS}
    reads = ", ".join(f"{channel} as {alias}" for alias, channel in sorted(after.channels.items()))
    lines = [f"service {service} reads {reads}"]
    lines += [
        f"  {label}: {_text(shown[name])}" for name, label in OPTIONS.items() if shown[name] is not None
    ]
    data = {"service": service, "changed": changed, "channels": dict(after.channels), **shown}
    return Said("\n".join(lines), data, Tone.PLAIN)


def _text(value: object) -> str:
    return span(value) if isinstance(value, float) else str(value)
