"""`record`: notes who serves what, what was changed by hand, and tells `[notify]`. Runs until it is ended.

    states/ channels/ services/ nodes/ verdicts/  ->  served/<s>/   recorded/   audit/   a command or a URL

One of the planners does it, under the lock `locks/record`; the others stand by. Nothing depends on it: it
decides nothing, and while it is away nothing is lost but the order in which things happened. What it noticed
is written before it is told, and told again until it arrives.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime

from msgspec.structs import replace

from handlers import log
from handlers.adapters import snapshot
from handlers.adapters.lock import cluster_lock
from handlers.adapters.notify import deliver
from handlers.adapters.ports import Cas, CheckSession, Entry, Op
from handlers.adapters.txn import split
from handlers.context import Context
from handlers.core import codec, keys
from handlers.core.byhand import FOLDERS, ByHand, by_hand, orders, went_back
from handlers.core.errors import Conflict, HydraError, Malformed, Temporary
from handlers.core.events import noticed
from handlers.core.model import Audit, Doc, Orders, Served, Told, count
from handlers.core.names import Service
from handlers.core.served import recorded, running
from handlers.core.targeting import service_targets
from handlers.core.version import Version
from handlers.core.why import why
from handlers.core.world import Replica, World

ROLE = "record"
WATCHED = (keys.CHANNELS, keys.SERVICES, keys.NODES, keys.STATES, keys.VERDICTS)
PAUSE_S, PAUSE_FACTOR = 3.0, 4.0  # between two looks, and the share of the time that looking may take
LONGEST_S = 20.0  # without a look: whoever is stuck changes nothing
DOUBT_S = 2.0  # retain deletes first, and writes why then
AGAIN_S = 30.0  # before an event that did not arrive is tried again
RETRY_S = 2.0
MOST_PENDING = 500
BY_HAND = "somebody by hand"


def run(ctx: Context) -> str:
    """Record until the process is ended; does not return."""
    ring = threading.Event()
    for prefix in WATCHED:
        threading.Thread(target=_listen, args=(ctx, prefix, ring), name=prefix, daemon=True).start()
    while True:
        try:
            with cluster_lock(
                ctx.kv, ctx.local, ROLE, node=ctx.node, ttl_s=ctx.settings.limits.plan_ttl_s
            ) as fence:
                log.info("record", "begins to record", node=ctx.node)
                _record(Recorder(ctx, fence), ring)
        except Conflict as e:
            log.info("record", "somebody else records, or wrote meanwhile; begins anew", error=e)
        except HydraError as e:
            log.warning("record", "cannot go on now", error=e)
        time.sleep(RETRY_S)


def _record(recorder: Recorder, ring: threading.Event) -> None:
    while True:
        ring.clear()
        began = time.monotonic()
        said = recorder.look()
        if said:
            log.info("record", said)
        time.sleep(max(PAUSE_S, PAUSE_FACTOR * (time.monotonic() - began)))
        ring.wait(LONGEST_S)


def _listen(ctx: Context, prefix: str, ring: threading.Event) -> None:
    """Ring whenever anything below `prefix` changes."""
    index = 0
    while True:
        try:
            fresh = ctx.kv.list(prefix, after=index, wait_s=60 if index else 0).index
        except HydraError:
            index = 0
            time.sleep(RETRY_S)
            continue
        if fresh != index:
            index = fresh
            ring.set()


class Recorder:
    """What the holder of the lock knows; `look` compares it with the KV and writes what is new."""

    def __init__(
        self,
        ctx: Context,
        fence: CheckSession,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ctx, self._kv, self._fence, self._now, self._clock = ctx, ctx.kv, fence, now, clock
        self._served: dict[Service, tuple[Served | None, int]] = {}
        self._doubted: dict[ByHand, float] = {}
        self._told_again = 0.0

    def look(self) -> str:
        """One look; the sentence to log, empty when there was nothing new. Raises `HydraError`."""
        entries = snapshot.take(self._kv)
        world = snapshot.world_of(entries)
        if world.meta is None:
            return ""  # the KV was wiped: whatever is missing there means nothing
        changed = [*self._by_hand(entries), *self._who_served(world)]
        told = self._tell(world)
        return "; ".join(filter(None, (*changed, told)))

    # --- who served what

    def _who_served(self, world: World) -> Iterator[str]:
        now = running(world)
        for service in sorted(now.keys() | self._served.keys()):
            before, index = self._known(service)
            documents = recorded(before, now.get(service, {}), _stamp(self._now()))
            if not documents:
                continue
            last = documents[-1]
            ops: list[Op] = [Cas(keys.served(service), codec.encode(last), index)]
            for past in documents[:-1]:
                stamp = Version.of(datetime.fromisoformat(past.since))
                ops.append(Cas(keys.served(service, stamp), codec.encode(past), 0))
            written = self._kv.txn([self._fence, *ops])
            self._served[service] = last, written[keys.served(service)]
            yield f"{service}: {count(len(now.get(service, {})), 'instance')} recorded"

    def _known(self, service: Service) -> tuple[Served | None, int]:
        if service not in self._served:
            self._served[service] = self._document(Served, keys.served(service))
        return self._served[service]

    # --- what was changed by hand

    def _by_hand(self, entries: Mapping[str, Entry]) -> Iterator[str]:
        for folder in FOLDERS:
            found = {
                key: (e.index, e.value)
                for key, e in entries.items()
                if key.startswith(f"{keys.ROOT}{folder}/")
            }
            highest = max((index for index, _ in found.values()), default=0)
            before, index = self._document(Orders, keys.recorded(folder))
            fresh = replace(orders(folder, found), index=max(highest, before.index if before else 0))
            if before is None or went_back(before, fresh):
                self._write(keys.recorded(folder), replace(fresh, index=highest), index, [])
                continue
            changes = by_hand(before, fresh, self._audited, before.index)
            sure = [change for change in changes if self._is_sure(change)]
            for change in set(changes) - set(sure):  # looked at again
                fresh = replace(fresh, seen=_with(fresh.seen, before.seen, change.key), index=before.index)
            if fresh.seen != before.seen:
                self._write(keys.recorded(folder), fresh, index, [self._entry(change) for change in sure])
            for change in sure:
                self._doubted.pop(change, None)
                yield f"{change.key} was {change.action}"

    def _is_sure(self, change: ByHand) -> bool:
        """Whether it is still unexplained after a while."""
        since = self._doubted.setdefault(change, self._clock())
        return self._clock() - since >= DOUBT_S

    def _audited(self, owner: str) -> set[int]:
        """The indexes of what commands wrote of an object; registrations are in their services' history."""
        folders = [f"{owner}/", "service/"] if owner.startswith("node/") else [f"{owner}/"]
        found = [e for folder in folders for e in self._kv.list(keys.AUDIT + folder).entries.values()]
        return {entry.index for entry in found if BY_HAND.encode() not in entry.value}

    def _entry(self, change: ByHand) -> Op:
        now = self._now()
        entry = Audit(
            object=change.object,
            action=change.action,
            who=BY_HAND,
            when=_stamp(now),
            before=change.before,
            after=change.after,
            why=f"{change.key} has no entry of a command; seen by record on {self._ctx.node}",
        )
        return Cas(keys.audit(change.object, Version.of(now), uuid.uuid4().hex[:8]), codec.encode(entry), 0)

    # --- what is told

    def _tell(self, world: World) -> str:
        notify, key = self._ctx.settings.notify, keys.recorded("told")
        before, index = self._document(Told, key)
        told = noticed(
            before, world, lambda r: _sentence(world, r, self._now()), self._now(), notify.stuck_after_s
        )
        kept = tuple(event for event in told.pending if event.kind in notify.events and notify.wanted)
        if (dropped := len(kept) - MOST_PENDING) > 0:
            log.warning("record", "events that nobody takes are dropped, the oldest first", count=dropped)
        told = replace(told, pending=kept[-MOST_PENDING:])
        if told != before:
            index = self._write(key, told, index, [])
        if not told.pending or self._clock() < self._told_again:
            return ""
        return self._deliver(told, index)

    def _deliver(self, told: Told, index: int) -> str:
        """Deliver what is pending, in its order; what arrived is struck out, the rest stays."""
        left = list(told.pending)
        failed = ""
        while left:
            try:
                deliver(self._ctx.settings.notify, left[0])
            except Temporary as e:
                failed = str(e)
                self._told_again = self._clock() + AGAIN_S
                log.warning("record", "an event did not arrive; it is told again", kind=left[0].kind, error=e)
                break
            left.pop(0)
        done = len(told.pending) - len(left)
        if done:
            self._write(keys.recorded("told"), replace(told, pending=tuple(left)), index, [])
        return f"told of {count(done, 'event')}" + (f", {len(left)} left: {failed}" if failed else "")

    # --- documents

    def _document(self, cls: type[codec.T], key: str) -> tuple[codec.T | None, int]:
        """What was written last and its index; one that does not parse is begun anew."""
        entry, _ = self._kv.get(key)
        if entry is None:
            return None, 0
        with suppress(Malformed):
            return codec.decode(cls, entry.value, key), entry.index
        log.warning("record", "its own document does not parse and is begun anew", key=key)
        return None, entry.index

    def _write(self, key: str, document: Doc, index: int, others: list[Op]) -> int:
        """Write a document with what belongs to it; its index. Raises `Conflict`, `Temporary`."""
        written: dict[str, int] = {}
        for batch in split([*others, Cas(key, codec.encode(document), index)], [self._fence]):
            written |= self._kv.txn(batch)
        return written[key]


def _with(fresh: Mapping[str, str], before: Mapping[str, str], key: str) -> dict[str, str]:
    """`fresh`, but `key` as it was before."""
    others = {name: text for name, text in fresh.items() if name != key}
    return others | ({key: before[key]} if key in before else {})


def _sentence(world: World, replica: Replica, now: datetime) -> str:
    facts = world.service(replica.instance.service)
    return why(world, replica, service_targets(world, facts, now, reads=replica.instance.reads))


def _stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
