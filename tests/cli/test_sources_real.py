"""One release out of two clouds, a web server and a folder: published, fetched by a node, and without one."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from handlers.adapters.stores import Stores
from handlers.core import codec, keys, source_table
from handlers.core.model import Release
from handlers.core.version import ReleaseId
from tests.cli.desk import PLACES, Desk, v
from tests.handlers.sync_node import Node
from tests.servers import S3, Consul, s3_server, wait_until
from tests.web_servers import Web, web_server

HYDRA = (sys.executable, "-m", "hydra_cli.main")
TEMPLATE = """
DATA_TEMPLATE = {{
    "one": {{"SourcePath": "s3://{one}/one/{{VERSION_PLACEHOLDER}}/", "Placement": DISK}},
    "two": {{"SourcePath": "s3://{two}/{{VERSION_PLACEHOLDER}}/two.bin", "Placement": DISK}},
    "web": {{"SourcePath": "https://{web}/{{VERSION_PLACEHOLDER}}/web.bin", "Placement": DISK}},
    "near": {{"SourcePath": "file://{near}/{{VERSION_PLACEHOLDER}}/", "Placement": DISK}},
}}
"""


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with s3_server(tmp_path_factory.mktemp("other-s3")) as server:
        yield server


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with web_server(tmp_path_factory.mktemp("web")) as server:
        yield server


@dataclass
class Many:
    """A person, with what their configuration says of sources, and what the release has."""

    desk: Desk
    stores: Stores
    toml: str
    environ: dict[str, str]
    content: dict[str, bytes]


@pytest.fixture
def many(tmp_path: Path, s3: S3, other: S3, web: Web) -> Many:
    one, two, near = s3.bucket(), other.bucket(), tmp_path / "near"
    names = ("one/a", "one/sub/b", "two/two.bin", "web/web.bin", "near/n")
    content = {name: os.urandom(300_000) for name in names}
    s3.put(one, {f"one/{v(1)}/a": content["one/a"], f"one/{v(1)}/sub/b": content["one/sub/b"]})
    other.put(two, {f"{v(1)}/two.bin": content["two/two.bin"]})
    for path, body in (
        (web.folder / v(1) / "web.bin", content["web/web.bin"]),
        (near / v(1) / "n", content["near/n"]),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    rows = {
        f"s3://{two}/": {
            "endpoint": other.endpoint,
            "access_key_id_env": "TWO_KEY",
            "secret_access_key_env": "TWO_SECRET",
        },
        f"https://{web.host}/": {"ca_file": str(web.ca_file)},
        f"file://{near}/": {},
    }
    environ = s3.environment() | {"TWO_KEY": other.server.access_key, "TWO_SECRET": other.server.secret_key}
    stores = Stores(source_table.parse(rows, "sources"), environ)
    desk = Desk(tmp_path, store=stores)
    desk.init()
    desk.template(TEMPLATE.format(one=one, two=two, web=web.host, near=near))
    toml = "\n".join(
        "\n".join([f"[environments.prod.sources.'{prefix}']", *(f"{k} = '{x}'" for k, x in row.items())])
        for prefix, row in rows.items()
    )
    return Many(desk, stores, toml, environ, content)


def published(many: Many, *args: str) -> Release:
    template = str(many.desk.folder / "template.py")
    many.desk.ok("publish", template, "--channel", PLACES, "--version", v(1), *args)
    return codec.decode(Release, many.desk.value(keys.release(PLACES, v(1))) or b"", "header")


def tree(folder: Path) -> dict[str, bytes]:
    files = (p for p in folder.rglob("*") if p.is_file() and ".hydra" not in p.relative_to(folder).parts)
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def test_a_release_out_of_four_stores_is_published_and_fetched(many: Many, tmp_path: Path) -> None:
    header = published(many)

    many.desk.ok("get", PLACES, str(tmp_path / "here"))

    assert {name: d.integrity for name, d in header.datasets.items()} == {
        "one": "checksum",
        "two": "checksum",
        "web": "size",
        "near": "size",
    }
    assert tree(tmp_path / "here") == many.content


def test_its_bytes_can_be_described_without_writing_to_other_stores(many: Many, tmp_path: Path) -> None:
    header = published(many, "--digest")

    many.desk.ok("get", PLACES, str(tmp_path / "here"))

    assert {d.integrity for d in header.datasets.values()} == {"digest"}
    assert tree(tmp_path / "here") == many.content


def test_a_node_fetches_it(many: Many, tmp_path: Path) -> None:
    published(many)
    release = ReleaseId.of(PLACES, v(1))
    node = Node(tmp_path / "root", kv=many.desk.kv, objects=many.stores)
    node.digests[release] = codec.digest(many.desk.value(keys.release(PLACES, v(1))) or b"")
    node.desire(1, release)

    node.run()

    found = node.content(release).items()
    assert {f"{name}/{p}": body for name, files in found for p, body in files.items()} == many.content


def test_a_node_that_may_not_read_one_store_says_which(many: Many, tmp_path: Path) -> None:
    published(many)
    release = ReleaseId.of(PLACES, v(1))
    node = Node(tmp_path / "root", kv=many.desk.kv, objects=Stores(environ=many.environ))
    node.digests[release] = codec.digest(many.desk.value(keys.release(PLACES, v(1))) or b"")
    node.desire(1, release)

    node.run()

    assert "file://" in node.status(release).reason
    assert "configuration" in node.status(release).reason


def test_without_a_version_a_web_server_cannot_be_published_from(many: Many) -> None:
    answer = many.desk.run("publish", str(many.desk.folder / "template.py"), "--channel", PLACES)

    assert answer.code == 2
    assert "--version" in answer.err


def test_what_lies_on_s3_becomes_a_channel_with_history(tmp_path: Path, consul: Consul, s3: S3) -> None:
    bucket = s3.bucket()
    for day in (1, 2, 3):
        s3.put(bucket, {f"words/{v(day)}/list": b"x" * day})
    desk = Desk(tmp_path, consul=consul.kv(), store=Stores(environ=s3.environment()))
    desk.ok("init", "--env", "prod")
    command = ("channel", "import", f"s3://{bucket}/words/{{VERSION_PLACEHOLDER}}/", "--channel", PLACES)

    first = desk.ok(*command, "-o", "json").json
    second = desk.ok(*command, "-o", "json").json

    assert [(row["version"], row["sequence"]) for row in first["versions"]] == [
        (v(1), 1),
        (v(2), 2),
        (v(3), 3),
    ]
    assert (first["head"], second["changed"]) == (v(3), False)
    desk.ok("get", f"{PLACES}@{v(2)}", str(tmp_path / "here"))
    assert tree(tmp_path / "here") == {"words/list": b"xx"}


def test_the_configuration_file_of_a_person_names_the_same(
    many: Many, tmp_path: Path, consul: Consul
) -> None:
    """The whole program, as a person starts it: nothing is handed in."""
    many.desk.consul = consul.kv()
    many.desk.ok("init", "--env", "prod")
    published_to(many, consul)
    config = tmp_path / "XDG_CONFIG_HOME" / "hydra"
    config.mkdir(parents=True)
    (config / "config.toml").write_text(many.toml)
    environ = program_environment(many, consul, tmp_path)

    answer = hydra(environ, "get", PLACES, str(tmp_path / "here"))
    doctor = hydra(environ, "doctor", "--env", "prod")

    assert answer.returncode == 0, answer.stderr
    assert tree(tmp_path / "here") == many.content
    found = [line for line in doctor.stdout.splitlines() if "source (" in line]
    assert len(found) == 3
    assert all(line.startswith("ok") for line in found), doctor.stdout


def hydra(environ: dict[str, str], *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*HYDRA, *args], env=environ, capture_output=True, text=True)


def published_to(many: Many, consul: Consul) -> None:
    template = str(many.desk.folder / "template.py")
    many.desk.ok("publish", template, "--channel", PLACES, "--version", v(1), "--digest")
    assert consul.kv().get(keys.head(PLACES))[0]


def program_environment(many: Many, consul: Consul, tmp_path: Path) -> dict[str, str]:
    own = {name: str(tmp_path / name) for name in ("XDG_CONFIG_HOME", "HOME", "HYDRA_ROOT")}
    return {"PATH": os.environ["PATH"], **many.environ, **consul.environment(), **own}


def test_a_killed_get_is_finished_by_the_next(many: Many, tmp_path: Path, consul: Consul, s3: S3) -> None:
    """kill -9 at five moments; in between the folder has nothing that is not whole."""
    bucket, body, desk = s3.bucket(), os.urandom(64 * 1024**2), many.desk
    s3.put(bucket, {f"big/{v(1)}/big": body, f"big/{v(1)}/small": b"small"})
    desk.consul = consul.kv()
    desk.ok("init", "--env", "prod")
    dataset = {"SourcePath": f"s3://{bucket}/big/{{VERSION_PLACEHOLDER}}/", "Placement": "DISK"}
    template = desk.template(json.dumps({"big": dataset}), "big.json")
    desk.ok("publish", template, "--channel", PLACES, "--digest")
    environ, folder = program_environment(many, consul, tmp_path), tmp_path / "here"
    seed = random.randrange(2**32)
    whole, chance, killed = {"big/big": body, "big/small": b"small"}, random.Random(seed), 0
    for _ in range(5):
        hit = killed_at(environ, folder, chance.uniform(0, len(body)))
        assert tree(folder) in ({}, whole), f"seed {seed}"
        killed += hit
        if not hit:
            shutil.rmtree(folder)  # it was faster, and there is something to fetch for the next one

    answer = hydra(environ, "get", PLACES, str(folder))

    assert killed, f"seed {seed}"
    assert answer.returncode == 0, (seed, answer.stderr)
    assert tree(folder) == whole, f"seed {seed}"


def killed_at(environ: dict[str, str], folder: Path, limit: float) -> bool:
    """Kill a download when so many bytes are on their way; whether it was not faster."""
    with subprocess.Popen(
        [*HYDRA, "get", PLACES, str(folder)], env=environ, stdout=subprocess.DEVNULL
    ) as run:
        wait_until(lambda: run.poll() is not None or staged(folder) >= limit)
        run.send_signal(signal.SIGKILL)
    return run.returncode == -signal.SIGKILL


def staged(folder: Path) -> int:
    """Bytes on their way."""
    found = 0
    for above, _, names in os.walk(folder / ".hydra"):  # passes over folders that go meanwhile
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                found += (Path(above) / name).lstat().st_blocks * 512
    return found
