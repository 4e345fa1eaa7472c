"""What S3 and the network do to a download: D1, D3, D4, D5, D10, D12, N1 of the fault catalogue."""

from __future__ import annotations

import itertools
import os
import shutil
import time

import pytest

from handlers.core.model import State
from handlers.settings import Limits
from tests.faults import rules
from tests.faults.field import MIB, Field
from tests.servers import wait_until

BIG = 48 * MIB
STREAMS = Limits().streams


def big(size: int = BIG) -> bytes:
    return os.urandom(size)


def test_d1_a_body_cut_three_times_goes_on_from_the_last_good_chunk(field: Field) -> None:
    """A body is cut or reset three times: the file is right, and only the open chunks came again."""
    body = big()
    release = field.put_files(1, {"big": body})
    field.desire(1, release)
    key = field.key(release, "big")
    for nth, reset in enumerate((False, True, False)):
        field.server.rule(rules.cut(5 * MIB + 12345, reset=reset), key, skip=nth)

    field.synced(release)

    assert field.server.bytes_sent(key) <= len(body) + 3 * MIB
    assert field.server.requests()[key] <= 3 + -(-len(body) // (8 * MIB))


def test_d1_cut_again_and_again_it_comes_all_the_same(field: Field) -> None:
    """Every body is cut within a chunk: each try brings a bit, no byte comes twice, at last all is there."""
    body = big(8 * MIB)
    release = field.put_files(1, {"big": body})
    field.desire(1, release)
    field.server.rule(rules.cut(300_000), field.key(release, "big"), times=None)

    field.synced(release)

    wait_until(field.server.is_quiet, what="all that was sent is counted")
    assert field.server.bytes_sent(field.key(release, "big")) == len(body)


def test_d1_always_cut_the_release_fails_and_the_old_one_serves(field: Field) -> None:
    """All bodies are cut at once: failed with its reason after the give-up time, the old release stays."""
    field.limits_set["patience_s"] = 2
    old, new = field.put_files(1, {"a": b"old"}), field.put_files(2, {"big": big(8 * MIB), "a": b"new"})
    field.desire(1, old)
    field.synced(old)
    field.desire(2, old, new)
    field.server.rule(rules.cut(0), field.key(new, "big"), times=None)

    ran = field.sync()

    assert ran.code == 0, ran.said
    assert field.key(new, "big") in field.failed(new)
    assert field.complete(old)
    assert field.status(old).state is State.SUCCESS
    assert 2 < ran.took_s < 100
    asked = field.server.requests()[field.key(new, "big")]
    assert asked < 60, f"{asked} requests in {ran.took_s:.0f} s"


def test_d1_what_was_verified_before_it_failed_is_not_fetched_again(field: Field) -> None:
    """A release that failed on one file goes on with what it has: nothing verified comes twice."""
    field.limits_set |= {"patience_s": 1, "streams": 1}  # one by one: the big one is there when z fails
    files = {"big": big(), "z": big(MIB)}
    release = field.put_files(1, files)
    field.desire(1, release)
    field.server.rule(rules.cut(0), field.key(release, "z"), times=None)
    field.sync()
    field.failed(release)
    before = field.server.bytes_sent(field.key(release, "big"))
    field.server.forget()

    field.synced(release)

    again = field.server.bytes_sent(field.key(release, "big"))
    assert before + again <= BIG + STREAMS * MIB, f"{before} and {again} of {BIG} bytes"


@pytest.mark.parametrize(
    ("kind", "server_says"),
    [
        *itertools.product(("digest", "crc64nvme", "parts", ""), ("412", "the new ETag")),
        *itertools.product(("digest", "crc64nvme", "parts"), ("the old ETag",)),  # not `size`
    ],
)
def test_d3_an_object_replaced_in_mid_download_is_named_and_never_mixed(
    field: Field, kind: str, server_says: str
) -> None:
    """The object is replaced in mid-download: an error that names it, whether or not the server minds."""
    field.limits_set["streams"] = 1
    release = field.put_files(1, {"big": big(72 * MIB), "other": b"x"}, kind=kind, unit=8 * MIB)
    field.desire(1, release)
    key = field.key(release, "big")
    replaced, before = big(72 * MIB), field.server.store.get("bucket", key)
    assert before is not None
    field.server.rule(rules.meanwhile(lambda: field.server.put({key: replaced}), after=4 * MIB), key)
    field.server.heeds_if_match = server_says == "412"
    if server_says == "the old ETag":
        field.server.rule(rules.altered(ETag=f'"{before.etag}"'), key, times=None)

    ran = field.sync()

    assert ran.code == 0, ran.said
    assert key in field.failed(release)
    assert field.server.requests()[key] < 40, "an object that is gone is not asked for again and again"


def test_d3_where_the_bucket_keeps_versions_the_old_one_is_read_on(field: Field) -> None:
    """The bucket keeps versions: the download ends with the version that was published."""
    field.server.store.make("kept", versioned=True)
    body = big(72 * MIB)
    release = field.put_files(1, {"big": body}, bucket="kept")
    field.desire(1, release)
    key = field.key(release, "big")
    field.server.rule(
        rules.meanwhile(lambda: field.server.store.put("kept", key, big(MIB)), after=4 * MIB), key, byte=0
    )

    field.synced(release)


def test_d4_slow_down_twenty_times_then_fine(field: Field) -> None:
    """S3 asks for fewer requests twenty times: success, at most twice the requests, pauses with jitter."""
    files = {f"f{n:02}": os.urandom(2000) for n in range(40)}
    release = field.put_files(1, files)
    field.desire(1, release)
    rule = field.server.rule(rules.answer(503, "SlowDown"), "*/f*", times=20)

    ran = field.synced(release)

    asked = sum(field.server.requests().values())
    assert rule.hits == 20
    assert asked <= 2 * len(files), f"{asked} requests for {len(files)} files"
    refused = [seen for seen in field.server.gets() if seen.status == 503]
    pauses = [b.began - a.ended for a, b in itertools.pairwise(refused)]
    assert len({round(pause, 3) for pause in pauses}) > 5, "the pauses have no jitter"
    assert ran.took_s < 60


def test_d4_slow_down_brings_fewer_streams(field: Field) -> None:
    """After S3 asked for fewer requests, fewer are made at once."""
    files = {f"f{n:02}": os.urandom(60_000) for n in range(60)}
    release = field.put_files(1, files)
    field.desire(1, release)
    field.server.rule(rules.answer(503, "SlowDown"), "*/f*", times=8)
    field.server.rule(rules.trickle(200_000), "*/f*", skip=8, times=None)

    field.synced(release)

    served = [seen for seen in field.server.gets() if seen.status != 503]
    at_once = [sum(a.began <= b.began < a.ended for a in served) for b in served]
    assert max(at_once[:3]) < STREAMS, f"{at_once} at once after SlowDown"
    assert max(at_once) >= STREAMS, "and all of them again in the end"


def test_d4_retry_after_is_kept_to(field: Field) -> None:
    """S3 says when to come again: nobody comes before."""
    release = field.put_files(1, {"a": b"x" * 1000})
    field.desire(1, release)
    field.server.rule(rules.answer(503, "SlowDown", Retry_After="2"), field.key(release, "a"))

    field.synced(release)

    first, second = field.server.gets(field.key(release, "a"))
    assert second.began - first.began >= 2


@pytest.mark.parametrize(
    "fault", [rules.answer(500), rules.answer(429), rules.answer(503), rules.cut(0, reset=True)]
)
def test_d4_what_may_pass_is_waited_out(field: Field, fault: rules.Fault) -> None:
    """Errors that may pass are tried again within the same run."""
    release = field.put_files(1, {"a": b"x" * 1000, "b": b"y"})
    field.desire(1, release)
    field.server.rule(fault, times=5)

    field.synced(release)


@pytest.mark.parametrize(
    ("fault", "word"),
    [
        pytest.param(rules.answer(404, "NoSuchKey"), "no such object", id="404"),
        pytest.param(rules.answer(403, "AccessDenied"), "refused", id="403"),
        pytest.param(rules.answer(416, "InvalidRange"), "size", id="416"),
        pytest.param(
            rules.answer(301, "PermanentRedirect", x_amz_bucket_region="eu-west-1"), "eu-west-1", id="301"
        ),
        pytest.param(rules.answer(307, "TemporaryRedirect", Location="http://127.0.0.1:9/"), "307", id="307"),
        pytest.param(rules.whole(), "", id="200 instead of 206"),
        pytest.param(rules.shifted(), "", id="another range"),
        pytest.param(rules.altered(Content_Range="bytes 0-1/2"), "", id="a wrong Content-Range"),
        pytest.param(
            rules.altered(ETag='"0123456789abcdef0123456789abcdef"'), "replaced", id="a foreign ETag"
        ),
        pytest.param(rules.gzipped(), "gzip", id="packed on the way"),
    ],
)
def test_d4_what_cannot_pass_fails_at_once_with_its_reason(
    field: Field, fault: rules.Fault, word: str
) -> None:
    """Answers that no repetition mends: failed with object and reason, few requests, nothing accepted."""
    good, bad = field.put_files(1, {"a": b"good"}), field.put_files(2, {"big": big(34 * MIB), "c": b"c"})
    field.desire(1, good, bad)
    key = field.key(bad, "big")
    field.server.rule(fault, key, times=None)

    ran = field.sync()

    assert ran.code == 0, ran.said
    reason = field.failed(bad)
    assert key in reason
    assert word in reason
    assert field.complete(good)
    assert field.server.requests()[key] <= 4
    assert ran.took_s < 60


@pytest.mark.parametrize("fault", [rules.stall(3 * MIB + 500), rules.stall(0), rules.silence()])
def test_d5_a_stall_is_noticed_and_the_download_goes_on(field: Field, fault: rules.Fault) -> None:
    """An answer stalls in mid-body, before its body or before its head: noticed after `stall_s`, resumed."""
    field.limits_set["stall_s"] = 2
    body = big(10 * MIB)
    release = field.put_files(1, {"big": body})
    field.desire(1, release)
    key = field.key(release, "big")
    field.server.rule(fault, key)

    ran = field.synced(release)

    assert 1 <= ran.took_s < 60
    assert field.server.bytes_sent(key) <= len(body) + 2 * MIB


def test_d5_a_stall_counts_after_thirty_seconds_unless_told_otherwise() -> None:
    """The limit that the tests shorten is at most 30 s by default."""
    assert Limits().stall_s <= 30


def test_d5_a_slow_line_is_no_stall(field: Field) -> None:
    """A body that comes slowly but steadily, for much longer than `stall_s`, is one request."""
    field.limits_set["stall_s"] = 4
    release = field.put_files(1, {"a": os.urandom(800_000)})
    field.desire(1, release)
    field.server.rule(rules.trickle(80_000))

    ran = field.synced(release)

    assert ran.took_s > 9
    assert field.server.requests()[field.key(release, "a")] == 1


def test_d5_a_line_that_brings_next_to_nothing_is_left(field: Field) -> None:
    """A body that trickles, a few bytes a second: counts as a stall, and another connection goes on."""
    field.limits_set["stall_s"] = 3
    release = field.put_files(1, {"a": os.urandom(800_000)})
    field.desire(1, release)
    field.server.rule(rules.trickle(1000, 100))

    ran = field.synced(release)

    assert ran.took_s < 100
    assert field.server.requests()[field.key(release, "a")] == 2


def test_d10_one_object_of_many_missing_keeps_the_whole_release_away(field: Field) -> None:
    """One object is not on S3: the release fails as a whole and names it; others come."""
    files = {f"f{n}": os.urandom(1000) for n in range(30)}
    short, whole = field.put_files(1, files), field.put_files(2, files)
    field.desire(1, short, whole)
    field.server.store.delete("bucket", field.key(short, "f17"))

    ran = field.sync()

    assert ran.code == 0, ran.said
    assert field.key(short, "f17") in field.failed(short)
    assert field.complete(whole)


def test_d10_a_release_without_its_list_of_files_is_not_activated(field: Field) -> None:
    """The list of files is missing beside the data: failed, and taken once it is there."""
    release = field.put_files(1, {"a": b"x"}, beside=True)
    field.desire(1, release)
    place = f"{release.channel}/{release.version}/manifest.json"
    listed = field.server.store.get("bucket", place)
    assert listed is not None
    field.server.store.delete("bucket", place)

    ran = field.sync()

    assert ran.code == 0, ran.said
    assert "manifest.json" in field.failed(release)
    field.server.store.put("bucket", place, listed.body)
    field.synced(release)


def test_d12_a_new_head_cancels_the_download_of_the_previous_one(field: Field) -> None:
    """A newer desired state comes in mid-download: given up within 5 s, only the newest appears."""
    times = [cancelled(field, day) for day in (1, 3, 5)]

    # the quickest: what else the machine does is not counted
    assert min(taken_s for taken_s, _ in times) < 5
    assert min(ended_s for _, ended_s in times) < 8


def cancelled(field: Field, day: int) -> tuple[float, float]:
    """After how many seconds a release takes the place of one that is on its way, and the run ends."""
    old, new = field.put_files(day, {"big": big(16 * MIB)}), field.put_files(day + 1, {"a": b"new"})
    field.desire(day, old)
    field.server.rule(rules.trickle(MIB), field.key(old, "big"), times=None)
    with field.running() as process:
        wait_until(lambda: field.server.bytes_sent(field.key(old, "big")), what="the download has begun")
        began = time.monotonic()
        field.desire(day + 1, new)
        wait_until(lambda: field.folder(new).exists(), what="the new release appears")
        taken_s = time.monotonic() - began
        last = field.server.bytes_sent(field.key(old, "big"))
        process.wait(60)
        ended_s = time.monotonic() - began
        assert field.server.bytes_sent(field.key(old, "big")) - last < 4 * MIB
    assert field.complete(new)
    assert not field.folder(old).exists()
    field.synced(new)
    return taken_s, ended_s


def test_n1_a_replaced_node_gets_everything_back_and_says_so_only_when_it_is_whole(field: Field) -> None:
    """The node's disk is empty again: refilled; SUCCESS and the public name come only after the last byte."""
    one, two = field.put_files(1, {"a": big(3 * MIB)}), field.put_files(2, {"b": big(3 * MIB)})
    field.desire(1, one, two)
    field.synced(one, two)
    shutil.rmtree(field.root)
    field.server.forget()
    field.server.rule(rules.trickle(3 * MIB), times=None)

    with field.running() as process:
        wait_until(lambda: field.status(one).state is State.DOWNLOADING)
        while process.poll() is None:
            for release in (one, two):
                if field.folder(release).exists() or field.status(release).state is State.SUCCESS:
                    assert field.complete(release)

    field.synced(one, two)
