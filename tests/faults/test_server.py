"""The misbehaving server is a good one until it is told otherwise: beside a real one, and at its work."""

from __future__ import annotations

import http.client
import os
import socket
import time
import urllib.parse
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests import servers
from tests.faults import rules
from tests.faults.server import FaultyS3
from tests.faults.store import Zeros
from tests.servers import wait_until

KEY = "p/ä ö+%&.bin"
BODY = os.urandom(300_000)
COMPARED = ("ContentLength", "ContentRange", "ETag", "AcceptRanges")


@pytest.fixture
def faulty() -> Iterator[FaultyS3]:
    with FaultyS3() as server:
        yield server


def client_of(environment: dict[str, str]) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        region_name=environment["AWS_REGION"],
        config=Config(request_checksum_calculation="when_required", s3={"addressing_style": "path"}),
    )


@pytest.fixture
def both(faulty: FaultyS3, s3: servers.S3) -> list[tuple[Any, str]]:
    """A client and a bucket of the real server and of ours, with the same objects."""
    found = [(s3.client(), s3.bucket()), (client_of(faulty.environment()), "bucket")]
    for client, bucket in found:
        for key, body in {KEY: BODY, "p/a": b"a", "p/sub/b": b"b", "p/sub/c": b"", "q": b"q"}.items():
            client.put_object(Bucket=bucket, Key=key, Body=body)
    return found


def said(call: Any) -> tuple[object, ...]:
    """What an answer says and brings, or what its error is."""
    try:
        answer = call()
    except ClientError as e:
        return (e.response["ResponseMetadata"]["HTTPStatusCode"], e.response["Error"]["Code"])
    body = answer["Body"].read() if "Body" in answer else b""
    status = answer["ResponseMetadata"]["HTTPStatusCode"]
    return (status, *(answer.get(name) for name in COMPARED), body)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"Range": "bytes=0-0"},
        {"Range": "bytes=100000-199999"},
        {"Range": "bytes=299999-400000"},
        {"Range": "bytes=-10"},
        {"Range": "bytes=300000-300001"},
        {"IfMatch": '"none"'},
        {"Key": "p/none"},
        {"Bucket": "no-such-bucket"},
    ],
    ids=str,
)
def test_gets_are_answered_as_by_the_real_server(both: list[tuple[Any, str]], how: dict[str, str]) -> None:
    real, ours = (
        said(lambda c=client, b=bucket: c.get_object(**{"Bucket": b, "Key": KEY, **how}))
        for client, bucket in both
    )

    assert ours == real


@pytest.mark.parametrize("key", [KEY, "p/sub/c", "none"])
def test_heads_are_answered_as_by_the_real_server(both: list[tuple[Any, str]], key: str) -> None:
    real, ours = (
        said(lambda c=client, b=bucket: c.head_object(Bucket=b, Key=key)) for client, bucket in both
    )

    assert ours == real


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"Prefix": "p/"},
        {"Prefix": "p/", "Delimiter": "/"},
        {"Prefix": "none/"},
        {"Prefix": "p/", "StartAfter": "p/sub/b"},
        {"PaginationConfig": {"PageSize": 2}},
        {"Prefix": "p/", "Delimiter": "/", "PaginationConfig": {"PageSize": 1}},
    ],
    ids=str,
)
def test_listings_are_those_of_the_real_server(both: list[tuple[Any, str]], how: dict[str, Any]) -> None:
    found = []
    for client, bucket in both:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, **how)
        rows = [row for page in pages for row in (*page.get("Contents", ()), *page.get("CommonPrefixes", ()))]
        found.append([(row.get("Key", row.get("Prefix")), row.get("Size"), row.get("ETag")) for row in rows])

    assert sorted(found[1]) == sorted(found[0])


def test_multipart_etags_are_those_of_the_real_server(both: list[tuple[Any, str]], faulty: FaultyS3) -> None:
    part, (client, bucket) = 5 * 1024**2, both[0]
    body = os.urandom(part + 1000)
    upload = client.create_multipart_upload(Bucket=bucket, Key="m")["UploadId"]
    parts = [
        {
            "PartNumber": n,
            "ETag": client.upload_part(
                Bucket=bucket, Key="m", UploadId=upload, PartNumber=n, Body=body[(n - 1) * part : n * part]
            )["ETag"],
        }
        for n in (1, 2)
    ]
    client.complete_multipart_upload(
        Bucket=bucket, Key="m", UploadId=upload, MultipartUpload={"Parts": parts}
    )
    faulty.store.put("bucket", "m", body, part_bytes=part)

    real, ours = (
        (head["ETag"], head["ContentLength"], head["PartsCount"])
        for head in (c.head_object(Bucket=b, Key="m", PartNumber=1) for c, b in both)
    )

    assert ours == real


