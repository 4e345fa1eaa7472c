"""`hydra register` and `deregister`: instances that Consul's catalog does not know."""

from __future__ import annotations

import re
import uuid

import click
from msgspec.structs import replace

from handlers.adapters.ports import KV
from handlers.core import codec, keys
from handlers.core.errors import Usage
from handlers.core.model import Instance, Instances, NodeInfo
from handlers.core.names import InstanceKey
from handlers.core.reading import Reads
from hydra_cli.change import Edit, document
from hydra_cli.context import Context
from hydra_cli.options import WRITES, ReadsType, command
from hydra_cli.output import Said

_URL = re.compile(r"https?://[^\s/]+(/\S*)?")


@command("register", codes=WRITES, examples="""
hydra register prod/search/completion one --node n1 --address 10.0.0.7 --port 8080 --health http://10.0.0.7:8080/healthz
hydra register prod/search/indexer nightly --node n1
hydra register prod/search/completion two --node n1 --port 8081 --health consul:completion
hydra register prod/search/indexer nightly --node n1 --reads 'format<=4'
""")  # fmt: skip
@click.argument("name", metavar="SERVICE")
@click.argument("instance_id", metavar="ID")
@click.option("--node", required=True, metavar="N", help="The node that it runs on.")
@click.option("--address", default="", help="Where it listens (default: the node itself).")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="The port that it listens on.")
@click.option(
    "--health",
    default="none",
    show_default=True,
    metavar="HOW",
    help="none (in service while it is ready), an HTTP URL that answers 2xx while it is in service, "
    "or consul:NAME (the checks of the Consul service NAME with this id).",
)
@click.option(
    "--reads", type=ReadsType(), default="", help="What it can read, in place of what its service says."
)
@click.pass_obj
def register(
    context: Context,
    name: str,
    instance_id: str,
    node: str,
    address: str,
    port: int,
    health: str,
    reads: Reads,
) -> None:
    """Register an instance of a service on a node by hand. It stays until it is deregistered."""
    service = context.service(name)
    kv = context.kv(service.env)
    _require_node(kv, node)
    kind, consul_name = _health(health)
    edit = Edit(context, kv)
    key = keys.registrations(node)
    before = document(edit, Instances, key) or Instances()
    place = InstanceKey.of(service, instance_id)
    there = before.instances.get(place)
    fresh = Instance(
        service=service,
        id=instance_id,
        incarnation=there.incarnation if there else uuid.uuid4().hex[:12],
        address=address,
        port=port,
        health=kind,
        consul_name=consul_name,
        reads=reads,
    )
    if there and there.id != instance_id:
        raise Usage(f"{instance_id!r} and {there.id!r} would have the same name in paths; choose another id")
    after = replace(before, instances={**before.instances, place: fresh})
    changed = edit.write(key, codec.encode(after))
    edit.commit(f"service/{service}", "registered", after=f"{instance_id} on {node}")
    text = f"instance {instance_id} of {service} is registered on {node}" + ("" if changed else " already")
    context.screen.show(Said(text, {"service": service, "id": instance_id, "node": node, "changed": changed}))


@command("deregister", codes=WRITES, examples="""
hydra deregister prod/search/completion one --node n1
""")  # fmt: skip
@click.argument("name", metavar="SERVICE")
@click.argument("instance_id", metavar="ID")
@click.option("--node", required=True, metavar="N", help="The node that it was registered on.")
@click.pass_obj
def deregister(context: Context, name: str, instance_id: str, node: str) -> None:
    """Take a registered instance away: its view goes, and its data once nothing uses it any more."""
    service = context.service(name)
    edit = Edit(context, context.kv(service.env))
    key = keys.registrations(node)
    before = document(edit, Instances, key) or Instances()
    place = InstanceKey.of(service, instance_id)
    if place not in before.instances:
        here = ", ".join(i.id for i in before.instances.values() if i.service == service)
        raise Usage(
            f"no instance {instance_id!r} of {service} is registered on {node}; there are {here or 'none'}"
        )
    after = replace(before, instances={k: i for k, i in before.instances.items() if k != place})
    edit.write(key, codec.encode(after))
    edit.commit(f"service/{service}", "deregistered", before=f"{instance_id} on {node}")
    text = f"instance {instance_id} of {service} on {node} is deregistered"
    context.screen.show(Said(text, {"service": service, "id": instance_id, "node": node, "changed": True}))


def _health(text: str) -> tuple[str, str]:
    """The health source of the document, and the name of a Consul service."""
    if text == "none" or _URL.fullmatch(text):
        return text, ""
    kind, _, consul_name = text.partition(":")
    if kind == "consul" and consul_name:
        return "consul", consul_name
    raise Usage(f"--health {text!r} is none of none, http://HOST:PORT/PATH, consul:NAME")


def _require_node(kv: KV, node: str) -> None:
    """Refuse nodes that never ran: the instance would wait for ever."""
    entry, _ = kv.get(keys.info(node))
    if entry is None:
        found = kv.list(keys.NODES).entries.items()
        known = sorted(codec.decode(NodeInfo, e.value, k).node for k, e in found if k.endswith("/info"))
        there = (
            f"known are {', '.join(known)}" if known else "none is known yet: start `hydra node run` there"
        )
        raise Usage(f"there is no node {node!r}; {there}")
