"""The slots of this node's instances: entries in `slots/<s>`, locks below it, and the session behind both.

An entry outlives its session: whoever is out stays counted, however its run died. The lock is the fence of
every step: a run that froze, and whose session ended meanwhile, writes nothing any more. Used by `reload`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from datetime import UTC, datetime

from msgspec.structs import replace

from handlers.adapters.kv import SessionKeeper
from handlers.adapters.local import LocalState
from handlers.adapters.ports import KV, Cas, CheckIndex, CheckSession, Delete, Lock, Op
from handlers.core import codec, keys
from handlers.core.budget import Budget, budget_of
from handlers.core.errors import HydraError, Malformed
from handlers.core.model import Instance, ServicePlan, SlotEntry, Slots, Subscription
from handlers.core.names import InstanceKey, Service

_TIME = "%Y-%m-%dT%H:%M:%SZ"


class SlotBook:
    """What this node holds; the session is made when the first slot is needed."""

    def __init__(self, kv: KV, local: LocalState, node: str, ttl_s: int) -> None:
        self._kv, self._local, self._node, self._ttl_s = kv, local, node, ttl_s
        self._keeper: SessionKeeper | None = None
        self._held: set[InstanceKey] = set()

    def read(self, service: Service) -> tuple[Slots, int]:
        """The document and its ModifyIndex; raises `Malformed`: who is out must not be guessed."""
        key = keys.slots(service)
        entry, _ = self._kv.get(key)
        return (codec.decode(Slots, entry.value, key), entry.index) if entry else (Slots(), 0)

    def budget(self, service: Service, plan: ServicePlan) -> tuple[Budget, list[CheckIndex]]:
        """The budget in force now, and the check that it is still so when the slot is taken.

        Read from the subscription itself: `desired` gets here seconds later, and a budget may be lowered in
        mid-rollout. Where the subscription is gone or does not parse, what was planned counts; that it is
        gone is not checked, since Consul wants write permission for "does not exist".
        """
        key = keys.subscription(service)
        entry, _ = self._kv.get(key)
        if entry is None:
            return budget_of(plan), []
        check = [CheckIndex(key, entry.index)]
        with contextlib.suppress(Malformed):
            found = codec.decode(Subscription, entry.value, key)
            if not found.tombstone:
                return budget_of(found), check
        return budget_of(plan), check

    def enter(
        self, key: InstanceKey, instance: Instance, slots: Slots, index: int, gone: Collection[str] = ()
    ) -> list[Op]:
        """The operations that take a slot; entries of `gone` (dead nodes) leave with them."""
        return self.enter_all({key: instance}, slots, index, gone)

    def enter_all(
        self,
        instances: Mapping[InstanceKey, Instance],
        slots: Slots,
        index: int,
        gone: Collection[str] = (),
    ) -> list[Op]:
        """The same for several instances of one service: all of them, or none."""
        out = {slot: entry for slot, entry in slots.out.items() if slot not in gone}
        out |= {keys.slot_id(self._node, key): self._entry(one) for key, one in instances.items()}
        (service,) = {key.service for key in instances}
        session = self._session()
        return [
            Cas(keys.slots(service), codec.encode(Slots(out=out, extra=slots.extra)), index),
            *(Lock(keys.slot(self._node, key), session.encode(), session) for key in instances),
        ]

    def entered(self, key: InstanceKey) -> None:
        """The transaction with `enter` went through."""
        self._held.add(key)

    def fence(self, key: InstanceKey) -> list[Op]:
        """The check that each step of an instance begins with."""
        return [CheckSession(keys.slot(self._node, key), self._session())]

    def leave(self, key: InstanceKey) -> list[Op]:
        """The operations that give a slot back."""
        return [*self.fence(key), *self.drop(key)]

    def drop(self, key: InstanceKey) -> list[Op]:
        """The same for an instance that is gone, whoever has its lock."""
        slots, index = self.read(key.service)
        out = {slot: entry for slot, entry in slots.out.items() if slot != keys.slot_id(self._node, key)}
        fresh = Cas(keys.slots(key.service), codec.encode(Slots(out=out, extra=slots.extra)), index)
        return [fresh, Delete(keys.slot(self._node, key))]

    def hand_over(self, key: InstanceKey) -> list[Op]:
        """The operations that keep the place of a deleted instance for the one that comes in its stead."""
        slots, index = self.read(key.service)
        slot = keys.slot_id(self._node, key)
        out = {**slots.out, slot: replace(slots.out[slot], left=_now())} if slot in slots.out else slots.out
        fresh = Cas(keys.slots(key.service), codec.encode(Slots(out=out, extra=slots.extra)), index)
        return [fresh, Delete(keys.slot(self._node, key))]

    def left(self, key: InstanceKey) -> None:
        """The transaction with `leave` or `hand_over` went through."""
        self._held.discard(key)

    def hold(self, key: InstanceKey, instance: Instance) -> None:
        """Make sure that an instance in the middle of a move is entered and locked by this run's session.

        Nothing to do in a run that took the slot itself. After a crash, a lost session or a restored KV the
        lock is taken anew: only this node's reload, of which one runs at a time, may hold it.
        """
        if key in self._held and self._keeper is not None and not self._keeper.lost.is_set():
            return
        slots, index = self.read(key.service)
        lock, _ = self._kv.get(keys.slot(self._node, key))
        session = self._session()
        if lock and lock.session not in ("", session):
            self._kv.destroy_session(lock.session)
        if keys.slot_id(self._node, key) in slots.out:
            self._kv.txn([Lock(keys.slot(self._node, key), session.encode(), session)])
        else:
            self._kv.txn(self.enter(key, instance, slots, index))
        self._held.add(key)

    def entered_for(self) -> set[Service]:
        """The services of which instances of this node are entered.

        Also those of which the node has none any more: an entry that a restored KV brought back would take
        its part of the budget for ever.
        """
        found = set()
        for key, entry in self._kv.list(keys.SLOTS).entries.items():
            with contextlib.suppress(HydraError):  # a lock, or nothing that could be put right from here
                service = Service.parse(key.removeprefix(keys.SLOTS))
                out = codec.decode(Slots, entry.value, key).out
                if any(slot.node == self._node for slot in out.values()):
                    found.add(service)
        return found

    def clean(self, service: Service, busy: Collection[str], kept_s: float) -> None:
        """Remove entries of this node whose instances are not in the middle of a move.

        The place of one that was deleted is kept for `kept_s`: nobody may come in its stead.
        """
        slots, index = self.read(service)
        kept = {slot for slot, entry in slots.out.items() if entry.left and _age_s(entry.left) < kept_s}
        own = {slot for slot, entry in slots.out.items() if entry.node == self._node}
        stale = own - set(busy) - kept
        if stale:
            out = {slot: entry for slot, entry in slots.out.items() if slot not in stale}
            locks = [Delete(keys.slot_lock(service, slot)) for slot in sorted(stale)]
            self._kv.txn(
                [Cas(keys.slots(service), codec.encode(Slots(out=out, extra=slots.extra)), index), *locks]
            )

    def forget(self) -> None:
        """Something was not as remembered: take every lock anew when it is needed next."""
        self._held.clear()

    def end(self, busy: bool) -> None:
        """The run ends; while something is out (`busy`), the session stays for the next run."""
        if self._keeper is not None:
            if not busy:
                self._keeper.forget()
            self._keeper.__exit__(None, None, None)
            self._keeper = None

    def _session(self) -> str:
        if self._keeper is not None and self._keeper.lost.is_set():
            self.end(busy=True)
            self._held.clear()
        if self._keeper is None:
            keeper = SessionKeeper(self._kv, self._local, "reload", ttl_s=self._ttl_s, keep=True)
            self._keeper = keeper.__enter__()
        return self._keeper.session

    def _entry(self, instance: Instance) -> SlotEntry:
        return SlotEntry(
            node=self._node, instance=instance.id, incarnation=instance.incarnation, since=_now()
        )


def _now() -> str:
    return datetime.now(UTC).strftime(_TIME)


def _age_s(when: str) -> float:
    """Seconds since `when`, which this node wrote; what is no time, or lies ahead, is long ago."""
    with contextlib.suppress(ValueError):
        age_s = (datetime.now(UTC) - datetime.strptime(when, _TIME).replace(tzinfo=UTC)).total_seconds()
        if age_s >= 0:
            return age_s
    return float("inf")
