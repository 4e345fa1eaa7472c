"""`hydra init`: prepare a Consul for Hydra, or let it serve more environments."""

from __future__ import annotations

import click
from msgspec.structs import replace

from handlers.core import codec, keys
from handlers.core.errors import Usage
from handlers.core.model import Meta
from handlers.core.names import check_word
from hydra_cli.change import Edit
from hydra_cli.context import Context
from hydra_cli.options import WRITES, command
from hydra_cli.output import Said, Tone

EXAMPLES = """
hydra init --env dev
hydra init --env prod --env staging
"""


@command("init", examples=EXAMPLES, codes=WRITES)
@click.pass_obj
@click.option(
    "--env", "environments", multiple=True, metavar="ENV", help="Environment that this Consul serves."
)
def init(context: Context, environments: tuple[str, ...]) -> None:
    """Prepare a Consul for Hydra, or add environments to it.

    Writes the key `meta`, which says that this KV is Hydra's and which environments live here; publishing to
    others is refused. May be repeated: environments that are served already stay.
    """
    wanted = environments or ((context.env,) if context.env else ())
    for name in wanted:
        check_word(name, "environment")
    edit = Edit(context, context.kv(wanted[0] if wanted else ""))
    entry = edit.read(keys.META)
    before = codec.decode(Meta, entry.value, keys.META) if entry else None
    if not before and not wanted:
        raise Usage("which environments will live in this Consul? give --env ENV, once for each")
    served = tuple(sorted({*(before.environments if before else ()), *wanted}))
    meta = replace(before, environments=served) if before else Meta(environments=served)
    changed = edit.write(keys.META, codec.encode(meta))
    edit.commit("meta", "initialised", before=_names(before), after=_names(meta))
    result = "initialised" if changed and not before else "changed" if changed else "unchanged"
    text = f"{result}: this Consul serves {', '.join(served)}"
    fields = {"result": result, "environments": list(served), "key": keys.META}
    context.screen.show(Said(text, fields, Tone.GOOD if changed else Tone.PLAIN))


def _names(meta: Meta | None) -> str:
    return ", ".join(meta.environments) if meta else ""
