"""Buckets as names of hosts, as some servers want it: against a real one that understands both."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from handlers.adapters.objects import S3Objects
from handlers.adapters.ports import Source, read_object
from handlers.adapters.stores import Stores
from handlers.core.source_table import parse
from hydra_cli.dev import servers
from hydra_cli.programs import program

DOMAIN = "s3.test"


def test_a_bucket_may_be_the_name_of_a_host(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading, listing and writing; such names resolve nowhere in a test, so they are this machine's here."""
    resolve = socket.getaddrinfo

    def here(host: Any, *rest: Any, **more: Any) -> Any:
        asked.add(host)
        return resolve(servers.HOST if str(host).endswith(DOMAIN) else host, *rest, **more)

    asked: set[str] = set()
    monkeypatch.setattr(socket, "getaddrinfo", here)
    given = servers.S3Server(tmp_path_factory.mktemp("s3"), environ={"VGW_VIRTUAL_DOMAIN": DOMAIN})
    server, running = servers.start_s3(given, program("versitygw"))
    try:
        row = {"endpoint": f"http://{DOMAIN}:{server.port}", "addressing": "virtual"}
        stores = Stores(parse({"s3://bucket/": row}, "sources"), server.environment())
        S3Objects(environ=server.environment()).make_bucket("bucket")

        source = Source.parse("s3://bucket/folder/x")
        stores.put(source, b"content")

        assert read_object(stores, source, stores.head(source)) == b"content"
        assert [info.key for info in stores.list(Source("bucket", "folder/"))] == ["folder/x"]
        assert f"bucket.{DOMAIN}" in asked
    finally:
        running.stop()
