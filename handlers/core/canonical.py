"""The one text of a document: `about` first, then sorted keys, two spaces of indent, a newline at the end.

The writing half of `codec`, which says why equal documents must be equal bytes.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from json.encoder import encode_basestring as _quoted
from typing import Any

from msgspec import structs

from handlers.core import model

Shared = dict[tuple[int, int], tuple[model.Part, str]]
"""Texts of parts by identity and indent, for `encode` of many documents that have parts in common."""


def text_of(doc: model.Doc, shared: Shared | None = None) -> str:
    """The canonical text of `doc`; parts that are in `shared` already are not written again."""
    rows = {**_rows(doc), "format": model.FORMAT}
    lines = [f'  "about": {_quoted(doc.title())}']
    lines += [f"  {_quoted(k)}: {_text(rows[k], 1, shared)}" for k in sorted(rows)]
    return "{\n" + ",\n".join(lines) + "\n}\n"


@functools.cache
def fields_of(cls: Any) -> dict[str, tuple[Any, bool]]:
    """Field name → (type, has a default), without `extra`."""
    return {f.name: (f.type, not f.required) for f in structs.fields(cls) if f.name != "extra"}


def _rows(part: model.Part) -> dict[str, Any]:
    kind: Any = type(part)
    known = {name: getattr(part, name) for name in fields_of(kind)}
    return {**part.extra, **{k: v for k, v in known.items() if v is not None}}


def _text(value: Any, depth: int, shared: Shared | None) -> str:
    """JSON with two spaces of indent; a file is one line, so that a manifest stays readable and small."""
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, model.File):
        return _file_text(value)
    if isinstance(value, model.Part):
        return _part_text(value, depth, shared)
    if isinstance(value, (dict, Mapping)):
        rows = [f"{_quoted(k)}: {_text(value[k], depth + 1, shared)}" for k in sorted(value)]
        return _block("{", rows, "}", depth)
    if isinstance(value, (tuple, list)):
        return _block("[", [_text(v, depth + 1, shared) for v in value], "]", depth)
    return json.dumps(value, allow_nan=False)


def _file_text(file: model.File) -> str:
    texts = [_quoted(file.path), str(file.size), _quoted(file.etag)]
    if file.check or file.version_id:
        texts.append(_quoted(file.check))
    if file.version_id:
        texts.append(_quoted(file.version_id))
    return f"[{', '.join(texts)}]"


def _part_text(part: model.Part, depth: int, shared: Shared | None) -> str:
    if shared is not None and (known := shared.get((id(part), depth))):
        return known[1]
    text = _text(_rows(part), depth, shared)
    if shared is not None:
        shared[id(part), depth] = (part, text)  # with the part: an identity is reused once its owner is gone
    return text


def _block(first: str, rows: list[str], last: str, depth: int) -> str:
    if not rows:
        return first + last
    pad, end = "\n" + "  " * (depth + 1), "\n" + "  " * depth
    return f"{first}{pad}{f',{pad}'.join(rows)}{end}{last}"
