"""JSON text ⇄ the documents of `model`: strict, with the key in every error, unknown fields kept.

`encode` is canonical (about, then sorted keys, two spaces, a newline at the end), so equal documents are
equal bytes: Consul does not wake anybody for a write of the same bytes, and digests of documents are stable.
How each type is read is worked out once per process: a planner reads thousands of documents per run.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import types
import typing
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, TypeVar, Union

from msgspec import Struct

from handlers.core import model
from handlers.core.budget import parse_amount
from handlers.core.canonical import Shared, fields_of, text_of
from handlers.core.errors import Malformed, Usage
from handlers.core.names import Channel, InstanceKey, Scoped, check_alias, check_word
from handlers.core.reading import Reads
from handlers.core.version import ReleaseId, Version

T = TypeVar("T", bound=model.Doc)

_DEEPEST = 32  # levels of fields that this program does not know; far deeper ones could not be written again
_LARGEST = 2**63  # a generation beyond it would leave no room to go on


def decode(cls: type[T], raw: bytes, where: str) -> T:
    """The document in `raw`; `where` (its key or path) begins every error. Raises `Malformed`."""
    value = _object(raw, where)
    known = value.pop("format", None)
    if known != model.FORMAT:
        raise Malformed(f"{where}: format {known!r} is not {model.FORMAT}, which this program knows")
    return typing.cast(T, _document(cls, value, where))


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
    value = _object(raw, where)
    if value.pop("format", model.FORMAT) != model.FORMAT:
        raise Malformed(f"{where}: the format is not {model.FORMAT}, which this program knows")
    return typing.cast(model.Pin, _document(model.Pin, value, where))


def encode(doc: model.Doc, shared: Shared | None = None) -> bytes:
    """The canonical bytes of `doc`; with one `shared` for many documents, common parts are written once."""
    return text_of(doc, shared).encode()


def digest(raw: bytes) -> str:
    """`sha256:<hex>` of a document's bytes, as `desired` and release headers name it."""
    return "sha256:" + hashlib.sha256(raw).hexdigest()


def _check_dataset(text: str) -> str:
    return check_word(text, "dataset")


def _check_channel_dataset(text: str) -> str:
    channel, _, dataset = text.rpartition("/")
    return f"{Channel.parse(channel)}/{_check_dataset(dataset)}"


_KEY_CHECKS: dict[str, Callable[[str], str]] = {
    # mappings by the name of their field whose keys become parts of paths
    "datasets": _check_dataset,
    "files": _check_dataset,
    "ram": _check_channel_dataset,
    "aliases": check_alias,
    "channels": check_alias,
}


