"""`hydra status`: first what is wrong, then channels, services and nodes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import click
from msgspec import Struct

from handlers.adapters.snapshot import EVERYTHING, load
from handlers.core import keys
from handlers.core.errors import EXIT_PENDING, Usage
from handlers.core.model import Alarm, Ready, State
from handlers.core.names import Channel, Service
from handlers.core.world import ChannelFacts, NodeFacts, Replica, World
from hydra_cli import fetching, one_service
from hydra_cli.channel_views import OneChannel, head_cell, head_of, readers_of, summary
from hydra_cli.context import Context, Named, Node, object_name
from hydra_cli.feed import Feed
from hydra_cli.fetching import Lists
from hydra_cli.integrity_views import level_cell, unprotected, weakest_of
from hydra_cli.node_views import OneNode, node_data, node_table
from hydra_cli.one_service import OneService
from hydra_cli.options import command
from hydra_cli.output import Block, Cell, Line, Message, Screen, Table, Tone, ago
from hydra_cli.service_views import ServiceView, service_data, service_table

WATCHED = (*EVERYTHING, keys.ALARMS, keys.META)
_LONGEST_LOOK_S = 5.0  # ages and speeds move on without a change
_MOST_TROUBLES = 30


class Status(Struct, frozen=True):
    """Everything at a glance."""

    troubles: Sequence[Alarm]
    channels: Sequence[ChannelFacts]
    services: Sequence[OneService]
    nodes: Sequence[NodeFacts]
    now: datetime
    to_fetch: Mapping[str, int]

    @property
    def pending(self) -> bool:
        """Whether anything is on its way, or stopped on it."""
        return any(one.at_target < len(one.live) for one in self.services) or any(
            status.state is not State.SUCCESS
            for node in self.nodes
            if node.actual and node.alive
            for status in node.actual.releases.values()
        )

    def data(self) -> Mapping[str, Any]:
        """What is wrong, then every channel, service and node."""
        return {
            "ok": not self.troubles,
            "pending": self.pending,
            "troubles": [{"object": t.object, "text": t.text} for t in self.troubles],
            "channels": [summary(facts) for facts in self.channels],
            "services": [service_data(one) for one in self.services],
            "nodes": [
                {**node_data(facts), "fetch_bytes": self.to_fetch.get(facts.name, 0)} for facts in self.nodes
            ],
        }

    def blocks(self) -> Iterator[Block]:
        """Wrong things first."""
        if self.troubles:
            rows = [(Cell(t.object, Tone.BAD), t.text) for t in self.troubles[:_MOST_TROUBLES]]
            yield Table(("WHAT", "WHAT IS WRONG"), rows, title=f"Look at this ({len(self.troubles)})")
        else:
            yield Line("nothing is wrong", Tone.GOOD)
        yield Table(
            ("CHANNEL", "HEAD", "PIN", "PUBLISHED", "INTEGRITY", "REJECTED"),
            [self._channel(facts) for facts in self.channels],
            title="Channels",
            empty="none; `hydra publish` makes one",
        )
        heads = [(facts.name, head) for facts in self.channels if (head := head_of(facts))]
        yield from unprotected((name, weakest_of(head.datasets.values())) for name, head in heads)
        yield service_table(self.services, title="Services")
        yield node_table(self.nodes, title="Nodes", to_fetch=self.to_fetch)

    def _channel(self, facts: ChannelFacts) -> list[Cell | str]:
        head = head_of(facts)
        newest = sorted(facts.rejected)[-2:]
        return [
            facts.name,
            head_cell(facts),
            Cell(facts.pin.version, Tone.WARN) if facts.pin else "",
            f"{ago(head.when, self.now)} ago" if head and head.when else "",
            level_cell(weakest_of(head.datasets.values())) if head else "",
            Cell(
                ", ".join(newest) + (" …" if len(facts.rejected) > 2 else ""),
                Tone.WARN if newest else Tone.PLAIN,
            ),
        ]


def of(world: World, now: datetime, to_fetch: Mapping[str, int]) -> Status:
    """The status of everything in `world`; `to_fetch`: bytes by node."""
    services = one_service.subscribed(world, now)
    nodes = [facts for _, facts in sorted(world.nodes.items())]
    return Status(
        troubles=_troubles(world, services, nodes),
        channels=[facts for _, facts in sorted(world.channels.items()) if not facts.deleted],
        services=services,
        nodes=nodes,
        now=now,
        to_fetch=to_fetch,
    )


def _troubles(world: World, services: Sequence[OneService], nodes: Sequence[NodeFacts]) -> list[Alarm]:
    """What a person should look at: alarms, halted services, sick instances, failed releases, dead nodes."""
    found = list(world.published.alarms)
    if world.meta is None:
        found.insert(
            0, Alarm(object="meta", text="is missing: `hydra init` was not run, or Consul's KV was wiped")
        )
    found += world.alarms
    for one in services:
        found += [Alarm(object=f"service/{one.name}", text=text) for text in one.troubles()]
        sick = [r for r in one.live if r.state and r.state.state is Ready.WAITING and r.state.served]
        found += [Alarm(object=f"service/{one.name}", text=_sick(r)) for r in sick]
    for node in nodes:
        name = f"node/{node.name}"
        if node.known and not node.alive:
            text = (
                "is dead: `hydra node run` is not running there, or cannot reach Consul (`hydra node forget`)"
            )
            found.append(Alarm(object=name, text=text))
        if node.alive:
            found += [Alarm(object=name, text=text) for text in node.complaints]
        if node.actual and node.alive:
            found += [
                Alarm(object=name, text=f"{release} failed: {status.reason}")
                for release, status in sorted(node.actual.releases.items())
                if status.state is State.FAILED
            ]
    return list({(alarm.object, alarm.text): alarm for alarm in found}.values())


def _sick(replica: Replica) -> str:
    reason = replica.state.reason if replica.state else ""
    return (
        f"instance {replica.instance.id} on {replica.node.name} is not ready: {reason or 'no reason given'}"
    )


@command("status", codes=(3,), examples="""
hydra status
hydra status prod/search/completion
hydra status channel/prod/search/places -o json
hydra status node/n1
hydra status --detailed-exitcode
""")  # fmt: skip
@click.argument("name", metavar="[OBJECT]", required=False)
@click.option("--watch", is_flag=True, help="Go on, and show every change until Ctrl-C.")
@click.option("--detailed-exitcode", is_flag=True, help="Exit 3 while anything is on its way to its target.")
@click.pass_obj
def status(context: Context, name: str | None, watch: bool, detailed_exitcode: bool) -> int:
    """Show what is wrong, then channels, services and nodes; or one object (channel/…, service/…, node/…)."""
    kv = context.kv()
    if watch:
        with Feed(kv, *WATCHED) as feed:
            return _watch(context, feed, name, Lists(kv))
    world = load(kv, *EVERYTHING)
    for message in _messages(context, world, name, Lists(kv)):
        context.screen.show(message)
    return EXIT_PENDING if detailed_exitcode and of(world, context.now(), {}).pending else 0


def _messages(context: Context, world: World, name: str | None, lists: Lists) -> list[Message]:
    """Everything, or what was named: a bare name may be a channel, a service, or both."""
    now = context.now()
    if not name:
        return [of(world, now, fetching.of_nodes(lists, world))]

    def exists(named: Named) -> bool:
        if isinstance(named, Node):
            return world.node(named) is not None
        return named in world.channels if isinstance(named, Channel) else _has_service(world, named)

    found = context.named(name, exists)
    for named in found:
        if not exists(named):
            raise Usage(f"there is no {object_name(named)}")
    return [_one(world, named, now) for named in found]


def _one(world: World, named: Named, now: datetime) -> Message:
    if isinstance(named, Channel):
        return OneChannel(world.channels[named], readers_of(world, named), now)
    if isinstance(named, Service):
        return ServiceView(one_service.of(world, named, now), now)
    node = world.node(named)
    assert node is not None
    return OneNode(node)


def _has_service(world: World, name: Service) -> bool:
    return name in world.services or bool(world.replicas(name))


def _watch(context: Context, feed: Feed, name: str | None, lists: Lists) -> int:
    """Show the picture again at every change; on a terminal in place, else one after the other."""
    screen = context.screen
    world: World | None = None
    shown = ""
    while True:
        changed = feed.next(_LONGEST_LOOK_S)
        world = changed or world
        if world is None:
            screen.note(f"waiting for Consul: {feed.trouble or 'no answer yet'}")
        elif screen.out_live:
            _redraw(screen, _messages(context, world, name, lists), feed.trouble)
        elif changed:
            shown = _print_new(screen, _messages(context, changed, name, lists), shown)


def _redraw(screen: Screen, messages: Sequence[Message], trouble: str) -> None:
    clock = Line(time.strftime("%H:%M:%S") + (f"  {trouble}" if trouble else "  (Ctrl-C ends)"), Tone.DIM)
    screen.redraw(messages, clock)


def _print_new(screen: Screen, messages: Sequence[Message], shown: str) -> str:
    """Print what differs from what was printed before, so that a log has one entry for each change."""
    text = screen.text(messages)
    if text != shown:
        screen.write(text)
    return text
