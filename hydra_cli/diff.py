"""`hydra diff`: what changes from one release of a channel to another, and what a node fetches for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click
from msgspec import Struct
from msgspec.structs import asdict

from handlers.core.errors import EXIT_PENDING
from handlers.core.model import Dataset, File, Release
from handlers.core.reuse import Files, same, to_fetch
from handlers.core.version import Version
from hydra_cli.change import require_channel, require_release
from hydra_cli.context import Context
from hydra_cli.options import VersionType, command
from hydra_cli.output import Block, Cell, Line, Table, Tone, size
from hydra_cli.publish_release import published_manifest

MOST_FILES = 50  # of each dataset, for people; JSON has all
_TONES = {"added": Tone.GOOD, "removed": Tone.BAD, "changed": Tone.WARN, "same": Tone.DIM}


class Change(Struct, frozen=True):
    """One file of one dataset: `how` is added, removed or changed; sizes in bytes, None where it is not."""

    path: str
    how: str
    before: int | None = None
    after: int | None = None


class DatasetDiff(Struct, frozen=True):
    """One dataset in both releases; None where a release has not got it."""

    name: str
    before: Dataset | None
    after: Dataset | None
    files: Sequence[Change]
    fetch: int

    @property
    def how(self) -> str:
        """In one word; a dataset that only moved (another placement, say) is changed as well."""
        if self.before is None or self.after is None:
            return "removed" if self.before else "added"
        kept = ("placement", "as_name")
        moved = any(getattr(self.before, field) != getattr(self.after, field) for field in kept)
        return "changed" if self.files or moved else "same"


class Diff(Struct, frozen=True):
    """All datasets of two releases, `a` before `b`."""

    a: Release
    b: Release
    datasets: Sequence[DatasetDiff]

    @property
    def differs(self) -> bool:
        """Whether anything is another one."""
        return any(one.how != "same" for one in self.datasets)

    def data(self) -> Mapping[str, Any]:
        """One object per dataset, with every file that differs."""
        return {
            "channel": self.a.channel,
            "a": self.a.version,
            "b": self.b.version,
            "differs": self.differs,
            "bytes_to_fetch": sum(one.fetch for one in self.datasets),
            "datasets": {
                one.name: {
                    "change": one.how,
                    "bytes_to_fetch": one.fetch,
                    "before": _data(one.before),
                    "after": _data(one.after),
                    "files": [asdict(change) for change in one.files],
                }
                for one in self.datasets
            },
        }

    def blocks(self) -> Iterator[Block]:
        """The datasets, then the files of those that differ."""
        rows: list[list[Cell | str]] = [
            [
                one.name,
                Cell(one.how, _TONES[one.how]),
                *(str(sum(c.how == how for c in one.files)) for how in ("added", "removed", "changed")),
                size(one.before.bytes) if one.before else "",
                size(one.after.bytes) if one.after else "",
                size(one.fetch),
            ]
            for one in self.datasets
        ]
        columns = ("DATASET", "CHANGE", "ADDED", "REMOVED", "CHANGED", "BEFORE", "AFTER", "TO FETCH")
        yield Table(columns, rows, right=frozenset(columns[2:]))
        for one in self.datasets:
            shown = [(Cell(c.how, _TONES[c.how]), c.path, _sizes(c)) for c in one.files[:MOST_FILES]]
            if shown:
                yield Table(("CHANGE", "FILE", "SIZE"), shown, title=f"Files of {one.name}")
            if len(one.files) > MOST_FILES:
                yield Line(f"and {len(one.files) - MOST_FILES} more (-o json has all)")
        fetch = size(sum(one.fetch for one in self.datasets))
        yield Line(f"a node that has {self.a.version} fetches {fetch} for {self.b.version}")


@command("diff", codes=(3, 5, 11), examples="""
hydra diff prod/search/places 2026-01-30T23-59-59 2026-01-31T23-59-59
hydra diff prod/search/places 2026-01-30T23-59-59 2026-01-31T23-59-59 --detailed-exitcode
""")  # fmt: skip
@click.argument("name", metavar="CHANNEL")
@click.argument("a", type=VersionType(), metavar="A")
@click.argument("b", type=VersionType(), metavar="B")
@click.option("--detailed-exitcode", is_flag=True, help="Exit 3 where the releases differ.")
@click.pass_obj
def diff(context: Context, name: str, a: Version, b: Version, detailed_exitcode: bool) -> int:
    """Show which datasets and files are added, removed and changed from release A to release B.

    And how many bytes a node that holds A fetches for B. Files are told apart as nodes do it: by size and
    checksum, and where there is none by size and ETag.
    """
    channel = context.channel(name)
    facts = require_channel(context.kv(channel.env), channel)
    for version in (a, b):
        require_release(facts, version)
    old, new = facts.by_version[a], facts.by_version[b]
    kv, objects = context.kv(channel.env), context.objects(channel.env)
    before, after = (published_manifest(kv, objects, header).files for header in (old, new))
    found = compared(old, new, before, after)
    context.screen.show(found)
    return EXIT_PENDING if detailed_exitcode and found.differs else 0


def compared(a: Release, b: Release, before: Files, after: Files) -> Diff:
    """The difference of two releases with their lists of files."""
    fetch = to_fetch(after, [before])
    datasets = [
        DatasetDiff(
            name=name,
            before=a.datasets.get(name),
            after=b.datasets.get(name),
            files=_changes(before.get(name, ()), after.get(name, ())),
            fetch=fetch.get(name, 0),
        )
        for name in sorted({*a.datasets, *b.datasets})
    ]
    return Diff(a, b, datasets)


def _changes(before: Sequence[File], after: Sequence[File]) -> list[Change]:
    old, new = ({file.path: file for file in files} for files in (before, after))
    found = []
    for path in sorted({*old, *new}):
        one, other = old.get(path), new.get(path)
        if one is None or other is None:
            how = "added" if one is None else "removed"
            found.append(Change(path, how, one.size if one else None, other.size if other else None))
        elif not _unchanged(one, other):
            found.append(Change(path, "changed", one.size, other.size))
    return found


def _unchanged(one: File, other: File) -> bool:
    if one.check and other.check:
        return same(one, other)
    return (one.size, one.etag) == (other.size, other.etag)


def _data(dataset: Dataset | None) -> Mapping[str, Any] | None:
    if dataset is None:
        return None
    fields = ("source", "placement", "version", "files", "bytes")
    return {field: getattr(dataset, field) for field in fields}


def _sizes(change: Change) -> str:
    parts = [size(count) for count in (change.before, change.after) if count is not None]
    return " -> ".join(parts)
