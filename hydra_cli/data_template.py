"""Data templates: which datasets a release has, where they come from and where they go.

    DATA_TEMPLATE = {                                    # Python; or the same as YAML or JSON
        "places": {
            "SourcePath": f"s3://data/places/{VERSION_PLACEHOLDER}/",   # a prefix: ends in /
            "Placement": DISK,                           # 0, 1, "DISK", "RAM" or the name of a volume class
            "Marker": "_SUCCESS",                        # optional: a version counts only with this object
        },
        "ranks": {
            "SourcePath": f"s3://data/ranks/{VERSION_PLACEHOLDER}/ranks.bin",   # one object
            "Placement": RAM,
            "As": "table.bin",                           # optional: the file's name on nodes
            "Version": "own",                            # optional: its own newest version
        },
    }
    LABELS = {"format": 5}                               # optional: labels of the release

In YAML and JSON `LABELS` stands beside `DATA_TEMPLATE`, or beside the datasets themselves, whose names are
never in capitals. A Python template is a program: it runs with the rights of whoever publishes. It sees
`DISK`, `RAM` and `VERSION_PLACEHOLDER`. Every mistake is a `Usage` error that names file, dataset and field.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from handlers.adapters.ports import Source
from handlers.core.errors import Usage
from handlers.core.model import DISK, RAM
from handlers.core.names import check_path, check_word
from handlers.core.reading import check_label
from handlers.core.version import PLACEHOLDER, Version

VARIABLE, LABELS = "DATA_TEMPLATE", "LABELS"
FIELDS = ("SourcePath", "Placement", "As", "Marker", "Version")
PREDEFINED = {"DISK": 0, "RAM": 1, "VERSION_PLACEHOLDER": PLACEHOLDER}
_PLACEMENTS = {0: DISK, 1: RAM, DISK: DISK, RAM: RAM}


class TemplateDataset(Struct, frozen=True):
    """One dataset as the template names it; `key` still has the placeholder."""

    name: str
    bucket: str
    key: str
    placement: str
    as_name: str = ""
    marker: str = ""
    own: bool = False
    scheme: str = "s3"

    @property
    def is_prefix(self) -> bool:
        """Whether the source is everything below a prefix, not one object."""
        return self.key.endswith("/")

    def source(self, version: Version) -> Source:
        """The object or prefix of one version."""
        return Source(self.bucket, self.key.replace(PLACEHOLDER, version), self.scheme)

    def marker_source(self, version: Version) -> Source:
        """The object that says that the version is complete: below the prefix, or beside the one object."""
        folder = self.source(version).key.rpartition("/")[0]
        return self.source(version).beside(f"{folder}/{self.marker}" if folder else self.marker)

    @property
    def versions_folder(self) -> Source:
        """The prefix below which each version begins a name of its own."""
        before = self.key.partition(PLACEHOLDER)[0]
        return Source(self.bucket, before[: before.rfind("/") + 1], self.scheme)

    def version_in(self, name: str) -> Version | None:
        """The version in a name directly below `versions_folder`, None when that name has none."""
        pattern = self.key[len(self.versions_folder.key) :].partition("/")[0]
        before, after = pattern.split(PLACEHOLDER)[0], pattern.rpartition(PLACEHOLDER)[2]
        try:
            version = Version.parse(name[len(before) : len(before) + 19])
        except Usage:
            return None
        return version if name == pattern.replace(PLACEHOLDER, version) and name.endswith(after) else None


class Template(Struct, frozen=True):
    """What releases of a channel are made of: datasets by name, and labels."""

    datasets: tuple[TemplateDataset, ...]
    labels: Mapping[str, str]


def load(path: Path) -> Template:
    """The template in `path`; raises `Usage`."""
    readers = {".py": _python, ".yaml": _yaml, ".yml": _yaml, ".json": _json}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise Usage(f"{path}: a template is a .py, .yaml, .yml or .json file")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise Usage(f"{path}: {getattr(e, 'strerror', None) or e}") from None
    table, labels = reader(path, text), {}
    if isinstance(table, dict) and LABELS in table:
        labels = _labels(f"{path}: {LABELS}", table[LABELS])
        table = {name: fields for name, fields in table.items() if name != LABELS}
    if isinstance(table, dict) and set(table) == {VARIABLE}:
        table = table[VARIABLE]
    return Template(datasets(str(path), table), labels)


def datasets(where: str, table: Any) -> tuple[TemplateDataset, ...]:
    """The datasets of a table as templates have it; raises `Usage` that begins with `where`."""
    if not isinstance(table, dict):
        raise Usage(f"{where}: {VARIABLE} must map names of datasets to their fields, not be {_kind(table)}")
    if not table:
        raise Usage(f"{where}: {VARIABLE} has no dataset")
    return tuple(_dataset(where, name, table[name]) for name in sorted(table, key=str))


def _python(path: Path, text: str) -> Any:
    names: dict[str, Any] = {**PREDEFINED, "__file__": str(path), "__name__": "__hydra_template__"}
    try:
        # what a template prints must not get between the data on stdout
        with contextlib.redirect_stdout(sys.stderr):
            exec(compile(text, str(path), "exec"), names)  # noqa: S102 - a template is a program
    except SyntaxError as e:
        raise Usage(f"{path}, line {e.lineno}: {e.msg}") from None
    except (Exception, SystemExit) as e:  # noqa: BLE001 - whatever a person's program raises is their mistake
        lines = [f.lineno for f in traceback.extract_tb(e.__traceback__) if f.filename == str(path)]
        where = f", line {lines[-1]}" if lines else ""
        raise Usage(f"{path}{where}: {type(e).__name__}: {e}") from None
    if VARIABLE not in names:
        raise Usage(f"{path}: does not define {VARIABLE}")
    return {name: names[name] for name in (VARIABLE, LABELS) if name in names}


def _yaml(path: Path, text: str) -> Any:
    import yaml

    class Strict(yaml.SafeLoader):
        """A dataset named twice is a mistake; YAML would silently take the second."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            seen: set[str] = set()
            for key, _ in node.value:
                if key.value in seen:
                    raise Usage(f"{path}, line {key.start_mark.line + 1}: {key.value!r} is there twice")
                seen.add(key.value)
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Strict)  # noqa: S506 - derived from SafeLoader
    except yaml.YAMLError as e:
        raise Usage(f"{path}: not YAML ({' '.join(str(e).split())})") from None


