"""Sources are hostile text from releases: what they may be, and what a table of sources says of them."""

from __future__ import annotations

from typing import Any

import pytest

from handlers.core.errors import HydraError, Malformed, Usage
from handlers.core.source import Source
from handlers.core.source_table import parse


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/key",
        "s3://bucket/p/q/",
        "gs://a_bucket.of/ours/x",
        "az://container-1/p/",
        "https://data.example.net/a%20b/~x(1).bin",
        "https://data.example.net:8443/x",
        "http://127.0.0.1:8080/x",
        "https://[::1]:443/x",
        "file:///srv/data/x",
        "file:///srv/data/",
    ],
)
def test_a_source_reads_back_as_it_is_written(text: str) -> None:
    source = Source.parse(text)

    assert str(source) == text
    assert source.is_prefix == text.endswith("/")
    assert Source.parse(str(source)) == source


@pytest.mark.parametrize(
    "text",
    [
        "",
        "bucket/key",
        "ftp://host/key",
        "S3://bucket/key",
        "s3:/bucket/key",
        "s3://Bucket/key",
        "s3://bucket",
        "s3://bucket/",
        "s3://b/key",
        "s3://bucket//key",
        "s3://bucket/a//b",
        "s3://bucket/../key",
        "s3://bucket/a/./b/",
        "s3://bucket/a\nb",
        "gs://bucket/a/../b",
        "gs://UP/x",
        "az://-container/x",
        "az://con--tainer/x",
        "az://co/x",
        "https://host/",
        "https://host/folder/",
        "https://host/a/../b",
        "https://host/a/%2e%2E/b",
        "https://host/a%2F%2Fb",
        "https://host/a\\b",
        "https://host/a\r\nX-Other: b",
        "https://host:port/x",
        "https://HOST/x",
        "https://ho st/x",
        "https:///x",
        "file://host/x",
        "file:///",
        "file:////x",
        "file:///srv/../etc/shadow",
        "file:///srv/a\x00b",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(Usage, match="source"):
        Source.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "https://user:SECRET@host/x",
        "https://SECRET@host/x",
        "https://host/x?X-Amz-Signature=SECRET",
        "https://host/x#SECRET",
        "https://user:SECRET@host/x?sig=SECRET",
    ],
)
def test_an_address_with_a_secret_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(Usage, match="header_file") as caught:
        Source.parse(text)

    assert "SECRET" not in str(caught.value)
    assert "host/x" in str(caught.value)


ROWS = {
    "s3://": {"region": "eu-west-1"},
    "s3://models/": {"endpoint": "https://one.example"},
    "s3://models/private/": {"endpoint": "https://two.example", "profile": "private"},
    "https://data.example.net/": {"header_file": "/etc/hydra/header"},
    "file:///srv/data/": {},
}


@pytest.mark.parametrize(
    ("source", "prefix"),
    [
        ("s3://other/x", "s3://"),
        ("s3://models/x", "s3://models/"),
        ("s3://models/private", "s3://models/"),
        ("s3://models/private/x/y", "s3://models/private/"),
        ("s3://models-2/x", "s3://"),
        ("https://data.example.net/x", "https://data.example.net/"),
        ("https://data.example.net.evil.example/x", "https://"),
        ("file:///srv/data/x", "file:///srv/data/"),
        ("gs://bucket/x", "gs://"),
    ],
)
def test_the_longest_prefix_wins(source: str, prefix: str) -> None:
    assert parse(ROWS, "sources").of(Source.parse(source)).prefix == prefix


@pytest.mark.parametrize(
    "source", ["http://host/x", "file:///etc/shadow", "file:///srv/data-2/x", "file:///srv/data"]
)
def test_plain_web_servers_and_folders_have_to_be_named(source: str) -> None:
    with pytest.raises(Usage, match="read only where the configuration names it"):
        parse(ROWS, "sources").of(Source.parse(source))


def test_a_row_becomes_variables_and_leaves_out_the_credentials_of_others() -> None:
    environ = {
        "AWS_ACCESS_KEY_ID": "of-cloud-1",
        "AWS_SECRET_ACCESS_KEY": "secret-1",
        "AWS_SESSION_TOKEN": "token-1",
        "AWS_ENDPOINT_URL_S3": "https://cloud-1",
        "AWS_REGION": "one",
        "TWO_KEY": "of-cloud-2",
        "TWO_SECRET": "secret-2",
        "HOME": "/home/x",
    }
    row = {
        "endpoint": "https://cloud-2",
        "access_key_id_env": "TWO_KEY",
        "secret_access_key_env": "TWO_SECRET",
    }

    variables = parse({"s3://two/": row}, "sources").of(Source.parse("s3://two/x")).variables(environ)

    assert {k: v for k, v in variables.items() if k.startswith("AWS_")} == {
        "AWS_ACCESS_KEY_ID": "of-cloud-2",
        "AWS_SECRET_ACCESS_KEY": "secret-2",
        "AWS_ENDPOINT_URL": "https://cloud-2",
        "AWS_REGION": "one",
    }
    assert variables["HOME"] == "/home/x"


def test_a_row_without_credentials_keeps_those_of_the_environment() -> None:
    environ = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_ENDPOINT_URL": "https://a"}
    row = parse({"s3://two/": {"endpoint": "https://b"}}, "sources").of(Source.parse("s3://two/x"))

    assert row.variables(environ) == environ | {"AWS_ENDPOINT_URL": "https://b"}


def test_a_named_variable_that_is_not_set_is_an_error() -> None:
    row = parse({"s3://two/": {"access_key_id_env": "NOT_THERE"}}, "sources").of(Source.parse("s3://two/x"))

    with pytest.raises(Malformed, match=r"s3://two/.*access_key_id_env.*NOT_THERE"):
        row.variables({})


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        (["x"], "must be tables"),
        ({"s3://bucket/": "x"}, "must be a table"),
        ({"s3://bucket": {}}, "ends in /"),
        ({"bucket/": {}}, "begins with"),
        ({"s3://Bucket/": {}}, "cannot stand after"),
        ({"s3://bucket/../": {}}, "empty part"),
        ({"file:///": {}}, "name a folder"),
        ({"file://": {}}, "cannot stand"),
        ({"http://": {}}, "names a whole server"),
        ({"s3://bucket/": {"secret_access_key": "x"}}, "name a file or a variable"),
        ({"s3://bucket/": {"endpoint": 1}}, "must be text"),
        ({"s3://bucket/": {"endpoint": ""}}, "must be text"),
        ({"s3://bucket/": {"addressing": "sideways"}}, "path or virtual"),
        ({"gs://bucket/": {"anonymous": "no"}}, "true or false"),
        ({"https://": {"header_file": "/x"}}, "name one host"),
    ],
)
def test_a_wrong_table_is_refused_by_name(rows: Any, error: str) -> None:
    with pytest.raises(HydraError, match=error) as caught:
        parse(rows, "node.toml: sources")

    assert str(caught.value).startswith("node.toml: sources")


def test_a_source_names_its_objects() -> None:
    prefix, single = Source.parse("gs://bucket/p/q/"), Source.parse("s3://bucket/p/q")

    assert str(prefix.object_of("a/b")) == "gs://bucket/p/q/a/b"
    assert str(single.object_of("q.txt")) == "s3://bucket/p/q"
    assert (prefix.is_prefix, single.is_prefix) == (True, False)
