"""`hydra view`: what each instance of a service uses, and where its view is."""

from __future__ import annotations

from dataclasses import replace

import click

from handlers.adapters.snapshot import EVERYTHING, load
from handlers.core.errors import Usage
from handlers.core.names import segment
from hydra_cli.context import Context
from hydra_cli.options import command
from hydra_cli.service_views import ServiceView, of


@command("view", examples="""
hydra view prod/search/completion
hydra view prod/search/completion completion-1 -o json
""")  # fmt: skip
@click.argument("name", metavar="SERVICE")
@click.argument("instance_id", metavar="[ID]", required=False)
@click.pass_obj
def view(context: Context, name: str, instance_id: str | None) -> None:
    """Show what each instance of a service uses now, and where its view is (below its node's HYDRA_ROOT)."""
    service = context.service(name)
    world = load(context.kv(service.env), *EVERYTHING)
    one = of(world, service, context.now())
    if one.facts.subscription is None and not (one.live or one.dead):
        raise Usage(f"there is no service {service}: it has neither a subscription nor instances")
    if instance_id:
        ids = sorted(r.instance.id for r in [*one.live, *one.dead])
        keep = {instance_id, segment(instance_id)}
        live = [r for r in one.live if {r.instance.id, r.key.segment} & keep]
        dead = [r for r in one.dead if {r.instance.id, r.key.segment} & keep]
        if not (live or dead):
            raise Usage(f"{service} has no instance {instance_id!r}; it has {', '.join(ids) or 'none'}")
        one = replace(one, live=live, dead=dead)
    context.screen.show(ServiceView(one, context.now(), view=True))
