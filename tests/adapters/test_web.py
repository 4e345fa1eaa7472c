"""What is special about sources on web servers: headers from files, what such a server must be able to do."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from handlers.adapters.ports import Source
from handlers.adapters.stores import Stores
from handlers.core.errors import Denied, HydraError, SourceNotReady, Temporary, Untrusted, Usage
from handlers.core.source_table import parse
from tests.web_servers import TOKEN, Web, web_server


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with web_server(tmp_path_factory.mktemp("web")) as server:
        yield server


def stores(web: Web, **row: str) -> Stores:
    return Stores(parse({f"https://{web.host}/": {"ca_file": str(web.ca_file), **row}}, "sources"))


def written(web: Web, folder: str, body: bytes = b"content") -> Source:
    name = f"{uuid.uuid4().hex}.bin"
    (web.folder / folder).mkdir(exist_ok=True)
    (web.folder / folder / name).write_bytes(body)
    return Source.parse(f"https://{web.host}/{folder}/{name}")


def body(objects: Stores, source: Source) -> bytes:
    info = objects.head(source)
    return b"".join(bytes(p) for p in objects.read_range(source, info.etag, 0, info.size))


def test_a_header_from_a_file_opens_what_is_closed(web: Web, tmp_path: Path) -> None:
    source, header = written(web, "secret"), tmp_path / "header"
    header.write_text(f"Authorization: {TOKEN}\n")

    assert body(stores(web, header_file=str(header)), source) == b"content"
    with pytest.raises(Denied, match="refused"):
        stores(web).head(source)


def test_a_renewed_header_is_taken_without_a_restart(web: Web, tmp_path: Path) -> None:
    source, header = written(web, "secret"), tmp_path / "header"
    header.write_text("Authorization: Bearer expired\n")
    objects = stores(web, header_file=str(header))
    with pytest.raises(Denied):
        objects.head(source)

    header.write_text(f"Authorization: {TOKEN}\n")

    assert objects.head(source).size == 7


@pytest.mark.parametrize(
    "text", ["SECRET", "Authorization: SECRET\r\nX: y\x00", "Name SECRET: x", "Ä: SECRET"]
)
def test_a_header_that_is_none_is_refused_without_repeating_it(web: Web, tmp_path: Path, text: str) -> None:
    header = tmp_path / "header"
    header.write_text(text)

    with pytest.raises(Usage, match="header_file") as caught:
        stores(web, header_file=str(header)).head(written(web, "open"))
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(("folder", "said"), [("weak", "only a weak ETag"), ("plain", "no ETag")])
def test_a_server_without_strong_etags_is_refused(web: Web, folder: str, said: str) -> None:
    with pytest.raises(Usage, match=said):
        stores(web).head(written(web, folder))


def test_a_redirect_is_not_followed_and_its_secrets_not_told(web: Web) -> None:
    with pytest.raises(Usage, match=r"redirects to 'https://.*/elsewhere'.*not followed") as caught:
        stores(web).head(Source.parse(f"https://{web.host}/moved/x"))
    assert "SECRET" not in str(caught.value)


def test_a_certificate_of_a_stranger_is_not_trusted(web: Web) -> None:
    source = written(web, "open")

    with pytest.raises(Untrusted, match="not trusted"):
        Stores().head(source)


def test_plain_http_has_to_be_named(web: Web) -> None:
    source = Source.parse(str(written(web, "open")).replace(f"https://{web.host}", f"http://{web.plain}"))

    with pytest.raises(Usage, match="only where the configuration names it"):
        Stores().head(source)
    assert body(Stores(parse({f"http://{web.plain}/": {}}, "sources")), source) == b"content"


def test_a_name_with_odd_characters_is_asked_for_as_it_is_written(web: Web) -> None:
    for name, path in (("a b+c&d=é.bin", "a b+c&d=é.bin"), ("x%20y", "x y"), ("~(1)!", "~(1)!")):
        (web.folder / path).write_bytes(name.encode())

        assert body(stores(web), Source.parse(f"https://{web.host}/{name}")) == name.encode()


def test_what_a_web_server_cannot_do_is_said(web: Web) -> None:
    objects, source = stores(web), written(web, "open")

    for ask in (
        lambda: [*objects.list(source)],
        lambda: [*objects.folders(source)],
        lambda: objects.put(source, b"x"),
    ):
        with pytest.raises(Usage, match=str(source)):
            ask()


@pytest.mark.parametrize(
    ("source", "error"),
    [("https://127.0.0.1:9/x", Temporary), ("https://does-not-exist.invalid/x", Temporary)],
)
def test_a_server_that_is_away_is_temporary(source: str, error: type[HydraError]) -> None:
    with pytest.raises(error, match=source):
        Stores(stall_s=2).head(Source.parse(source))


def test_a_missing_object_is_not_ready(web: Web) -> None:
    with pytest.raises(SourceNotReady, match="none"):
        stores(web).head(Source.parse(f"https://{web.host}/none"))
