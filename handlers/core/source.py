"""Where data comes from: one text for every kind of object store, checked once where it comes in.

    s3://bucket/key   gs://bucket/key   az://container/key    an object, or a prefix that ends in /
    https://host/path                                         one object (http:// where a node allows it)
    file:///path                                              a file, or a folder that ends in /

The text stands in releases, which anybody who may publish writes and everybody may read: so it is hostile,
and it never carries a secret.
"""

from __future__ import annotations

import re
from typing import Self

from msgspec import Struct

from handlers.core.errors import Usage

_HOST = re.compile(r"(?:[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?|\[[0-9a-f:]{2,39}\])(?::[0-9]{1,5})?")
_PLACES = {
    "s3": re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"),
    "gs": re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]"),
    "az": re.compile(r"[a-z0-9](?:-?[a-z0-9]){2,62}"),
    "https": _HOST,
    "http": _HOST,
    "file": re.compile(""),
}
_HIDDEN = re.compile(r"%(?:2[EF]|5C|[01][0-9A-F]|7F)", re.IGNORECASE)  # . / \\ and control characters
SCHEMES = tuple(_PLACES)
WEB = ("https", "http")
EXPERIMENTAL = ("gs", "az")  # no real server of theirs has served a test; help and README say so
_FORMS = (
    "s3://BUCKET/KEY, https://HOST/PATH, file:///PATH or (experimental) gs://BUCKET/KEY, az://CONTAINER/KEY"
)


class Source(Struct, frozen=True):
    """One object or (ending in `/`) prefix: `scheme://bucket/key`.

    `bucket` is the host (and port) of a web server, and empty for files; `key` is what follows the slash.
    """

    bucket: str
    key: str
    scheme: str = "s3"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Check `text`; raises `Usage`.

        Keys with an empty part (`a//b`), `.` or `..` are refused: clients disagree about what they name.
        """
        scheme, colon, rest = text.partition("://")
        bucket, slash, key = rest.partition("/")
        if not colon or scheme not in _PLACES:
            raise Usage(f"source {shown(text)} must be {_FORMS}; a prefix ends in /")
        if scheme in WEB and "@" in bucket:
            raise Usage(
                f"source {shown(text)}: no user or password in an address: everybody reads it; "
                "name a header_file for this host in the table of sources"
            )
        if not _PLACES[scheme].fullmatch(bucket):
            raise Usage(f"source {shown(text)} must be {_FORMS}: {bucket!r} cannot stand after {scheme}://")
        if not slash or not key:
            whole = "server" if scheme in WEB else "disk" if scheme == "file" else "bucket"
            raise Usage(f"source {shown(text)} names a whole {whole}; add a key, or a prefix that ends in /")
        _check_key(text, scheme, key)
        return cls(bucket, key, scheme)

    @property
    def is_prefix(self) -> bool:
        """Whether it names everything below a prefix rather than one object."""
        return self.key.endswith("/")

    def beside(self, key: str) -> Source:
        """The object or prefix with this key in the same bucket."""
        return Source(self.bucket, key, self.scheme)

    def object_of(self, path: str) -> Source:
        """The object behind the file `path` of a dataset with this source."""
        return self.beside(self.key + path) if self.is_prefix else self

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.key}"


def _check_key(text: str, scheme: str, key: str) -> None:
    if any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 for c in key):
        raise Usage(f"source {text!r} has control characters in its key")
    if scheme in WEB:
        if "?" in key or "#" in key:
            raise Usage(
                f"source {shown(text)}: no query or fragment in an address: everybody reads it; "
                "name a header_file for this host in the table of sources"
            )
        if "\\" in key or key.endswith("/"):
            raise Usage(f"source {text!r}: from a web server comes one object; no \\ and no / at the end")
        if _HIDDEN.search(key):
            raise Usage(f"source {text!r} has a dot, a slash or a control character in disguise")
    if any(part in ("", ".", "..") for part in key.removesuffix("/").split("/")):
        raise Usage(f"source {text!r} has an empty part, '.' or '..' in its key")


def shown(text: str) -> str:
    """A source for messages: whatever may be a secret in it (user, password, query) is left out."""
    scheme, colon, rest = text.partition("://")
    if not colon:
        return repr(text)
    rest = rest.partition("?")[0].partition("#")[0]
    host, slash, path = rest.partition("/")
    return repr(f"{scheme}://{host.rpartition('@')[2]}{slash}{path}")
