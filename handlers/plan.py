"""plan: reads the whole KV, decides by `core.desired`, writes the documents that changed.

One planner at a time in the cluster, under the lock `locks/plan`; every write is fenced by it and carries the
ModifyIndex of what was read. A run that dies anywhere is completed by the next one. A burst of changes is
planned at once and then every few seconds; what an operator orders is never delayed.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime

from msgspec import Struct, field
from msgspec.structs import asdict, replace

from handlers import log
from handlers.adapters import snapshot
from handlers.adapters.local import LocalState
from handlers.adapters.lock import cluster_lock
from handlers.adapters.ports import KV, Cas, CheckSession, DeleteCas, Op
from handlers.adapters.txn import split
from handlers.context import Context
from handlers.core import codec, keys
from handlers.core.canonical import Shared
from handlers.core.desired import Plan, plan
from handlers.core.errors import HydraError
from handlers.core.model import Audit, count
from handlers.core.version import Version
from handlers.core.world import World

ROLE = "plan"
MEMORY = "plan"
BURST_FACTOR = 4.0  # while changes keep coming the pause doubles, up to so many times
QUIET_FACTOR = 4.0  # a run that changed nothing is followed by a pause of so many times its length


class Memory(Struct, frozen=True):
    """What this planner remembers between runs, in its local state.

    `generation`: the highest that it has announced. `orders`: digest by prefix of the operators' orders that
    were planned last. `due`: when the next run may begin, on this machine's monotonic clock (s).
    `burst`: how many pauses long the last one is, as changes kept coming.
    `wake_at`: when time alone changes the plan (Unix time, 0 = never); resync runs plan then.
    """

    generation: int = 0
    orders: Mapping[str, str] = field(default_factory=dict)
    due: float = 0.0
    burst: float = 1.0
    wake_at: float = 0.0

    @classmethod
    def read(cls, local: LocalState) -> Memory:
        """What the last run noted; nothing is remembered when that cannot be read."""
        try:
            value = json.loads(local.read(MEMORY) or b"{}")
            orders = {str(k): str(v) for k, v in value.get("orders", {}).items()}
            return cls(
                int(value.get("generation", 0)),
                orders,
                due=float(value.get("due", 0.0)),
                burst=float(value.get("burst", 1.0)),
                wake_at=float(value.get("wake_at", 0.0)),
            )
        except (ValueError, TypeError, AttributeError) as e:
            log.warning("plan", "the planner's memory does not parse and is begun anew", error=e)
            return cls()

    def write(self, local: LocalState) -> None:
        """Note this for the next run, durably."""
        local.write(MEMORY, json.dumps(asdict(self), indent=2).encode())


def run(ctx: Context) -> str:
    """Make `desired/`, `proven/`, `rollouts/` and `alarms` what the rest of the KV asks for."""
    memory = Memory.read(ctx.local)
    limits = ctx.settings.limits
    last, waited = memory, _let_a_burst_pass(ctx.kv, memory, BURST_FACTOR * limits.plan_pause_s)
    with cluster_lock(ctx.kv, ctx.local, ROLE, node=ctx.node, ttl_s=limits.plan_ttl_s) as fence:
        began = time.monotonic()
        world = snapshot.load(ctx.kv)
        made = plan(
            world,
            now=datetime.now(UTC),
            remembered=memory.generation,
            brake_share=limits.brake_share,
        )
        if made.held and not (world.indexes or memory.generation):
            return "nothing to plan: Hydra is not set up here yet (hydra init)"
        _announce(ctx.kv, world, made, fence)
        # only now: a generation that KV never saw would look like a KV that was restored from an older state
        highest = max(memory.generation, 0 if made.held else made.generation)
        wake_at = made.due.timestamp() if made.due else 0.0
        memory = Memory(highest, orders_of(world.indexes), wake_at=wake_at)
        memory.write(ctx.local)
        _tell_nodes(ctx.kv, world, made, fence)
        _promote(ctx, world, made, fence)
    took_s = time.monotonic() - began
    burst = min(2 * last.burst, BURST_FACTOR) if waited and made.changed else 1.0
    pause_s = limits.plan_pause_s * burst if made.changed else min(QUIET_FACTOR * took_s, limits.plan_pause_s)
    replace(memory, due=time.monotonic() + pause_s, burst=burst).write(ctx.local)
    return _summary(made)


def orders_of(indexes: Mapping[str, int]) -> dict[str, str]:
    """A digest of all operators' orders below each prefix that may hold some."""
    return {prefix: _orders(prefix, indexes) for prefix in (keys.CHANNELS, keys.SERVICES)}


