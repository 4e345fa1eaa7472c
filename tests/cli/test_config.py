"""`~/.config/hydra/config.toml`: each environment's Consul and S3; the process environment goes before it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from handlers.adapters.ports import Consul
from handlers.core.errors import Malformed
from handlers.core.source import Source
from hydra_cli.config import load
from hydra_cli.context import Context
from tests.cli.desk import Desk
from tests.fakes_kv import FakeKV

TEXT = """
environment = "stage"
namespace = "maps"

[environments.prod]
namespace = "search"
consul = "https://consul.prod:8501"
consul_token_file = "~/prod.token"
s3 = "https://s3.prod"
s3_profile = "prod"
"""


def write(home: Path, text: str) -> dict[str, str]:
    folder = home / ".config" / "hydra"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(text)
    return {"HOME": str(home)}


def test_environment_maps_to_its_consul_and_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    environ = write(tmp_path, TEXT)

    found = load(environ).variables("prod", environ)

    assert found == {
        **environ,
        "CONSUL_HTTP_ADDR": "https://consul.prod:8501",
        "CONSUL_HTTP_TOKEN_FILE": str(tmp_path / "prod.token"),
        "AWS_ENDPOINT_URL": "https://s3.prod",
        "AWS_PROFILE": "prod",
    }


def test_process_environment_goes_before_the_file(tmp_path: Path) -> None:
    environ = write(tmp_path, TEXT) | {
        "CONSUL_HTTP_ADDR": "127.0.0.1:8500",
        "CONSUL_HTTP_TOKEN": "secret",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9000",
    }

    assert load(environ).variables("prod", environ) == environ


def test_channel_on_the_line_chooses_the_consul(tmp_path: Path) -> None:
    asked: list[str] = []

    def consul(environ: Mapping[str, str]) -> Consul:
        asked.append(environ["CONSUL_HTTP_ADDR"])
        return FakeKV()

    context = Context(write(tmp_path, TEXT), consul=consul)

    context.kv(context.channel("prod/search/places").env)

    assert asked == ["https://consul.prod:8501"]


def test_defaults_come_from_options_then_variables_then_the_file(tmp_path: Path) -> None:
    environ = write(tmp_path, TEXT)
    by_file = Context(environ)
    by_variable = Context(environ | {"HYDRA_ENV": "prod"})
    by_option = Context(environ | {"HYDRA_ENV": "prod", "HYDRA_NAMESPACE": "x"})
    by_option.given_env, by_option.given_namespace = "dev", "y"

    assert (by_file.env, by_file.namespace) == ("stage", "maps")
    assert (by_variable.env, by_variable.namespace) == ("prod", "search")
    assert (by_option.env, by_option.namespace) == ("dev", "y")
    assert by_variable.channel("places") == "prod/search/places"
    assert by_variable.service("maps/places") == "prod/maps/places"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("environments = 3", "environments must be tables"),
        ("[environments]\nprod = 3", "environments.prod must be a table"),
        ("[environments.prod]\nconsull = 'x'", "unknown consull; known are consul"),
        ("[environments.prod]\nconsul = 3", "consul must be text"),
        ("token = 'x'", "unknown token"),
        ("x = [", "config.toml"),
    ],
)
def test_mistake_in_the_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    environ = write(tmp_path, text)

    with pytest.raises(Malformed, match=message):
        load(environ)
    assert Desk(tmp_path).run("channel", "list").code == 2


def test_without_a_file_nothing_is_added(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path)}

    assert load(environ).variables("prod", environ) == environ


def test_who_is_named_by_the_pipeline_or_by_the_machine() -> None:
    assert Context({"HYDRA_WHO": "pipeline 7"}).who == "pipeline 7"
    assert "@" in Context({}).who


def test_sources_are_rows_of_their_environment(tmp_path: Path) -> None:
    environ = write(tmp_path, TEXT + '[environments.prod.sources."s3://models/"]\nprofile = "models"\n')

    config = load(environ)

    assert config.sources["prod"].of(Source.parse("s3://models/x")).fields == {"profile": "models"}
    assert "sources" not in config.environments["prod"]


def test_a_wrong_row_of_sources_is_named(tmp_path: Path) -> None:
    environ = write(tmp_path, TEXT + '[environments.prod.sources."s3://models/"]\npassword = "SECRET"\n')

    with pytest.raises(Malformed, match=r"config.toml: environments.prod.sources.*password") as caught:
        load(environ)
    assert "SECRET" not in str(caught.value)
