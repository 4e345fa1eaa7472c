"""`hydra history`: who changed what, from the audit entries of every change; and who served what (`--at`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import click
from msgspec import Struct

from handlers.adapters.ports import KV, Entry
from handlers.core import codec, keys
from handlers.core.errors import Malformed, Usage
from handlers.core.model import Audit, Served
from handlers.core.names import Service, segment
from handlers.core.served import at
from hydra_cli.context import Context, Named, Node, object_name
from hydra_cli.options import Duration, command
from hydra_cli.output import Block, Table


class History(Struct, frozen=True):
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
hydra history service/prod/search/completion --at 2026-01-31T12:00
hydra history --at 2h
""")  # fmt: skip
@click.argument("name", metavar="[OBJECT]", required=False)
@click.option(
    "--limit", type=click.IntRange(1), default=50, show_default=True, help="At most so many entries."
)
@click.option(
    "--at",
    "moment",
    metavar="TIME",
    help="Show instead who served what then: a time in UTC (2026-01-31T12:00), or how long ago (2h).",
)
@click.pass_obj
def history(context: Context, name: str | None, limit: int, moment: str | None) -> None:
    """Show who changed what, newest first: of one object (channel/…, service/…, node/…), or of all.

    What was changed by hand, without a command, is there within a minute. With --at: which instances ran
    what at a moment of the last 30 days.
    """
    kv = context.kv()
    if moment:
        context.screen.show(_served(context, kv, name, _moment(moment, context.now())))
        return
    found = [entry for prefix in _prefixes(context, kv, name) for entry in kv.list(prefix).entries.values()]
    # the last part of the key is the time; the objects before it would sort by name
    found.sort(key=lambda entry: entry.key.rpartition("/")[2], reverse=True)
    context.screen.show(History([_audit(entry) for entry in found[:limit]]))


class Then(Struct, frozen=True):
    """Who served what at `when`; None: of that service nothing is recorded from so long ago."""

    when: str
    services: Mapping[str, Mapping[str, str] | None]

    def data(self) -> Mapping[str, Any]:
        """By service what each instance ran."""
        return {"at": self.when, "services": self.services}

    def blocks(self) -> Iterator[Block]:
        """A table."""
        rows: list[tuple[str, ...]] = []
        for service, runs in self.services.items():
            if runs is None:
                rows.append((service, "", "", "nothing is recorded from then"))
            for instance, releases in sorted((runs or {}).items()):
                node, _, name = instance.partition("/")
                rows.append((service, node, name, releases))
        yield Table(("SERVICE", "NODE", "INSTANCE", "RAN"), rows, empty="nobody served anything then")


def _served(context: Context, kv: KV, name: str | None, when: str) -> Then:
    prefix = keys.SERVED
    if name:
        prefix = f"{keys.SERVED}{context.service(name)}/"
    documents: dict[str, list[Served]] = {}
    for key, entry in sorted(kv.list(prefix).entries.items()):
        service = key.removeprefix(keys.SERVED).rpartition("/")[0]
        documents.setdefault(service, []).append(codec.decode(Served, entry.value, key))
    if name and not documents:
        documents[str(_known(context, kv, name))] = []
    return Then(when, {service: at(found, when) for service, found in documents.items()})


def _known(context: Context, kv: KV, name: str) -> Service:
    service = context.service(name)
    if not kv.list(keys.service(service)).entries:
        raise Usage(f"there is no service {service}; `hydra status` lists all of them")
    return service


def _moment(text: str, now: datetime) -> str:
    """A time as records have it; raises `Usage`."""
    try:
        ago = Duration().convert(text, None, None)
    except click.UsageError:
        try:
            then = datetime.fromisoformat(text)
        except ValueError:
            raise Usage(
                f"--at {text!r} is neither a time like 2026-01-31T12:00 nor a duration like 2h"
            ) from None
    else:
        then = now - timedelta(seconds=ago)
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    if then > now:
        raise Usage(f"--at {text}: is in the future")
    return then.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


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