def _orders(prefix: str, indexes: Mapping[str, int]) -> str:
    found = sorted((k, i) for k, i in indexes.items() if k.startswith(prefix) and keys.is_order(k))
    return hashlib.sha256(repr(found).encode()).hexdigest()


def _let_a_burst_pass(kv: KV, memory: Memory, longest_s: float) -> bool:
    """Wait until the pause after the last run is over, or an order is there that was not planned yet.

    Returns whether there was a pause, and all of it passed: changes come faster than they are planned.
    """
    left_s = memory.due - time.monotonic()
    if not 0 < left_s <= longest_s:  # after a boot the clock begins anew
        return False
    urgent = threading.Event()
    for prefix in (keys.CHANNELS, keys.SERVICES):
        watch = threading.Thread(
            target=_watch_orders, args=(kv, prefix, memory, urgent), name=f"orders {prefix}", daemon=True
        )
        watch.start()
    return not urgent.wait(left_s)


def _watch_orders(kv: KV, prefix: str, memory: Memory, urgent: threading.Event) -> None:
    index = 0
    while not urgent.is_set() and (left_s := memory.due - time.monotonic()) > 0:
        try:
            listing = kv.list(prefix, after=index, wait_s=left_s if index else 0)
        except HydraError:
            urgent.set()  # the run meets the same error at once, and reports it
            return
        indexes = {key: entry.index for key, entry in listing.entries.items()}
        if _orders(prefix, indexes) != memory.orders.get(prefix):
            urgent.set()
        index = listing.index


def _announce(kv: KV, world: World, made: Plan, fence: CheckSession) -> None:
    """Say what is proven, what is wrong, and which generation comes, before any node is told."""
    ops: list[Op] = [
        Cas(key, codec.encode(doc), world.indexes.get(key, 0))
        for key, doc in [
            *((keys.proven(service), doc) for service, doc in sorted(made.proven.items())),
            *((keys.rollout(service), doc) for service, doc in sorted(made.rollouts.items())),
        ]
    ]
    if made.alarms != world.published or "alarms" in world.unreadable:
        ops.append(Cas(keys.ALARMS, codec.encode(made.alarms), world.indexes.get(keys.ALARMS, 0)))
        for alarm in made.alarms.alarms:
            if alarm not in world.published.alarms:
                log.warning("plan", alarm.text, object=alarm.object)
    for batch in split(ops, [fence]):
        kv.txn(batch)


def _tell_nodes(kv: KV, world: World, made: Plan, fence: CheckSession) -> None:
    """Write the documents that changed, each only over the one that was read."""
    shared: Shared = {}
    ops = [
        _write(keys.DESIRED + segment, codec.encode(made.desired[segment], shared), world)
        for segment in made.changed
    ]
    for batch in split(ops, [fence]):
        kv.txn(batch)


def _promote(ctx: Context, world: World, made: Plan, fence: CheckSession) -> None:
    """Let staged releases become heads whose time has come; the watch on `channels/` has it planned."""
    for channel, version in made.promotions.items():
        now, staged = datetime.now(UTC), world.channels[channel].staged
        trace = Audit(
            object=f"channel/{channel}",
            action="promoted",
            who=f"plan on {ctx.node}",
            when=now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            before=world.channels[channel].head or "",
            after=version,
            why=staged.why if staged else "",
        )
        ctx.kv.txn(
            [
                fence,
                _write(keys.head(channel), version.encode(), world),
                DeleteCas(keys.staged(channel), world.indexes[keys.staged(channel)]),
                Cas(keys.audit(trace.object, Version.of(now), secrets.token_hex(4)), codec.encode(trace), 0),
            ]
        )
        log.info("plan", "promoted", channel=channel, release=version)


def _write(key: str, value: bytes, world: World) -> Op:
    return Cas(key, value, world.indexes.get(key, 0))


def _summary(made: Plan) -> str:
    ending = f"; {made.alarms.title()}" if made.alarms.alarms else ""
    if made.held:
        return f"held: {made.held}"
    if not made.changed:
        nodes = count(len(made.desired), "node")
        return f"nothing to change for {nodes} at generation {made.generation}{ending}"
    nodes = f"{len(made.changed)} of {count(len(made.desired), 'node')} changed"
    return f"planned generation {made.generation}: {nodes}{ending}"
