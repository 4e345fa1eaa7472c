"""JSON text ⇄ the documents of `model`: strict, with the key in every error, unknown fields kept.

`encode` is canonical (about, then sorted keys, two spaces, a newline at the end), so equal documents are
equal bytes: Consul does not wake anybody for a write of the same bytes, and digests of documents are stable.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, TypeVar, Union

from handlers.core import model
from handlers.core.errors import Malformed, Usage
from handlers.core.names import InstanceKey, Scoped, check_word
from handlers.core.version import ReleaseId, Version

T = TypeVar("T", bound=model.Doc)
_WORD_KEYS = frozenset({"datasets", "aliases"})  # mappings whose keys become path segments


def decode(cls: type[T], raw: bytes, where: str) -> T:
    """The document in `raw`; `where` (its key or path) begins every error. Raises `Malformed`."""
    try:
        value = json.loads(raw)
    except ValueError as e:
        raise Malformed(f"{where}: not JSON ({e})") from None
    if not isinstance(value, dict):
        raise Malformed(f"{where}: must be a JSON object")
    if value.get("format") != model.FORMAT:
        raise Malformed(f"{where}: format {value.get('format')!r} is not {model.FORMAT}, which this program knows")
    value = {k: v for k, v in value.items() if k not in ("about", "format")}
    return typing.cast(T, _part(cls, value, where))


def encode(doc: model.Doc) -> bytes:
    """The canonical bytes of `doc`."""
    plain = {"format": model.FORMAT, **_plain_part(doc)}
    ordered = {"about": doc.title(), **{k: plain[k] for k in sorted(plain)}}
    return (_text(ordered, 0) + "\n").encode()


def digest(raw: bytes) -> str:
    """`sha256:<hex>` of a document's bytes, as `desired` and release headers name it."""
    return "sha256:" + hashlib.sha256(raw).hexdigest()


def decode_version(raw: bytes, where: str) -> Version:
    """A bare version, as heads and pins are written by hand; white space around it is allowed."""
    try:
        return Version.parse(raw.decode())
    except (Usage, UnicodeDecodeError) as e:
        raise Malformed(f"{where}: {e}") from None


def decode_pin(raw: bytes, where: str) -> model.Pin:
    """A pin: a bare version, or the JSON document (`format` may be missing when a person wrote it)."""
    if not raw.lstrip().startswith(b"{"):
        return model.Pin(version=decode_version(raw, where))
    try:
        value = json.loads(raw)
    except ValueError as e:
        raise Malformed(f"{where}: not JSON ({e})") from None
    value = {k: v for k, v in value.items() if k not in ("about", "format")}
    return typing.cast(model.Pin, _part(model.Pin, value, where))


@functools.cache
def _fields(cls: type[model.Part]) -> dict[str, tuple[Any, bool]]:
    """Field name → (type, has a default), without `extra`."""
    hints = typing.get_type_hints(cls)
    missing = dataclasses.MISSING
    return {
        f.name: (hints[f.name], f.default is not missing or f.default_factory is not missing)
        for f in dataclasses.fields(cls)
        if f.name != "extra"
    }


def _part(cls: type[Any], value: Any, where: str) -> model.Part:
    if cls is model.File:
        return _file(value, where)
    if not isinstance(value, dict):
        raise Malformed(f"{where}: must be an object")
    fields = _fields(cls)
    given: dict[str, Any] = {}
    for name, (kind, optional) in fields.items():
        if name in value:
            given[name] = _value(kind, value[name], f"{where}: {name}", name)
        elif not optional:
            raise Malformed(f"{where}: {name} is missing")
    extra = {k: v for k, v in value.items() if k not in fields}
    return typing.cast(model.Part, cls(**given, extra=extra))


def _file(value: Any, where: str) -> model.File:
    """`[path, size, etag]`: an object per file would triple a manifest of 100,000 files."""
    match value:
        case [str(path), int(size), str(etag)] if size >= 0 and not isinstance(size, bool):
            return model.File(path=path, size=size, etag=etag)
    raise Malformed(f"{where}: a file must be [path, size, etag]")


def _value(kind: Any, value: Any, where: str, name: str = "") -> Any:
    origin = typing.get_origin(kind)
    if origin in (types.UnionType, Union):
        return None if value is None else _value(typing.get_args(kind)[0], value, where, name)
    if origin is tuple:
        if not isinstance(value, list):
            raise Malformed(f"{where}: must be a list")
        return tuple(_value(typing.get_args(kind)[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        return _mapping(typing.get_args(kind), value, where, name)
    return _scalar(kind, value, where)


def _mapping(kinds: tuple[Any, ...], value: Any, where: str, name: str) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise Malformed(f"{where}: must be an object")
    key_kind, value_kind = kinds
    result = {}
    for k, v in value.items():
        if name in _WORD_KEYS or (name == "channels" and key_kind is str):
            _checked(check_word, k, where, "name")
        result[_scalar(key_kind, k, where)] = v if value_kind is Any else _value(value_kind, v, f"{where}.{k}")
    return result


def _scalar(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _part(typing.cast(type[Any], kind), value, where)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind in (int, float, bool):
        if type(value) is not kind or (kind is not bool and value < 0):
            raise Malformed(f"{where}: must be {'true or false' if kind is bool else 'a number, 0 or more'}")
        return value
    if not isinstance(value, str):
        raise Malformed(f"{where}: must be text")
    if issubclass(kind, StrEnum):
        if value not in set(kind):
            raise Malformed(f"{where}: {value!r} is none of {', '.join(kind)}")
        return kind(value)
    if issubclass(kind, (Scoped, InstanceKey, Version, ReleaseId)):
        return _checked(kind.parse, value, where)
    return value


def _checked(check: Any, value: str, where: str, *args: str) -> Any:
    try:
        return check(value, *args)
    except Usage as e:
        raise Malformed(f"{where}: {e}") from None


def _plain_part(part: model.Part) -> dict[str, Any]:
    own = {f: _plain(getattr(part, f)) for f in _fields(type(part))}
    return {**dict(part.extra), **{k: v for k, v in own.items() if v is not None}}


def _plain(value: Any) -> Any:
    if isinstance(value, model.File):
        return (value.path, value.size, value.etag)
    if isinstance(value, model.Part):
        return _plain_part(value)
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return value


def _text(value: Any, depth: int) -> str:
    """JSON with two spaces of indent; a file is one line, so that a manifest stays readable and small."""
    pad, end = "  " * (depth + 1), "\n" + "  " * depth
    if isinstance(value, dict) and value:
        keys = value if depth == 0 else sorted(value)
        rows = [f"{pad}{json.dumps(k)}: {_text(value[k], depth + 1)}" for k in keys]
        return "{\n" + ",\n".join(rows) + end + "}"
    if isinstance(value, list) and value:
        return "[\n" + ",\n".join(pad + _text(v, depth + 1) for v in value) + end + "]"
    return json.dumps(value, ensure_ascii=False)


