"""The manifest object that `hydra push` leaves beside data: where it is, and whether it fits what is there.

    s3://data/words/2026-01-31T00-00-00/               the data
    s3://data/words/2026-01-31T00-00-00.hydra.json     what it must be: a `model.Pushed`

It is looked for beside a dataset's source first, then beside each folder above it down to the one that
carries the version, so one push may hold several datasets. Paths in it are below the folder that it stands
beside (a single object: below that object's folder).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from msgspec.structs import replace

from handlers.core import codec
from handlers.core.errors import Integrity, Malformed
from handlers.core.model import File, Pushed
from handlers.core.version import Version

SUFFIX = ".hydra.json"
SHOWN = 5  # differences of a longer list


def manifest_key(key: str) -> str:
    """The key of the manifest object of the data under `key`."""
    return key.removesuffix("/") + SUFFIX


def places(key: str, version: Version) -> Iterator[tuple[str, str]]:
    """Where a manifest object of the source `key` may be, nearest first: its key, the folder of its paths."""
    bare = key.removesuffix("/")
    yield manifest_key(bare), f"{bare}/" if key.endswith("/") else bare[: bare.rfind("/") + 1]
    while version in (bare := bare.rpartition("/")[0]):
        yield manifest_key(bare), f"{bare}/"


def seal(doc: Pushed) -> bytes:
    """The bytes of a manifest object: with its own digest, so that nobody believes a damaged one."""
    return codec.encode(replace(doc, digest=_digest(doc)))


def read(raw: bytes, where: str) -> Pushed:
    """The manifest object in `raw`; raises `Integrity` when it is none, or damaged."""
    try:
        doc = codec.decode(Pushed, raw, where)
        fits = doc.digest == _digest(doc)
    except (Malformed, UnicodeEncodeError) as e:
        raise Integrity(f"{e}; it is no manifest of `hydra push`") from None
    if not fits:
        raise Integrity(f"{where}: is damaged or was changed: its own digest does not fit")
    return doc


def _digest(doc: Pushed) -> str:
    return codec.digest(codec.encode(replace(doc, digest="")))


def below(pushed: Pushed, folder: str, source: str) -> dict[str, File]:
    """The files of the source (a key) in a manifest object whose paths are below `folder`, by key."""
    keys = {folder + file.path: file for file in pushed.files}
    if source.endswith("/"):
        return {key: file for key, file in keys.items() if key.startswith(source)}
    return {source: keys[source]} if source in keys else {}


def differences(named: Mapping[str, File], there: Mapping[str, File]) -> list[str]:
    """How the objects that were `named` differ from what is there, for people; empty = they are the same."""
    return [
        *(f"{key} is gone" for key in sorted(named.keys() - there.keys())),
        *(f"{key} is new" for key in sorted(there.keys() - named.keys())),
        *(
            f"{key} {change}"
            for key in sorted(named.keys() & there.keys())
            if (change := _change(named[key], there[key]))
        ),
    ]


def _change(named: File, there: File) -> str:
    if named.size != there.size:
        return f"has {there.size} bytes, not {named.size}"
    return "" if named.etag == there.etag else f"was replaced: its ETag is {there.etag}, not {named.etag}"


def shown(texts: Sequence[str]) -> str:
    """A list for a sentence, cut where it is long."""
    more = f"; and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return "; ".join(texts[:SHOWN]) + more
