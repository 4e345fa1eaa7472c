"""`hydra channel import`: versions that lie on S3 already become a channel with history.

Release after release, oldest first, each in one transaction; only the last one moves the head. So a run that
ends half-way is continued by the next, and a second run does nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from msgspec import Struct
from msgspec.structs import replace

from handlers.adapters.ports import KV
from handlers.adapters.snapshot import load
from handlers.core import keys
from handlers.core.backlog import PUBLISHED, Candidate, candidates
from handlers.core.choice import Offer
from handlers.core.errors import SourceNotReady, Usage
from handlers.core.model import ChannelSettings, Release
from handlers.core.names import Channel
from handlers.core.version import PLACEHOLDER, Version
from handlers.core.world import ChannelFacts
from hydra_cli import data_template, publish_source
from hydra_cli.change import Edit, require_environment
from hydra_cli.context import Context
from hydra_cli.data_template import Template, TemplateDataset
from hydra_cli.options import WRITES, command
from hydra_cli.output import Block, Cell, Line, Table, Tone, size
from hydra_cli.publish import channel_named
from hydra_cli.publish_prepare import Wanted, announce, check_classes, prepare
from hydra_cli.publish_release import without_head

EXAMPLES = """
hydra channel import s3://data/places/{VERSION_PLACEHOLDER}/ --channel prod/search/places
hydra channel import s3://data/places/{VERSION_PLACEHOLDER}/ --env prod -n search --release places --last 5
hydra channel import --template template.py --channel prod/search/places --dry-run
"""


NOTE = "imported"


class Row(Struct, frozen=True):
    """One version and what came of it: `imported`, `planned`, `published` before, or `skipped` and why."""

    version: Version
    result: str
    why: str = ""
    header: Release | None = None


class Imported(Struct, frozen=True):
    """What an import did or would do; rows in the order of their versions."""

    channel: Channel
    head: Version | None
    rows: Sequence[Row]

    def data(self) -> Mapping[str, Any]:
        """One object per version."""
        return {
            "channel": self.channel,
            "head": self.head,
            "changed": any(row.result == "imported" for row in self.rows),
            "versions": [
                {
                    "version": row.version,
                    "result": row.result,
                    "why": row.why,
                    "sequence": row.header.sequence if row.header else None,
                    "files": _files(row.header),
                    "bytes": _bytes(row.header),
                }
                for row in self.rows
            ],
        }

    def blocks(self) -> Iterator[Block]:
        """A table, then one sentence."""
        tones = {"imported": Tone.GOOD, "planned": Tone.HEAD, "skipped": Tone.WARN}
        rows = [
            (
                row.version,
                Cell(row.result, tones.get(row.result, Tone.DIM)),
                str(_files(row.header)) if row.header else "",
                size(_bytes(row.header)) if row.header else "",
                row.why,
            )
            for row in self.rows
        ]
        columns = ("VERSION", "RESULT", "FILES", "SIZE", "WHY")
        yield Table(columns, rows, right=frozenset({"FILES", "SIZE"}))
        new = sum(row.result in ("imported", "planned") for row in self.rows)
        verb = "would be imported" if any(row.result == "planned" for row in self.rows) else "imported"
        yield Line(f"{new} releases {verb} into {self.channel}; its head is {self.head or 'none'}", Tone.GOOD)


@command("import", examples=EXAMPLES, codes=(*WRITES, 7, 11))
@click.argument("source", metavar="[SOURCE]", default="")
@click.option("--template", type=click.Path(path_type=Path), help="Data template, in place of SOURCE.")
@click.option("--release", default="", metavar="R", help="The channel is ENV/NS/R.")
@click.option("--channel", "named", default="", metavar="E/NS/R", help="The channel, in place of the three.")
@click.option("--dataset", default="", help="Name of the dataset (default: the last name in SOURCE's path).")
@click.option("--placement", default="DISK", show_default=True, help="DISK, RAM or a class of volumes.")
@click.option("--last", type=click.IntRange(1), help="How many (default: as many as the channel keeps).")
@click.option("--dry-run", is_flag=True, help="Show what would be imported; write nothing.")
@click.pass_obj
def import_channel(
    context: Context,
    source: str,
    template: Path | None,
    release: str,
    named: str,
    dataset: str,
    placement: str,
    last: int | None,
    dry_run: bool,
) -> None:
    """Make releases of the versions that lie on S3 already, so that a channel begins with its history.

    SOURCE is as in a data template, with {VERSION_PLACEHOLDER} (gs:// and az:// are experimental);
    --template names several datasets, and labels that all of these releases get. The newest complete
    versions become releases, oldest first, and only the last one is announced as the head. A dataset of
    its own rhythm gets its newest version of that time. What is published already stays as it is; an
    interrupted import is continued by running it again.
    """
    channel = channel_named(context, named, release)
    said = _template(source, template, dataset, placement)
    datasets = said.datasets
    kv = context.kv(channel.env)
    require_environment(kv, channel.env)
    check_classes(kv, datasets)
    facts = _facts(kv, channel)
    keep = last or (facts.settings if facts else ChannelSettings()).keep_releases
    chosen = _chosen(context, channel.env, datasets, facts, keep)
    wanted = [c.version for c in chosen if not c.skipped]
    rows = {
        c.version: Row(c.version, "published" if c.skipped == PUBLISHED else "skipped", c.skipped)
        for c in chosen
    }
    for number, version in enumerate(wanted, 1):
        context.screen.note(f"{version} ({number} of {len(wanted)})")
        order = Wanted(channel, datasets, version, NOTE, said.labels, as_of=version.moment)
        rows[version] = _one(context, kv, order, newest=version == wanted[-1], planned=number * dry_run)
    head = wanted[-1] if wanted else facts.head if facts else None
    if head is None and facts and facts.releases and not dry_run:
        head = _announce_newest(context, kv, facts)
    _warn_of_retention(context, facts, len(wanted))
    context.screen.show(Imported(channel, head, [rows[version] for version in sorted(rows)]))


def _template(source: str, template: Path | None, dataset: str, placement: str) -> Template:
    """The given one, or that of the one dataset that SOURCE is."""
    if bool(source) == bool(template):
        raise Usage("give SOURCE or --template, one of them")
    if template:
        return data_template.load(template)
    place = data_template.source_of("SOURCE", source)
    above = place.key.partition(PLACEHOLDER)[0].rpartition("/")[0]
    name = dataset or above.rpartition("/")[2] or place.bucket
    try:
        fields = {"SourcePath": source, "Placement": placement}
        return Template(data_template.datasets("SOURCE", {name: fields}), {})
    except Usage as e:
        hint = "" if dataset else " (--dataset gives the dataset another name)"
        raise Usage(f"{e}{hint}") from None


def _facts(kv: KV, channel: Channel) -> ChannelFacts | None:
    facts = load(kv, keys.channel(channel), keys.releases(channel)).channels.get(channel)
    if facts and facts.deleted:
        raise Usage(f"channel {channel} is deleted; `hydra channel set {channel} --restore` brings it back")
    return facts


def _chosen(
    context: Context,
    env: str,
    datasets: Sequence[TemplateDataset],
    facts: ChannelFacts | None,
    keep: int,
) -> list[Candidate]:
    """The newest versions, until `keep` are complete, oldest first."""
    objects, now = context.objects(env), context.now()
    listed = {d.name: publish_source.listed(objects, d) for d in datasets if not d.own}
    if not listed:
        raise Usage("at least one dataset must have the version of the release (not `Version: own`)")
    chosen: list[Candidate] = []
    for candidate in candidates(listed, facts, now):
        reason = candidate.skipped
        if not reason:
            offers = publish_source.look(objects, datasets, candidate.version.moment, candidate.version)
            lacks = [f"{o.name} {r}" for o in offers if not o.complete for r in _reasons(o)]
            reason = "; ".join(lacks)
        chosen.append(Candidate(candidate.version, reason))
        if sum(not c.skipped for c in chosen) == keep:
            break
    if not chosen:
        places = ", ".join(str(d.versions_folder) for d in datasets)
        raise SourceNotReady(f"nothing like a version below {places}")
    return chosen[::-1]


def _reasons(offer: Offer) -> list[str]:
    return list(offer.incomplete.values()) or ["has no version of that time"]


def _one(context: Context, kv: KV, wanted: Wanted, *, newest: bool, planned: int) -> Row:
    """Import one version; `planned` > 0: only say that it would become the so-many-th new release."""
    channel, objects = wanted.channel, context.objects(wanted.channel.env)
    prepared = prepare(context, kv, objects, context.uploads(channel.env), wanted)
    if planned:
        header = replace(prepared.header, sequence=prepared.before.highest + planned)
        return Row(header.version, "planned", header=header)
    if prepared.draft and not newest:
        prepared = replace(prepared, draft=without_head(prepared.draft, prepared.before))
    result, done = announce(kv, objects, wanted, prepared)
    return Row(done.header.version, "imported" if result == "published" else "published", header=done.header)


def _announce_newest(context: Context, kv: KV, facts: ChannelFacts) -> Version:
    """A channel whose import ended before its last release, which is not there any more: it needs a head."""
    newest = facts.releases[-1].version
    edit = Edit(context, kv)
    edit.hold(keys.release(facts.name, newest))
    edit.write(keys.head(facts.name), newest.encode())
    edit.commit(f"channel/{facts.name}", "set-head", after=newest, why="end of an import")
    return newest


def _warn_of_retention(context: Context, facts: ChannelFacts | None, new: int) -> None:
    keep = (facts.settings if facts else ChannelSettings()).keep_releases
    total = new + (len(facts.releases) if facts else 0)
    if total > keep and (facts.settings.keep_age_s is None if facts else True):
        context.screen.warn(
            f"the channel keeps {keep} releases, and these are {total}: the oldest go again; "
            "`hydra channel set --keep-releases` keeps more"
        )


def _files(header: Release | None) -> int:
    return sum(d.files for d in header.datasets.values()) if header else 0


def _bytes(header: Release | None) -> int:
    return sum(d.bytes for d in header.datasets.values()) if header else 0
