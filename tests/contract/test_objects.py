"""What every object store must do for us: one suite on the fake and on a real S3 server."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from handlers.adapters.objects import S3Objects
from handlers.adapters.ports import Objects, Source
from handlers.core.errors import Conflict, Denied, Integrity, SourceNotReady, Temporary, Usage
from tests.fakes_objects import FakeObjects
from tests.faults.server import FaultyS3
from tests.servers import S3


@dataclass
class Store:
    """An object store under test with a bucket of its own; `write` goes past the code under test."""

    objects: Objects
    bucket: str
    write_all: Callable[[dict[str, bytes]], None]

    def write(self, key: str, body: bytes) -> None:
        self.write_all({key: body})

    def at(self, key: str) -> Source:
        return Source(self.bucket, key)


@pytest.fixture
def faulty() -> Iterator[FaultyS3]:
    with FaultyS3() as server:
        yield server


@pytest.fixture(params=["fake", "versitygw", "misbehaving, not told to"])
def store(request: pytest.FixtureRequest) -> Store:
    if request.param == "fake":
        fake = FakeObjects({"bucket": {}})
        return Store(fake, "bucket", fake.buckets["bucket"].update)
    if request.param != "versitygw":
        faulty: FaultyS3 = request.getfixturevalue("faulty")
        return Store(S3Objects(environ=faulty.environment()), "bucket", faulty.put)
    s3: S3 = request.getfixturevalue("s3")
    bucket = s3.bucket()
    return Store(
        S3Objects(environ={**os.environ, **s3.environment()}),
        bucket,
        lambda objects: s3.put(bucket, objects),
    )


def read(store: Store, key: str, etag: str, start: int, length: int) -> bytes:
    pieces = store.objects.read_range(store.at(key), etag, start, length)
    return b"".join(bytes(piece) for piece in pieces)


def test_head_tells_size_and_a_bare_etag(store: Store) -> None:
    store.write("a/b.txt", b"hello")

    info = store.objects.head(store.at("a/b.txt"))

    assert (info.key, info.size, info.etag) == ("a/b.txt", 5, "5d41402abc4b2a76b9719d911017c592")


def test_list_brings_everything_below_a_prefix_in_key_order(store: Store) -> None:
    for key in ("p/b", "p/a/x", "p/ä ö+%&=.txt", "q/c"):
        store.write(key, key.encode())

    found = {info.key: info.size for info in store.objects.list(store.at("p/"))}

    assert list(found) == ["p/a/x", "p/b", "p/ä ö+%&=.txt"]
    assert found["p/ä ö+%&=.txt"] == len("p/ä ö+%&=.txt".encode())


def test_list_goes_beyond_one_page(store: Store) -> None:
    keys = [f"many/{n:04}" for n in range(1100)]
    store.write_all(dict.fromkeys(keys, b"x"))

    assert [info.key for info in store.objects.list(store.at("many/"))] == keys
    assert [*store.objects.folders(store.at("many/"))] == [key.removeprefix("many/") for key in keys]


def test_folders_are_the_first_parts_below_a_prefix(store: Store) -> None:
    for key in ("v/2026-01-01T00-00-00/x", "v/2026-01-01T00-00-00/y/z", "v/2026-01-02T00-00-00/x", "v/file"):
        store.write(key, b"x")

    assert sorted(store.objects.folders(store.at("v/"))) == [
        "2026-01-01T00-00-00",
        "2026-01-02T00-00-00",
        "file",
    ]


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


def test_keys_with_odd_characters_are_read_as_they_are(store: Store) -> None:
    for key in ("p/ä ö+%&=#?.txt", "p/a%2Fb", "p/~x'(1)*!"):
        store.write(key, key.encode())
        info = store.objects.head(store.at(key))

        assert read(store, key, info.etag, 0, info.size) == key.encode()


def test_a_replaced_object_is_refused_by_name(store: Store) -> None:
    store.write("x", b"old content")
    etag = store.objects.head(store.at("x")).etag
    store.write("x", b"new content")

    with pytest.raises(Integrity, match=f"s3://{store.bucket}/x"):
        read(store, "x", etag, 0, 11)


def test_a_range_beyond_the_end_is_refused(store: Store) -> None:
    store.write("x", b"short")
    etag = store.objects.head(store.at("x")).etag

    with pytest.raises(Integrity, match=r"/x"):
        read(store, "x", etag, 0, 6)
    with pytest.raises(Integrity, match=r"/x"):
        read(store, "x", etag, 100, 6)


def test_a_missing_object_or_bucket_is_not_ready(store: Store) -> None:
    with pytest.raises(SourceNotReady, match=r"/none"):
        store.objects.head(store.at("none"))
    with pytest.raises(SourceNotReady, match=r"/none"):
        read(store, "none", "5d41402abc4b2a76b9719d911017c592", 0, 5)
    with pytest.raises(SourceNotReady, match="no-such-bucket-here"):
        [*store.objects.list(Source("no-such-bucket-here", "x/"))]


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


@pytest.mark.parametrize(
    "text",
    [
        "http://bucket/key",
        "s3://",
        "s3://bucket",
        "s3://bucket/",
        "s3:///key",
        "s3://Bucket/key",
        "s3://b/key",
        "s3://bucket//key",
        "s3://bucket/a//b",
        "s3://bucket/../key",
        "s3://bucket/a/./b/",
        "s3://bucket/a\nb",
    ],
)
def test_a_source_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(Usage, match="source"):
        Source.parse(text)


def test_a_source_names_its_objects() -> None:
    prefix, single = Source.parse("s3://bucket/p/q/"), Source.parse("s3://bucket/p/q")

    assert str(prefix.object_of("a/b")) == "s3://bucket/p/q/a/b"
    assert str(single.object_of("q.txt")) == "s3://bucket/p/q"
    assert (prefix.is_prefix, single.is_prefix) == (True, False)
