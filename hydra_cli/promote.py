"""`hydra promote`: let services move to the release that is staged, now or at a time."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

from handlers.core import codec, keys
from handlers.core.errors import NotTakenOver, Usage
from handlers.core.model import Staged
from handlers.core.staging import obstacle
from handlers.core.version import Version
from handlers.core.world import ChannelFacts
from hydra_cli.change import Edit, require_channel
from hydra_cli.context import Context
from hydra_cli.options import WRITES, command
from hydra_cli.output import Said, Tone


class Time(click.ParamType[datetime]):
    """A time like `2026-01-31T06:00:00Z`; without an offset it is UTC."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """The time; fails with what would have been right."""
        try:
            found = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is not a time like 2026-01-31T06:00:00Z", param, ctx)
        return found if found.tzinfo else found.replace(tzinfo=UTC)


@command("promote", codes=(*WRITES, 9), examples="""
hydra promote prod/search/places --reason "all nodes have it"
hydra promote prod/search/places --at 2026-01-31T06:00:00Z
""")  # fmt: skip
@click.argument("name", metavar="CHANNEL")
@click.option("--at", type=Time(), help="When; the planner holds the time. Another --at takes its place.")
@click.option("--reason", default="", help="Why, for the history.")
@click.pass_obj
def promote(context: Context, name: str, at: datetime | None, reason: str) -> None:
    """Announce the release that is staged: it becomes the head, now or at a time."""
    channel = context.channel(name)
    kv = context.kv(channel.env)
    edit = Edit(context, kv)
    entry = edit.read(keys.staged(channel))
    head = edit.read(keys.head(channel))
    if entry is None:
        raise Usage(f"nothing is staged on {channel}; `hydra publish --stage` stages a release")
    staged = codec.decode(Staged, entry.value, entry.key)
    facts = require_channel(kv, channel)
    if why := obstacle(facts, staged.version):
        raise NotTakenOver(
            f"{staged.version} is staged on {channel}, but {why}{_way_out(facts, staged.version)}"
        )
    before = head.value.decode(errors="replace").strip() if head else ""
    if at is not None:
        when = at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        edit.write(
            entry.key, codec.encode(Staged(version=staged.version, at=when, who=context.who, why=reason))
        )
        edit.commit(
            f"channel/{channel}", "promotes", before=before, after=f"{staged.version} at {when}", why=reason
        )
        text = f"{staged.version} of {channel} becomes the head at {when}"
    else:
        when = ""
        edit.write(keys.head(channel), staged.version.encode())
        edit.delete(entry.key)
        edit.commit(f"channel/{channel}", "promoted", before=before, after=staged.version, why=reason)
        text = f"head of {channel}: {before or 'none'} -> {staged.version}"
    fields = {"channel": channel, "before": before or None, "version": staged.version, "at": when or None}
    context.screen.show(Said(text, fields, Tone.GOOD))


def _way_out(facts: ChannelFacts, version: Version) -> str:
    """What to do about a staged release that must not become the head."""
    if version in facts.rejected:
        return f"; `hydra accept {facts.name} {version}` takes that back"
    if version in facts.by_version:
        return f"; `hydra channel set-head {facts.name} {version}` goes back all the same"
    return ""
