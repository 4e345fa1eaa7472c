"""What every object store must do for us: one suite on the fake and on real servers.

s3:// runs on versitygw, https:// on Caddy, file:// on this machine's disk, gs:// on an emulator.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from handlers.adapters.objects import S3Objects
from handlers.adapters.ports import Objects, Source
from handlers.adapters.stores import Stores
from handlers.core.errors import Conflict, Denied, Integrity, SourceNotReady, Temporary
from handlers.core.source_table import parse
from tests.fakes_objects import FakeObjects
from tests.faults.server import FaultyS3
from tests.servers import S3
from tests.web_servers import Gcs, Web, gcs_emulator, web_server

S3_LIKE = ["fake", "versitygw", "misbehaving, not told to"]
WRITTEN = [*S3_LIKE, "folder"]  # the emulator does not know how to write only what is not there
LISTED = [*WRITTEN, "gs emulator"]
ALL = [*LISTED, "https"]


@dataclass
class Store:
    """An object store under test with a bucket of its own; `write` goes past the code under test."""

    objects: Objects
    bucket: str
    write_all: Callable[[dict[str, bytes]], None]
    scheme: str = "s3"
    above: str = ""

    def write(self, key: str, body: bytes) -> None:
        self.write_all({key: body})

    def at(self, key: str) -> Source:
        return Source(self.bucket, self.above + key, self.scheme)

    def key(self, of_object: str) -> str:
        """The key as tests call it."""
        assert of_object.startswith(self.above)
        return of_object.removeprefix(self.above)


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with web_server(tmp_path_factory.mktemp("web")) as server:
        yield server


@pytest.fixture(scope="module")
def gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gcs]:
    with gcs_emulator(tmp_path_factory.mktemp("gcs")) as server:
        yield server


@pytest.fixture
def faulty() -> Iterator[FaultyS3]:
    with FaultyS3() as server:
        yield server


@pytest.fixture(params=ALL)
def store(request: pytest.FixtureRequest) -> Store:
    match request.param:
        case "fake":
            fake = FakeObjects({"bucket": {}})
            return Store(fake, "bucket", fake.buckets["bucket"].update)
        case "misbehaving, not told to":
            faulty: FaultyS3 = request.getfixturevalue("faulty")
            return Store(S3Objects(environ=faulty.environment()), "bucket", faulty.put)
        case "versitygw":
            return on_s3(request.getfixturevalue("s3"))
        case "folder":
            return in_folder(request.getfixturevalue("tmp_path"))
        case "gs emulator":
            return on_gcs(request.getfixturevalue("gcs"))
        case "https":
            return on_web(request.getfixturevalue("web"))
    raise AssertionError(request.param)


def on_s3(s3: S3) -> Store:
    bucket = s3.bucket()
    return Store(
        S3Objects(environ={**os.environ, **s3.environment()}),
        bucket,
        lambda objects: s3.put(bucket, objects),
    )


def in_folder(folder: Path) -> Store:
    table = parse({f"file://{folder}/": {}}, "sources")
    return Store(Stores(table), "", partial(write_files, folder), "file", f"{folder}/".lstrip("/"))


def on_gcs(gcs: Gcs) -> Store:
    bucket = gcs.bucket()
    table = parse({"gs://": {"endpoint": gcs.endpoint, "credentials_file": str(gcs.key_file)}}, "sources")
    return Store(Stores(table), bucket, lambda objects: gcs.put(bucket, objects), "gs")


def on_web(web: Web) -> Store:
    folder = uuid.uuid4().hex
    table = parse({f"https://{web.host}/": {"ca_file": str(web.ca_file)}}, "sources")
    return Store(Stores(table), web.host, partial(write_files, web.folder / folder), "https", f"{folder}/")


def write_files(folder: Path, objects: dict[str, bytes]) -> None:
    """As whoever replaces files does it: by a rename."""
    for key, body in objects.items():
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f"{path.name}.new")
        fresh.write_bytes(body)
        fresh.rename(path)


def read(store: Store, key: str, etag: str, start: int, length: int) -> bytes:
    pieces = store.objects.read_range(store.at(key), etag, start, length)
    return b"".join(bytes(piece) for piece in pieces)


def test_head_tells_size_and_a_bare_etag(store: Store) -> None:
    store.write("a/b.txt", b"hello")

    info = store.objects.head(store.at("a/b.txt"))

    assert (store.key(info.key), info.size) == ("a/b.txt", 5)
    assert info.etag
    assert '"' not in info.etag


@pytest.mark.parametrize("store", S3_LIKE, indirect=True)
def test_etag_on_s3_is_the_md5(store: Store) -> None:
    store.write("a/b.txt", b"hello")

    assert store.objects.head(store.at("a/b.txt")).etag == "5d41402abc4b2a76b9719d911017c592"


@pytest.mark.parametrize("store", LISTED, indirect=True)
def test_list_and_head_tell_the_same(store: Store) -> None:
    store.write("p/x", b"hello")

    [listed] = store.objects.list(store.at("p/"))
    found = store.objects.head(store.at("p/x"))
    assert (listed.key, listed.size, listed.etag) == (found.key, found.size, found.etag)


@pytest.mark.parametrize("store", LISTED, indirect=True)
def test_list_brings_everything_below_a_prefix_in_key_order(store: Store) -> None:
    for key in ("p/b", "p/a/x", "p/ä ö+%&=.txt", "q/c"):
        store.write(key, key.encode())

    found = {store.key(info.key): info.size for info in store.objects.list(store.at("p/"))}

    assert list(found) == ["p/a/x", "p/b", "p/ä ö+%&=.txt"]
    assert found["p/ä ö+%&=.txt"] == len("p/ä ö+%&=.txt".encode())


@pytest.mark.parametrize("store", LISTED, indirect=True)
def test_list_goes_beyond_one_page(store: Store) -> None:
    keys = [f"many/{n:04}" for n in range(1100)]
    store.write_all(dict.fromkeys(keys, b"x"))

    assert [store.key(info.key) for info in store.objects.list(store.at("many/"))] == keys
    assert [*store.objects.folders(store.at("many/"))] == [key.removeprefix("many/") for key in keys]


@pytest.mark.parametrize("store", LISTED, indirect=True)
def test_folders_are_the_first_parts_below_a_prefix(store: Store) -> None:
    for key in ("v/2026-01-01T00-00-00/x", "v/2026-01-01T00-00-00/y/z", "v/2026-01-02T00-00-00/x", "v/file"):
        store.write(key, b"x")

    assert sorted(store.objects.folders(store.at("v/"))) == [
        "2026-01-01T00-00-00",
        "2026-01-02T00-00-00",
        "file",
    ]


@pytest.mark.parametrize("store", LISTED, indirect=True)
def test_an_empty_prefix_lists_nothing(store: Store) -> None:
    assert not [*store.objects.list(store.at("nothing/"))]
    assert not [*store.objects.folders(store.at("nothing/"))]


def test_ranges_put_together_are_the_object(store: Store) -> None:
    half = 2_000_000
    body = os.urandom(half + 1024**2 + 17)
    store.write("big", body)
    etag = store.objects.head(store.at("big")).etag

    parts = [read(store, "big", etag, 0, half), read(store, "big", etag, half, len(body) - half)]

    assert b"".join(parts) == body


@pytest.mark.parametrize("store", LISTED, indirect=True)
def test_keys_with_odd_characters_are_read_as_they_are(store: Store) -> None:
    for key in ("p/ä ö+%&=#?.txt", "p/a%2Fb", "p/~x'(1)*!"):
        store.write(key, key.encode())
        info = store.objects.head(store.at(key))

        assert read(store, key, info.etag, 0, info.size) == key.encode()


def test_a_replaced_object_is_refused_by_name(store: Store) -> None:
    store.write("x", b"old content")
    etag = store.objects.head(store.at("x")).etag
    store.write("x", b"new content")

    with pytest.raises(Integrity, match=re.escape(str(store.at("x")))):
        read(store, "x", etag, 0, 11)


def test_a_range_beyond_the_end_is_refused(store: Store) -> None:
    store.write("x", b"short")
    etag = store.objects.head(store.at("x")).etag

    with pytest.raises(Integrity, match=r"/x"):
        read(store, "x", etag, 0, 6)
    with pytest.raises(Integrity, match=r"/x"):
        read(store, "x", etag, 100, 6)


def test_a_missing_object_is_not_ready(store: Store) -> None:
    with pytest.raises(SourceNotReady, match=r"/none"):
        store.objects.head(store.at("none"))
    with pytest.raises(SourceNotReady, match=r"/none"):
        read(store, "none", "5d41402abc4b2a76b9719d911017c592", 0, 5)


@pytest.mark.parametrize("store", S3_LIKE, indirect=True)
def test_a_missing_bucket_is_not_ready(store: Store) -> None:
    with pytest.raises(SourceNotReady, match="no-such-bucket-here"):
        [*store.objects.list(Source("no-such-bucket-here", "x/"))]


@pytest.mark.parametrize("store", WRITTEN, indirect=True)
def test_put_creates_once(store: Store) -> None:
    store.objects.put(store.at("m"), b"one")
    store.objects.put(store.at("m"), b"one")

    with pytest.raises(Conflict, match=r"/m"):
        store.objects.put(store.at("m"), b"two")
    assert read(store, "m", store.objects.head(store.at("m")).etag, 0, 3) == b"one"


def test_a_server_that_is_away_is_temporary() -> None:
    environ = {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
    }
    objects = S3Objects(stall_s=1, environ=environ)

    with pytest.raises(Temporary, match="s3://bucket/x"):
        objects.head(Source("bucket", "x"))
    with pytest.raises(Temporary, match="s3://bucket/x"):
        [*objects.read_range(Source("bucket", "x"), "e", 0, 1)]
    with pytest.raises(Temporary, match="s3://bucket/x"):
        [*objects.list(Source("bucket", "x"))]


def test_a_wrong_secret_is_denied(s3: S3) -> None:
    bucket = s3.bucket()
    s3.put(bucket, {"x": b"secret"})
    objects = S3Objects(environ={**s3.environment(), "AWS_SECRET_ACCESS_KEY": "wrong"})

    with pytest.raises(Denied, match=f"s3://{bucket}/x"):
        [*objects.read_range(Source(bucket, "x"), "e", 0, 1)]
    with pytest.raises(Denied, match=f"s3://{bucket}/x"):
        [*objects.list(Source(bucket, "x"))]
