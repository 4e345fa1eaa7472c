"""What the download table is measured against: one S3 server with and without TLS, two datasets, a Consul.

The data lies in memory, so that no disk but the target's is measured; each dataset is a release as well.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from handlers.adapters import checks
from handlers.adapters.kv import ConsulKV
from handlers.adapters.ports import Set
from handlers.core import codec, keys
from handlers.core.errors import Temporary
from handlers.core.integrity import CHUNK_BYTES, blake3_check, chunks
from handlers.core.model import DISK, Dataset, Desired, File, Hold, Manifest, ManifestRef, Meta, Release
from handlers.core.names import Channel
from handlers.core.version import ReleaseId, Version
from hydra_cli.dev import servers as dev
from hydra_cli.programs import program

MIB = 1024**2
PART_BYTES = 64 * MIB
NODE = "bench"
BUCKET = "bench"
VERSION = Version("2026-01-01T00-00-00")


@dataclass(frozen=True)
class Payload:
    """One dataset: `files` below `folder`, which is the source of `cp`; on S3 below `<name>/<version>/`."""

    name: str
    folder: Path
    sizes: dict[str, int]

    @property
    def prefix(self) -> str:
        return f"{self.name}/{VERSION}/"

    @property
    def bytes(self) -> int:
        return sum(self.sizes.values())

    @property
    def channel(self) -> Channel:
        return Channel.parse(f"prod/bench/{self.name}")


def payload(folder: Path, name: str, count: int, size: int) -> Payload:
    """Random files, made now."""
    below = folder / name
    below.mkdir(parents=True)
    sizes = {f"part-{number:04}": size for number in range(count)}
    for path in sizes:
        with (below / path).open("wb") as file:
            for at in range(0, size, PART_BYTES):
                file.write(os.urandom(min(PART_BYTES, size - at)))
    return Payload(name, below, sizes)


@dataclass(frozen=True)
class TlsServer(dev.S3Server):
    """The same server behind TLS, with a certificate of an authority in the folder `authority`."""

    authority: Path = field(default_factory=Path)

    @property
    def bundle(self) -> Path:
        """The authority's certificate."""
        return self.authority / "consul-agent-ca.pem"

    @property
    def endpoint(self) -> str:
        return f"https://localhost:{self.port}"

    def is_ready(self) -> bool:
        context = ssl.create_default_context(cafile=self.bundle)
        connection = http.client.HTTPSConnection("localhost", self.port, timeout=5, context=context)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError as e:
            raise Temporary(f"{self.endpoint}: {e}") from e
        finally:
            connection.close()


@contextlib.contextmanager
def tls_server(plain: dev.S3Server, folder: Path) -> Iterator[tuple[TlsServer, dev.Running]]:
    """A second server on the data of `plain`, with TLS; authority and certificate are made for it."""
    folder.mkdir(parents=True)
    for what in (["ca", "create"], ["cert", "create", "-server"]):
        subprocess.run([program("consul"), "tls", *what], cwd=folder, check=True, capture_output=True)
    certificate = {
        "VGW_CERT": str(folder / "dc1-server-consul-0.pem"),
        "VGW_KEY": str(folder / "dc1-server-consul-0-key.pem"),
    }
    server = TlsServer(
        plain.folder, plain.access_key, plain.secret_key, environ=certificate, authority=folder
    )
    started, running = dev.start_s3(server, program("versitygw"))
    assert isinstance(started, TlsServer)
    try:
        yield started, running
    finally:
        running.stop()


def upload(client: Any, data: Payload) -> tuple[File, ...]:
    """Put the files on S3; what a release says of them, with digests of all chunks."""
    rows = []
    for path, size in data.sizes.items():
        key = data.prefix + path
        client.upload_file(str(data.folder / path), BUCKET, key)
        etag = client.head_object(Bucket=BUCKET, Key=key)["ETag"].strip('"')
        fd = os.open(data.folder / path, os.O_RDONLY)
        try:
            found = checks.digests(fd, size)
        finally:
            os.close(fd)
        assert len(found) == chunks(size, CHUNK_BYTES)
        rows.append(File(path, size, etag, blake3_check(found)))
    return tuple(rows)


def release(kv: ConsulKV, client: Any, data: Payload, files: tuple[File, ...]) -> ReleaseId:
    """Write header and list of files of a release; the list lies beside the data."""
    manifest = codec.encode(Manifest(files={data.name: files}))
    place = f".hydra/{data.name}.json"
    client.put_object(Bucket=BUCKET, Key=place, Body=manifest)
    header = codec.encode(
        Release(
            channel=data.channel,
            version=VERSION,
            sequence=1,
            manifest=ManifestRef(
                digest=codec.digest(manifest), bytes=len(manifest), object=f"s3://{BUCKET}/{place}"
            ),
            datasets={
                data.name: Dataset(
                    source=f"s3://{BUCKET}/{data.prefix}",
                    placement=DISK,
                    files=len(files),
                    bytes=data.bytes,
                    version=VERSION,
                    integrity="digest",
                )
            },
        )
    )
    kv.txn([Set(keys.META, codec.encode(Meta(environments=("prod",))))])
    kv.txn([Set(keys.release(data.channel, VERSION), header)])
    desired = Desired(
        node=f"{NODE}-{data.name}",
        generation=1,
        releases={ReleaseId.of(data.channel, VERSION): Hold(digest=codec.digest(header), sequence=1)},
    )
    kv.txn([Set(keys.desired(desired.node), codec.encode(desired))])
    return ReleaseId.of(data.channel, VERSION)
