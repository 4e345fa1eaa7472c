"""What the publisher's side of every object store must do: one suite on the fake and on a real server."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from handlers.adapters.objects import S3Objects
from handlers.adapters.ports import Source, Uploads
from handlers.adapters.send import crc64nvme
from handlers.adapters.uploads import S3Uploads
from handlers.core.errors import Conflict, SourceNotReady, Temporary
from handlers.core.stored import check_of
from tests.fakes_objects import FakeObjects
from tests.fakes_uploads import FakeUploads
from tests.servers import S3

PART = 5 * 1024**2  # the smallest that S3 takes


@dataclass
class Store:
    """The store under test with a bucket of its own; `write` and `body` go past the code under test."""

    uploads: Uploads
    bucket: str
    write: Callable[[str, bytes], object]
    body: Callable[[str], bytes]

    def at(self, key: str) -> Source:
        return Source(self.bucket, key)


@pytest.fixture(params=["fake", "versitygw"])
def store(request: pytest.FixtureRequest) -> Store:
    if request.param == "fake":
        fake = FakeObjects({"bucket": {}})
        there = fake.buckets["bucket"]
        return Store(FakeUploads(fake), "bucket", there.__setitem__, there.__getitem__)
    s3: S3 = request.getfixturevalue("s3")
    bucket, client = s3.bucket(), s3.client()
    return Store(
        S3Uploads(S3Objects(environ={**os.environ, **s3.environment()})),
        bucket,
        lambda key, body: client.put_object(Bucket=bucket, Key=key, Body=body),
        lambda key: client.get_object(Bucket=bucket, Key=key)["Body"].read(),
    )


def test_what_is_written_is_there_with_the_checksum_that_was_sent(store: Store) -> None:
    crc = crc64nvme(b"hello")

    written = store.uploads.write(store.at("a/ä b.txt"), b"hello", crc)

    assert store.body("a/ä b.txt") == b"hello"
    assert (written.size, written.etag) == (5, "5d41402abc4b2a76b9719d911017c592")
    found = store.uploads.stored(store.at("a/ä b.txt"))
    assert (found.size, found.etag, found.version_id) == (5, written.etag, "")
    assert check_of(found) == check_of(written) == f"crc64nvme:{crc}"


def test_writing_again_replaces(store: Store) -> None:
    store.uploads.write(store.at("x"), b"one", crc64nvme(b"one"))
    store.uploads.write(store.at("x"), bytearray(b"two"), crc64nvme(b"two"))

    assert store.body("x") == b"two"


def test_over_says_in_place_of_what_something_may_be_written(store: Store) -> None:
    """Nothing where it is empty, else the object with that ETag and no other."""
    one, two = crc64nvme(b"one"), crc64nvme(b"two")
    first = store.uploads.write(store.at("x"), b"one", one, over="")
    upload = store.uploads.begin(store.at("x"))
    part = store.uploads.write_part(store.at("x"), upload, 1, b"two", two)
    for over in ("", "5d41402abc4b2a76b9719d911017c592"):
        with pytest.raises(Conflict):
            store.uploads.write(store.at("x"), b"two", two, over=over)
        with pytest.raises(Conflict):
            store.uploads.finish(store.at("x"), upload, [part], two, over=over)
    with pytest.raises(Conflict):
        store.uploads.write(store.at("nothing"), b"two", two, over=first.etag)
    assert store.body("x") == b"one"

    second = store.uploads.finish(store.at("x"), upload, [part], two, over=first.etag)
    assert store.body("x") == b"two"
    store.uploads.write(store.at("x"), b"one", one, over=second.etag)
    assert store.body("x") == b"one"


def test_bytes_that_are_not_those_of_the_checksum_are_refused(store: Store) -> None:
    upload = store.uploads.begin(store.at("y"))

    with pytest.raises(Temporary, match=r"/x: other bytes arrived"):
        store.uploads.write(store.at("x"), b"one", crc64nvme(b"two"))
    with pytest.raises(Temporary, match=r"/y: other bytes arrived"):
        store.uploads.write_part(store.at("y"), upload, 1, b"one", crc64nvme(b"two"))
    with pytest.raises(SourceNotReady):
        store.uploads.stored(store.at("x"))


def test_of_an_object_of_another_tool_size_and_etag_are_known(store: Store) -> None:
    store.write("x", b"hello")

    found = store.uploads.stored(store.at("x"))

    assert (found.size, found.etag) == (5, "5d41402abc4b2a76b9719d911017c592")
    assert check_of(found)


def test_an_object_that_is_not_there_is_not_ready(store: Store) -> None:
    with pytest.raises(SourceNotReady, match=r"/none"):
        store.uploads.stored(store.at("none"))


def test_an_upload_in_parts_is_taken_up_where_it_was(store: Store) -> None:
    to, parts = store.at("big"), [os.urandom(PART), os.urandom(PART), b"the end"]
    upload = store.uploads.begin(to)
    store.uploads.begin(store.at("big-other"))
    first = store.uploads.write_part(to, upload, 1, parts[0], crc64nvme(parts[0]))
    store.uploads.write_part(to, upload, 3, b"wrong", crc64nvme(b"wrong"))

    again, begun = store.uploads.begun(to)
    rest = [store.uploads.write_part(to, again, n, parts[n - 1], crc64nvme(parts[n - 1])) for n in (2, 3)]
    whole = b"".join(parts)
    done = store.uploads.finish(to, again, [begun[0], *rest], crc64nvme(whole))

    assert again == upload
    assert begun[0] == first
    assert (begun[0].size, begun[0].crc) == (PART, crc64nvme(parts[0]))
    assert store.body("big") == whole
    found = store.uploads.stored(to)
    assert found.etag == done.etag
    assert check_of(found) == f"crc64nvme:{crc64nvme(whole)}"
    assert [store.uploads.part(to, n) for n in (1, 3)] == [PART, 7]
    assert store.uploads.begun(to) == ("", ())


def test_an_object_of_one_part_tells_no_size_of_parts(store: Store) -> None:
    store.write("x", b"hello")

    assert store.uploads.part(store.at("x"), 1) == 0
