"""Names as types: what may be called what, checked once where text comes in.

Names travel into Consul keys, file paths and shell words, so they are hostile until they are one of these
types. All are `str` subclasses: they print, compare and serialise as text.
"""

from __future__ import annotations

import hashlib
import re
from typing import Self

from handlers.core.errors import Usage

_WORD = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?")
_RULE = "1 to 63 of a-z 0-9 . _ -, beginning and ending with a letter or digit"
MAX_PATH_BYTES = 1024  # what S3 takes as a key
MAX_PART_BYTES = 255  # what file systems take as a name
STATE_FILE, READINESS_FILE = "state", "readiness.json"  # in every view, beside the aliases
_UNFIT = re.compile(r"[^a-z0-9._-]+")


def check_word(text: str, what: str) -> str:
    """Return `text` if it is a legal name of one word, else raise `Usage` that names `what`."""
    if not _WORD.fullmatch(text) or ".." in text:
        raise Usage(f"{what} {text!r} is not a legal name: use {_RULE}, without '..'")
    return text


def check_alias(text: str) -> str:
    """Return `text` if an alias may be called so, else raise `Usage`: a view has files of its own."""
    if text in (STATE_FILE, READINESS_FILE):
        raise Usage(f"alias {text!r} is taken: every view has a file of this name")
    return check_word(text, "alias")


def segment(text: str) -> str:
    """The form of a foreign name (a node, an instance id) in keys and paths.

    A legal name is itself; anything else becomes `<readable prefix>-<8 hex of SHA-256>`. Idempotent on its
    own results; so somebody who calls a node what another one's segment is makes them share it, which the
    names inside the documents reveal.
    """
    if _WORD.fullmatch(text) and ".." not in text:
        return text
    readable = re.sub(r"[._-]{2,}", "-", _UNFIT.sub("-", text.lower())).strip("._-")[:50].strip("._-") or "x"
    return f"{readable}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def check_path(text: str, what: str) -> str:
    """Return `text` if it is a legal path of a file below a dataset, else raise `Usage` that names `what`.

    Keys in an object store may be anything; here they become paths on nodes, so `../x`, `/x`, `a//b` and
    control characters (a newline would end a log line early) are refused rather than repaired.
    """
    parts = text.split("/")
    if not text or any(part in ("", ".", "..") for part in parts):
        raise Usage(
            f"{what} {text!r} is not a legal path: it must be relative, without empty parts, '.' or '..'"
        )
    if any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 for c in text):
        raise Usage(f"{what} {text!r} is not a legal path: it has control characters")
    raw = text.encode("utf-8", "surrogatepass")
    if len(raw) > MAX_PATH_BYTES or any(
        len(p.encode("utf-8", "surrogatepass")) > MAX_PART_BYTES for p in parts
    ):
        raise Usage(
            f"{what} {text!r} is longer than {MAX_PATH_BYTES} bytes, or a part of it than {MAX_PART_BYTES}"
        )
    return text


class Scoped(str):
    """`<env>/<namespace>/<name>`, each part a legal word."""

    __slots__ = ()
    kind = "name"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Check `text` and return it as this type; raises `Usage`."""
        parts = text.split("/")
        if len(parts) != 3:
            raise Usage(f"{cls.kind} {text!r} must be ENV/NAMESPACE/NAME")
        for part, what in zip(parts, ("environment", "namespace", f"{cls.kind} name"), strict=True):
            check_word(part, what)
        return cls(text)

    @property
    def env(self) -> str:
        """The environment, for example `prod`."""
        return self.split("/")[0]

    @property
    def namespace(self) -> str:
        """The namespace inside the environment."""
        return self.split("/")[1]

    @property
    def name(self) -> str:
        """The last part."""
        return self.split("/")[2]


class Channel(Scoped):
    """An ordered list of releases: `<env>/<namespace>/<name>`."""

    __slots__ = ()
    kind = "channel"


class Service(Scoped):
    """A consumer of channels: `<env>/<namespace>/<name>`."""

    __slots__ = ()
    kind = "service"


class InstanceKey(str):
    """One instance in documents and paths of its node: `<service>/<segment of its id>`."""

    __slots__ = ()

    @classmethod
    def of(cls, service: Service, instance_id: str) -> Self:
        """The key of the instance with the foreign id `instance_id`."""
        return cls(f"{service}/{segment(instance_id)}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Check `<env>/<ns>/<name>/<id segment>`; raises `Usage`."""
        service, _, last = text.rpartition("/")
        Service.parse(service)
        check_word(last, "instance id")
        return cls(text)

    @property
    def service(self) -> Service:
        """The service that the instance belongs to."""
        return Service(self.rpartition("/")[0])

    @property
    def segment(self) -> str:
        """The id as it stands in keys and paths."""
        return self.rpartition("/")[2]
