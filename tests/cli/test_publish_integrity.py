"""`hydra publish` and the bytes: what was pushed, what S3 knows, `--digest`, sources that change."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from msgspec.structs import asdict

from handlers.adapters import checks
from handlers.adapters.objects import S3Objects
from handlers.adapters.ports import Source
from handlers.core import codec, integrity, keys, model
from handlers.core.integrity import blake3_check
from handlers.core.pushed import seal
from handlers.core.stored import Stored
from tests.cli.desk import PLACES, TWO_DATASETS, Desk, v
from tests.fakes_objects import FakeObjects
from tests.servers import S3, Consul

MIB = 1024**2
PLAIN = """
DATA_TEMPLATE = {"index": {"SourcePath": f"s3://data/index/{VERSION_PLACEHOLDER}/", "Placement": DISK}}
"""


def publish(desk: Desk, *args: str, text: str = PLAIN) -> Any:
    return desk.run("publish", desk.template(text), "--channel", PLACES, "-o", "json", *args)


def value(desk: Desk, key: str) -> bytes:
    entry, _ = (desk.consul or desk.kv).get(key)
    assert entry is not None
    return entry.value


def header(desk: Desk, day: int = 1) -> model.Release:
    return codec.decode(model.Release, value(desk, keys.release(PLACES, v(day))), "release")


def files(desk: Desk, day: int = 1, dataset: str = "index") -> dict[str, model.File]:
    raw = value(desk, keys.manifest(PLACES, v(day)))
    return {f.path: f for f in codec.decode(model.Manifest, raw, "manifest").files[dataset]}


def pushed(desk: Desk, bodies: dict[str, bytes], day: int = 1, to: str = "s3://data/index/{}/") -> str:
    """Push files as a version; where the manifest object is."""
    desk.objects.buckets.setdefault("data", {})
    folder = desk.folder / f"data-{len(list(desk.folder.iterdir()))}"
    for path, body in bodies.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(body)
    desk.ok("push", str(folder), to.replace("{}", "{VERSION_PLACEHOLDER}"), "--version", v(day))
    return to.replace("{}", v(day)).removesuffix("/") + ".hydra.json"


def test_a_push_is_found_and_its_digests_are_those_of_the_release(desk: Desk) -> None:
    place = pushed(desk, {"a": b"one", "b/c": b"two"})
    desk.uploads.heads.clear()

    answer = publish(desk)

    assert answer.code == 0, answer
    shown = answer.json["datasets"]["index"]
    body = desk.objects.buckets["data"][Source.parse(place).key]
    assert (shown["integrity"], shown["pushed"]) == ("digest", codec.digest(body))
    assert header(desk).datasets["index"].pushed == codec.digest(body)
    assert {p: f.check for p, f in files(desk).items()} == {
        "a": blake3_check([blake3(b"one").digest()]),
        "b/c": blake3_check([blake3(b"two").digest()]),
    }
    assert desk.uploads.heads == [], "what was pushed needs no look at each object"


def test_one_push_holds_several_datasets(desk: Desk) -> None:
    text = """
