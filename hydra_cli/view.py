"""`hydra view`: what each instance of a service uses, and where its view is."""

from __future__ import annotations

import click

from handlers.adapters.snapshot import EVERYTHING, load
from hydra_cli.context import Context
from hydra_cli.one_service import find
from hydra_cli.options import command
from hydra_cli.service_views import ServiceView


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
    one = find(world, service, context.now(), instance_id)
    context.screen.show(ServiceView(one, context.now(), view=True))
