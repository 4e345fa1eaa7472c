"""`hydra push` on a real S3 server: what is sent, what is not sent again, what is refused."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from handlers.adapters import send
from handlers.adapters.objects import S3Objects
from handlers.adapters.ports import Source
from handlers.adapters.uploads import S3Uploads
from handlers.core import integrity, pushed
from handlers.core.model import Pushed
from tests.cli.desk import Desk, v
from tests.servers import S3

HYDRA = (sys.executable, "-m", "hydra_cli.main")
MIB = 1024**2
CHUNK = 8 * MIB


class Bench:
    """A folder to push, the real server that it goes to, and what the server has been sent."""

    def __init__(self, folder: Path, s3: S3, bucket: str) -> None:
        self.s3, self.bucket, self.folder = s3, bucket, folder / "data"
        self.folder.mkdir()
        self.desk = Desk(folder, store=S3Objects(environ=s3.environment()))
        self.client = s3.client()
        self.target = f"s3://{bucket}/words/{{VERSION_PLACEHOLDER}}/"

    def file(self, path: str, body: bytes) -> None:
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_bytes(body)

    def push(self, day: int = 1, *more: str, target: str = "") -> Any:
        return self.desk.run("push", str(self.folder), target or self.target, "--version", v(day), *more)

    def names(self) -> list[str]:
        return [row["Key"] for row in self.client.list_objects_v2(Bucket=self.bucket).get("Contents", [])]

    def arrived(self) -> list[int]:
        """Sizes of the parts of unfinished uploads."""
        uploads = self.client.list_multipart_uploads(Bucket=self.bucket).get("Uploads", [])
        named = [{"Bucket": self.bucket, "Key": u["Key"], "UploadId": u["UploadId"]} for u in uploads]
        return [part["Size"] for names in named for part in self.client.list_parts(**names).get("Parts", [])]

    def body(self, key: str) -> bytes:
        read: bytes = self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return read

    def manifest(self, key: str = f"words/{v(1)}.hydra.json") -> Pushed:
        return pushed.read(self.body(key), key)


@pytest.fixture
def bench(tmp_path: Path, s3: S3) -> Bench:
    return Bench(tmp_path, s3, s3.bucket())


def some_files(bench: Bench) -> dict[str, bytes]:
    bodies = {"a": b"one", "b/ä ö.txt": b"two" * 1000, "empty": b"", "big": os.urandom(40 * MIB + 17)}
    for path, body in bodies.items():
        bench.file(path, body)
    return bodies


def test_everything_is_on_s3_and_described_chunk_by_chunk(bench: Bench) -> None:
    bodies = some_files(bench)

    answer = bench.push()

    assert (answer.code, answer.out) == (0, f"{v(1)}\n"), answer
    assert {key: bench.body(key) for key in bench.names() if "json" not in key} == {
        f"words/{v(1)}/{path}": body for path, body in bodies.items()
    }
    manifest = bench.manifest()
    assert manifest.complete
    assert [f.path for f in manifest.files] == sorted(bodies)
    for file in manifest.files:
        body = bodies[file.path]
        head = bench.client.head_object(
            Bucket=bench.bucket, Key=f"words/{v(1)}/{file.path}", ChecksumMode="ENABLED"
        )
        assert (file.size, file.etag) == (len(body), head["ETag"].strip('"'))
        assert (head["ChecksumType"], head["ChecksumCRC64NVME"]) == ("FULL_OBJECT", send.crc64nvme(body))
        chunks = [body[at : at + CHUNK] for at in range(0, max(1, len(body)), CHUNK)]
        assert file.check == integrity.blake3_check([blake3(chunk).digest() for chunk in chunks])


def test_the_version_is_now_unless_given(bench: Bench) -> None:
    bench.file("a", b"x")

    answer = bench.desk.ok("push", str(bench.folder), bench.target)

    assert answer.out == "2026-06-01T12-00-00\n"
    assert "words/2026-06-01T12-00-00/a" in bench.names()


def test_json_says_what_was_sent(bench: Bench) -> None:
    bench.file("a", b"xyz")

    assert bench.push(1, "-o", "json").json == {
        "schema_version": 1,
        "version": v(1),
        "source": f"s3://{bench.bucket}/words/{v(1)}/",
        "manifest": f"s3://{bench.bucket}/words/{v(1)}.hydra.json",
        "files": 1,
        "bytes": 3,
        "sent_bytes": 3,
    }


def test_one_file_goes_to_one_object(bench: Bench) -> None:
    bench.file("local.bin", b"weights")
    target = f"s3://{bench.bucket}/model/{{VERSION_PLACEHOLDER}}/weights.bin"

    answer = bench.desk.run("push", str(bench.folder / "local.bin"), target, "--version", v(1))

    assert answer.code == 0, answer
    assert bench.names() == [f"model/{v(1)}/weights.bin", f"model/{v(1)}/weights.bin.hydra.json"]
    assert [f.path for f in bench.manifest(f"model/{v(1)}/weights.bin.hydra.json").files] == ["weights.bin"]


def test_pushing_again_sends_nothing(bench: Bench) -> None:
    some_files(bench)
    bench.push()
    before = bench.body(f"words/{v(1)}.hydra.json")
    bench.desk.environ["HYDRA_WHO"] = "another"

    again = bench.push(1, "-o", "json")

    assert again.json["sent_bytes"] == 0
    assert bench.body(f"words/{v(1)}.hydra.json") == before


def test_data_of_another_tool_is_described_without_being_sent(bench: Bench) -> None:
    bodies = some_files(bench)
    for path, body in bodies.items():
        bench.client.put_object(Bucket=bench.bucket, Key=f"words/{v(1)}/{path}", Body=body)

    assert bench.push(1, "-o", "json").json["sent_bytes"] == 0
    assert bench.manifest().complete
    assert [f.path for f in bench.manifest().files] == sorted(bodies)


@pytest.mark.parametrize("change", ["content", "more", "less", "longer"])
def test_what_was_pushed_never_changes(bench: Bench, change: str) -> None:
    some_files(bench)
    bench.push()
    before = {key: bench.body(key) for key in bench.names()}
    if change == "less":
        (bench.folder / "a").unlink()
    else:
        bench.file({"more": "new"}.get(change, "a"), {"content": b"eno"}.get(change, b"longer"))

    answer = bench.push()

    assert answer.code == 5, answer
    assert "new version" in answer.err
    assert {key: bench.body(key) for key in bench.names()} == before


def test_foreign_objects_are_in_the_way(bench: Bench) -> None:
    bench.file("a", b"x")
    bench.s3.put(bench.bucket, {f"words/{v(1)}/z": b"whose?", f"words/{v(1)}/": b""})

    answer = bench.push()

    assert (answer.code, f"words/{v(1)}/z" in answer.err) == (5, True), answer
    assert bench.names() == [f"words/{v(1)}/", f"words/{v(1)}/z"]


# hydra, killed some time after it began to send the n-th part: at the latest when it would send another one
KILLED = """
import os, signal, sys, threading, time
from handlers.adapters.uploads import S3Uploads
left, after_s, send = int(sys.argv.pop(1)), float(sys.argv.pop(1)), S3Uploads.write_part
def write_part(*args):
    global left
    left -= 1
    if left:
        return send(*args)
    threading.Timer(after_s, os.kill, (os.getpid(), signal.SIGKILL)).start()
    send(*args)
    time.sleep(600)
