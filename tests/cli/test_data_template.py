"""Data templates: three languages, and a clear sentence for every mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from handlers.adapters.ports import Source
from handlers.core.errors import Usage
from handlers.core.version import Version
from hydra_cli.data_template import Template, TemplateDataset, load

V = Version("2026-01-31T00-00-00")
PYTHON = """
DISK = 0
RAM = 1
DATA_TEMPLATE = {
    "ranks": {
        "SourcePath": f"s3://data/ranks/{VERSION_PLACEHOLDER}/ranks.bin",
        "Placement": RAM, "As": "table.bin", "Version": "own",
    },
    "index": {
        "SourcePath": f"s3://data/index/{VERSION_PLACEHOLDER}/", "Placement": DISK, "Marker": "_SUCCESS",
    },
}
"""
YAML = """
index:
  SourcePath: "s3://data/index/{VERSION_PLACEHOLDER}/"
  Placement: DISK
  Marker: _SUCCESS
ranks:
  SourcePath: "s3://data/ranks/{VERSION_PLACEHOLDER}/ranks.bin"
  Placement: 1
  As: table.bin
  Version: own
"""
JSON = """
{"DATA_TEMPLATE": {
  "index": {"SourcePath": "s3://data/index/{VERSION_PLACEHOLDER}/", "Placement": 0, "Marker": "_SUCCESS"},
  "ranks": {"SourcePath": "s3://data/ranks/{VERSION_PLACEHOLDER}/ranks.bin", "Placement": "RAM",
            "As": "table.bin", "Version": "own"}
}}
"""


@pytest.mark.parametrize(
    ("name", "text"), [("t.py", PYTHON), ("t.yaml", YAML), ("t.yml", YAML), ("t.json", JSON)]
)
def test_three_languages_say_the_same(tmp_path: Path, name: str, text: str) -> None:
    file = tmp_path / name
    file.write_text(text)

    assert load(file) == Template(
        (
            TemplateDataset("index", "data", "index/{VERSION_PLACEHOLDER}/", "DISK", marker="_SUCCESS"),
            TemplateDataset(
                "ranks", "data", "ranks/{VERSION_PLACEHOLDER}/ranks.bin", "RAM", as_name="table.bin", own=True
            ),
        ),
        {},
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.py", PYTHON + "LABELS = {'format': 5, 'ranks/schema': '1.10'}"),
        ("t.yaml", YAML + "LABELS: {format: 5, ranks/schema: '1.10'}"),
        ("t.json", JSON.rstrip()[:-1] + ', "LABELS": {"format": 5, "ranks/schema": "1.10"}}'),
    ],
)
def test_three_languages_give_the_same_labels(tmp_path: Path, name: str, text: str) -> None:
    file = tmp_path / name
    file.write_text(text)

    found = load(file)

    assert found.labels == {"format": "5", "ranks/schema": "1.10"}
    assert [dataset.name for dataset in found.datasets] == ["index", "ranks"]


def source(text: str, **more: str) -> str:
    fields = {"SourcePath": text, "Placement": "DISK"} | more
    return f"DATA_TEMPLATE = {{'d': {fields}}}"


GOOD = "s3://data/k/{VERSION_PLACEHOLDER}/"
MISTAKES = {
    "labels-list": (source(GOOD) + "\nLABELS = ['format']", "LABELS must map labels to values, not be a"),
    "label-point": (
        source(GOOD) + "\nLABELS = {'format': 1.10}",
        "LABELS: the value of format must be text (in quotes) or a whole number: 1.1",
    ),
    "label-true": (source(GOOD) + "\nLABELS = {'format': True}", "a whole number: True"),
    "label-blank": (source(GOOD) + "\nLABELS = {'a b': '1'}", "LABELS: 'a b' is no name of a label"),
    "label-number": (source(GOOD) + "\nLABELS = {5: 'format'}", "LABELS: 5 is no name of a label"),
    "unknown-placement": (
        source(GOOD, Placement="TAPE"),
        "dataset 'd': Placement 'TAPE' is none of DISK (0), RAM (1)",
    ),
    "placement-number": (
        "DATA_TEMPLATE={'d':{'SourcePath':'" + GOOD + "','Placement':2}}",
        "Placement 2 is none of",
    ),
    "placement-true": (
        "DATA_TEMPLATE={'d':{'SourcePath':'" + GOOD + "','Placement':True}}",
        "Placement True is none",
    ),
    "no-placement": (
        "DATA_TEMPLATE={'d':{'SourcePath':'" + GOOD + "'}}",
        "dataset 'd': Placement is missing",
    ),
    "no-source": ("DATA_TEMPLATE={'d':{'Placement':DISK}}", "dataset 'd': SourcePath is missing"),
    "source-number": (
        "DATA_TEMPLATE={'d':{'Placement':DISK,'SourcePath':7}}",
        "SourcePath must be text, not a int",
    ),
    "other-scheme": (source("gs://b/k/{VERSION_PLACEHOLDER}"), "SourcePath: source 'gs://b/k/"),
    "no-key": (source("s3://data"), "names a whole bucket"),
    "no-placeholder": (source("s3://data/k/file"), "the key must contain {VERSION_PLACEHOLDER}"),
    "other-placeholder": (
        source("s3://data/{DATE}/{VERSION_PLACEHOLDER}"),
        "only placeholder is {VERSION_PLACEHOLDER}",
    ),
    "dots-in-source": (source("s3://data/../{VERSION_PLACEHOLDER}/x"), "has an empty part, '.' or '..'"),
    "unknown-field": (
        source(GOOD, Placment="DISK"),
        "dataset 'd': unknown field 'Placment'; did you mean Placement?",
    ),
    "foreign-field": (source(GOOD, Zip="x"), "unknown field 'Zip'; known are SourcePath, Placement, As"),
    "as-of-prefix": (source(GOOD, As="x"), "As names the file of a single object"),
    "as-path": (source("s3://data/{VERSION_PLACEHOLDER}/x", As="a/b"), "As 'a/b' must be a file name"),
    "as-dots": (
        source("s3://data/{VERSION_PLACEHOLDER}/x", As=".."),
        "As: file name '..' is not a legal path",
    ),
    "marker-dots": (source(GOOD, Marker="../x"), "Marker: name '../x' is not a legal path"),
    "version-other": (source(GOOD, Version="newest"), "Version 'newest': the only value is own"),
    "dataset-dots": ("DATA_TEMPLATE={'..':{}}", "name '..' is not a legal name"),
    "dataset-slash": ("DATA_TEMPLATE={'a/b':{}}", "name 'a/b' is not a legal name"),
    "dataset-space": ("DATA_TEMPLATE={'a b':{}}", "name 'a b' is not a legal name"),
    "dataset-capital": ("DATA_TEMPLATE={'Index':{}}", "name 'Index' is not a legal name"),
    "dataset-long": ("DATA_TEMPLATE={'a'*64:{}}", "is not a legal name: use 1 to 63"),
    "dataset-number": ("DATA_TEMPLATE={7:{}}", "the name of a dataset must be text, not a int"),
    "fields-a-list": ("DATA_TEMPLATE={'d':['x']}", "dataset 'd': must map fields to values, not be a list"),
    "a-list": (
        "DATA_TEMPLATE=['x']",
        "DATA_TEMPLATE must map names of datasets to their fields, not be a list",
    ),
    "empty": ("DATA_TEMPLATE={}", "DATA_TEMPLATE has no dataset"),
    "no-variable": ("DATA = {}", "does not define DATA_TEMPLATE"),
    "syntax": ("x = 1\nDATA_TEMPLATE = {", "line 2: '{' was never closed"),
    "raises": ("x = 1\n\ny = x / 0", "line 3: ZeroDivisionError: division by zero"),
    "raises-below": ("def f():\n    return {}['x']\nf()", "line 2: KeyError: 'x'"),
    "exits": ("import sys\nsys.exit(3)", "line 2: SystemExit: 3"),
    "null-byte": ("x = '\0'", "source code string cannot contain null bytes"),
}


@pytest.mark.parametrize(("text", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistake_is_named_with_file_dataset_and_field(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "t.py"
    file.write_text(text)

    with pytest.raises(Usage) as raised:
        load(file)

    assert str(raised.value).startswith(str(file))
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.yaml", "a: [", "not YAML"),
        ("t.yaml", "a: {}\nb: {}\na: {}", "line 3: 'a' is there twice"),
        ("t.yaml", "!!python/object/apply:os.system ['true']", "not YAML"),
        ("t.json", "{", "not JSON"),
        ("t.json", '{"a": {}, "a": {}}', "a is there twice"),
        ("t.txt", "", "a template is a .py, .yaml, .yml or .json file"),
        ("t.yaml", "", "must map names of datasets to their fields, not be empty"),
    ],
)
def test_file_that_does_not_load_is_a_usage_error(tmp_path: Path, name: str, text: str, message: str) -> None:
    file = tmp_path / name
    file.write_text(text)

    with pytest.raises(Usage, match=message):
        load(file)


def test_missing_file_and_binary_file_are_usage_errors(tmp_path: Path) -> None:
    binary = tmp_path / "t.py"
    binary.write_bytes(b"\xff\xfe\x00")

    with pytest.raises(Usage, match="No such file"):
        load(tmp_path / "none.py")
    with pytest.raises(Usage, match="codec can't decode"):
        load(binary)


def test_what_a_template_prints_does_not_get_between_the_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "t.py"
    file.write_text("print('hello')\n" + source(GOOD))

    load(file)

    assert capsys.readouterr() == ("", "hello\n")


@pytest.mark.parametrize(
    ("key", "folder", "name", "version"),
    [
        ("a/{VERSION_PLACEHOLDER}/f", "a/", V, V),
        ("a/{VERSION_PLACEHOLDER}/f", "a/", f"{V}-old", None),
        ("a/{VERSION_PLACEHOLDER}/f", "a/", "2026-02-31T00-00-00", None),
        ("{VERSION_PLACEHOLDER}/f", "", V, V),
        ("a/part-{VERSION_PLACEHOLDER}.bin", "a/", f"part-{V}.bin", V),
        ("a/part-{VERSION_PLACEHOLDER}.bin", "a/", f"part-{V}.tmp", None),
        ("a/{VERSION_PLACEHOLDER}/b-{VERSION_PLACEHOLDER}.bin", "a/", V, V),
        ("a/x-{VERSION_PLACEHOLDER}-{VERSION_PLACEHOLDER}/", "a/", f"x-{V}-{V}", V),
    ],
)
def test_versions_are_found_in_names_below_the_folder(
    key: str, folder: str, name: str, version: str | None
) -> None:
    dataset = TemplateDataset("d", "b", key, "DISK")

    assert dataset.versions_folder == Source("b", folder)
    assert dataset.version_in(name) == version


def test_marker_lies_below_a_prefix_and_beside_an_object() -> None:
    prefix = TemplateDataset("d", "b", "a/{VERSION_PLACEHOLDER}/", "DISK", marker="_SUCCESS")
    single = TemplateDataset("d", "b", "a/{VERSION_PLACEHOLDER}/f", "DISK", marker="_SUCCESS")

    assert prefix.marker_source(V) == single.marker_source(V) == Source("b", f"a/{V}/_SUCCESS")
