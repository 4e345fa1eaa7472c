"""Several stores at once: two clouds with a key each, folders that are allowed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from handlers.adapters.ports import Source, read_object
from handlers.adapters.send import crc64nvme
from handlers.adapters.stores import Stores, StoresUploads
from handlers.core.errors import Denied, Integrity, SourceNotReady, Usage
from handlers.core.source_table import parse
from handlers.core.stored import check_of
from tests.servers import S3, s3_server


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with s3_server(tmp_path_factory.mktemp("other-s3")) as server:
        yield server


def content(stores: Stores, text: str) -> bytes:
    source = Source.parse(text)
    return read_object(stores, source, stores.head(source))


def test_two_clouds_with_a_key_each(s3: S3, other: S3) -> None:
    mine, theirs = s3.bucket(), other.bucket()
    s3.put(mine, {"x": b"mine"})
    other.put(theirs, {"x": b"theirs"})
    environ = s3.environment() | {
        "THEIR_KEY": other.server.access_key,
        "THEIR_SECRET": other.server.secret_key,
    }
    row = {
        "endpoint": other.endpoint,
        "access_key_id_env": "THEIR_KEY",
        "secret_access_key_env": "THEIR_SECRET",
    }
    stores = Stores(parse({f"s3://{theirs}/": row}, "sources"), environ)

    assert content(stores, f"s3://{mine}/x") == b"mine"
    assert content(stores, f"s3://{theirs}/x") == b"theirs"
    assert [info.key for info in stores.list(Source(theirs, ""))] == ["x"]


def test_pushes_go_to_the_cloud_of_their_row(s3: S3, other: S3) -> None:
    bucket = other.bucket()
    environ = s3.environment() | {"KEY": other.server.access_key, "SECRET": other.server.secret_key}
    row = {"endpoint": other.endpoint, "access_key_id_env": "KEY", "secret_access_key_env": "SECRET"}
    stores = Stores(parse({f"s3://{bucket}/": row}, "sources"), environ)

    StoresUploads(stores).write(Source(bucket, "x"), b"pushed", crc64nvme(b"pushed"))

    assert content(stores, f"s3://{bucket}/x") == b"pushed"


def test_a_file_of_credentials_goes_before_the_keys_of_the_process(
    s3: S3, other: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = other.bucket()
    other.put(bucket, {"x": b"theirs"})
    file = tmp_path / "credentials"
    file.write_text(
        f"[theirs]\naws_access_key_id = {other.server.access_key}\n"
        f"aws_secret_access_key = {other.server.secret_key}\n"
    )
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    row = {"endpoint": other.endpoint, "credentials_file": str(file), "profile": "theirs"}

    stores = Stores(parse({f"s3://{bucket}/": row}, "sources"))

    assert content(stores, f"s3://{bucket}/x") == b"theirs"
    assert [info.key for info in stores.list(Source(bucket, ""))] == ["x"]


def test_the_key_of_one_cloud_is_not_for_the_other(s3: S3, other: S3, tmp_path: Path) -> None:
    """A row that names credentials which do not work must not fall back to those of the process."""
    bucket = other.bucket()
    (tmp_path / "empty").write_text("")
    row = {"endpoint": other.endpoint, "credentials_file": str(tmp_path / "empty")}
    stores = Stores(parse({f"s3://{bucket}/": row}, "sources"), s3.environment())

    with pytest.raises(Denied, match="no credentials"):
        stores.head(Source(bucket, "x"))


def test_no_link_leads_out_of_a_folder(tmp_path: Path) -> None:
    allowed = tmp_path / "allowed"
    (allowed / "sub").mkdir(parents=True)
    (tmp_path / "secret").write_text("secret")
    (allowed / "link").symlink_to(tmp_path / "secret")
    (allowed / "sub" / "up").symlink_to(tmp_path)
    stores = Stores(parse({f"file://{allowed}/": {}}, "sources"))

    for path in ("link", "sub/up/secret"):
        with pytest.raises((Usage, SourceNotReady), match=path):
            stores.head(Source.parse(f"file://{allowed}/{path}"))
    with pytest.raises(Usage, match="links are not followed"):
        [*stores.list(Source.parse(f"file://{allowed}/sub/"))]


def test_a_file_that_is_rewritten_in_mid_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "big"
    path.write_bytes(os.urandom(3 * 1024**2))
    stores = Stores(parse({f"file://{tmp_path}/": {}}, "sources"))
    source = Source.parse(f"file://{path}")
    info = stores.head(source)

    pieces = stores.read_range(source, info.etag, 0, info.size)
    next(pieces)
    with path.open("r+b") as file:
        file.write(b"other")

    with pytest.raises(Integrity, match="replaced"):
        list(pieces)


def test_a_device_or_a_folder_is_no_object(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    stores = Stores(parse({f"file://{tmp_path}/": {}}, "sources"))

    for name in ("pipe", "folder", "none", "none/below"):
        with pytest.raises(SourceNotReady, match=name):
            stores.head(Source.parse(f"file://{tmp_path}/{name}"))


def test_etags_of_other_stores_are_no_checksums(tmp_path: Path) -> None:
    """What looks like an MD5 there may be anything: nodes would refuse data that is right."""
    (tmp_path / "x").write_bytes(b"x")
    stores = Stores(parse({f"file://{tmp_path}/": {}}, "sources"))
    uploads, source = StoresUploads(stores), Source.parse(f"file://{tmp_path}/x")

    stored = uploads.stored(source)

    assert (stored.size, check_of(stored)) == (1, "")
    with pytest.raises(Usage, match="s3:// only"):
        uploads.write(source, b"x", "")
