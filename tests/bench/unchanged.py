"""Figure 8: a dataset of 10 GiB, and what is moved to a node for its next versions.

`hydra push` and `hydra publish` bring the first version to a real S3 server, `hydra-handler sync` to the
node. The next version is the same, byte by byte; that after it has 1 % changed, in one block. Each is pushed
from what the node has, once the version before is deleted on S3. What the server gave is counted twice:
objects, by its own log, and bytes that its process wrote, by the kernel (its log does not have the bytes of
large answers).

Only measured when it is asked for: it takes 20 GiB of disk, and minutes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from handlers.adapters.ports import Set
from handlers.core import codec, keys
from handlers.core.model import Actual, Desired, Hold, Release, State
from handlers.core.names import Channel
from handlers.core.version import ReleaseId, Version
from tests import servers
from tests.bench import store, usage
from tests.bench.downloads import BIN
from tests.bench.report import Findings, Row
from tests.bench.store import BUCKET, MIB
from tests.bench.usage import Usage

FILES, FILE_BYTES = 40, 256 * MIB
FIRST, SAME, CHANGED = (Version(f"2026-01-0{day}T00-00-00") for day in (1, 2, 3))
NODE, CHANNEL = "bench-index", Channel("prod/bench/index")
SOURCE = f"s3://{BUCKET}/index/{{VERSION_PLACEHOLDER}}/"


@dataclass(frozen=True)
class Moved:
    """What one `sync` took, and what the S3 server gave for it: `objects` are answers with data."""

    used: Usage
    objects: int
    bytes: int


def measure(scale: float = 1.0) -> Findings:
    """All versions, one after the other; `scale` shrinks the files."""
    with tempfile.TemporaryDirectory(prefix="hydra-bench-") as name:
        folder = Path(name)
        log = folder / "access.log"
        with (
            servers.consul_server(folder / "consul") as consul,
            servers.s3_server(folder / "s3", environ={"VGW_ACCESS_LOG": str(log)}) as s3,
        ):
            scene = _Scene(folder, consul, s3, log)
            data = store.payload(folder, "index", FILES, int(FILE_BYTES * scale))
            first = scene.brought(FIRST, data.folder)
            shutil.rmtree(data.folder)
            scene.forget(FIRST, data.sizes)
            here = folder / "root/releases" / CHANNEL / FIRST / "index"
            same = scene.brought(SAME, here)
            scene.forget(SAME, data.sizes)
            changed = scene.brought(CHANGED, _changed(here, data.folder, data.bytes // 100))
    return _findings(data.bytes, first, same, changed, judged=scale == 1.0)


def _changed(here: Path, into: Path, count: int) -> Path:
    """The same files, with `count` bytes in the middle of one of them changed."""
    shutil.copytree(here, into, copy_function=os.link)
    file = min(into.iterdir())
    copy = file.with_name("copy")
    shutil.copyfile(file, copy)
    with copy.open("r+b") as writer:
        writer.seek((file.stat().st_size - count) // 2)
        writer.write(os.urandom(count))
    copy.rename(file)
    return into


class _Scene:
    """One node, its Consul and its S3 server."""

    def __init__(self, folder: Path, consul: servers.Consul, s3: servers.S3, log: Path) -> None:
        self._folder, self._consul, self._s3, self._log = folder, consul, s3, log
        own = {"PATH": os.environ["PATH"], "HOME": str(folder), "HYDRA_ROOT": str(folder / "root")}
        self._environment = {**own, "HYDRA_NODE": NODE, **s3.environment(), **consul.environment()}
        s3.client().create_bucket(Bucket=BUCKET)
        self._hydra("init", "--env", "prod")
        (folder / "template.json").write_text(
            json.dumps({"index": {"SourcePath": SOURCE, "Placement": "DISK"}})
        )

    def brought(self, version: Version, source: Path) -> Moved:
        """Push a folder, publish it, and let the node have it beside what it has."""
        self._hydra("push", str(source), SOURCE, "--version", version)
        self._hydra("publish", str(self._folder / "template.json"), "--channel", CHANNEL)
        self._desire(*sorted({FIRST, version}))
        objects, written = self._given(), self._written()
        used = usage.measured([str(BIN / "hydra-handler"), "sync"], self._environment)
        moved = Moved(used, self._given() - objects, self._written() - written)
        entry, _ = self._consul.kv().get(keys.actual(NODE))
        states = codec.decode(Actual, entry.value, entry.key).releases if entry else {}
        if used.code or {status.state for status in states.values()} != {State.SUCCESS}:
            raise RuntimeError(f"sync of {version} ended with {used.code}: {states}\n{used.said}")
        return moved

    def forget(self, version: Version, paths: Mapping[str, int]) -> None:
        """Delete a version on S3: nothing but the node has its bytes."""
        client = self._s3.client()
        for path in paths:
            client.delete_object(Bucket=BUCKET, Key=f"index/{version}/{path}")

    def _desire(self, *versions: Version) -> None:
        holds = {}
        for version in versions:
            entry, _ = self._consul.kv().get(keys.release(CHANNEL, version))
            assert entry is not None
            number = codec.decode(Release, entry.value, entry.key).sequence
            holds[ReleaseId.of(CHANNEL, version)] = Hold(digest=codec.digest(entry.value), sequence=number)
        generation = max(hold.sequence for hold in holds.values())
        desired = Desired(node=NODE, generation=generation, releases=holds)
        self._consul.kv().txn([Set(keys.desired(NODE), codec.encode(desired))])

    def _given(self) -> int:
        return self._log.read_text().count(" s3_GetObject ")

    def _written(self) -> int:
        """Bytes that the server's process has written so far, to sockets and to its log."""
        rows = Path("/proc", str(self._s3.running.process.pid), "io").read_text().splitlines()
        return int(dict(row.split(": ") for row in rows)["wchar"])

    def _hydra(self, *words: str) -> None:
        ended = subprocess.run(
            [str(BIN / "hydra"), *words], env=self._environment, capture_output=True, text=True
        )
        if ended.returncode:
            raise RuntimeError(f"hydra {' '.join(words)} ended with {ended.returncode}:\n{ended.stderr}")


def _findings(data_bytes: int, first: Moved, same: Moved, changed: Moved, *, judged: bool) -> Findings:
    """Of less data 1 % is not much more than the chunks of 8 MiB that it touches: no aim for that."""
    if first.bytes < data_bytes:
        raise RuntimeError(f"the server wrote {first.bytes} bytes for {data_bytes}: that is no count")
    what = f"{data_bytes / (1024 * MIB):.3g} GiB"
    share, aim = 100 * changed.bytes / data_bytes, 2 if judged else None
    rows = [
        Row(8, f"{what}, next version unchanged: objects that S3 gave", [same.objects], "", aim=0),
        Row(8, f"{what}, next version unchanged: S3 wrote", [same.bytes], "bytes"),
        Row(
            8,
            f"{what}, 1 % changed in one block: S3 wrote, of all bytes",
            [share],
            "%",
            aim=aim,
        ),
        Row(8, f"{what}, first version: S3 wrote", [first.bytes / MIB], "MiB"),
    ]
    for name, moved in (("unchanged", same), ("1 % changed", changed), ("first version", first)):
        rows.append(Row(8, f"{what}, {name}: sync", [moved.used.wall_s], "s"))
    return Findings(rows)
