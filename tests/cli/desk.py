"""A person at the command line: runs `hydra` in this process, on a Consul and an S3 in memory or others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from handlers.adapters.objects import S3Objects
from handlers.adapters.ports import Consul, Uploads
from handlers.adapters.stores import Stores, StoresUploads
from handlers.adapters.uploads import S3Uploads
from handlers.core import codec, keys, model
from handlers.core.names import Channel
from handlers.core.version import Version
from hydra_cli.context import Context
from hydra_cli.main import cli
from tests.fakes_kv import FakeKV
from tests.fakes_objects import FakeObjects
from tests.fakes_uploads import FakeUploads

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
PLACES = Channel("prod/search/places")
TWO_DATASETS = """
DATA_TEMPLATE = {
    "index": {"SourcePath": f"s3://data/index/{VERSION_PLACEHOLDER}/", "Placement": DISK},
    "ranks": {"SourcePath": f"s3://data/ranks/{VERSION_PLACEHOLDER}/ranks.bin", "Placement": RAM},
}
"""


def v(day: int) -> Version:
    return Version(f"2026-01-{day:02d}T00-00-00")


@dataclass(frozen=True)
class Answer:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Desk:
    """`run` runs `hydra` with arguments; `consul` and `objects` are what it finds, in memory unless given."""

    folder: Path
    kv: FakeKV = field(default_factory=FakeKV)
    objects: FakeObjects = field(default_factory=FakeObjects)
    consul: Consul | None = None
    store: S3Objects | Stores | None = None
    environ: dict[str, str] = field(default_factory=dict)
    now: datetime = NOW
    uploads: FakeUploads = field(init=False)

    def __post_init__(self) -> None:
        self.uploads = FakeUploads(self.objects)

    def run(self, *args: str) -> Answer:
        environ = {"HOME": str(self.folder), "HYDRA_WHO": "eve", "HYDRA_DEBUG": "1"} | self.environ
        context = Context(
            environ,
            consul=lambda _: self.consul or self.kv,
            objects=lambda _: self.store or self.objects,
            uploads=lambda _: self._uploads(),
            now=lambda: self.now,
        )
        result = CliRunner().invoke(cli, list(args), obj=context, prog_name="hydra")
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Answer(result.exit_code, result.stdout, result.stderr)

    def _uploads(self) -> Uploads:
        if self.store is None:
            return self.uploads
        return StoresUploads(self.store) if isinstance(self.store, Stores) else S3Uploads(self.store)

    def ok(self, *args: str) -> Answer:
        answer = self.run(*args)
        assert answer.code == 0, answer
        return answer

    def template(self, text: str = TWO_DATASETS, name: str = "template.py") -> str:
        path = self.folder / name
        path.write_text(text)
        return str(path)

    def data(self, day: int, *, body: bytes = b"x") -> None:
        """One version of both datasets on S3."""
        self.objects.write(f"s3://data/index/{v(day)}/a", body)
        self.objects.write(f"s3://data/index/{v(day)}/b/c", body * 2)
        self.objects.write(f"s3://data/ranks/{v(day)}/ranks.bin", body * 3)

    def publish(self, *args: str) -> Answer:
        return self.run("publish", self.template(), "--channel", PLACES, *args)

    def init(self) -> None:
        self.kv.put(keys.META, codec.encode(model.Meta(environments=("prod",))))

    def put(self, documents: Mapping[str, bytes]) -> None:
        for key, value in documents.items():
            self.kv.put(key, value)

    def everything(self) -> dict[str, bytes]:
        """All that is in KV, to see that nothing was written."""
        return {key: entry.value for key, entry in self.kv.list("").entries.items()}

    def value(self, key: str) -> bytes | None:
        entry, _ = self.kv.get(key)
        return entry.value if entry else None

    def audit(self) -> list[model.Audit]:
        entries = sorted(self.kv.list(keys.AUDIT).entries.items(), key=lambda row: row[1].index)
        return [codec.decode(model.Audit, entry.value, key) for key, entry in entries]
