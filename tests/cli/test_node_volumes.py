"""`hydra node volumes`: what it prints can be pasted."""

from __future__ import annotations

import tomllib
from pathlib import Path

from handlers.core.model import DISK, RAM
from handlers.core.volumes import parse_volumes
from hydra_cli.doctor_checks import Level, volume_place
from tests.cli.desk import Desk


def test_proposal_is_a_configuration_as_it_stands(desk: Desk, tmp_path: Path) -> None:
    done = desk.ok("node", "volumes", "--root", str(tmp_path))

    volumes = parse_volumes(tomllib.loads(done.out)["volumes"], "here")
    assert {DISK, RAM} <= {volume.cls for volume in volumes.values()}
    rows = desk.run("node", "volumes", "--root", str(tmp_path), "-o", "json").json["volumes"]
    assert {row["name"]: (row["class"], row["budget_bytes"]) for row in rows} == {
        name: (volume.cls, volume.budget_bytes) for name, volume in volumes.items()
    }
    assert "BUDGET" in desk.run("node", "volumes", "--table").out


def test_doctor_names_a_volume_that_is_not_as_it_should_be() -> None:
    assert volume_place("disk", "/x", "disk", 5, 10).level is Level.OK
    assert "is a link" in volume_place("disk", "/x", "link", 5, 10).text
    assert volume_place("disk", "/x", "link", 5, 10).level is Level.FAIL
    assert "its budget is" in volume_place("disk", "/x", "disk", 11, 10).text
