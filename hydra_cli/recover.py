"""`hydra recover`: end the hold after Consul's KV was restored, wiped, or exchanged for another one."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from msgspec import Struct
from msgspec.structs import replace

from handlers.adapters.local import LocalState
from handlers.adapters.ports import Consul
from handlers.adapters.snapshot import EVERYTHING, load
from handlers.core import codec, keys
from handlers.core.errors import EXIT_PENDING, Usage
from handlers.core.model import Desired, Instances, Meta, count
from handlers.core.recovery import Difference, Kept, Lost, difference, environments, lost
from handlers.core.world import World
from hydra_cli.change import Edit
from hydra_cli.context import Context
from hydra_cli.options import WRITES, command
from hydra_cli.output import Block, Line, Said, Table, Tone

NOT_KEPT = (
    "no node knows: settings of channels, rejections, who pinned what and why, cordons, and releases that "
    "no node was to hold"
)


class Shown(Struct, frozen=True):
    """The difference between nodes and KV."""

    found: Difference

    def data(self) -> Mapping[str, Any]:
        """The generations, and what each node has that the KV has not."""
        found = self.found
        return {
            "holds": found.holds,
            "meta": found.has_meta,
            "generation": {"kv": found.written, "nodes": found.floor},
            "nodes": [
                {"node": n.node, "applied": n.applied, "unknown": list(n.releases)} for n in found.nodes
            ],
            "silent": list(found.silent),
        }  # fmt: skip

    def blocks(self) -> Iterator[Block]:
        """What holds, then the nodes."""
        found = self.found
        if not found.has_meta:
            yield Line("meta is missing: this KV was wiped, or is not the one that the nodes knew", Tone.BAD)
        if found.floor > found.written:
            text = f"nodes have applied generation {found.floor}, the KV knows {found.written}"
            yield Line(f"{text}: plan and nodes hold", Tone.BAD)
        elif found.refused:
            yield Line("nodes hold off what was planned, as it contradicts what they have applied", Tone.BAD)
        elif found.has_meta:
            yield Line("the KV is not behind the nodes", Tone.GOOD)
        rows = [(n.node, str(n.applied), ", ".join(n.releases)) for n in found.nodes]
        if rows:
            yield Table(("NODE", "APPLIED", "RELEASES THAT THE KV DOES NOT KNOW"), rows)
        if found.silent:
            yield Line(f"not heard of what they applied: {', '.join(found.silent)}", Tone.WARN)


class Missing(Struct, frozen=True):
    """What the KV lacks and a node knows."""

    root: Path
    found: Sequence[Lost]
    cannot: Sequence[str]

    def data(self) -> Mapping[str, Any]:
        """What would be put back, by object, and what cannot be."""
        back = [{"object": o.object, "what": o.what, "keys": sorted(o.puts)} for o in self.found]
        return {"put_back": back, "cannot": [*self.cannot, NOT_KEPT]}

    def blocks(self) -> Iterator[Block]:
        """A table, and what is lost for good."""
        rows = [(one.object, one.what) for one in self.found]
        yield Table(("OBJECT", "IS PUT BACK"), rows, empty="the KV has all that this node knows")
        for text in (*self.cannot, NOT_KEPT):
            yield Line(text, Tone.WARN)


@command("recover", codes=(3, *WRITES), examples="""
hydra recover
hydra recover --from /var/lib/hydra --yes
hydra recover --yes
""")  # fmt: skip
@click.option(
    "--from",
    "root",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="ROOT",
    help="On a node, its HYDRA_ROOT: put back into the KV what this node knows and the KV lacks.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def recover(context: Context, root: Path | None, yes: bool) -> int:
    """End the hold after Consul's KV was restored from an older state, wiped, or exchanged.

    Shows what nodes have and the KV has not. First, on one node of each kind of service, `--from ROOT` puts
    back releases, heads, pins, subscriptions, and the node's registrations by hand. Then, once and anywhere,
    without --from: raises the generation floor above what nodes have applied (and writes `meta` if it is
    gone), so that planning goes on from what is in the KV by then. Without --yes, and where nobody can be
    asked, it only shows, and exits 3 if there is something to do.
    """
    kv = context.kv()
    world = load(kv, *EVERYTHING)
    return _put_back(context, kv, world, root, yes) if root else _raise_floor(context, kv, world, yes)


def _raise_floor(context: Context, kv: Consul, world: World, yes: bool) -> int:
    found = difference(world)
    shown = Shown(found)
    if not found.holds:
        context.screen.show(shown)
        return 0
    if not _may(context, shown, yes, f"Go on above generation {found.floor} with what the KV has now?"):
        return EXIT_PENDING
    edit = Edit(context, kv)
    entry = edit.read(keys.META)
    served = environments(world) or ((context.env,) if context.env else ())
    before = codec.decode(Meta, entry.value, keys.META) if entry else Meta(environments=served)
    if not before.environments:
        raise Usage("which environment lives in this Consul? give --env ENV")
    edit.write(keys.META, codec.encode(replace(before, generation_floor=found.floor)))
    edit.commit("meta", "recovered", before=str(found.written), after=str(found.floor))
    fields = {**shown.data(), "result": "recovered"}
    text = f"recovered: planning goes on above generation {found.floor}"
    context.screen.show(Said(text, fields, Tone.GOOD))
    return 0


def _put_back(context: Context, kv: Consul, world: World, root: Path, yes: bool) -> int:
    kept = _kept(kv, root)
    found, cannot = lost(kept, world)
    shown = Missing(root, found, cannot)
    if not found:
        context.screen.show(shown)
        return 0
    if not _may(context, shown, yes, f"Put back {count(len(found), 'object')}?"):
        return EXIT_PENDING
    for one in found:
        edit = Edit(context, kv)
        for key, raw in one.puts.items():
            there = edit.read(key)
            if there is None or there.index == world.indexes.get(key):
                edit.write(key, raw)  # whoever was faster knows better
        edit.commit(one.object, "recovered", after=one.what, why=f"from {kept.desired.node}")
    text = f"put back: {', '.join(f'{one.object} ({one.what})' for one in found)}"
    context.screen.show(Said(text, {**shown.data(), "result": "put back"}, Tone.GOOD))
    for line in (*cannot, NOT_KEPT):
        context.screen.warn(line)
    return 0


def _may(context: Context, shown: Shown | Missing, yes: bool, question: str) -> bool:
    """Whether to go on: told so, or asked; else what is shown is all that happens."""
    if yes:
        return True
    context.screen.show(shown)
    return sys.stdin.isatty() and context.screen.form != "json" and click.confirm(question, err=True)


def _kept(kv: Consul, root: Path) -> Kept:
    """What the node with this root remembers."""
    local = LocalState(root)
    raw = local.read("desired")
    if raw is None:
        raise Usage(f"{root} is not the HYDRA_ROOT of a node that ever took over a plan")
    desired = codec.decode(Desired, raw, str(local.path("desired")))
    bodies: dict[str, dict[Any, bytes]] = {"releases": {}, "manifests": {}}
    for kind, found in bodies.items():
        for release in desired.releases:
            if body := local.read(f"{kind}/{release.channel}/{release.version}"):
                found[release] = body
    known = codec.decode(Instances, local.read("instances") or codec.encode(Instances()), "instances")
    mine = {row["ID"] for row in (kv.get_json("agent/services")[0] or {}).values()}
    by_hand = {key: i for key, i in known.instances.items() if not (i.consul_name and i.id in mine)}
    return Kept(desired=desired, headers=bodies["releases"], manifests=bodies["manifests"], by_hand=by_hand)
