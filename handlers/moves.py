"""The steps of one instance: what `handlers.core.rollout` decides is done here and written, step by step.

Each step is one transaction that fails when this run lost its slot (`CheckSession`) or anybody else wrote
`states/<node>`. A run that dies between acting and writing acts again: every action may be repeated.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from msgspec.structs import replace

from handlers import log
from handlers.adapters.ports import Cas, CheckIndex, Op
from handlers.adapters.views import Views
from handlers.census import Census
from handlers.core import codec, keys
from handlers.core.admission import Admit, Blocked, Repair, admission, admission_together
from handlers.core.aims import Goal
from handlers.core.budget import Budget
from handlers.core.errors import HydraError, Malformed
from handlers.core.model import Instance, InstanceState, Ready, ServicePlan, Slots, Step, Verdict
from handlers.core.names import InstanceKey
from handlers.core.reasons import Reason
from handlers.core.rollout import DRAIN_NODE, Do, Next, advance, blamed, stays
from handlers.core.version import Version
from handlers.sight import Case, Sight
from handlers.slots import SlotBook
from handlers.statebook import StateBook

LASTING_S = 0.9
SETTLE_S = 5.0  # after the KV was behind this node: others say anew who is out, too
_UNSETTLED = Reason.HOLDS_OFF.say(why="the KV was behind it, and others may not have said yet who is out")
_MOVING = frozenset({Step.DRAIN, Step.FLIP, Step.RELOAD, Step.CONFIRM, Step.WARM, Step.RETURN})


def is_moving(state: InstanceState) -> bool:
    """Whether the instance holds a slot."""
    return state.step in _MOVING


class Moves:
    """All instances of this node. `here` are those that exist now; set it for each round."""

    def __init__(
        self,
        node: str,
        book: StateBook,
        slots: SlotBook,
        views: Views,
        census: Census,
        sight: Sight,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.here: Mapping[InstanceKey, Instance] = {}
        self._node, self._book, self._slots = node, book, slots
        self._views, self._census, self._sight = views, census, sight
        self._clock = clock
        self._later: dict[InstanceKey, tuple[InstanceState, float]] = {}
        self._settled_at = clock()

    def settle(self) -> None:
        """The KV was behind this node: take nobody out before others can have put it right."""
        self._settled_at = self._clock() + SETTLE_S

    def unsettled_s(self) -> float | None:
        """Seconds until somebody may be taken out again, for which the run goes on; None = now."""
        return max(0.0, self._settled_at - self._clock()) or None

    def step(self, case: Case) -> float | None:
        """Take an instance as far as it goes now.

        Returns the seconds after which to look at it again (whatever wakes earlier), None when it is at rest.
        """
        for _ in range(len(Step)):
            state = self._book.instances[case.key]
            if is_moving(state):
                self._slots.hold(case.key, case.instance)
            facts = self._sight.facts(case, state)
            answer = advance(state, case.aim, facts, case.plan, case.frozen)
            answer = replace(answer, state=_dressed(answer.state, state, case.plan))
            if not self._perform(case, state, answer):
                noted, _ = self._later.get(case.key, (state, 0.0))
                return self._sight.due(case, noted, facts)
        return 0.0

    def note(self, key: InstanceKey, state: InstanceState) -> None:
        """Write `state` at the end of a round: only what people see changed, the step did not."""
        noted, _ = self._later.get(key, (None, 0.0))
        if state == self._book.instances.get(key):
            self._later.pop(key, None)
        elif noted is None or replace(state, since=noted.since) != noted:
            self._later[key] = state, self._clock()

    def end_round(self) -> None:
        """Write what was noted; of instances on their way, only what has been so for a while."""
        now, known = self._clock(), self._book.instances
        changes = {
            key: state
            for key, (state, since) in self._later.items()
            if key in known
            and (now - since >= LASTING_S or not (is_moving(state) or state.step is Step.ADMIT))
        }
        if changes:
            moving = [key for key in changes if is_moving(known[key])]
            self._book.commit(changes, [op for key in moving for op in self._slots.fence(key)])
        self._later = {k: noted for k, noted in self._later.items() if k in known and k not in changes}

    def let_go(self, key: InstanceKey, instance: Instance, reason: str) -> None:
        """Nobody wants the move any more: the instance keeps what its view has, and its slot is free."""
        state = self._book.instances[key]
        seen = Goal.of(self._views.current(key))
        back = replace(state, state=Ready.READY, step=Step.IDLE, moving={}, back=False)
        back = replace(back, releases=seen.releases, channels=seen.channels)
        self._sight.end_maintenance(instance)
        self._slots.hold(key, instance)
        self._book.commit({key: replace(back, reason=reason, since=_now())}, self._slots.leave(key))
        self._slots.left(key)

    def hand_over(self, key: InstanceKey, instance: Instance) -> None:
        """It is being deleted for its reload: its place is kept for the one that comes in its stead."""
        gone = replace(self._book.instances[key], step=Step.IDLE, reason=Reason.REPLACING.say(), since=_now())
        self._slots.hold(key, instance)
        self._book.commit({key: gone}, self._slots.hand_over(key))
        self._slots.left(key)

    def end(self, key: InstanceKey, *, replaced: bool = False) -> None:
        """The instance is gone: its state and its slot go together; `replaced`: by its own reload."""
        state = self._book.instances[key]
        give_back = self._slots.hand_over if replaced else self._slots.drop
        self._book.commit({key: None}, give_back(key) if is_moving(state) else [])
        self._slots.left(key)
        self._later.pop(key, None)
        self._sight.forget(key)

    def _perform(self, case: Case, before: InstanceState, answer: Next) -> bool:
        """Act and write; whether there may be more to do at once."""
        match answer.do:
            case Do.NOTHING:
                return self._write(case, before, answer.state)
            case Do.CALL:
                self._sight.call(case, answer.state)
                self.note(case.key, answer.state)
                return False
            case Do.CREATE | Do.FLIP:
                return self._flip(case, before, answer)
            case Do.ENTER:
                self._enter(case, answer.state)
            case Do.ASK:
                ask = self._ask_together if case.aim.drain else self._ask
                return ask(case, before, answer.state)
            case Do.FINISH:
                self._book.commit({case.key: answer.state}, self._slots.leave(case.key))
                self._slots.left(case.key)
                log.info("reload", "moved", instance=case.key, releases=_text(answer.state.releases))
            case Do.HALT:
                self._halt(case, before, answer)
                return False  # where it should go now depends on the verdict, which has to be read first
        return True

    def _write(self, case: Case, before: InstanceState, state: InstanceState) -> bool:
        if (before.step, before.state, before.moving) == (state.step, state.state, state.moving):
            self.note(case.key, state)
            return False
        self._book.commit({case.key: state}, self._slots.fence(case.key) if is_moving(before) else [])
        return True

    def _flip(self, case: Case, before: InstanceState, answer: Next) -> bool:
        create = answer.do is Do.CREATE
        # a move to the same releases changes their medium: who watches `..data` has to hear of it
        loaded = case.plan.ram == DRAIN_NODE and self._views.current(case.key) == case.aim.ids
        again = not create and not before.back and (stays(before, case.aim) or loaded)
        try:
            self._views.flip(case.key, case.aim.ids, again=again)
        except HydraError as e:
            self.note(case.key, replace(before, reason=Reason.POLICY.say(error=e)))
            return False
        self._book.commit({case.key: answer.state}, [] if create else self._slots.fence(case.key))
        return True

    def _enter(self, case: Case, state: InstanceState) -> None:
        """A new instance is out of service as it is, so it needs no permission; it takes the place that one
        left which was deleted, so that nobody else goes out before it is in service.
        """
        slots, index = self._slots.read(case.key.service)
        left = sorted((entry.left, slot) for slot, entry in slots.out.items() if entry.left)
        self._views.flip(case.key, case.aim.ids)
        enter = self._slots.enter(case.key, case.instance, slots, index, {slot for _, slot in left[:1]})
        self._book.commit({case.key: state}, enter)
        self._slots.entered(case.key)
        log.info("reload", "begins in place of another", instance=case.key, releases=_text(state.moving))

    def _ask(self, case: Case, before: InstanceState, state: InstanceState) -> bool:
        """Ask for a slot: the budget is counted anew; the transaction fails if it was changed meanwhile."""
        try:
            slots, index = self._slots.read(case.key.service)
            budget, unchanged = self._slots.budget(case.key.service, case.plan)
            answer, gone = self._admission(case, slots, budget)
        except Malformed as e:
            return self._blocked(case, before, Reason.POLICY.say(error=e))
        if isinstance(answer, Blocked):
            return self._blocked(case, before, answer.reason)
        stale = {slot for slot, entry in slots.out.items() if entry.node in gone}
        unjudged = CheckIndex(keys.verdicts(case.key.service), case.verdicts_index)
        enter = self._slots.enter(case.key, case.instance, slots, index, stale)
        self._book.commit({case.key: state}, [*enter, unjudged, *unchanged])
        self._slots.entered(case.key)
        log.info("reload", "out for a reload", instance=case.key, moving=_text(state.moving))
        return True

    def _ask_together(self, case: Case, before: InstanceState, state: InstanceState) -> bool:
        """Ask for slots for all users of RAM here at once: only when all are out, it can be exchanged."""
        name, mine = case.key.service, self._together(case)
        if self._clock() < self._settled_at:
            return self._blocked(case, before, _UNSETTLED)
        try:
            slots, index = self._slots.read(name)
            budget, unchanged = self._slots.budget(name, case.plan)
        except Malformed as e:
            return self._blocked(case, before, Reason.POLICY.say(error=e))
        members = self._census.here(name, self.here, self._book.instances)
        members |= self._census.elsewhere(name, slots)
        ids = [keys.slot_id(self._node, key) for key in mine]
        nodes = {e.node for e in slots.out.values()} | {m.node for m in members.values() if not m.in_service}
        answer = admission_together(ids, slots.out, members, (), budget, case.aim.drain)
        gone: frozenset[str] = frozenset()
        if isinstance(answer, Blocked) and (gone := self._census.dead(nodes)):
            answer = admission_together(ids, slots.out, members, gone, budget, case.aim.drain)
        if isinstance(answer, Blocked):
            return self._blocked(case, before, answer.reason)
        stale = {slot for slot, entry in slots.out.items() if entry.node in gone}
        unjudged = CheckIndex(keys.verdicts(name), case.verdicts_index)
        fresh = {key: self._sent_out(self._book.instances[key], state, case.plan) for key in mine}
        enter = self._slots.enter_all({key: self.here[key] for key in mine}, slots, index, stale)
        self._book.commit({**fresh, case.key: state}, [*enter, unjudged, *unchanged])
        for key in mine:
            self._slots.entered(key)
        log.info("reload", "out together for RAM", instances=",".join(sorted(mine)), reason=case.aim.drain)
        return True

    def _together(self, case: Case) -> list[InstanceKey]:
        """The instance, and those of its service here that read from RAM and are in service."""
        others = [
            key
            for key in self.here
            if key.service == case.key.service and key != case.key and self._book.instances[key].media
        ]
        return [case.key, *(key for key in others if not is_moving(self._book.instances[key]))]

    def _sent_out(self, state: InstanceState, first: InstanceState, plan: ServicePlan) -> InstanceState:
        """The state of an instance that goes out beside the first one, to the same releases."""
        gone = replace(state, state=first.state, step=first.step, moving=first.moving, reason=first.reason)
        return _dressed(replace(gone, back=False, served=True), state, plan)

    def _admission(
        self, case: Case, slots: Slots, budget: Budget
    ) -> tuple[Admit | Repair | Blocked, frozenset[str]]:
        """The answer, and the nodes that were found dead on the way to it."""
        me, name = keys.slot_id(self._node, case.key), case.key.service
        members = self._census.here(name, self.here, self._book.instances)
        if me in members and members[me].in_service is False:
            # a repair depends on nobody else, and works while nothing can be learnt about the others
            return admission(me, slots.out, members, (), budget), frozenset()
        if self._clock() < self._settled_at:
            return Blocked(_UNSETTLED), frozenset()
        answer = admission(me, slots.out, members, (), budget)
        if not isinstance(answer, Blocked) or not budget.fixed:
            # asked last: with many nodes it is by far the most expensive
            members |= self._census.elsewhere(name, slots)
            answer = admission(me, slots.out, members, (), budget)
        if not isinstance(answer, Blocked):
            return answer, frozenset()
        nodes = {e.node for e in slots.out.values()} | {m.node for m in members.values() if not m.in_service}
        gone = self._census.dead(nodes)
        if gone:
            members |= self._census.elsewhere(name, slots)
            answer = admission(me, slots.out, members, gone, budget)
        return answer, gone

    def _blocked(self, case: Case, before: InstanceState, reason: str) -> bool:
        self._sight.listen(case.instance)
        self.note(case.key, _dressed(replace(before, step=Step.ADMIT, reason=reason), before, case.plan))
        return False

    def _halt(self, case: Case, before: InstanceState, answer: Next) -> None:
        """The way back, and the verdict that stops everybody else: in one transaction."""
        verdict = Verdict(
            id=secrets.token_hex(4),
            verdict="halted",
            reason=answer.error,
            node=self._node,
            instance=case.instance.id,
            when=_now(),
        )
        found = {**case.verdicts.releases, **dict.fromkeys(blamed(before, case.aim), verdict)}
        key, raw = keys.verdicts(case.key.service), codec.encode(replace(case.verdicts, releases=found))
        write: list[Op] = [*self._slots.fence(case.key), Cas(key, raw, case.verdicts_index)]
        self._book.commit({case.key: answer.state}, write)
        log.warning("reload", "halted", instance=case.key, moving=_text(before.moving), reason=answer.error)


def _dressed(state: InstanceState, before: InstanceState, plan: ServicePlan) -> InstanceState:
    """What people see beside the step: the target, and since when."""
    target = {alias: part.target for alias, part in plan.aliases.items() if part.target}
    moved = (state.state, state.step) != (before.state, before.step)
    return replace(state, target=target, since=_now() if moved or not state.since else state.since)


def _text(releases: Mapping[str, Version]) -> str:
    return ",".join(f"{alias}={version}" for alias, version in sorted(releases.items()))


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