def _json(path: Path, text: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        if twice := {name for name in names if names.count(name) > 1}:
            raise Usage(f"{path}: {', '.join(sorted(twice))} is there twice")
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=once)
    except ValueError as e:
        raise Usage(f"{path}: not JSON ({e})") from None


def _dataset(path: str, name: Any, fields: Any) -> TemplateDataset:
    if not isinstance(name, str):
        raise Usage(f"{path}: the name of a dataset must be text, not {_kind(name)}")
    where = f"{path}: dataset {name!r}"
    _within(f"{path}: dataset", check_word, name, "name")
    if not isinstance(fields, Mapping):
        raise Usage(f"{where}: must map fields to values, not be {_kind(fields)}")
    for field in fields:
        if field not in FIELDS:
            close = difflib.get_close_matches(str(field), FIELDS, n=1, cutoff=0.5)
            hint = f"; did you mean {close[0]}?" if close else f"; known are {', '.join(FIELDS)}"
            raise Usage(f"{where}: unknown field {field!r}{hint}")
    source = source_of(f"{where}: SourcePath", _text(where, fields, "SourcePath"))
    return TemplateDataset(
        name=name,
        bucket=source.bucket,
        key=source.key,
        scheme=source.scheme,
        placement=_placement(where, fields),
        as_name=_as_name(where, fields, source.key),
        marker=_marker(where, fields),
        own=_own(where, fields),
    )


def _labels(where: str, table: Any) -> dict[str, str]:
    """Numbers are text in a release; one with a point is refused, as 1.10 and 1.1 are the same to YAML."""
    if not isinstance(table, Mapping):
        raise Usage(f"{where} must map labels to values, not be {_kind(table)}")
    for name, value in table.items():
        _within(where, check_label, name)
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            raise Usage(f"{where}: the value of {name} must be text (in quotes) or a whole number: {value!r}")
    return {name: str(value) for name, value in table.items()}


def source_of(where: str, text: str) -> Source:
    """A source with the placeholder in its key; raises `Usage` that begins with `where`."""
    try:
        source = Source.parse(text)
    except Usage as e:
        raise Usage(f"{where}: {e}") from None
    key = source.key
    if PLACEHOLDER not in key:
        raise Usage(f"{where} {text!r}: the key must contain {PLACEHOLDER}, so that each version has its own")
    if "{" in key.replace(PLACEHOLDER, "") or "}" in key.replace(PLACEHOLDER, ""):
        raise Usage(f"{where} {text!r}: the only placeholder is {PLACEHOLDER}")
    _within(where, check_path, key.removesuffix("/"), "key")
    return source


def _placement(where: str, fields: Mapping[str, Any]) -> str:
    if "Placement" not in fields:
        raise Usage(f"{where}: Placement is missing: DISK (0), RAM (1) or the name of a volume class")
    value = fields["Placement"]
    if not isinstance(value, bool) and isinstance(value, (int, str)):
        if value in _PLACEMENTS:
            return _PLACEMENTS[value]
        if isinstance(value, str):
            with contextlib.suppress(Usage):
                return check_word(value, "class")
    raise Usage(f"{where}: Placement {value!r} is none of DISK (0), RAM (1) or the name of a volume class")


def _as_name(where: str, fields: Mapping[str, Any], key: str) -> str:
    if "As" not in fields:
        return ""
    text = _text(where, fields, "As")
    if key.endswith("/"):
        raise Usage(f"{where}: As names the file of a single object; SourcePath is a prefix")
    _within(f"{where}: As", check_path, text, "file name")
    if "/" in text:
        raise Usage(f"{where}: As {text!r} must be a file name without '/'")
    return text


def _marker(where: str, fields: Mapping[str, Any]) -> str:
    if "Marker" not in fields:
        return ""
    text = _text(where, fields, "Marker")
    _within(f"{where}: Marker", check_path, text, "name")
    return text


def _own(where: str, fields: Mapping[str, Any]) -> bool:
    if "Version" not in fields:
        return False
    if fields["Version"] != "own":
        raise Usage(
            f"{where}: Version {fields['Version']!r}: the only value is own; --version chooses a version"
        )
    return True


def _text(where: str, fields: Mapping[str, Any], field: str) -> str:
    if field not in fields:
        raise Usage(f"{where}: {field} is missing")
    value = fields[field]
    if not isinstance(value, str) or not value:
        raise Usage(f"{where}: {field} must be text, not {_kind(value)}")
    return value


def _within(where: str, check: Any, *words: Any) -> None:
    try:
        check(*words)
    except Usage as e:
        raise Usage(f"{where}: {e}") from None


def _kind(value: Any) -> str:
    names = {dict: "a mapping", list: "a list", str: "text", type(None): "empty", bool: "true or false"}
    return "empty text" if value == "" else names.get(type(value), f"a {type(value).__name__}")