class _Wrong(Exception):
    """A value of the wrong kind; the path to it grows while the error climbs out."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text
        self.path = ""

    def below(self, step: str) -> _Wrong:
        """The same error, seen from one level further out."""
        self.path = step + (f".{self.path}" if self.path and not self.path.startswith("[") else self.path)
        return self


def _object(raw: bytes, where: str) -> dict[str, Any]:
    try:
        # strict UTF-8: half a surrogate pair could be read here, but never written again
        value = json.loads(raw.decode(), parse_constant=_refuse, parse_float=_finite)
        if b"\\u" in raw:
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as e:
        raise Malformed(f"{where}: not JSON ({e})") from None
    if not isinstance(value, dict):
        raise Malformed(f"{where}: must be a JSON object")
    return value


def _refuse(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse(text)


def _document(cls: Any, value: dict[str, Any], where: str) -> model.Part:
    value.pop("about", None)
    try:
        return _part_reader(cls)(value)
    except _Wrong as e:
        raise Malformed(": ".join(filter(None, (where, e.path, e.text)))) from None


@functools.cache
def _reader(kind: Any, name: str = "") -> Callable[[Any], Any]:
    """A function from parsed JSON to the value of type `kind` in the field `name`; it raises `_Wrong`."""
    origin = typing.get_origin(kind)
    if origin in (types.UnionType, Union):
        return _union_reader(typing.get_args(kind), name)
    if origin is tuple:
        return _list_reader(_reader(typing.get_args(kind)[0], name))
    if origin is not None and issubclass(origin, Mapping):
        return _mapping_reader(typing.get_args(kind), name)
    if kind is model.File:
        return _file
    if issubclass(kind, Struct):
        return _part_reader(kind)
    if kind is bool:
        return _boolean
    if kind in (int, float):
        return functools.partial(_number, kind)
    if issubclass(kind, StrEnum):
        return functools.partial(_word_of, {str(word): word for word in kind})
    if issubclass(kind, (Scoped, InstanceKey, Version, ReleaseId, Reads)):
        return functools.partial(_named, functools.lru_cache(maxsize=65536)(kind.parse))
    return _string


def _union_reader(kinds: tuple[Any, ...], name: str) -> Callable[[Any], Any]:
    """`Amount` is the one union of two kinds; all others are of one kind and None."""
    inner = _amount if {int, str} <= set(kinds) else _reader(kinds[0], name)
    return (lambda value: None if value is None else inner(value)) if type(None) in kinds else inner


@functools.cache
def _part_reader(cls: Any) -> Callable[[Any], model.Part]:
    readers = {name: _reader(kind, name) for name, (kind, _) in fields_of(cls).items()}
    required = [name for name, (_, optional) in fields_of(cls).items() if not optional]

    def read(value: Any) -> model.Part:
        if type(value) is not dict:
            raise _Wrong("must be an object")
        given: dict[str, Any] = {}
        extra: dict[str, Any] = {}
        name = ""
        try:
            for name, inner in value.items():
                if reader := readers.get(name):
                    given[name] = reader(inner)
                else:
                    extra[name] = _unknown(inner)
        except _Wrong as e:
            raise e.below(name) from None
        for name in required:
            if name not in given:
                raise _Wrong(f"{name} is missing")
        return typing.cast(model.Part, cls(**given, extra=extra))

    return read


def _unknown(value: Any, depth: int = 0) -> Any:
    if depth > _DEEPEST:
        raise _Wrong(f"is more than {_DEEPEST} levels deep")
    if isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            _unknown(inner, depth + 1)
    return value


def _list_reader(read: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, ...]]:
    def read_all(value: Any) -> tuple[Any, ...]:
        if type(value) is not list:
            raise _Wrong("must be a list")
        result = []
        try:
            for item in value:
                result.append(read(item))  # noqa: PERF401 - its length tells which item was wrong
        except _Wrong as e:
            raise e.below(f"[{len(result)}]") from None
        return tuple(result)

    return read_all


def _mapping_reader(kinds: tuple[Any, ...], field: str) -> Callable[[Any], dict[Any, Any]]:
    key_kind, value_kind = kinds
    check = _KEY_CHECKS.get(field) if key_kind is str else None
    read_key = functools.partial(_named, check) if check else _reader(key_kind)
    read_value = _reader(value_kind)

    def read(value: Any) -> dict[Any, Any]:
        if type(value) is not dict:
            raise _Wrong("must be an object")
        result: dict[Any, Any] = {}
        key = ""
        try:
            for key, inner in value.items():
                name = read_key(key)
                result[name] = read_value(inner)
        except _Wrong as e:
            raise e.below(key) from None
        return result

    return read


def _file(value: Any) -> model.File:
    """`[path, size, etag, check, version]`, the last two optional: an object per file would triple a list."""
    match value:
        case [str(path), int(size), str(etag), *rest] if size >= 0 and size is not True and size is not False:
            if len(rest) <= 2 and all(isinstance(text, str) for text in rest):
                return model.File(path, size, etag, *rest)
    raise _Wrong("a file must be [path, size, etag], then its check and its object version if any")


def _boolean(value: Any) -> bool:
    if type(value) is not bool:
        raise _Wrong("must be true or false")
    return value


def _number(kind: type[int | float], value: Any) -> int | float:
    if (type(value) is not int and type(value) is not kind) or not 0 <= value < _LARGEST:
        raise _Wrong(f"must be a {'' if kind is float else 'whole '}number, 0 or more")
    return kind(value)


def _amount(value: Any) -> int | str:
    try:
        return parse_amount(value)
    except Usage as e:
        raise _Wrong(str(e)) from None


def _string(value: Any) -> str:
    if type(value) is not str:
        raise _Wrong("must be text")
    return value


def _word_of(words: Mapping[str, StrEnum], value: Any) -> StrEnum:
    found = words.get(_string(value))
    if found is None:
        raise _Wrong(f"{value!r} is none of {', '.join(words)}")
    return found


def _named(check: Callable[[str], str], value: Any) -> str:
    try:
        return check(_string(value))
    except Usage as e:
        raise _Wrong(str(e)) from None
