"""Figure 1: what `hydra-handler sync` costs, as a whole process, when there is nothing to do.

Twice: a watch rings with what is known to be done (the common case), and a full compare with 20 releases on
disk, as resync does it. Beside it bare interpreters, and a handler as one would write it first.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from handlers import doorbell
from handlers.adapters.kv import ConsulKV
from handlers.adapters.ports import Entry, Op, Set
from handlers.core import codec, keys
from handlers.core.model import (
    DISK,
    Actual,
    Dataset,
    Desired,
    File,
    Hold,
    Manifest,
    ManifestRef,
    Meta,
    Release,
    State,
)
from handlers.core.names import Channel
from handlers.core.version import ReleaseId
from tests import servers
from tests.bench import fleet
from tests.bench.processes import Command, rounds
from tests.bench.report import Findings, Row

RELEASES = 20
FILES = 10  # in each of two datasets
ROUNDS = 40
AIM_MS = 60
NODE = "bench"
CHANNEL = Channel.parse("prod/geo/places")
PYTHON = sys.executable
BIN = Path(PYTHON).parent
ORDINARY = Path(__file__).with_name("ordinary.py")


def measure() -> Findings:
    """A node with 20 releases, then the same commands in turns."""
    with TemporaryDirectory(prefix="hydra-bench-") as name:
        times = _measured(Path(name))
    aimed = next(iter(times))
    rows = [Row(1, aimed, times.pop(aimed), aim=AIM_MS, counts="median")]
    return Findings([*rows, *(Row(1, what, values) for what, values in times.items())])


def _measured(folder: Path) -> dict[str, list[float]]:
    """Milliseconds of each command; first the one with an aim."""
    with servers.consul_server(folder / "consul") as consul, servers.s3_server(folder / "s3") as s3:
        environment = {
            "PATH": os.environ["PATH"],
            "HYDRA_ROOT": str(folder / "root"),
            "HYDRA_NODE": NODE,
            **consul.environment(),
            **s3.environment(),
        }
        kv = consul.kv()
        fleet.write(kv, list(_documents(s3)))
        Command("the first sync", _sync(), environment).run()
        entry = _converged(kv)
        rung = folder / "view.json"
        rung.write_text(json.dumps(_view(entry)))
        if not doorbell.was_handled(folder / "root", "sync", rung.read_bytes()):
            raise RuntimeError("sync did not note what it has fully handled, so no doorbell is equal")
        return rounds(_commands(environment, rung, entry.index), ROUNDS)


def _sync() -> list[str]:
    return [str(BIN / "hydra-handler"), "sync"]


def _commands(environment: Mapping[str, str], rung: Path, index: int) -> list[Command]:
    """The doorbell first; `rung` is what a watch hands over."""
    ringing = {**environment, "CONSUL_INDEX": str(index)}
    quick = [PYTHON, "-I", "-m", "handlers.main", "sync"]
    return [
        Command("hydra-handler sync, doorbell equal", _sync(), ringing, rung),
        Command("the same as supervisord starts it (python -I -m)", quick, ringing, rung),
        Command(f"hydra-handler sync, full compare, {RELEASES} releases", _sync(), environment),
        Command("python -c pass", [PYTHON, "-c", "pass"]),
        Command("python -I -S -c pass", [PYTHON, "-I", "-S", "-c", "pass"]),
        Command("an ordinary handler (boto3, py-consul)", [PYTHON, str(ORDINARY)], ringing, rung),
    ]


def _documents(s3: servers.S3) -> Iterator[Op]:
    """A desired state of 20 releases, their headers and lists; their data goes to S3."""
    bucket = s3.bucket()
    yield Set(keys.META, codec.encode(Meta(environments=("prod",))))
    holds = {}
    for number in range(1, RELEASES + 1):
        version = fleet.version(number)
        files = {name: _files(s3, bucket, f"{name}/{version}/") for name in ("index", "rank")}
        manifest = codec.encode(Manifest(files=files))
        datasets = {
            name: Dataset(
                source=f"s3://{bucket}/{name}/{version}/",
                placement=DISK,
                files=len(rows),
                bytes=sum(file.size for file in rows),
                version=version,
            )
            for name, rows in files.items()
        }
        ref = ManifestRef(digest=codec.digest(manifest), bytes=len(manifest))
        header = codec.encode(
            Release(channel=CHANNEL, version=version, sequence=number, datasets=datasets, manifest=ref)
        )
        yield Set(keys.release(CHANNEL, version), header)
        yield Set(keys.manifest(CHANNEL, version), manifest)
        holds[ReleaseId.of(CHANNEL, version)] = Hold(digest=codec.digest(header), sequence=number)
    yield Set(keys.desired(NODE), codec.encode(Desired(node=NODE, generation=1, releases=holds)))


def _files(s3: servers.S3, bucket: str, prefix: str) -> tuple[File, ...]:
    bodies = {f"part-{number}": os.urandom(512) for number in range(FILES)}
    s3.put(bucket, {prefix + path: body for path, body in bodies.items()})
    return tuple(
        File(path=path, size=len(body), etag=hashlib.md5(body).hexdigest()) for path, body in bodies.items()
    )


def _converged(kv: ConsulKV) -> Entry:
    """The desired state, of which all is on disk; raises RuntimeError when it is not."""
    reported, _ = kv.get(keys.actual(NODE))
    if reported is None:
        raise RuntimeError("sync ended without a report")
    actual = codec.decode(Actual, reported.value, reported.key)
    done = sum(status.state is State.SUCCESS for status in actual.releases.values())
    if done != RELEASES:
        raise RuntimeError(f"sync reported {done} of {RELEASES} releases: {reported.value.decode()}")
    desired, _ = kv.get(keys.desired(NODE))
    assert desired is not None
    return desired


def _view(entry: Entry) -> Mapping[str, object]:
    """What `consul watch -type=key` writes to its handler."""
    return {
        "Key": entry.key,
        "CreateIndex": entry.index,
        "ModifyIndex": entry.index,
        "LockIndex": 0,
        "Flags": 0,
        "Value": base64.b64encode(entry.value).decode(),
        "Session": "",
    }
