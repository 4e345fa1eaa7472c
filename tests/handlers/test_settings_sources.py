"""`[sources]` of a node's configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from handlers import settings
from handlers.core.errors import Malformed
from handlers.core.source import Source

TEXT = """
[sources."s3://models/"]
endpoint = "https://s3.other.example"
access_key_id_env = "MODELS_KEY_ID"
secret_access_key_env = "MODELS_SECRET_KEY"

[sources."file:///srv/data/"]
"""


def load(tmp_path: Path, text: str) -> settings.Settings:
    (tmp_path / "node.toml").write_text(text)
    return settings.load({"HYDRA_CONFIG": str(tmp_path / "node.toml")})


def test_rows_are_read_from_the_nodes_configuration(tmp_path: Path) -> None:
    own = load(tmp_path, TEXT)

    row = own.sources.of(Source.parse("s3://models/x"))
    assert row.fields["endpoint"] == "https://s3.other.example"
    assert own.sources.of(Source.parse("file:///srv/data/x")).prefix == "file:///srv/data/"


def test_a_secret_in_the_file_is_refused_without_repeating_it(tmp_path: Path) -> None:
    with pytest.raises(
        Malformed, match=r"node.toml: sources.*secret_access_key.*name a file or a variable"
    ) as caught:
        load(tmp_path, '[sources."s3://models/"]\nsecret_access_key = "SECRET"\n')
    assert "SECRET" not in str(caught.value)
