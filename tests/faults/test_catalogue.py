"""README.md beside this says where each row of the fault catalogue lives, and each row lives there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent
_ROW = re.compile(r"test_([cdns]\d+)_")


def table() -> dict[str, set[str]]:
    """The files of each row, as the table has them."""
    rows = [row.strip("|").split("|") for row in (HERE / "README.md").read_text().splitlines() if "|" in row]
    return {row[0].strip(): {file.strip() for file in row[3].split(",")} for row in rows[2:]}


def named() -> dict[str, set[str]]:
    """The files with tests that are named after each row."""
    found: dict[str, set[str]] = {}
    for file in HERE.parent.rglob("test_*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef) and (row := _ROW.match(node.name)):
                found.setdefault(row[1].upper(), set()).add(str(file.relative_to(HERE.parent)))
    return found


def test_each_row_lives_where_the_table_says() -> None:
    assert table() == named()


def test_no_row_is_left_out() -> None:
    rows = {
        *(f"D{n}" for n in range(1, 14)),
        *(f"C{n}" for n in range(1, 11)),
        *(f"N{n}" for n in range(1, 7)),
    }

    assert rows <= table().keys()
