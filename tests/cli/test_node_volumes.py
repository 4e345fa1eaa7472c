"""`hydra node volumes`: what it prints can be pasted."""

from __future__ import annotations

import tomllib
from pathlib import Path

from handlers.core.model import DISK, RAM, VolumeInfo
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
    disk, ram = VolumeInfo(cls=DISK, budget_bytes=5), VolumeInfo(cls=RAM)

    assert volume_place("disk", "/x", "disk", disk, 10).level is Level.OK
    assert volume_place("ram", "/x", "memory", ram, 10).level is Level.OK
    assert volume_place("disk", "/x", "link", disk, 10).level is Level.FAIL
    assert "is a link" in volume_place("disk", "/x", "link", disk, 10).text
    assert "its budget is" in volume_place("disk", "/x", "disk", disk, 4).text
    assert "is no memory" in volume_place("ram", "/x", "disk", ram, 10).text
    assert volume_place("ram", "/x", "disk", ram, 10).level is Level.WARN
