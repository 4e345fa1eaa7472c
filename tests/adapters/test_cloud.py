"""What can be said of gs:// and az:// without their servers: rows that are wrong, servers that are away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from handlers.adapters.ports import Source
from handlers.adapters.stores import Stores
from handlers.core.errors import HydraError, Temporary, Usage
from handlers.core.source_table import parse

AWAY = "http://127.0.0.1:9"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "key").write_text("a2V5\n")
    (tmp_path / "not-a-key").write_text("SECRET but not base64\n")
    (tmp_path / "sas").write_text("sv=2026-01-01&sig=SECRET\n")
    (tmp_path / "account.json").write_text('{"private_key": "SECRET"}')
    return tmp_path


@pytest.mark.parametrize(
    ("source", "row", "error"),
    [
        ("az://container/x", {"account": "acc", "account_key_file": "key", "endpoint": AWAY}, Temporary),
        ("az://container/x", {"account": "acc", "sas_token_file": "sas", "endpoint": AWAY}, Temporary),
        ("az://container/x", {"account": "acc", "anonymous": True, "endpoint": AWAY}, Temporary),
        ("az://container/x", {"account": "acc", "account_key_file": "not-a-key"}, Usage),
        ("az://container/x", {"account": "acc", "account_key_file": "none"}, Usage),
        ("az://container/x", {}, Usage),
        ("gs://bucket/x", {"anonymous": True, "endpoint": AWAY}, Temporary),
        ("gs://bucket/x", {"credentials_file": "account.json"}, Usage),
        ("gs://bucket/x", {"credentials_file": "none"}, Usage),
        ("gs://bucket/x", {"anonymous": True, "ca_file": "none"}, Usage),
    ],
)
def test_each_mistake_has_its_error_and_no_secret_is_in_it(
    files: Path, source: str, row: dict[str, Any], error: type[HydraError]
) -> None:
    row = {name: str(files / value) if name.endswith("_file") else value for name, value in row.items()}
    place = Source.parse(source)
    stores = Stores(parse({f"{place.scheme}://{place.bucket}/": row}, "sources"), {})

    with pytest.raises(error, match=f"{place.scheme}://|cannot read") as caught:
        stores.head(place)
    assert "SECRET" not in str(caught.value)
