"""`[sources]` of a configuration: how to reach what lies below a prefix; the longest prefix wins.

    [sources."s3://models/"]
    endpoint = "https://s3.example.net"
    access_key_id_env = "MODELS_KEY_ID"          # names of variables and files, never the secrets themselves
    secret_access_key_env = "MODELS_SECRET_KEY"

What a row does not say comes from the environment. Web servers without TLS and folders of this machine are
read only where a row names them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct, field

from handlers.core.errors import Malformed, Usage
from handlers.core.source import SCHEMES, WEB, Source

_S3 = {
    # field → the variable of Amazon's that it stands for
    "endpoint": "AWS_ENDPOINT_URL",
    "region": "AWS_REGION",
    "addressing": "HYDRA_S3_ADDRESSING",
    "ca_file": "AWS_CA_BUNDLE",
    "profile": "AWS_PROFILE",
    "credentials_file": "AWS_SHARED_CREDENTIALS_FILE",
    "role_arn": "AWS_ROLE_ARN",
    "web_identity_token_file": "AWS_WEB_IDENTITY_TOKEN_FILE",
}
_S3_NAMED = {
    # field that names a variable → the variable of Amazon's that its value stands for
    "access_key_id_env": "AWS_ACCESS_KEY_ID",
    "secret_access_key_env": "AWS_SECRET_ACCESS_KEY",
    "session_token_env": "AWS_SESSION_TOKEN",
}
_WHERE = ("endpoint", "region", "addressing", "ca_file")
_CREDENTIALS = frozenset({*_S3_NAMED.values(), *(v for f, v in _S3.items() if f not in _WHERE)})
FIELDS: Mapping[str, tuple[str, ...]] = {
    "s3": (*_S3, *_S3_NAMED),
    "gs": ("endpoint", "credentials_file", "ca_file", "anonymous"),
    "az": ("endpoint", "account", "account_key_file", "sas_token_file", "ca_file", "anonymous"),
    "https": ("header_file", "ca_file"),
    "http": ("header_file",),
    "file": (),
}
_MUST_BE_NAMED = ("http", "file")


class SourceRow(Struct, frozen=True):
    """One row: what is below `prefix`, and how it is reached."""

    prefix: str
    fields: Mapping[str, str] = field(default_factory=dict)

    def variables(self, environ: Mapping[str, str]) -> dict[str, str]:
        """`environ` for whoever reads S3 here. Raises `Malformed` when a named variable is not set.

        Where the row says anything of credentials, those of the environment do not count: the key of one
        cloud is not for the other.
        """
        named = {**_S3, **_S3_NAMED}
        given = {named[name] for name in self.fields}
        dropped = set(_CREDENTIALS) if given & _CREDENTIALS else set()
        if "endpoint" in self.fields:
            dropped.add("AWS_ENDPOINT_URL_S3")
        result = {name: value for name, value in environ.items() if name not in dropped}
        for name, value in self.fields.items():
            if name in _S3_NAMED and not environ.get(value):
                raise Malformed(f"sources.{self.prefix!r}.{name}: the variable {value} is not set")
            result[named[name]] = environ[value] if name in _S3_NAMED else value
        return result


class SourceTable(Struct, frozen=True):
    """All rows; without any, S3 as the environment says, and web servers with TLS."""

    rows: Sequence[SourceRow] = ()

    def of(self, source: Source) -> SourceRow:
        """The row for `source`: the longest prefix, or one that says nothing. Raises `Usage` where there must
        be one.
        """
        fitting = [row for row in self.rows if str(source).startswith(row.prefix)]
        if fitting:
            return max(fitting, key=lambda row: len(row.prefix))
        if source.scheme in _MUST_BE_NAMED:
            what = "a web server without TLS" if source.scheme in WEB else "a folder of this machine"
            raise Usage(
                f"source {source}: {what} is read only where the configuration names it: "
                f'[sources."{source.scheme}://{source.bucket}/…/"]'
            )
        return SourceRow(f"{source.scheme}://")


def parse(table: Any, where: str) -> SourceTable:
    """The rows of a table of sources; raises `Malformed`, which begins with `where`."""
    if not isinstance(table, dict):
        raise Malformed(f'{where}: must be tables like [sources."s3://bucket/"]')
    return SourceTable(
        tuple(_row(prefix, row, f"{where}.{prefix!r}") for prefix, row in sorted(table.items()))
    )


def _row(prefix: str, row: Any, where: str) -> SourceRow:
    scheme = _check_prefix(prefix, where)
    if not isinstance(row, dict):
        raise Malformed(f"{where}: must be a table")
    known = FIELDS[scheme]
    if unknown := sorted(set(row) - set(known)):
        raise Malformed(
            f"{where}: unknown {', '.join(unknown)}; known for {scheme}:// are {', '.join(known) or 'none'} "
            "(secrets do not belong here: name a file or a variable)"
        )
    fields = {}
    for name, value in row.items():
        if name == "anonymous":
            if value is not True and value is not False:
                raise Malformed(f"{where}: anonymous must be true or false")
            if value:
                fields[name] = "yes"
        elif not isinstance(value, str) or not value:
            raise Malformed(f"{where}: {name} must be text")
        else:
            fields[name] = value
    if fields.get("addressing", "path") not in ("path", "virtual"):
        raise Malformed(f"{where}: addressing must be path or virtual")
    if "header_file" in fields and prefix == "https://":
        raise Malformed(f"{where}: a header_file would be sent to every host; name one host")
    return SourceRow(prefix, fields)


def _check_prefix(prefix: str, where: str) -> str:
    """The scheme of a prefix like `s3://`, `s3://bucket/` or `s3://bucket/folder/`."""
    scheme, _, rest = prefix.partition("://")
    if scheme not in SCHEMES or not (prefix.endswith("/")):
        raise Malformed(f"{where}: a prefix begins with {'://, '.join(SCHEMES)}:// and ends in /")
    if not rest and scheme not in _MUST_BE_NAMED:
        return scheme
    try:
        Source.parse(f"{prefix}x")
    except Usage as e:
        raise Malformed(f"{where}: {e}") from None
    if rest == "/":
        raise Malformed(f"{where}: name a folder; the whole machine is no source")
    return scheme
