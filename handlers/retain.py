"""retain: removes from KV what retention and tombstones allow, as `core.retention` decides.

Runs beside the planner, called by resync. It looks first, and only when there is something to remove takes
the planner's lock and looks again: nothing may become desired while it is being removed. Data on S3 stays,
with the lists of files that lie beside it: Hydra owns nothing there.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime

from handlers import log, plan
from handlers.adapters import snapshot
from handlers.adapters.local import LocalState
from handlers.adapters.lock import cluster_lock
from handlers.adapters.ports import MAX_OPS, MAX_TXN_BYTES, Cas, CheckSession, Delete, DeleteCas, Op
from handlers.adapters.txn import op_bytes, split
from handlers.context import Context
from handlers.core import codec, keys, model
from handlers.core.desired import behind, highest_generation
from handlers.core.retention import Removal, Retention, retention
from handlers.core.version import Version
from handlers.core.world import World

ROLE = "retain"
AUDITED = "retain-audited"
SHOWN = 5  # names or reasons of a longer list
AUDIT_EVERY_S = 3600.0  # the history is long, and nothing waits for its old entries to go


def run(ctx: Context) -> str:
    """Remove what nothing needs any more; the sentence says what went."""
    ttl_s = ctx.settings.limits.plan_ttl_s
    with cluster_lock(ctx.kv, ctx.local, ROLE, node=ctx.node, ttl_s=ttl_s) as own:
        audit = _audit(ctx)
        found = _look(ctx, audit)[1]
        if not found.removals:
            return f"held: {found.held}" if found.held else "nothing to remove"
        with cluster_lock(
            ctx.kv, ctx.local, plan.ROLE, node=ctx.node, ttl_s=ttl_s, user="retain-plan"
        ) as planner:
            world, found = _look(ctx, audit)
            _remove(ctx, world, found.removals, [own, planner])
    return _summary(found)


def _look(ctx: Context, audit: Collection[str]) -> tuple[World, Retention]:
    """The world as it is now, and what may go from it."""
    world = snapshot.load(ctx.kv, *snapshot.EVERYTHING)
    remembered = plan.Memory.read(ctx.local).generation
    if reason := behind(world, highest_generation(world), remembered):
        return world, Retention(held=reason)
    return world, retention(world, audit, datetime.now(UTC))


def _audit(ctx: Context) -> list[str]:
    """The keys of the history, once in a while; else none."""
    now = time.monotonic()
    if 0 <= now - _audited(ctx.local) < AUDIT_EVERY_S:
        return []
    found = [key for prefix in (keys.AUDIT, keys.SERVED) for key in ctx.kv.list(prefix).entries]
    ctx.local.write(AUDITED, repr(now).encode())
    return found


def _audited(local: LocalState) -> float:
    """When the history was looked at last, on this machine's monotonic clock (s)."""
    try:
        return float(local.read(AUDITED) or b"-inf")
    except ValueError as e:
        log.warning("retain", "cannot read when it looked at the history", error=e)
        return -math.inf


def _remove(ctx: Context, world: World, removals: Sequence[Removal], fence: Sequence[CheckSession]) -> None:
    """Each removal whole, in order, in as few transactions as fit; then one entry of history per object."""
    for batch in _batches([_ops(removal, world) for removal in removals], fence):
        ctx.kv.txn(batch)
    by_object: dict[str, list[str]] = {}
    for removal in removals:
        log.info("retain", "removed", object=removal.object, why=removal.why, keys=len(removal.keys))
        if not removal.object.startswith("audit/"):  # the history has no history
            by_object.setdefault(removal.object, []).append(removal.why)
    for name, reasons in by_object.items():
        ctx.kv.txn([*fence, _trace(ctx, name, reasons)])


def _ops(removal: Removal, world: World) -> list[Op]:
    """The operations of one removal: only what is still as it was read; manifests were not read."""
    indexes = world.indexes
    ops: list[Op] = [DeleteCas(k, indexes[k]) if k in indexes else Delete(k) for k in removal.keys]
    return ops + [Cas(key, value, indexes[key]) for key, value in removal.rewrite.items()]


def _batches(groups: Iterable[list[Op]], fence: Sequence[CheckSession]) -> Iterator[list[Op]]:
    """The groups in order, in transactions that begin with `fence`; only a group that is too large is cut."""
    batch: list[Op] = [*fence]
    for group in groups:
        for whole in split(group, fence):
            part = whole[len(fence) :]
            full = len(batch) + len(part) > MAX_OPS or sum(map(op_bytes, [*batch, *part])) > MAX_TXN_BYTES
            if full and len(batch) > len(fence):
                yield batch
                batch = [*fence]
            batch += part
    if len(batch) > len(fence):
        yield batch


def _trace(ctx: Context, name: str, reasons: list[str]) -> Op:
    now = datetime.now(UTC)
    entry = model.Audit(
        object=name,
        action="retained",
        who=f"retain on {ctx.node}",
        when=now.isoformat(timespec="seconds"),
        before="; ".join(reasons[:SHOWN]) + ("; …" if len(reasons) > SHOWN else ""),
    )
    return Cas(keys.audit(name, Version.of(now), uuid.uuid4().hex[:8]), codec.encode(entry), 0)


def _summary(found: Retention) -> str:
    if not found.removals:
        return f"held: {found.held}" if found.held else "nothing to remove any more"
    keys_gone = sum(len(removal.keys) + len(removal.rewrite) for removal in found.removals)
    names = sorted({removal.object for removal in found.removals})
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"removed {model.count(keys_gone, 'key')} of {', '.join(names[:SHOWN])}{more}"
