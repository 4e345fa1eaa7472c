"""`hydra node`: list, show, cordon and forget nodes; others are in `node_run` and `node_volumes`."""

from __future__ import annotations

from typing import ClassVar

import click

from handlers.adapters.ports import KV
from handlers.adapters.snapshot import EVERYTHING, load
from handlers.core import codec, keys
from handlers.core.errors import Usage
from handlers.core.model import Cordon, Forgotten
from handlers.core.names import segment
from handlers.core.world import NodeFacts, World
from hydra_cli.change import Edit
from hydra_cli.context import Context
from hydra_cli.node_views import Nodes, OneNode
from hydra_cli.options import WRITES, Group, Lazy, command, group
from hydra_cli.output import Said


class NodeGroup(Group):
    """`run` imports what renders a node's processes; the others need none of that."""

    lazy: ClassVar[Lazy] = {
        "run": ("hydra_cli.node_run", "node_run", "Run Hydra on this machine, under supervisord."),
        "volumes": ("hydra_cli.node_volumes", "volumes", "Propose [volumes] from what this machine has."),
    }


@group("node", cls=NodeGroup, examples="""
hydra node list
hydra node show n1
hydra node cordon n1 --reason "disk is being replaced"
""")  # fmt: skip
def node() -> None:
    """List, show, cordon and forget nodes; run Hydra on one."""


@command("list", examples="""
hydra node list
hydra node list -o json
""")  # fmt: skip
@click.pass_obj
def list_nodes(context: Context) -> None:
    """List all nodes: alive or dead, what they hold, what they load, how much room is left."""
    world = load(context.kv(), *EVERYTHING)
    context.screen.show(Nodes([facts for _, facts in sorted(world.nodes.items())]))


@command("show", examples="""
hydra node show n1
""")  # fmt: skip
@click.argument("name", metavar="NODE")
@click.pass_obj
def show(context: Context, name: str) -> None:
    """Show one node: its releases and why it holds them, its instances, its volumes."""
    context.screen.show(OneNode(find(load(context.kv(), *EVERYTHING), name)))


@command("cordon", codes=WRITES, examples="""
hydra node cordon n1 --reason "disk is being replaced"
""")  # fmt: skip
@click.argument("name", metavar="NODE")
@click.option("--reason", default="", help="Why, for whoever asks later.")
@click.pass_obj
def cordon(context: Context, name: str, reason: str) -> None:
    """Let a node take no new data and no reloads; what it runs goes on."""
    kv = context.kv()
    facts = find(_known(kv), name)
    edit = Edit(context, kv)
    changed = edit.read(keys.cordon(facts.name)) is None
    if changed:
        fresh = Cordon(who=context.who, when=context.stamp(), why=reason)
        edit.write(keys.cordon(facts.name), codec.encode(fresh))
    edit.commit(f"node/{segment(facts.name)}", "cordoned", why=reason)
    text = f"node {facts.name} is cordoned" + ("" if changed else " already")
    context.screen.show(Said(text, {"node": facts.name, "cordoned": True, "changed": changed}))


@command("uncordon", codes=WRITES, examples="""
hydra node uncordon n1
""")  # fmt: skip
@click.argument("name", metavar="NODE")
@click.option("--reason", default="", help="Why, for whoever asks later.")
@click.pass_obj
def uncordon(context: Context, name: str, reason: str) -> None:
    """Let a node take new data and reloads again."""
    kv = context.kv()
    facts = find(_known(kv), name)
    edit = Edit(context, kv)
    changed = edit.delete(keys.cordon(facts.name))
    edit.commit(f"node/{segment(facts.name)}", "uncordoned", why=reason)
    text = f"node {facts.name} is not cordoned" + (" any more" if changed else "")
    context.screen.show(Said(text, {"node": facts.name, "cordoned": False, "changed": changed}))


@command("forget", codes=WRITES, examples="""
hydra node forget n9 --reason "machine was given back"
""")  # fmt: skip
@click.argument("name", metavar="NODE")
@click.option("--reason", default="", help="Why, for whoever asks later.")
@click.pass_obj
def forget(context: Context, name: str, reason: str) -> None:
    """Remove a dead node from Consul: its instances do not count any more. One that is alive is refused.

    What plan, sync and reload wrote for it goes with the next run of retain.
    """
    kv = context.kv()
    facts = find(load(kv, *EVERYTHING), name)
    if facts.alive:
        raise Usage(
            f"node {facts.name} is alive; stop `hydra node run` there first (it would come back at once)"
        )
    edit = Edit(context, kv)
    if not facts.gone:
        edit.hold(keys.alive(facts.name))
        for key in kv.list(keys.node(facts.name)).entries.keys() - {keys.forgotten(facts.name)}:
            edit.delete(key)
        tombstone = Forgotten(node=facts.name, who=context.who, when=context.stamp(), why=reason)
        edit.write(keys.forgotten(facts.name), codec.encode(tombstone))
    edit.commit(f"node/{segment(facts.name)}", "forgotten", why=reason)
    text = f"node {facts.name} is forgotten" + (" already" if facts.gone else "")
    data = {"node": facts.name, "forgotten": True, "changed": not facts.gone}
    context.screen.show(Said(text, data))


def find(world: World, name: str) -> NodeFacts:
    """The node of this name; raises `Usage` that lists those that are known."""
    facts = world.node(name.removeprefix("node/")) or world.nodes.get(name)
    if facts is None:
        known = ", ".join(sorted(f.name for f in world.nodes.values()))
        raise Usage(f"there is no node {name!r}; known are {known or 'none'}")
    return facts


def _known(kv: KV) -> World:
    return load(kv, keys.NODES)


for _member in (list_nodes, show, cordon, uncordon, forget):
    node.add_command(_member)