def test_versions_stay_readable_where_the_bucket_keeps_them(faulty: FaultyS3) -> None:
    faulty.store.make("kept", versioned=True)
    old, new = faulty.store.put("kept", "x", b"old"), faulty.store.put("kept", "x", b"newer")
    client = client_of(faulty.environment())

    assert client.get_object(Bucket="kept", Key="x")["VersionId"] == new.version
    assert client.get_object(Bucket="kept", Key="x", VersionId=old.version)["Body"].read() == b"old"


def ask(faulty: FaultyS3, key: str = "x", reach: str = "", timeout_s: float = 60) -> tuple[int, bytes, str]:
    """Status, body and ETag of one plain request; raises what a client sees."""
    connection = http.client.HTTPConnection("127.0.0.1", faulty.port, timeout=timeout_s)
    headers = {"Range": f"bytes={reach}"} if reach else {}
    try:
        connection.request("GET", "/bucket/" + urllib.parse.quote(key), headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers.get("ETag", "")
    finally:
        connection.close()


def test_cut_reset_and_stalled_bodies_end_where_the_rule_says(faulty: FaultyS3) -> None:
    faulty.put({"x": BODY})
    faulty.rule(rules.cut(1000))
    faulty.rule(rules.cut(1000, reset=True), skip=1)
    faulty.rule(rules.stall(1000), skip=2)
    faulty.rule(rules.silence(), skip=3)

    with pytest.raises(http.client.IncompleteRead) as cut:
        ask(faulty)
    with pytest.raises(ConnectionResetError):
        ask(faulty)
    for _ in range(2):
        with pytest.raises(TimeoutError):
            ask(faulty, timeout_s=1)
    assert len(cut.value.partial) == 1000
    assert ask(faulty)[1] == BODY, "all rules are spent"
    wait_until(faulty.is_quiet, what="all that was sent is counted")
    assert [seen.sent for seen in faulty.gets()] == [1000, 1000, 1000, 0, len(BODY)]


def test_flips_one_bit_of_the_answers_that_have_the_byte(faulty: FaultyS3) -> None:
    faulty.put({"x": BODY})
    faulty.rule(rules.flip(150_000, bit=3), times=None, byte=150_000)

    assert ask(faulty, reach="0-149999")[1] == BODY[:150_000]
    changed = ask(faulty, reach="150000-299999")[1]
    assert changed[0] == BODY[150_000] ^ 8
    assert changed[1:] == BODY[150_001:]


def test_objects_are_replaced_in_mid_answer(faulty: FaultyS3) -> None:
    faulty.put({"x": BODY})
    faulty.rule(rules.meanwhile(lambda: faulty.put({"x": b"new"}), after=1000))

    assert ask(faulty)[1] == BODY, "an answer that has begun goes on with the old object"
    assert ask(faulty)[1] == b"new"


def test_other_answers_than_asked_for(faulty: FaultyS3) -> None:
    faulty.put({"x": BODY})
    faulty.rule(rules.answer(503, "SlowDown", Retry_After="1"))
    faulty.rule(rules.whole(), skip=1)
    faulty.rule(rules.shifted(), skip=2)
    faulty.rule(rules.altered(ETag='"foreign"'), skip=3)
    faulty.rule(rules.gzipped(), skip=4)

    assert ask(faulty, reach="0-9")[0] == 503
    assert ask(faulty, reach="0-9")[:2] == (200, BODY)
    assert ask(faulty, reach="0-9")[:2] == (206, BODY[1:11])
    assert ask(faulty, reach="0-9")[1:] == (BODY[:10], '"foreign"')
    assert ask(faulty, reach="0-9")[1][:2] == b"\x1f\x8b"


def test_rules_count_for_all_keys_or_for_each(faulty: FaultyS3) -> None:
    faulty.put({"a/1": b"1", "a/2": b"2", "b": b"3"})
    faulty.rule(rules.answer(500), "a/*", each=True)

    assert [ask(faulty, key)[0] for key in ("a/1", "a/1", "a/2", "a/2", "b")] == [500, 200, 500, 200, 200]
    assert faulty.requests() == {"a/1": 2, "a/2": 2, "b": 1}


def test_is_fast_enough_for_big_bodies_and_keeps_connections(faulty: FaultyS3) -> None:
    faulty.store.put("bucket", "x", Zeros(1024**4))
    with (
        socket.create_connection(("127.0.0.1", faulty.port)) as connection,
        connection.makefile("rb") as answer,
    ):
        took_s = []
        for reach in ("0-9", *[f"{1024**4 - 64 * 1024**2}-"] * 3):
            began = time.monotonic()
            connection.sendall(f"GET /bucket/x HTTP/1.1\r\nRange: bytes={reach}\r\n\r\n".encode())
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += answer.readline()
            length = int(head.lower().partition(b"content-length: ")[2].split()[0])
            assert len(answer.read(length)) == length
            took_s.append(time.monotonic() - began)
    assert min(took_s[1:]) < 3  # the quickest: what else the machine does is not counted
