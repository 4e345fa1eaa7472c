"""`hydra history`: who changed what, from the audit entries that every change leaves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from handlers.adapters.ports import KV, Entry
from handlers.core import codec, keys
from handlers.core.errors import Malformed
from handlers.core.model import Audit
from handlers.core.names import segment
from hydra_cli.context import Context, Named, Node, object_name
from hydra_cli.options import command
from hydra_cli.output import Block, Table


@dataclass(frozen=True)
class History:
    """Audit entries, newest first."""

    entries: Sequence[Audit]

    def data(self) -> Mapping[str, Any]:
        """One object per change."""
        names = ("when", "who", "action", "object", "before", "after", "why")
        return {"history": [{name: getattr(entry, name) for name in names} for entry in self.entries]}

    def blocks(self) -> Iterator[Block]:
        """A table."""
        rows = [(e.when, e.who, e.action, e.object, _change(e), e.why) for e in self.entries]
        yield Table(
            ("WHEN", "WHO", "WHAT", "OBJECT", "FROM -> TO", "WHY"), rows, empty="no changes are recorded"
        )


@command("history", examples="""
hydra history
hydra history channel/prod/search/places --limit 5
hydra history node/n1 -o json
""")  # fmt: skip
@click.argument("name", metavar="[OBJECT]", required=False)
@click.option(
    "--limit", type=click.IntRange(1), default=50, show_default=True, help="At most so many entries."
)
@click.pass_obj
def history(context: Context, name: str | None, limit: int) -> None:
    """Show who changed what, newest first: of one object (channel/…, service/…, node/…), or of all."""
    kv = context.kv()
    found = [entry for prefix in _prefixes(context, kv, name) for entry in kv.list(prefix).entries.values()]
    # the last part of the key is the time; the objects before it would sort by name
    found.sort(key=lambda entry: entry.key.rpartition("/")[2], reverse=True)
    context.screen.show(History([_audit(entry) for entry in found[:limit]]))


def _prefixes(context: Context, kv: KV, name: str | None) -> list[str]:
    if not name:
        return [keys.AUDIT]

    def recorded(named: Named) -> bool:
        return bool(kv.list(_folder(named)).entries)

    return [_folder(named) for named in context.named(name, recorded)]


def _folder(named: Named) -> str:
    name = f"node/{segment(named)}" if isinstance(named, Node) else object_name(named)
    return f"{keys.AUDIT}{name}/"


def _audit(entry: Entry) -> Audit:
    """The entry; what does not parse is shown as what it is, since a history with holes would mislead."""
    try:
        return codec.decode(Audit, entry.value, entry.key)
    except Malformed as e:
        return Audit(object=entry.key, action="unreadable", who="", when="", why=str(e))


def _change(entry: Audit) -> str:
    return f"{entry.before or 'none'} -> {entry.after}" if entry.after else entry.before
