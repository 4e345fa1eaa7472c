"""`hydra node volumes`: which volumes this machine could have, as text for its configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from msgspec import Struct
from msgspec.structs import asdict

from handlers import settings
from handlers.adapters.machine import machine
from handlers.core.model import VolumeInfo
from handlers.core.proposal import Proposed, propose
from handlers.core.volumes import as_toml
from hydra_cli.context import Context
from hydra_cli.options import command
from hydra_cli.output import Block, Line, Table, size


class Proposal(Struct, frozen=True):
    """The volumes that a machine could have; with `table`, people get rows and not the text."""

    volumes: Sequence[Proposed]
    table: bool

    def data(self) -> Mapping[str, Any]:
        """One object per volume."""
        rows = [asdict(volume) for volume in self.volumes]
        return {"volumes": [{"class": row.pop("cls"), **row} for row in rows]}

    def blocks(self) -> Iterator[Block]:
        """Text that can be pasted, or a table."""
        if self.table:
            columns = ("VOLUME", "CLASS", "BUDGET", "RESERVE", "PATH", "WHAT")
            rows = [
                (v.name, v.cls, size(v.budget_bytes), size(v.reserve_bytes), v.path, v.what)
                for v in self.volumes
            ]
            yield Table(columns, rows, right=frozenset({"BUDGET", "RESERVE"}))
            return
        found = {
            v.name: (
                VolumeInfo(cls=v.cls, budget_bytes=v.budget_bytes, reserve_bytes=v.reserve_bytes),
                f"{v.what}; data in {v.path}" + (f"\n/etc/fstab: {v.fstab}" if v.fstab else ""),
            )
            for v in self.volumes
        }
        for line in as_toml(found).splitlines():
            yield Line(line)


@command("volumes", examples="""
hydra node volumes
hydra node volumes --table
hydra node volumes -o json
""")  # fmt: skip
@click.option("--root", type=click.Path(path_type=Path), help="HYDRA_ROOT of the node (default: as here).")
@click.option("--table", is_flag=True, help="Print a table in place of TOML.")
@click.pass_obj
def volumes(context: Context, root: Path | None, table: bool) -> None:
    """Propose [volumes] for /etc/hydra/node.toml from what this machine has.

    The file system of the root becomes the volume of class DISK, memory the one of class RAM (with the row
    for /etc/fstab, where it is not mounted yet), other mounted disks get a class by name: nvme, ssd, hdd.
    Budgets and reserves stay clear of what makes the kubelet evict pods. Nothing is changed by this.
    """
    where = root or settings.load(context.environ).root
    context.screen.show(Proposal(propose(machine(where.absolute())), table))