DATA_TEMPLATE = {
    "index": {"SourcePath": f"s3://data/all/{VERSION_PLACEHOLDER}/index/", "Placement": DISK},
    "model": {"SourcePath": f"s3://data/all/{VERSION_PLACEHOLDER}/m.bin", "Placement": RAM, "As": "weights"},
}
"""
    pushed(desk, {"index/a": b"one", "m.bin": b"two", "other": b"three"}, to="s3://data/all/{}/")

    answer = publish(desk, text=text)

    assert {name: row["integrity"] for name, row in answer.json["datasets"].items()} == {
        "index": "digest",
        "model": "digest",
    }
    assert files(desk, dataset="model")["weights"].check == blake3_check([blake3(b"two").digest()])


def test_a_nested_push_is_no_data_and_the_nearest_counts(desk: Desk) -> None:
    pushed(desk, {"a": b"one"}, to="s3://data/index/{}/part/")
    desk.objects.write(f"s3://data/index/{v(1)}/b", b"two")
    text = PLAIN.replace('PLACEHOLDER}/"', 'PLACEHOLDER}/part/"')

    whole, part = publish(desk), publish(desk, text=text)

    assert (whole.code, whole.json["datasets"]["index"]["integrity"]) == (0, "etag")
    assert set(files(desk)) == {"b", "part/a"}
    assert part.code == 5, "the same version with other datasets"


@pytest.mark.parametrize("change", ["replaced", "more", "less", "longer"])
def test_a_push_that_is_not_what_lies_there_is_refused(desk: Desk, change: str) -> None:
    pushed(desk, {"a": b"one", "b": b"two"})
    there = desk.objects.buckets["data"]
    key = f"index/{v(1)}/a"
    if change == "less":
        del there[key]
    else:
        there[f"index/{v(1)}/c" if change == "more" else key] = {"longer": b"longer"}.get(change, b"eno")

    answer = publish(desk)

    assert answer.code == 7, answer
    assert "is not what s3://data/index/" in answer.err
    assert "--digest" in answer.err
    assert desk.value(keys.head(PLACES)) is None


def test_with_digest_what_lies_there_is_read_and_described_anew(desk: Desk) -> None:
    place = pushed(desk, {"a": b"one", "b": b"two"})
    desk.objects.write(f"s3://data/index/{v(1)}/a", b"eno")

    answer = publish(desk, "--digest")

    assert (answer.code, answer.json["datasets"]["index"]["integrity"]) == (0, "digest")
    assert files(desk)["a"].check == blake3_check([blake3(b"eno").digest()])
    raw = desk.objects.buckets["data"][Source.parse(place).key]
    assert codec.digest(raw) == header(desk).datasets["index"].pushed


def test_a_version_that_is_being_pushed_is_not_complete(desk: Desk) -> None:
    """A push that was killed must not go out, although nothing else shows that something is missing."""
    pushed(desk, {"a": b"one"}, day=1)
    pushed(desk, {"a": b"one"}, day=2)
    begun = seal(model.Pushed(complete=False, who="ann", when="now"))
    desk.objects.write(f"s3://data/index/{v(2)}.hydra.json", begun)

    asked = publish(desk, "--version", v(2))

    assert asked.code == 11, asked
    assert "ann began to push it" in asked.err
    assert publish(desk).json["version"] == v(1)


def test_a_damaged_manifest_object_is_refused(desk: Desk) -> None:
    place = pushed(desk, {"a": b"one", "b": os.urandom(3000)})
    there, key = desk.objects.buckets["data"], Source.parse(place).key
    right = there[key]
    at = right.index(b"blake3/8388608:") + 20
    there[key] = right[:at] + bytes([right[at] ^ 1]) + right[at + 1 :]

    answer = publish(desk)

    assert answer.code == 7, answer
    assert f"{place}: is damaged" in answer.err
    assert publish(desk, "--digest").code == 0


def test_release_of_pushed_data_has_its_digest_so_a_later_manifest_changes_nothing(desk: Desk) -> None:
    place = pushed(desk, {"a": b"one"})
    publish(desk)
    before = desk.everything()
    desk.objects.write(place, b"anything")

    assert publish(desk).json["result"] == "unchanged"
    assert desk.everything() == before


def test_without_a_push_what_the_store_knows_is_taken(desk: Desk) -> None:
    desk.objects.write(f"s3://data/index/{v(1)}/a", b"one")
    desk.objects.write(f"s3://data/index/{v(1)}/empty", b"")

    answer = publish(desk)

    md5 = hashlib.md5(b"one", usedforsecurity=False).hexdigest()
    assert answer.json["datasets"]["index"]["integrity"] == "etag"
    assert files(desk)["a"].check == f"md5:{md5}"
    assert files(desk)["empty"].check == blake3_check([blake3(b"").digest()])
    assert [source.key for source in desk.uploads.heads] == [f"index/{v(1)}/a"]


def test_level_is_that_of_the_least_protected_file_and_size_is_called_what_it_is(desk: Desk) -> None:
    desk.objects.write(f"s3://data/index/{v(1)}/a", b"one")
    odd = Source("data", f"index/{v(1)}/b")
    etag = desk.objects.write(str(odd), b"two").etag
    desk.uploads.facts[odd] = Stored(size=3, etag=etag, encryption="aws:kms")

    answer = desk.run("publish", desk.template(PLAIN), "--channel", PLACES)

    assert answer.code == 0
    assert "index: integrity size protects against nothing but truncation" in answer.out
    assert f"{PLACES}: integrity size protects against nothing but truncation" in desk.ok("status").out
    assert header(desk).datasets["index"].integrity == "size"
    assert files(desk)["b"].check == ""


def test_release_published_before_its_checks_were_known_is_the_same(desk: Desk) -> None:
    desk.data(1)
    desk.publish()
    release = header(desk)
    plain = {
        name: tuple(model.File(f.path, f.size, f.etag) for f in files(desk, 1, name).values())
        for name in release.datasets
    }
    raw = codec.encode(model.Manifest(files=plain))
    desk.kv.put(keys.manifest(PLACES, v(1)), raw)
    old = {**asdict(release), "manifest": model.ManifestRef(digest=codec.digest(raw), bytes=len(raw))}
    desk.kv.put(keys.release(PLACES, v(1)), codec.encode(model.Release(**old)))
    desk.uploads.heads.clear()

    assert publish(desk, text=TWO_DATASETS).json["result"] == "unchanged"
    assert desk.uploads.heads == []


@pytest.mark.parametrize("change", ["replaced", "more", "less"])
def test_a_source_that_changes_while_it_is_looked_at_is_not_ready(desk: Desk, change: str) -> None:
    desk.data(1)
    key = f"index/{v(1)}/a"

    def meanwhile(_: str, source: Source) -> None:
        if source.key.endswith("ranks.bin"):
            there = desk.objects.buckets["data"]
            if change == "less":
                there.pop(key, None)
            else:
                there[f"{key}2" if change == "more" else key] = b"y"

    desk.uploads.before = meanwhile
    before = desk.everything()

    answer = desk.publish()

    assert answer.code == 11, answer
    assert "changes while it is looked at" in answer.err
    assert desk.everything() == before
    desk.uploads.before = lambda *_: None
    assert desk.publish().code == 0


def test_waiting_for_the_source_also_waits_for_it_to_be_still(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hydra_cli.publish.SOURCE_PAUSE_S", 0.01)
    desk.data(1)
    looks: list[str] = []

    def meanwhile(_: str, source: Source) -> None:
        if source.key.endswith("ranks.bin") and len(looks) < 3:
            looks.append(source.key)
            desk.objects.write(f"s3://data/index/{v(1)}/{len(looks)}", b"y")

    desk.uploads.before = meanwhile

    answer = desk.publish("--wait-source", "1m", "-o", "json")

    assert (answer.code, answer.json["datasets"]["index"]["files"]) == (0, 5)


@pytest.mark.parametrize(("least", "code"), [("size", 0), ("etag", 0), ("checksum", 7), ("digest", 7)])
def test_a_channel_demands_integrity(desk: Desk, least: str, code: int) -> None:
    desk.data(1)
    desk.ok("channel", "set", PLACES, "--least-integrity", least)

    answer = desk.publish()

    assert answer.code == code, answer
    if code:
        assert f"demands integrity {least}, but index has etag, ranks has etag" in answer.err
        assert "hydra push" in answer.err
        assert desk.publish("--digest").code == 0


def test_digest_reads_once_and_a_second_time_finds_what_it_wrote(desk: Desk) -> None:
    body = os.urandom(20 * MIB)
    desk.objects.write(f"s3://data/index/{v(1)}/big", body)
    desk.objects.write(f"s3://data/index/{v(1)}/empty", b"")

    assert publish(desk, "--digest").json["datasets"]["index"]["integrity"] == "digest"
    reads = sum(length for key, _, length in desk.objects.reads if key.endswith("big"))
    chunks = [blake3(body[at : at + 8 * MIB]).digest() for at in range(0, len(body), 8 * MIB)]
    assert reads == len(body)
    assert files(desk)["big"].check == blake3_check(chunks)
    desk.objects.reads.clear()
    other = desk.run("publish", desk.template(PLAIN), "--channel", "prod/search/other", "--digest")
    assert (other.code, [r for r in desk.objects.reads if r[0].endswith("big")]) == (0, [])


def test_digest_goes_on_where_the_store_breaks_off(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handlers.adapters.parallel.time.sleep", lambda _: None)
    desk.objects.write(f"s3://data/index/{v(1)}/a", b"one")
    times: list[int] = []

    def away_twice(source: Source, at: int) -> None:
        if source.key.endswith("/a"):
            times.append(at)
            desk.objects.away = len(times) < 3

    desk.objects.before_piece = away_twice
    real = FakeObjects._bucket

    def back(self: FakeObjects, source: Source) -> dict[str, bytes]:
        self.away = False
        return real(self, source)

    monkeypatch.setattr(FakeObjects, "_bucket", back)

    assert publish(desk, "--digest").code == 0
    assert len(times) == 3


def test_digest_of_a_store_that_is_not_pushed_to_is_in_the_release_alone(desk: Desk) -> None:
    desk.objects.write(f"gs://data/index/{v(1)}/a", b"one")

    answer = publish(desk, "--digest", text=PLAIN.replace("s3://", "gs://"))

    assert answer.code == 0, answer
    assert (answer.json["datasets"]["index"]["integrity"], answer.json["datasets"]["index"]["pushed"]) == (
        "digest",
        "",
    )
    assert files(desk)["a"].check == blake3_check([blake3(b"one").digest()])
    assert [*desk.objects.buckets["data"]] == [f"index/{v(1)}/a"]


def test_digest_of_a_dry_run_is_refused(desk: Desk) -> None:
    desk.data(1)

    assert desk.publish("--digest", "--dry-run").code == 2


def test_on_a_real_server_every_kind_of_upload_gets_what_it_allows(
    tmp_path: Path, consul: Consul, s3: S3
) -> None:
    """And a node can verify it: each check is the one of the bytes."""
    desk = Desk(tmp_path, consul=consul.kv(), store=S3Objects(environ=s3.environment()))
    desk.ok("init", "--env", "prod")
    bucket, client = s3.bucket(), s3.client()
    body, part = os.urandom(11 * MIB + 5), 5 * MIB
    folder = f"index/{v(1)}/"
    for name in ("crc64nvme", "crc32c", "crc32", "sha1", "sha256"):
        client.put_object(Bucket=bucket, Key=folder + name, Body=body, ChecksumAlgorithm=name.upper())
    for name, algorithm, sizes in (
        ("composite", "CRC32", (part, part)),
        ("whole", "CRC64NVME", (part, part)),
        ("uneven", "CRC32", (part, part + 7)),
    ):
        upload = {"Bucket": bucket, "Key": folder + name}
        upload["UploadId"] = client.create_multipart_upload(**upload, ChecksumAlgorithm=algorithm)["UploadId"]
        bounds = [0, sizes[0], sum(sizes), len(body)]
        rows = []
        for number in range(1, 4):
            piece = body[bounds[number - 1] : bounds[number]]
            row = client.upload_part(**upload, PartNumber=number, Body=piece, ChecksumAlgorithm=algorithm)
            checksum = f"Checksum{algorithm}"
            rows.append({"PartNumber": number, "ETag": row["ETag"], checksum: row[checksum]})
        client.complete_multipart_upload(**upload, MultipartUpload={"Parts": rows})

    answer = publish(desk, text=PLAIN.replace("//data/", f"//{bucket}/"))

    assert answer.code == 0, answer
    found = files(desk)
    kinds = {path: file.check.partition(":")[0] for path, file in found.items()}
    assert kinds == {
        "crc64nvme": "crc64nvme",
        "crc32c": "crc32c",
        "crc32": "crc32",
        "sha1": "sha1",
        "sha256": "sha256",
        "composite": f"md5/{part}",
        "whole": "crc64nvme",
        "uneven": "",
    }
    assert answer.json["datasets"]["index"]["integrity"] == "size"
    local = tmp_path / "body"
    local.write_bytes(body)
    for file in found.values():
        if check := integrity.parse(file.check, file.size):
            with local.open("rb") as opened:
                assert checks.wrong(opened.fileno(), len(body), check) == []


@pytest.mark.parametrize("how", ["plain", "digest", "push"])
def test_versions_of_a_bucket_that_keeps_them_are_in_the_release(
    tmp_path: Path, consul: Consul, s3_versions: S3, how: str
) -> None:
    desk = Desk(tmp_path, consul=consul.kv(), store=S3Objects(environ=s3_versions.environment()))
    desk.ok("init", "--env", "prod")
    bucket, client = s3_versions.versioned_bucket(), s3_versions.client()
    if how == "push":
        pushed(desk, {"a": b"one"}, to=f"s3://{bucket}/index/{{}}/")
    else:
        client.put_object(Bucket=bucket, Key=f"index/{v(1)}/a", Body=b"older")
        client.put_object(Bucket=bucket, Key=f"index/{v(1)}/a", Body=b"one")

    more = ["--digest"] if how == "digest" else []
    assert publish(desk, *more, text=PLAIN.replace("//data/", f"//{bucket}/")).code == 0

    head = client.head_object(Bucket=bucket, Key=f"index/{v(1)}/a")
    assert files(desk)["a"].version_id == head["VersionId"]
