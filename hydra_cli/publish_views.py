"""What a publish did, or would do, as people and programs read it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

from handlers.core.fits import Fit
from handlers.core.model import Dataset, Release
from handlers.core.version import Version
from hydra_cli import fetching, publish_space
from hydra_cli.fetching import Fetch
from hydra_cli.integrity_views import level_cell, unprotected
from hydra_cli.output import Block, Line, Table, Tone, size
from hydra_cli.publish_release import Draft


class Published(Struct, frozen=True):
    """What a publish did, or with `planned` would do."""

    header: Release
    result: str
    before: Version | None
    draft: Draft | None = None
    fetches: Sequence[Fetch] = ()
    fits: Sequence[Fit] = ()
    takeover: Mapping[str, Any] | None = None

    def data(self) -> Mapping[str, Any]:
        """The release, the result (`published`, `unchanged`, `planned`), the head before, the transaction."""
        header = self.header
        data: dict[str, Any] = {
            "channel": header.channel,
            "version": header.version,
            "result": self.result,
            "sequence": header.sequence,
            "head_before": self.before,
            "files": sum(d.files for d in header.datasets.values()),
            "bytes": sum(d.bytes for d in header.datasets.values()),
            "datasets": {name: _dataset(d) for name, d in sorted(header.datasets.items())},
            "manifest": {"digest": header.manifest.digest, "bytes": header.manifest.bytes},
        }
        if header.labels:
            data["labels"] = dict(header.labels)
        if header.needs:
            data["needs"] = dict(header.needs)
        if header.manifest.object:
            data["manifest"]["object"] = header.manifest.object
        if self.result == "planned" and self.draft:
            data["txn"] = self.draft.body()
        if self.result != "unchanged":
            space = publish_space.data(self.fits)
            data["nodes"] = [
                {"node": f.node, "fetch_bytes": f.bytes, **space.get(f.node, {})} for f in self.fetches
            ]
        if self.takeover is not None:
            data["takeover"] = self.takeover
        return data

    def blocks(self) -> Iterator[Block]:
        """One sentence, then the datasets."""
        header, name = self.header, f"{self.header.version} of {self.header.channel}"
        now = f"head {self.before or 'none'} -> {header.version}"
        if self.draft and self.draft.staged:
            now = f"staged; the head stays {self.before or 'none'}"
        said = {
            "published": f"published {name} as release {header.sequence} ({now})",
            "planned": f"would publish {name} as release {header.sequence} ({now})",
            "unchanged": f"unchanged: {name} is published already, as release {header.sequence}",
        }
        yield Line(said[self.result], Tone.GOOD if self.result == "published" else Tone.HEAD)
        columns = ("DATASET", "VERSION", "PLACEMENT", "FILES", "SIZE", "INTEGRITY", "SOURCE")
        rows = [
            (n, d.version, d.placement, str(d.files), size(d.bytes), level_cell(d.integrity), d.source)
            for n, d in sorted(header.datasets.items())
        ]
        yield Table(columns, rows, right=frozenset({"FILES", "SIZE"}))
        yield from unprotected((n, d.integrity) for n, d in sorted(header.datasets.items()))
        if header.labels:
            yield Line("labels: " + ", ".join(f"{key}={text}" for key, text in sorted(header.labels.items())))
        for name, least in sorted(header.needs.items()):
            yield Line(f"needs {name}@{least} or newer")
        if self.result != "unchanged":
            yield from fetching.table(self.fetches)
            yield from publish_space.table(self.fits)
        if header.manifest.object:
            yield Line(f"list of files: {header.manifest.object}", Tone.DIM)


def _dataset(dataset: Dataset) -> dict[str, Any]:
    names = ("source", "placement", "version", "files", "bytes", "integrity", "pushed")
    return {n: getattr(dataset, n) for n in names} | ({"as": dataset.as_name} if dataset.as_name else {})
