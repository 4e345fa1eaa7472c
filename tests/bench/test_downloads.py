"""What the table of downloads says of an aim that was missed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.bench.downloads import HYDRA, S5CMD, Case, Line, bound
from tests.bench.report import Row
from tests.bench.store import Payload
from tests.bench.usage import Usage


@pytest.mark.parametrize(
    ("busy", "target", "why"),
    [
        (0.5, "RAM", "the processors bound it"),
        (0.2, "RAM", "waiting for the server bounds it"),
        (0.2, "disk", "waiting for the server and the disk bounds it"),
    ],
)
def test_missed_aim_says_by_how_much_and_what_bounds_it(busy: float, target: str, why: str) -> None:
    cores = os.cpu_count() or 1
    used = {
        name: [Usage(code=0, wall_s=2.0, cpu_s=2.0 * cores * busy, peak_bytes=1, said="")]
        for name in (HYDRA, S5CMD)
    }
    case = Case(Payload("big", Path("big"), {"a": 1}), target, Path("x"), Line("plain", {}), used)
    case.server_s = {name: [2.0 * cores * busy] for name in (HYDRA, S5CMD)}

    note = bound(Row(6, f"{case.what}: hydra / s5cmd", [0.99], "x", aim=0.9, counts="median"), case)

    assert f"10% above the aim; {why}: of {cores} hydra has {busy * cores:.1f}" in note
