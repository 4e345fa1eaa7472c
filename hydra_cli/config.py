"""`~/.config/hydra/config.toml`: which Consul and which S3 each environment has, for people.

    environment = "dev"                  # where HYDRA_ENV and --env are not given
    namespace = "search"                 # the same for HYDRA_NAMESPACE and -n

    [environments.prod]
    namespace = "search"
    consul = "https://consul.prod.example:8501"
    consul_token_file = "~/.config/hydra/prod.token"
    consul_ca_file = "/etc/ssl/consul-ca.pem"
    s3 = "https://s3.prod.example"
    s3_region = "eu-central-1"
    s3_profile = "prod"

    [environments.prod.sources."s3://models/"]      # where data below a prefix is elsewhere
    endpoint = "https://s3.other.example"
    profile = "models"

A variable of the process environment (`CONSUL_HTTP_ADDR`, `AWS_ENDPOINT_URL`, …) goes before the file: what
a pipeline or `hydra dev up` sets holds. Tokens and keys are never in the file, only names of files and
profiles.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct, field

from handlers.core import source_table
from handlers.core.errors import Malformed
from handlers.core.source_table import SourceTable

# field of an environment → variable that it stands for
VARIABLES = {
    "consul": "CONSUL_HTTP_ADDR",
    "consul_token_file": "CONSUL_HTTP_TOKEN_FILE",
    "consul_ca_file": "CONSUL_CACERT",
    "consul_cert_file": "CONSUL_CLIENT_CERT",
    "consul_key_file": "CONSUL_CLIENT_KEY",
    "s3": "AWS_ENDPOINT_URL",
    "s3_region": "AWS_REGION",
    "s3_profile": "AWS_PROFILE",
    "s3_ca_file": "AWS_CA_BUNDLE",
}
# A variable that says the same as the one before it: the file must not add what the process already says.
RIVALS = {
    "CONSUL_HTTP_TOKEN_FILE": ("CONSUL_HTTP_TOKEN",),
    "AWS_PROFILE": ("AWS_ACCESS_KEY_ID",),
    "AWS_ENDPOINT_URL": ("AWS_ENDPOINT_URL_S3",),
    "AWS_REGION": ("AWS_DEFAULT_REGION",),
}


class Config(Struct, frozen=True):
    """The file as read; empty where there is none."""

    environment: str = ""
    namespace: str = ""
    environments: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    sources: Mapping[str, SourceTable] = field(default_factory=dict)

    def variables(self, env: str, environ: Mapping[str, str]) -> dict[str, str]:
        """`environ` and what the file adds to it for the environment `env`."""
        merged = dict(environ)
        for name, value in self.environments.get(env, {}).items():
            variable = VARIABLES.get(name)
            if variable and not any(environ.get(v) for v in (variable, *RIVALS.get(variable, ()))):
                merged[variable] = str(Path(value).expanduser()) if name.endswith("_file") else value
        return merged


def load(environ: Mapping[str, str]) -> Config:
    """Read `$XDG_CONFIG_HOME/hydra/config.toml` (default `~/.config/…`); raises `Malformed`."""
    home = environ.get("XDG_CONFIG_HOME") or str(Path(environ.get("HOME") or Path.home()) / ".config")
    path = Path(home) / "hydra" / "config.toml"
    if not path.is_file():
        return Config()
    import tomllib

    try:
        table = tomllib.loads(path.read_text())
    except (OSError, ValueError) as e:
        raise Malformed(f"{path}: {e}") from None
    _known(table, {"environment", "namespace", "environments"}, str(path))
    rows = table.get("environments", {})
    if not isinstance(rows, dict):
        raise Malformed(f"{path}: environments must be tables like [environments.prod]")
    return Config(
        environment=_text(table, "environment", str(path)),
        namespace=_text(table, "namespace", str(path)),
        environments={name: _environment(row, f"{path}: environments.{name}") for name, row in rows.items()},
        sources={
            name: source_table.parse(row["sources"], f"{path}: environments.{name}.sources")
            for name, row in rows.items()
            if "sources" in row
        },
    )


def _environment(row: Any, where: str) -> dict[str, str]:
    if not isinstance(row, dict):
        raise Malformed(f"{where} must be a table")
    _known(row, {"namespace", "sources", *VARIABLES}, where)
    return {name: _text(row, name, where) for name in row if name != "sources"}


def _known(table: Mapping[str, Any], known: set[str], where: str) -> None:
    if unknown := sorted(set(table) - known):
        raise Malformed(f"{where}: unknown {', '.join(unknown)}; known are {', '.join(sorted(known))}")


def _text(table: Mapping[str, Any], name: str, where: str) -> str:
    value = table.get(name, "")
    if not isinstance(value, str):
        raise Malformed(f"{where}: {name} must be text")
    return value
