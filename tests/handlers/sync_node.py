"""A node for tests of `sync`: a real root, releases that are really published, KV and objects of choice."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from msgspec.structs import replace

from handlers.adapters.local import LocalState
from handlers.adapters.ports import Consul, Objects, Source
from handlers.context import Context
from handlers.core import codec, keys
from handlers.core.model import (
    DISK,
    RAM,
    Actual,
    AliasPlan,
    Dataset,
    Desired,
    File,
    Hold,
    Manifest,
    ManifestRef,
    Meta,
    Release,
    ReleaseStatus,
    ServicePlan,
    VolumeInfo,
)
from handlers.core.names import Channel, Service
from handlers.core.version import ReleaseId, Version
from handlers.settings import Limits, Settings
from handlers.sync import Sync
from tests.fakes_kv import FakeKV
from tests.fakes_objects import FakeObjects

NODE = "node-1"
PLACES = Channel("prod/search/places")
VOLUMES = {"disk": VolumeInfo(cls=DISK), "ram": VolumeInfo(cls=RAM)}
LIMITS = Limits(unused_grace_s=60, idle_grace_s=3600, retry_s=60, brake_share=0.9)
Files = Mapping[str, bytes]


def release_id(day: int, channel: Channel = PLACES) -> ReleaseId:
    return ReleaseId.of(channel, Version(f"2026-01-{day:02}T00-00-00"))


def etag(body: bytes) -> str:
    return hashlib.md5(body, usedforsecurity=False).hexdigest()


@dataclass
class Node:
    """One node; `run` is one run of the handler, `now` its clock."""

    root: Path
    kv: Consul = field(default_factory=FakeKV)
    objects: Objects = field(default_factory=lambda: FakeObjects({"bucket": {}}))
    limits: Limits = LIMITS
    volumes: Mapping[str, VolumeInfo] = field(default_factory=lambda: dict(VOLUMES))
    name: str = NODE
    now: float = 1_800_000_000.0
    bodies: dict[ReleaseId, dict[str, Files]] = field(default_factory=dict)
    digests: dict[ReleaseId, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.put(keys.META, codec.encode(Meta(environments=("prod",))))

    @property
    def fake_kv(self) -> FakeKV:
        assert isinstance(self.kv, FakeKV)
        return self.kv

    @property
    def fake_objects(self) -> FakeObjects:
        assert isinstance(self.objects, FakeObjects)
        return self.objects

    @property
    def context(self) -> Context:
        settings = Settings(
            root=self.root, node=self.name, config=Path("none"), limits=self.limits, volumes=self.volumes
        )
        return Context(settings=settings, node=self.name, kv=self.kv, local=LocalState(self.root))

    def run(self) -> str:
        return Sync(self.context, self.objects, lambda: self.now).converge()

    def put(self, key: str, value: bytes) -> None:
        if isinstance(self.kv, FakeKV):
            self.kv.put(key, value)
        else:
            from handlers.adapters.ports import Set

            self.kv.txn([Set(key, value)])

    def publish(
        self,
        day: int,
        datasets: Mapping[str, Files] | None = None,
        *,
        channel: Channel = PLACES,
        placement: str = DISK,
        bucket: str = "bucket",
        beside: bool = False,
        paths: Mapping[str, str] | None = None,
    ) -> ReleaseId:
        """Write objects, manifest and header of a release; `paths` renames files in the manifest only."""
        release = release_id(day, channel)
        datasets = datasets or {"index": {"a": os.urandom(3000), "sub/b": b"b" * day, "empty": b""}}
        files = {}
        for name, bodies in datasets.items():
            prefix = f"{channel}/{release.version}/{name}/"
            for path, body in bodies.items():
                self._write(Source(bucket, prefix + path), body)
            files[name] = tuple(
                File((paths or {}).get(p, p), len(b), etag(b), f"md5:{etag(b)}") for p, b in bodies.items()
            )
        raw = codec.encode(Manifest(files=files))
        place = f"s3://{bucket}/{channel}/{release.version}/manifest.json" if beside else ""
        header = Release(
            channel=channel,
            version=release.version,
            sequence=day,
            manifest=ManifestRef(digest=codec.digest(raw), bytes=len(raw), object=place),
            datasets={
                name: Dataset(
                    source=f"s3://{bucket}/{channel}/{release.version}/{name}/",
                    placement=placement,
                    files=len(bodies),
                    bytes=sum(map(len, bodies.values())),
                    version=release.version,
                    integrity="etag",
                )
                for name, bodies in datasets.items()
            },
        )
        if place:
            self._write(Source.parse(place), raw)
        else:
            self.put(keys.manifest(channel, release.version), raw)
        self.put(keys.release(channel, release.version), codec.encode(header))
        self.bodies[release] = dict(datasets)
        self.digests[release] = codec.digest(codec.encode(header))
        return release

    def _write(self, source: Source, body: bytes) -> None:
        if isinstance(self.objects, FakeObjects):
            self.objects.write(str(source), body)
        else:
            self.objects.put(source, body)

    def desire(
        self,
        generation: int,
        *releases: ReleaseId,
        cordoned: bool = False,
        node: str = "",
        local: Iterable[Channel] = (PLACES,),
        idle: bool = False,
    ) -> Desired:
        """Write `desired`; `local` channels are read by services with instances here, unless `idle`."""
        aliases = {f"alias{n}": AliasPlan(channel=c) for n, c in enumerate(local)}
        plan = ServicePlan(aliases=aliases, idle=idle)
        desired = Desired(
            node=node or self.name,
            generation=generation,
            releases={r: Hold(digest=self.digests[r], sequence=int(r.version[8:10])) for r in releases},
            services={Service("prod/search/api"): plan},
            cordoned=cordoned,
        )
        self.put(keys.desired(self.name), codec.encode(desired))
        return desired

    def actual(self) -> Actual:
        entry, _ = self.kv.get(keys.actual(self.name))
        assert entry is not None
        return codec.decode(Actual, entry.value, entry.key)

    def status(self, release: ReleaseId) -> ReleaseStatus:
        return self.actual().releases[release]

    def folder(self, release: ReleaseId) -> Path:
        """Where the release has its public name."""
        return self.root / "releases" / release.channel / release.version

    def data(self, release: ReleaseId, volume: str = "disk") -> Path:
        return self.root / "volumes" / volume / "data" / release.channel / release.version

    def content(self, release: ReleaseId) -> dict[str, dict[str, bytes]]:
        """What a reader finds below the public name."""
        return {
            name.name: {
                str(p.relative_to(name)): p.read_bytes() for p in sorted(name.rglob("*")) if p.is_file()
            }
            for name in sorted(self.folder(release).iterdir())
        }

    def complete(self, release: ReleaseId) -> bool:
        """Whether a reader finds the release wholly and rightly."""
        return self.folder(release).exists() and self.content(release) == {
            name: dict(files) for name, files in self.bodies[release].items()
        }

    def leftovers(self) -> list[Path]:
        """Everything that a converged node should not have: staging, trash, unfinished files."""
        folders = [self.root / "volumes" / name / "staging" for name in self.volumes]
        found = [p for folder in folders for p in folder.rglob("*") if p.name != ".trash"]
        found += list((self.root / "releases" / ".trash").rglob("*"))
        return found + list((self.root / "state").rglob("*.tmp"))

    def view(self, release: ReleaseId, number: int = 1, instance: str = "api-1") -> Path:
        """A view that points to the release, as reload makes it."""
        view = self.root / "views" / "prod/search/api" / instance
        (view / f"..{number}").mkdir(parents=True)
        target = "/".join([*[".."] * 6, "releases", release.channel, release.version])
        (view / f"..{number}" / "places").symlink_to(target)
        fresh = view / ".fresh"
        fresh.symlink_to(f"..{number}")
        fresh.rename(view / "..data")
        return view

    def limit(self, **changes: float) -> None:
        """Change limits of the node's configuration."""
        self.limits = replace(self.limits, **changes)


def value_of(node: Node, key: str) -> bytes:
    """What the KV has below `key`."""
    entry, _ = node.kv.get(key)
    assert entry is not None
    return entry.value
