"""`hydra verify`: read what lies on this node again, and say what is not as its release says."""

from __future__ import annotations

import os
import random
import secrets
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import click

from handlers import settings
from handlers.adapters import inspection
from handlers.adapters.bodies import Bodies
from handlers.adapters.inspection import Copy, Damage, Unit
from handlers.adapters.local import LocalState
from handlers.adapters.volume import Volumes
from handlers.core import codec
from handlers.core.errors import HydraError, Integrity, Usage
from handlers.core.holdings import Piece
from handlers.core.model import Desired
from handlers.core.version import ReleaseId, Version
from hydra_cli.context import Context
from hydra_cli.options import command
from hydra_cli.output import Screen
from hydra_cli.progress import progress
from hydra_cli.verify_views import Verified

EXAMPLES = """
hydra verify
hydra verify prod/search/places
hydra verify prod/search/places@2026-01-31T00-00-00 --repair
hydra verify --sample 5%
hydra verify --sample 0.5% --seed 4711 -o json
"""
_THREADS = 4


class Share(click.ParamType[float]):
    """Text like `5%` → a share between 0 and 1."""

    name = "percent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The share; fails with what would have been right."""
        if isinstance(value, float):
            return value
        try:
            share = float(value.removesuffix("%")) / 100
        except ValueError:
            share = -1.0
        if not value.endswith("%") or not 0 < share <= 1:
            self.fail(f"{value!r} is not a percentage like 5%", param, ctx)
        return share


@command("verify", codes=(5, 7), examples=EXAMPLES)
@click.argument("name", metavar="[CHANNEL[@VERSION]]", default="")
@click.option(
    "--sample", type=Share(), default="100%", show_default=True, help="Read only so many, by chance."
)
@click.option("--seed", type=click.IntRange(0), help="The same sample again: the seed that was printed.")
@click.option(
    "--repair", is_flag=True, help="Fetch damaged datasets anew: those that nobody on this node uses."
)
@click.pass_obj
def verify(context: Context, name: str, sample: float, seed: int | None, repair: bool) -> int:
    """Read what lies on this node again and compare it with its releases: all volumes, RAM copies too.

    Needs neither Consul nor the object store. Chunks are compared where a release has digests of chunks,
    else whole files; at integrity level size only sizes can be. With --repair a damaged dataset is taken out
    of use and sync fetches what is wrong in it; a damaged RAM copy is dropped and filled again. What a view
    points to or a process has open stays as it is, and is named.
    """
    own = settings.load(context.environ)
    if not own.root.is_dir():
        raise Usage(f"this machine is no node: {own.root} does not exist (HYDRA_ROOT names another root)")
    volumes = Volumes(own.root, own.volumes)
    local = LocalState(own.root)
    bodies = Bodies(context.kv(), local, context.objects())  # of which only what is on this node is asked
    copies, unknown = _copies(context, local, bodies, volumes, name)
    if sample < 1 and seed is None:
        seed = secrets.randbits(32)
    units = [unit for copy in copies for unit in inspection.units(copy)]
    chosen = sampled(units, sample, seed)
    found = _read(context.screen, volumes, chosen)
    found += [damage for copy in copies for damage in inspection.strangers(volumes, copy)]
    mended: dict[tuple[str, Piece], str] = {}
    if repair and found:
        from hydra_cli.verify_repair import repair as mend

        mended = mend(context.screen, own, volumes, bodies, found)
    context.screen.show(Verified(copies, chosen, len(units), found, mended, unknown, sample, seed))
    return Integrity.exit_code if found else 0


def sampled(units: Sequence[Unit], share: float, seed: int | None) -> list[Unit]:
    """`share` of what has bytes to compare, at least one; all of what costs nothing. In the order on disk."""
    if share >= 1:
        return list(units)
    costly = [n for n, unit in enumerate(units) if unit.bytes]
    count = min(len(costly), max(1, round(len(costly) * share)))
    picked = set(random.Random(seed).sample(costly, count))
    return [unit for n, unit in enumerate(units) if n in picked or not unit.bytes]


def _copies(
    context: Context, local: LocalState, bodies: Bodies, volumes: Volumes, name: str
) -> tuple[list[Copy], list[ReleaseId]]:
    """The datasets on this node that `name` means, and the releases whose list of files is not here."""
    bare, at, version = name.partition("@")
    channel = context.channel(bare) if name else None
    wanted = Version.parse(version) if at else None
    raw = local.read("desired")
    desired = codec.decode(Desired, raw, "this node's desired").releases if raw else {}
    copies, unknown = [], set()
    there = sorted(volumes.copies(), key=lambda row: (row[1], row[0]))
    for volume, piece in there:
        release = piece.release
        if (channel and release.channel != channel) or (wanted and release.version != wanted):
            continue
        hold = desired.get(release)
        header = bodies.header(release, hold) if hold else bodies.kept_header(release)
        manifest = bodies.manifest(release, header) if header else None
        if manifest is None or piece.dataset not in manifest.files:
            unknown.add(release)
            continue
        copies.append(Copy(volume, piece, manifest.files[piece.dataset]))
    if name and not copies and not unknown:
        here = ", ".join(sorted({piece.release for _, piece in there})) or "none"
        raise Usage(f"nothing of {name} is on this node; here are {here}")
    return copies, sorted(unknown)


def _read(screen: Screen, volumes: Volumes, units: Sequence[Unit]) -> list[Damage]:
    """Compare all units; what is wrong, in their order."""
    stop = threading.Event()
    with progress(screen, "verify", sum(unit.bytes for unit in units)) as step:

        def count(read: int) -> None:
            if stop.is_set():
                raise HydraError("interrupted")
            step(read)

        with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
            try:
                found = list(pool.map(lambda unit: inspection.damage(volumes, unit, count), units))
            except BaseException:
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return [damage for damage in found if damage]