S3Uploads.write_part = write_part
from hydra_cli.main import main
main()
"""


@pytest.mark.timeout(400)  # six processes one after the other, on a machine that does other things
def test_a_killed_push_goes_on_where_it_was(bench: Bench, s3: S3) -> None:
    """`kill -9` five times, each when a little more has arrived; what arrived is not sent again."""
    body = os.urandom(256 * MIB)
    bench.file("big", body)
    for number in range(60):
        bench.file(f"small/{number:02}", os.urandom(1000))
    options = ["--version", v(1), "--streams", "1", "-o", "json"]
    push = ["push", str(bench.folder), bench.target, *options]
    environ = {**os.environ, **s3.environment(), "HOME": str(bench.desk.folder)}
    chance, arrived = random.Random(4), list[int]()

    for _ in range(5):
        nth, after_s = chance.randint(2, 3), chance.uniform(0, 0.2)
        command = [sys.executable, "-c", KILLED, str(nth), str(after_s), *push]
        ended = subprocess.run(command, env=environ, capture_output=True, text=True)
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        before, arrived = arrived, bench.arrived()
        assert len(arrived) >= len(before) + nth - 1
        assert not bench.manifest().complete

    done = subprocess.run([*HYDRA, *push], env=environ, check=True, capture_output=True)

    total = sum(path.stat().st_size for path in bench.folder.rglob("*") if path.is_file())
    assert json.loads(done.stdout)["sent_bytes"] <= total - sum(arrived)
    assert bench.manifest().complete
    assert bench.body(f"words/{v(1)}/big") == body
    assert not bench.client.list_multipart_uploads(Bucket=bench.bucket).get("Uploads")


def test_only_missing_parts_of_a_large_file_are_sent(bench: Bench) -> None:
    body = os.urandom(64 * MIB)
    bench.file("big", body)
    real, to = S3Uploads(S3Objects(environ=bench.s3.environment())), Source(bench.bucket, f"words/{v(1)}/big")
    upload = real.begin(to)
    for number in (1, 3):
        part = body[(number - 1) * send.PART_BYTES :][: send.PART_BYTES]
        real.write_part(to, upload, number, part, send.crc64nvme(part))
    real.write_part(to, upload, 2, b"other" * MIB, send.crc64nvme(b"other" * MIB))
    real.write_part(to, upload, 9, b"beyond", send.crc64nvme(b"beyond"))

    assert bench.push(1, "-o", "json").json["sent_bytes"] == 2 * send.PART_BYTES
    assert bench.body(f"words/{v(1)}/big") == body


def test_a_push_that_did_not_end_may_be_replaced_by_other_content(bench: Bench) -> None:
    bench.file("a", b"new")
    marker = pushed.seal(Pushed(complete=False, who="ann"))
    bench.s3.put(bench.bucket, {f"words/{v(1)}/a": b"old", f"words/{v(1)}.hydra.json": marker})

    assert bench.push().code == 0
    assert bench.body(f"words/{v(1)}/a") == b"new"
    assert bench.manifest().complete


def test_a_file_that_changes_meanwhile_is_refused_by_name(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.file("a", b"stays")
    bench.file("big", os.urandom(48 * MIB))
    hashed, once = send._hashed, threading.Event()

    def change(body: bytes) -> Any:
        if not once.is_set():
            once.set()
            bench.file("big", os.urandom(48 * MIB))
        return hashed(body)

    monkeypatch.setattr(send, "_hashed", change)

    answer = bench.push()

    assert answer.code == 11, answer
    assert f"{bench.folder}/big changes while it is pushed" in answer.err
    assert f"--version {v(1)} goes on" in answer.err
    assert not bench.manifest().complete
    assert bench.push().code == 0
    assert bench.body(f"words/{v(1)}/big") == (bench.folder / "big").read_bytes()


def test_versions_of_a_bucket_that_keeps_them_are_noted(tmp_path: Path, s3_versions: S3) -> None:
    bench = Bench(tmp_path, s3_versions, s3_versions.versioned_bucket())
    bench.file("a", b"x")
    bench.file("big", os.urandom(33 * MIB))

    bench.push()

    for file in bench.manifest().files:
        head = bench.client.head_object(Bucket=bench.bucket, Key=f"words/{v(1)}/{file.path}")
        assert file.version_id == head["VersionId"]
    bench.client.put_object(Bucket=bench.bucket, Key=f"words/{v(2)}/a", Body=b"x")
    (bench.folder / "big").unlink()
    bench.push(2)
    [file] = bench.manifest(f"words/{v(2)}.hydra.json").files
    head = bench.client.head_object(Bucket=bench.bucket, Key=f"words/{v(2)}/a")
    assert file.version_id == head["VersionId"]


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("link", "symlink", "is a symbolic link"),
        ("folder-link", "folder symlink", "is a symbolic link"),
        ("pipe", "pipe", "is neither a file nor a folder"),
        ("hollow", "folder", "is an empty folder"),
        ("new\nline", "file", "control characters"),
        (
            "x" * 200 + "/" + "y" * 250 + "/" + "z" * 250 + "/" + "z" * 250 + "/" + "z" * 250,
            "file",
            "longer than",
        ),
        ("data.hydra.json", "file", "only manifest objects"),
        ("secret", "unreadable", "cannot be read"),
    ],
)
def test_what_cannot_be_pushed_is_refused_before_anything_is_sent(
    bench: Bench, name: str, kind: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.file("a", b"x")
    path = bench.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "symlink":
        path.symlink_to(bench.folder / "a")
    elif kind == "folder symlink":
        path.symlink_to(bench.folder)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"x")
    if kind == "unreadable":
        real = os.open

        def refuse(file: Any, *more: Any) -> int:
            if str(file) == str(path):
                raise PermissionError(13, "Permission denied")
            return real(file, *more)

        monkeypatch.setattr(os, "open", refuse)

    answer = bench.push()

    assert (answer.code, said in answer.err) == (2, True), answer
    if kind != "unreadable":
        assert bench.names() == []


def test_a_name_that_is_not_utf8_is_refused(bench: Bench) -> None:
    bench.file("a", b"x")
    with open(os.fsencode(bench.folder) + b"/\xff\xfe", "wb") as file:  # noqa: PTH123 - no Path has this name
        file.write(b"x")

    answer = bench.push()

    assert (answer.code, "is not UTF-8" in answer.err) == (2, True), answer


@pytest.mark.parametrize(
    ("what", "target", "said"),
    [
        ("data", "s3://{bucket}/words/{VERSION_PLACEHOLDER}", "TARGET must end in /"),
        ("data/a", "s3://{bucket}/words/{VERSION_PLACEHOLDER}/", "without a / at its end"),
        ("data", "s3://{bucket}/words/", "must contain {VERSION_PLACEHOLDER}"),
        ("data", "words/{VERSION_PLACEHOLDER}/", "TARGET"),
        ("data", "gs://words/{VERSION_PLACEHOLDER}/", "s3:// only"),
        ("nothing", "s3://{bucket}/words/{VERSION_PLACEHOLDER}/x", "No such file"),
        ("hollow", "s3://{bucket}/words/{VERSION_PLACEHOLDER}/", "0 bytes in all"),
    ],
)
def test_a_target_that_does_not_fit_is_refused(bench: Bench, what: str, target: str, said: str) -> None:
    bench.file("a", b"x")
    (bench.desk.folder / "hollow").mkdir()

    answer = bench.desk.run(
        "push", str(bench.desk.folder / what), target.replace("{bucket}", bench.bucket), "--version", v(1)
    )

    assert (answer.code, said in answer.err) == (2, True), answer
    assert bench.names() == []


def test_without_s3_nothing_is_said_but_that(bench: Bench) -> None:
    bench.file("a", b"x")
    bench.desk.store = S3Objects(
        stall_s=1,
        environ={
            "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
        },
    )

    answer = bench.push()

    assert (answer.code, answer.out) == (10, "")


def test_a_part_of_every_size_fits_into_an_upload() -> None:
    for size in (1, 17 * MIB, 10_000 * 16 * MIB, 10_000 * 16 * MIB + 1, 5 * 1024**4):
        unit = send._part_bytes(size)
        assert unit % CHUNK == 0
        assert -(-size // unit) <= send.MOST_PARTS
