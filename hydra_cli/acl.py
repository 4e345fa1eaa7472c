"""`hydra acl show`: the ACL policy of each role, rendered from `consul/policies/`.

Each role may write only the keys that it owns; `hydra dev` and the end-to-end tests run with these texts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import click

from handlers import resources
from handlers.core import keys
from handlers.core.errors import Usage
from handlers.core.names import Channel, check_word
from hydra_cli.context import Context
from hydra_cli.options import add, command, group
from hydra_cli.output import Said

ROLES = ("node", "planner", "publisher", "operator", "reader", "agent")
_NEED_NODE = ("node", "agent")
_LONGEST_SCOPE = 2  # ENV/NAMESPACE/ in front of a channel's own name

EXAMPLES = """
hydra acl show node --node n1
hydra acl show publisher --channel prod/search/places
hydra acl show reader
"""


def render(
    role: str,
    *,
    node: str | None = None,
    consul_node: str | None = None,
    channel: str | None = None,
    services: Sequence[str] = (),
) -> str:
    """The policy of `role` as HCL; raises `Usage` on an unknown role or a missing or unfit name.

    `node` is the real name, needed for node and agent; a planner without one may run anywhere. `consul_node`
    is the name that the node's Consul agent has where that is another one (HYDRA_NODE is set). `channel` is
    ENV/NS/NAME, or ENV/NS/ or ENV/ for a publisher of all channels below, or empty for all. `services` are
    names in Consul's catalog (`*` at the end = all that begin so) that the node may put into maintenance.
    """
    if role not in ROLES:
        raise Usage(f"role {role!r} is none of {', '.join(ROLES)}")
    if role in _NEED_NODE and not node:
        raise Usage(f"a policy for role {role} is for one node: give --node")
    if role == "publisher" and channel is None:
        raise Usage("a policy for role publisher is for a channel: give --channel ENV/NAMESPACE/NAME")
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(resources.path("consul", "policies")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 -- this is HCL; names are quoted by the filter
    )
    environment.filters["hcl"] = json.dumps
    scope = _scope(channel or "")
    exact = bool(channel) and isinstance(scope, Channel)
    names = {"node": node or "", "agent": consul_node or node or "", "channel": scope, "exact": exact}
    folder = keys.ROOT.removesuffix("v1/")
    return environment.get_template(f"{role}.hcl.j2").render(
        keys=keys, folder=folder, services=tuple(services), **names
    )


def _scope(text: str) -> str:
    """A channel, or the part of channel names before a `/`, or nothing for all channels."""
    if text and not text.endswith("/"):
        return Channel.parse(text)
    parts = text.split("/")[:-1]
    if len(parts) > _LONGEST_SCOPE:
        raise Usage(f"{text!r} is neither ENV/NAMESPACE/NAME nor ENV/ nor ENV/NAMESPACE/")
    for part, what in zip(parts, ("environment", "namespace"), strict=False):
        check_word(part, what)
    return text


@group("acl", examples=EXAMPLES)
def acl() -> None:
    """Print the ACL policies of Hydra's roles, for tokens that may write only what they have to."""


@command("show", examples=EXAMPLES)
@click.argument("role", type=click.Choice(ROLES))
@click.option("--node", metavar="N", help="The node that the token is for (node, agent, planner).")
@click.option(
    "--consul-node", metavar="N", help="The name of the node's Consul agent, where it is not that of --node."
)
@click.option(
    "--channel", metavar="C", help="ENV/NAMESPACE/NAME, or ENV/NAMESPACE/ or ENV/ for all below (publisher)."
)
@click.option(
    "--service",
    "services",
    metavar="S",
    multiple=True,
    help="A service in Consul's catalog that this node may put into maintenance mode (node).",
)
@click.pass_obj
def show(
    context: Context,
    role: str,
    node: str | None,
    consul_node: str | None,
    channel: str | None,
    services: tuple[str, ...],
) -> None:
    """Print the policy of ROLE as HCL, ready for `consul acl policy create -rules -`."""
    text = render(role, node=node, consul_node=consul_node, channel=channel, services=services)
    context.screen.show(Said(text.rstrip("\n"), {"role": role, "policy": text}))


add(acl, show)
