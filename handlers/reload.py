"""Move this node's instances to their targets, one replica of a service at a time; report in `states/<node>`.

Called by the watches on `actual/<node>` and `nodes/<node>/`, and by resync. One thread decides and writes, in
rounds: compare every instance with what it should be, take each as far as it goes, then sleep until something
moved. What takes long (a reload, a fill of RAM, a poll) runs beside it, so no service waits for another one.

What it decides by lies on this node (`home`); the KV is needed for slots, verdicts and the health of others.
While Consul is away, new instances get their view and readiness files, and nothing else changes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from msgspec.structs import replace

from handlers import log
from handlers.adapters import service
from handlers.adapters.templates import Templates
from handlers.adapters.views import Views
from handlers.cache import Cache
from handlers.census import Census
from handlers.context import Context
from handlers.core import codec, keys, policy
from handlers.core.aims import Goal, goal
from handlers.core.errors import Conflict, HydraError, Malformed, Temporary
from handlers.core.model import Instance, InstanceState, Ready, ServicePlan, Step, Verdicts, count
from handlers.core.names import InstanceKey, Service
from handlers.core.policy import RamPolicy
from handlers.core.reasons import Reason
from handlers.core.rollout import DELETE, settled, stays
from handlers.feeds import Feeds, Seen
from handlers.home import Home
from handlers.moves import Moves, is_moving
from handlers.residents import Residents
from handlers.sight import Case, Services, Sight
from handlers.slots import SlotBook
from handlers.statebook import StateBook

PATIENCE_S = 20.0  # with Consul away, before the run ends; resync starts the next
RACES = 50  # conflicts in a row that are more than bad luck
AGAIN_S = 0.5  # between rounds while Consul is away
STUCK_S = 2.0  # before an instance in the middle of a move is tried again after an error that will not pass


def run(ctx: Context) -> str:
    """One run: until nothing more can be done here now. Raises `Temporary`, `Denied`, `Conflict`."""
    own = ctx.settings
    services = service.Services(ctx.kv, own.root, own.supervisor_url, own.systemd_user, own.commands)
    return ReloadRun(ctx, services).converge()


class ReloadRun:
    """One run on one node; use it in the handler's turn."""

    def __init__(self, ctx: Context, services: Services, clock: Callable[[], float] = time.monotonic) -> None:
        self._ctx, self._kv, self._clock = ctx, ctx.kv, clock
        root, limits, node = ctx.settings.root, ctx.settings.limits, ctx.node
        self._wake = threading.Event()
        self._feeds = Feeds(self._wake)
        self._home, views = Home(root, ctx.local), Views(root)
        self._cache = Cache(root, ctx.settings.volumes, self._wake, clock)
        self._book = StateBook(ctx.kv, ctx.local, node)
        self._slots = SlotBook(ctx.kv, ctx.local, node, limits.slot_ttl_s)
        sight = Sight(node, views, services, self._feeds, self._wake, clock)
        census = Census(ctx.kv, services, ctx.local, node, limits.dead_after_s, clock)
        self._moves = Moves(node, self._book, self._slots, views, census, sight, clock)
        templates = Templates(views, ctx.local, node)
        self._residents = Residents(self._home, self._book, views, templates, self._cache, self._moves)
        self._loaded = self._held = False

    def converge(self) -> str:
        """Rounds until nothing is left to wait for; the sentence to log."""
        self._cache.repair()
        try:
            self._rounds()
        finally:
            self._feeds.close()
            self._slots.end(busy=any(is_moving(state) for state in self._book.instances.values()))
        if self._held:
            return "holding: the KV has no meta, so it was wiped or is not set up"
        states = self._book.instances.values()
        ready = sum(state.state is Ready.READY for state in states)
        return f"{ready} of {count(len(states), 'instance')} ready; nothing more to do now"

    def _rounds(self) -> None:
        races, away_since = 0, self._clock()
        while True:
            self._wake.clear()
            try:
                due = self._round()
                races, away_since = 0, self._clock()
            except Conflict as e:
                races, due = races + 1, 0.01 * races
                if races > RACES:
                    raise
                log.info("reload", "somebody else was first; reads again", error=e)
                self._reset()
            except Temporary as e:
                if self._clock() - away_since > PATIENCE_S and not self._cache.filling:
                    raise
                self._reset()
                if self._home.desired is not None:
                    # after a boot, what lies on this node is enough to fill RAM again
                    self._cache.round(self._home.desired, self._book.instances)
                self._residents.without_consul(str(e))
                due = AGAIN_S
            if due is None:
                return
            self._wake.wait(due)

    def _reset(self) -> None:
        """What was read may be wrong: read again."""
        self._loaded = False
        self._slots.forget()

    def _round(self) -> float | None:
        """Everything once; seconds after which to come again, None when nothing is left to wait for."""
        self._home.refresh()
        if not self._loaded:
            self._load()
        if self._held:
            self._residents.without_consul("the KV has no meta")
            return None
        before = self._book.sequence
        self._residents.arrivals()
        self._residents.departures()
        self._moves.here = self._home.here
        desired = self._home.desired
        dues = [self._cache.round(desired, self._book.instances) if desired else None]
        dues += [self._one(key, instance) for key, instance in sorted(self._home.here.items())]
        self._moves.end_round()
        dues += [self._residents.files(), self._moves.unsettled_s()]
        if self._book.sequence != before:
            dues.append(0.0)  # what moved may let another instance go, or RAM be filled
        waits = [due for due in dues if due is not None]
        if waits:
            self._listen()
        self._feeds.end_round()
        return min(waits, default=None)

    def _load(self) -> None:
        """Read what this node wrote last, put a KV right that is behind, remove slots that nobody uses."""
        meta, _ = self._kv.get(keys.META)
        self._held = meta is None
        if self._held:
            return
        if self._book.load():
            log.warning("reload", "the KV is behind this node; its states are written anew")
            self._moves.settle()
            self._book.commit({})
        for name in sorted(self._slots.entered_for()):
            states = {k: s for k, s in self._book.instances.items() if k.service == name}
            busy = {keys.slot_id(self._ctx.node, key) for key, s in states.items() if is_moving(s)}
            plan = self._home.desired.services.get(name) if self._home.desired else None
            try:
                self._slots.clean(name, busy, plan.deadline_s if plan and plan.reload == DELETE else 0.0)
            except Malformed as e:
                log.warning("reload", "slots do not parse", service=name, error=e)
        self._loaded = True

    def _one(self, key: InstanceKey, instance: Instance) -> float | None:
        """One instance as far as it goes; seconds after which to look at it again."""
        state, plan = self._book.instances[key], self._home.plan(key)
        try:
            if plan is not None and not instance.leaving:
                return self._moves.step(self._case(key, instance, state, plan))
            # one that goes tells nothing of a release; one that nobody subscribes keeps what it has
            reason = Reason.LEAVING.say() if instance.leaving else Reason.NO_PLAN.say()
            if is_moving(state) and plan and plan.reload == DELETE and state.step is Step.RELOAD:
                self._moves.hand_over(key, instance)
            elif is_moving(state):
                self._moves.let_go(key, instance, reason)
            else:
                self._moves.note(key, replace(state, reason=reason))
            return None
        except (Conflict, Temporary):
            raise
        except HydraError as e:
            # one service that is set up wrongly must not stop the others
            if not state.reason.endswith(str(e)):
                log.warning("reload", "cannot go on", instance=key, error=e)
            self._moves.note(key, replace(state, reason=Reason.POLICY.say(error=e)))
            return STUCK_S if is_moving(state) else None

    def _case(self, key: InstanceKey, instance: Instance, state: InstanceState, plan: ServicePlan) -> Case:
        understood = policy.parse(plan)
        verdicts, index = self._verdicts(key.service, state, plan)
        return Case(
            key=key,
            instance=instance,
            plan=plan,
            policy=understood,
            aim=self._aim(state, plan, verdicts),
            frozen=isinstance(understood.reload, policy.Frozen),
            verdicts=verdicts,
            verdicts_index=index,
        )

    def _aim(self, state: InstanceState, plan: ServicePlan, verdicts: Verdicts) -> Goal:
        here = self._residents
        if state.state is Ready.WAITING:
            first = here.aim(plan, here.usable)
            return self._in_place(first, state, plan, verdicts) if plan.reload == DELETE else first
        # an instance that is out does not come back for the sake of RAM
        usable = here.complete if is_moving(state) else here.usable
        found = goal(state, plan, verdicts, usable, self._home.holds)
        found = replace(found, media=self._cache.media(found.ids))
        return self._in_ram(found, state, plan) if plan.ram == RamPolicy.DRAIN_NODE else found

    def _in_place(self, first: Goal, state: InstanceState, plan: ServicePlan, verdicts: Verdicts) -> Goal:
        """What a new instance begins with where others are deleted for it: the target, if it may have it."""
        may = not plan.paused and plan.lets_go(InstanceKey.of(state.service, state.id))
        if not (first.releases and may):
            return first
        begun = replace(state, releases=first.releases, channels=first.channels)
        found = goal(begun, plan, verdicts, self._residents.usable, self._home.holds)
        return replace(found, media=self._cache.media(found.ids), begins=first)

    def _in_ram(self, found: Goal, state: InstanceState, plan: ServicePlan) -> Goal:
        """What an instance should run that is never to read from disk where RAM can have it."""
        releases = found.ids.values()
        if is_moving(state):
            return replace(found, awaits_ram=self._cache.awaited(releases))
        numbers, can = self._cache.crowded(releases)
        if not numbers or stays(state, found):
            return found
        if not can:
            return self._stay(state, plan, Reason.TOO_LARGE.say(numbers=numbers))
        desired, states = self._home.desired, self._book.instances
        others = sorted(
            key
            for key in (self._cache.readers(desired, states) if desired else ())
            if (other := self._home.plan(key)) and other.ram != RamPolicy.DRAIN_NODE
        )
        if others:
            reason = Reason.RAM_SHARED.say(numbers=numbers, who=", ".join(others))
            return self._stay(state, plan, reason)
        return replace(found, drain=numbers)

    def _stay(self, state: InstanceState, plan: ServicePlan, reason: str) -> Goal:
        """The releases that the instance has, and why."""
        channels = {alias: part.channel for alias, part in plan.aliases.items()} | dict(state.channels)
        kept = Goal(dict(state.releases), reason, channels=channels)
        return replace(kept, media=self._cache.media(kept.ids))

    def _verdicts(self, name: Service, state: InstanceState, plan: ServicePlan) -> tuple[Verdicts, int]:
        """The verdicts on the service's releases; not asked for while all is as it should be.

        Raises `Malformed`: what may have been found bad must not be moved to.
        """
        if not is_moving(state) and settled(state, self._aim(state, plan, Verdicts())):
            return Verdicts(), 0
        key = keys.verdicts(name)
        heard = self._hear(key)
        # an old answer does no harm: the transactions that depend on it check its index
        entry = heard.value if heard.known else self._kv.get(key)[0]
        return (codec.decode(Verdicts, entry.value, key), entry.index) if entry else (Verdicts(), 0)

    def _listen(self) -> None:
        """Wake when this node's own documents move, and when somebody takes or leaves a slot."""
        self._hear(keys.actual(self._ctx.node))
        self._hear(keys.instances(self._ctx.node))
        for name in {key.service for key, state in self._book.instances.items() if state.step is Step.ADMIT}:
            self._hear(keys.slots(name))

    def _hear(self, key: str) -> Seen:
        return self._feeds.see(key, lambda after, wait_s: self._kv.get(key, after=after, wait_s=wait_s))
