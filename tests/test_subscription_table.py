"""k8s/README.md has one table of all settings of a subscription; its rows are those of the code."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click
from msgspec.structs import fields

from handlers.core.discovery import META
from handlers.core.discovery import READS as READS_META
from handlers.core.enrolment import ANNOTATIONS, CHANNELS
from handlers.core.model import Subscription
from handlers.core.pods import ENVIRONMENT, NAMESPACE, PREFIX, SERVICE
from hydra_cli.subscribe import subscribe
from tests.test_docs import ROOT

NOT_SET = {"extra", "origin", "budget_by", "tombstone"}  # what nobody chooses


def rows() -> Iterator[tuple[str, ...]]:
    """The cells of the table, without its head."""
    text = (ROOT / "k8s" / "README.md").read_text()
    table = text[text.index("| field in KV") :].split("\n\n")[0]
    for line in table.splitlines()[2:]:
        yield tuple(cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|")))


def first_word(cell: str) -> str:
    """What a cell names, without the explanation after it."""
    found = re.match(r"`([^` ]+)[^`]*`", cell)
    assert found, cell
    return found[1]


def test_every_field_has_a_row_with_its_flag_and_its_annotation() -> None:
    flags = {p.name: max(p.opts, key=len) for p in subscribe.params if isinstance(p, click.Option)}
    notes = {field: name for name, (field, _) in ANNOTATIONS.items()}
    notes["channels"] = CHANNELS.removeprefix(PREFIX)
    meta = {"reads": f"`{READS_META}`, of one instance"}
    expected = [
        (f.name, flags[f.name], notes[f.name], meta.get(f.name, "no"))
        for f in fields(Subscription)
        if f.name not in NOT_SET
    ]

    found = [(*map(first_word, cells[:3]), cells[3]) for cells in list(rows())[1:]]

    assert sorted(found) == sorted(expected)


def test_first_row_says_which_service_it_is() -> None:
    _, flag, note, meta = next(rows())

    assert flag == f"`{subscribe.params[0].make_metavar(click.Context(subscribe))}`"
    assert [PREFIX + name for name in re.findall(r"`([a-z]+)`", note)[:3]] == [
        SERVICE,
        NAMESPACE,
        ENVIRONMENT,
    ]
    assert meta == f"`{META}`"


def test_prefix_is_written_in_one_place() -> None:
    """Labels, annotations and conditions are made from the constant."""
    found = [
        f"{file.relative_to(ROOT)}: {line.strip()}"
        for folder in ("handlers", "hydra_cli", "watches", "templates")
        for file in sorted((ROOT / folder).rglob("*"))
        if file.is_file() and file.suffix != ".pyc"
        for line in file.read_text().splitlines()
        if re.search(rf"[\"']{re.escape(PREFIX)}", line)
    ]

    assert [line.partition("=")[0] for line in found] == ["handlers/core/pods.py: PREFIX "]
