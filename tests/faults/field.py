"""A node in the field: `sync` is the real command, Consul a real one, and the S3 server misbehaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from handlers.core import codec, keys
from handlers.core.integrity import weakest
from handlers.core.model import DISK, Dataset, File, Manifest, ManifestRef, Progress, Release, State
from handlers.core.names import Channel
from handlers.core.version import ReleaseId
from tests import servers
from tests.faults.marks import mark
from tests.faults.server import FaultyS3
from tests.faults.store import Body
from tests.handlers.sync_node import NODE, PLACES, Node, release_id
from tests.servers import wait_until

MIB = 1024**2
BUCKET = "bucket"
DATASET = "index"
RUN_LIMIT_S = 200.0
LIMITS = {"unused_grace_s": 0, "idle_grace_s": 0, "brake_share": 0.9, "retry_s": 2, "stall_s": 20}
VOLUMES = '[volumes.disk]\nclass = "DISK"\n[volumes.ram]\nclass = "RAM"\n'


class Ran(NamedTuple):
    """How one run of the handler ended: exit code, what it logged, seconds."""

    code: int
    said: str
    took_s: float


@dataclass
class Field(Node):
    """The node. `limits_set` replace those of LIMITS in its configuration, `volumes_set` its volumes."""

    server: FaultyS3 = field(default_factory=FaultyS3)
    consul_environment: Mapping[str, str] = field(default_factory=dict)
    limits_set: dict[str, float] = field(default_factory=dict)
    volumes_set: str = VOLUMES

    @classmethod
    def at(cls, root: Path, consul: servers.Consul, server: FaultyS3, **more: object) -> Field:
        """A node with an empty root."""
        root.parent.mkdir(parents=True, exist_ok=True)
        return cls(
            root,
            kv=consul.kv(),
            server=server,
            consul_environment=consul.environment(),
            **more,  # type: ignore[arg-type]
        )

    def put_files(
        self,
        day: int,
        files: Mapping[str, bytes | Body],
        *,
        kind: str = "digest",
        unit: int = MIB,
        channel: Channel = PLACES,
        placement: str = DISK,
        beside: bool = False,
        paths: Mapping[str, str] | None = None,
        bucket: str = BUCKET,
        dataset: str = DATASET,
    ) -> ReleaseId:
        """Objects on the server and their release in KV, with checks of `kind` (see `marks.LEVELS`).

        `beside`: the list of files is an object too. `paths` renames files in that list only.
        """
        release = release_id(day, channel)
        prefix = f"{channel}/{release.version}/{dataset}/"
        rows = []
        for path, body in files.items():
            made = mark(kind, body, unit)
            stored = self.server.store.put(bucket, prefix + path, body, **made.stored)
            version = stored.version if bucket in self.server.store.versioned else ""
            rows.append(
                File((paths or {}).get(path, path), stored.size, made.etag, made.check, version_id=version)
            )
        raw = codec.encode(Manifest(files={dataset: tuple(rows)}))
        place = f"{channel}/{release.version}/manifest.json" if beside else ""
        header = Release(
            channel=channel,
            version=release.version,
            sequence=day,
            manifest=ManifestRef(
                digest=codec.digest(raw), bytes=len(raw), object=f"s3://{bucket}/{place}" if place else ""
            ),
            datasets={
                dataset: Dataset(
                    source=f"s3://{bucket}/{prefix}",
                    placement=placement,
                    files=len(rows),
                    bytes=sum(row.size for row in rows),
                    version=release.version,
                    integrity=weakest(row.check for row in rows),
                )
            },
        )
        if place:
            self.server.store.put(bucket, place, raw)
        else:
            self.put(keys.manifest(channel, release.version), raw)
        self.put(keys.release(channel, release.version), codec.encode(header))
        self.bodies[release] = {
            dataset: {path: body for path, body in files.items() if isinstance(body, bytes)}
        }
        self.digests[release] = codec.digest(codec.encode(header))
        return release

    def key(self, release: ReleaseId, path: str, dataset: str = DATASET) -> str:
        """The key of the object behind a file."""
        return f"{release.channel}/{release.version}/{dataset}/{path}"

    @property
    def environment(self) -> dict[str, str]:
        """What the handler gets; writes its configuration."""
        limits = {**LIMITS, **self.limits_set}
        config = self.root.parent / "node.toml"
        lines = [f"{name} = {value}" for name, value in limits.items()]
        config.write_text(self.volumes_set + "[limits]\n" + "\n".join(lines) + "\n")
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("HYDRA_")},
            **self.consul_environment,
            **self.server.environment(),
            "HYDRA_ROOT": str(self.root),
            "HYDRA_NODE": NODE,
            "HYDRA_CONFIG": str(config),
        }

    def begin(self, *module: str, **more: str) -> subprocess.Popen[str]:
        """Start the command, or another module that runs it."""
        words = module or ("handlers.main", "sync")
        return subprocess.Popen(
            [sys.executable, "-m", *words],
            env={**self.environment, **more},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def sync(self, **more: str) -> Ran:
        """One run of the command to its end, whatever that is."""
        began = time.monotonic()
        with self.begin(**more) as process:
            _, said = process.communicate(timeout=RUN_LIMIT_S)
        return Ran(process.returncode, said, time.monotonic() - began)

    def synced(self, *releases: ReleaseId) -> Ran:
        """One run, after which these releases are on the node, whole and right, and nothing is left over.

        What failed before is waited for until it is due again.
        """
        wait_until(lambda: time.time() > self._due(), what="the next try is due")
        ran = self.sync()
        assert ran.code == 0, ran.said
        for release in releases:
            assert self.status(release).state is State.SUCCESS, (self.status(release), ran.said)
            assert self.complete(release), ran.said
        assert not self.leftovers(), self.leftovers()
        return ran

    def _due(self) -> float:
        """When everything that failed is due to be tried again."""
        rows = json.loads(self.context.local.read("sync/failures") or b"{}")
        return max((row["next_try"] for row in rows.values()), default=0.0)

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[str]]:
        """A run in the background; killed if it has not ended by then."""
        with self.begin() as process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.kill()
                process.wait()

    def failed(self, release: ReleaseId) -> str:
        """Why a release failed; it must have, and nothing of it may be visible."""
        status = self.status(release)
        assert status.state is State.FAILED, status
        assert not self.folder(release).exists()
        assert not self.data(release).exists()
        assert status.next_try, "a failure without the time of the next try"
        return status.reason

    def progress(self) -> Progress | None:
        """What the node says of its downloads."""
        entry, _ = self.kv.get(keys.progress(NODE))
        return codec.decode(Progress, entry.value, entry.key) if entry else None

    def staged(self) -> list[Path]:
        """All files below the staging folders."""
        folder = self.root / "volumes"
        return [path for path in folder.glob("*/staging/**/*") if path.is_file() and not path.is_symlink()]


def right_bytes(path: Path, body: bytes, unit: int = MIB) -> int:
    """How many bytes of a partial file are in chunks that are right."""
    held = path.read_bytes()
    starts = range(0, len(body), unit)
    return sum(len(body[s : s + unit]) for s in starts if held[s : s + unit] == body[s : s + unit])
