"""`hydra publish` on a real Consul and a real S3 server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from handlers.adapters.objects import S3Objects
from handlers.adapters.ports import MAX_TXN_BYTES, Cas
from handlers.adapters.txn import op_bytes
from handlers.core import codec, keys, model
from hydra_cli import acl
from tests.cli.desk import PLACES, TWO_DATASETS, Desk, v
from tests.servers import S3, Consul

HYDRA = (sys.executable, "-m", "hydra_cli.main")


@pytest.fixture
def real(tmp_path: Path, consul: Consul, s3: S3) -> Desk:
    """A command line on real servers; two datasets in two versions are on S3."""
    desk = Desk(tmp_path, consul=consul.kv(), store=S3Objects(environ=s3.environment()))
    bucket = s3.bucket()
    for day in (1, 2):
        s3.put(bucket, {f"index/{v(day)}/{name}": name.encode() * day for name in ("a", "b/c")})
        s3.put(
            bucket,
            {
                f"index/{v(day)}/none": b"",
                f"index/{v(day)}/folder/": b"",
                f"ranks/{v(day)}/ranks.bin": b"r" * day,
            },
        )
    desk.template(TWO_DATASETS.replace("//data/", f"//{bucket}/"))
    desk.ok("init", "--env", "prod")
    return desk


def publish(desk: Desk, *args: str) -> tuple[str, ...]:
    return ("publish", str(desk.folder / "template.py"), "--channel", PLACES, *args)


def test_release_is_found_published_and_read_back(real: Desk, consul: Consul) -> None:
    answer = real.ok(*publish(real, "-o", "json")).json

    assert (answer["version"], answer["sequence"], answer["files"]) == (v(2), 1, 4)
    kv = consul.kv()
    manifest, _ = kv.get(keys.manifest(PLACES, v(2)))
    assert manifest is not None
    assert codec.digest(manifest.value) == answer["manifest"]["digest"]
    files = codec.decode(model.Manifest, manifest.value, "manifest").files
    assert [(f.path, f.size) for f in files["index"]] == [("a", 2), ("b/c", 6), ("none", 0)]
    assert all(f.etag and '"' not in f.etag for found in files.values() for f in found)
    assert real.ok(*publish(real, "-o", "json")).json["result"] == "unchanged"
    assert real.ok(*publish(real, "--version", v(1), "-o", "json")).json["sequence"] == 2


def test_transaction_of_a_dry_run_is_what_consul_takes(real: Desk, consul: Consul) -> None:
    """Any language can publish: the body goes to /v1/txn as it stands, and a second time it is a conflict."""
    body = real.ok(*publish(real, "--dry-run", "-o", "json")).json["txn"]
    curl = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "-X", "PUT", "-d", json.dumps(body)]

    codes = [subprocess.check_output([*curl, f"http://{consul.address}/v1/txn"], text=True) for _ in range(2)]

    assert codes == ["200", "409"]
    assert real.ok(*publish(real, "-o", "json")).json["result"] == "unchanged"


def test_largest_inline_list_of_files_fits_into_a_real_transaction(tmp_path: Path, consul: Consul) -> None:
    """Just below the limit the list stays in KV, just above it becomes an object; Consul takes both."""
    desk = Desk(tmp_path, consul=consul.kv())
    desk.ok("init", "--env", "prod")
    for day, count in ((1, 3_200), (2, 4_200)):
        desk.objects.write(f"s3://data/ranks/{v(day)}/ranks.bin", b"x")
        for number in range(count):
            desk.objects.write(f"s3://data/index/{v(day)}/{number:022d}", b"x")

    inline = desk.run("publish", desk.template(), "--channel", PLACES, "--version", v(1), "-o", "json")
    spilled = desk.run("publish", desk.template(), "--channel", PLACES, "-o", "json")

    assert (inline.code, spilled.code) == (0, 0), (inline, spilled)
    assert "object" not in inline.json["manifest"]
    assert 0.9 * MAX_TXN_BYTES < inline.json["manifest"]["bytes"] < MAX_TXN_BYTES
    assert "object" in spilled.json["manifest"]
    entry, _ = consul.kv().get(keys.manifest(PLACES, v(1)))
    assert entry is not None
    assert op_bytes(Cas(entry.key, entry.value, 0)) > 0.9 * MAX_TXN_BYTES


def environment(real: Desk, consul: Consul, s3: S3, **more: str) -> Mapping[str, str]:
    return os.environ | consul.environment() | s3.environment() | {"HOME": str(real.folder), **more}


def test_two_publishers_at_the_same_time_lose_nobodys_release(real: Desk, consul: Consul, s3: S3) -> None:
    """Two real processes, several rounds: the loser is told, and one more try brings its release in."""
    template = (real.folder / "template.py").read_text()
    bucket = template.partition("s3://")[2].partition("/")[0]
    sequences = []
    for round_number in range(3):
        days = (3 + 2 * round_number, 4 + 2 * round_number)
        for day in days:
            s3.put(bucket, {f"index/{v(day)}/a": b"x", f"ranks/{v(day)}/ranks.bin": b"y"})
        commands = [[*HYDRA, *publish(real, "--version", v(day))] for day in days]
        environ = environment(real, consul, s3)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        racing = [subprocess.Popen(c, env=environ, text=True, **pipes) for c in commands]  # type: ignore[call-overload]
        outputs = [process.communicate(timeout=60) for process in racing]
        codes = sorted(process.returncode for process in racing)
        assert codes in ([0, 0], [0, 5]), outputs
        for command, process in zip(commands, racing, strict=True):
            if process.returncode == 5:
                subprocess.run(command, env=environ, check=True, capture_output=True)
        shown = real.ok("channel", "show", PLACES, "-o", "json").json
        found = {release["version"]: release["sequence"] for release in shown["releases"]}
        assert {v(day) for day in days} <= set(found)
        sequences += [found[v(day)] for day in days]

    assert sorted(sequences) == list(range(1, 7))


def test_publisher_of_one_channel_may_publish_there_and_nowhere_else(
    tmp_path: Path, consul_acl: Consul, s3: S3, real: Desk
) -> None:
    everything = Desk(tmp_path, consul=consul_acl.kv(), store=real.store)
    everything.ok("init", "--env", "prod")
    token = consul_acl.token_for(acl.render("publisher", channel=PLACES))
    publisher = Desk(tmp_path, consul=consul_acl.kv(token), store=real.store)

    assert publisher.ok(*publish(real, "--version", v(1), "-o", "json")).json["sequence"] == 1
    assert publisher.ok(*publish(real, "--wait", "--timeout", "30s", "-o", "json")).json["sequence"] == 2
    other = publisher.run("publish", str(tmp_path / "template.py"), "--channel", "prod/search/other")

    assert (other.code, "Permission denied" in other.err) == (4, True)
    assert publisher.run("channel", "delete", PLACES).code == 0
    assert publisher.run("reject", PLACES, v(1)).code in (2, 4)
    assert consul_acl.kv().get(keys.head("prod/search/other"))[0] is None  # type: ignore[arg-type]


def test_nobody_may_do_nothing(tmp_path: Path, consul_acl: Consul, real: Desk) -> None:
    nobody = Desk(tmp_path, consul=consul_acl.kv(""), store=real.store)

    assert nobody.run(*publish(real)).code == 4
    assert nobody.run("status").code == 4


def test_no_object_store_is_unavailable(real: Desk, tmp_path: Path) -> None:
    environ = {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
    }
    real.store = S3Objects(environ=environ)

    answer = real.run(*publish(real))

    assert answer.code == 10
    assert "Traceback" not in answer.err


def test_missing_bucket_is_a_source_that_is_not_ready(real: Desk) -> None:
    text = TWO_DATASETS.replace("//data/", "//no-such-bucket-here/")

    answer = real.run("publish", real.template(text, "other.py"), "--channel", PLACES)

    assert answer.code == 11, answer


def test_object_that_is_asked_for_and_missing_is_named(real: Desk) -> None:
    answer = real.run(*publish(real, "--version", v(9)))

    assert (answer.code, "has no object below s3://" in answer.err) == (11, True), answer
