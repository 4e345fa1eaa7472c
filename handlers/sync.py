"""Make this node hold exactly the releases that `desired/<node>` names, and say so in `actual/<node>`.

Called by the watch on `desired/<node>` and by resync. One thread decides and does what is quick; downloads
run beside it, several releases at a time, and go on while a newer `desired` still wants them. So `actual` is
rewritten at once for every new `desired`: a rollback never waits behind a download.

What the node needs without Consul is in its local state: `desired` is written there before `actual`.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator

from msgspec.structs import replace

from handlers import doorbell, log
from handlers.adapters.bell import Bell
from handlers.adapters.bodies import Bodies, BodyFetch
from handlers.adapters.ledger import Ledger
from handlers.adapters.ports import Objects, Set
from handlers.adapters.progress import ProgressReport
from handlers.adapters.rooms import Rooms
from handlers.adapters.stores import Stores
from handlers.adapters.survey import Survey
from handlers.adapters.taking import Taking
from handlers.adapters.volume import Volumes
from handlers.context import Context
from handlers.core import codec, keys
from handlers.core.diff import Action, Decision, Delete, Publish, Withdraw, diff
from handlers.core.errors import HydraError, Temporary
from handlers.core.holdings import Facts, missing
from handlers.core.model import Actual, Desired, State
from handlers.core.version import ReleaseId
from handlers.downloads import Downloads
from handlers.orders import Orders

TICK_S = 5.0
_NAME = "sync"


def run(ctx: Context) -> str:
    """One run: converge as far as possible now. Returns the sentence to log; raises `Temporary`, `Denied`."""
    stores = Stores(ctx.settings.sources, stall_s=ctx.settings.limits.stall_s)
    return Sync(ctx, stores).converge()


class Sync:
    """One run on one node; use it in the handler's turn."""

    def __init__(self, ctx: Context, objects: Objects, clock: Callable[[], float] = time.time) -> None:
        self._ctx, self._kv, self._local, self._clock = ctx, ctx.kv, ctx.local, clock
        self._limits, self._node = ctx.settings.limits, ctx.node
        self._volumes = Volumes(ctx.settings.root, ctx.settings.volumes)
        self._bodies = Bodies(ctx.kv, ctx.local, objects)
        self._ledger = Ledger(ctx.local, self._limits.retry_s)
        self._rooms = Rooms(self._volumes, Taking(ctx.settings.root, _NAME))
        self._survey = Survey(self._volumes, self._rooms, self._bodies, self._ledger, self._limits, clock)
        self._progress = ProgressReport(ctx.kv, ctx.node, self._volumes, self._rooms, clock)
        self._orders = Orders(ctx.kv, ctx.local, self._ledger, ctx.node)
        self._written: bytes | None = None
        self._unwritten: Temporary | None = None
        self._fetching: BodyFetch | None = None
        self._wake = threading.Event()
        self._downloads = Downloads(self._limits, self._volumes, self._rooms, objects, self._wake)

    def converge(self) -> str:
        """Work until nothing is left to do or only waits remain; the sentence to log."""
        self._local.sweep()
        self._orders.take_over()
        current, _ = self._kv.get(keys.actual(self._node))
        self._written = current.value if current else None
        if self._orders.desired is None:
            return self._nothing_known()
        try:
            self._volumes.prepare()
            self._sweep(self._orders.desired)
            with Bell(self._kv, keys.desired(self._node), self._wake) as bell:
                decision = self._work(bell)
        except HydraError as e:
            self._alarm(str(e))
            raise
        finally:
            self._downloads.stop()
        return self._settle(decision)

    def _alarm(self, reason: str) -> None:
        """Add to `actual` why this run ends early (a disk that fails, say); the rest of it stays true."""
        with contextlib.suppress(HydraError):
            before = codec.decode(Actual, self._written or b"", keys.actual(self._node))
            self._write_actual(replace(before, alarms=(reason,)))

    def _nothing_known(self) -> str:
        """A node that never took over anything: only what is wrong is worth a document."""
        if self._orders.hold and self._orders.entry is not None:
            self._write_actual(Actual(node=self._node, generation=0, alarms=(self._orders.hold,)))
        return self._orders.hold or "nothing is desired of this node yet"

    def _sweep(self, desired: Desired) -> None:
        """Delete leftovers that no release needs; not while the KV is doubted."""
        if not self._orders.hold:
            facts = self._survey.facts(desired, "", {})
            known = desired.releases.keys() | facts.inventory.held | facts.used.keys()
            whole = {r for r, header in facts.bodies.items() if not missing(r, header, facts.inventory)}
            self._volumes.sweep(desired.releases.keys() - whole, known)

    def _work(self, bell: Bell) -> Decision:
        """Decide, do, report, wait: until there is nothing left to do."""
        while True:
            assert self._orders.desired is not None
            self._wake.clear()
            if bell.rang(self._orders.index):
                self._retake()
            self._collect()
            self._replace_changed(self._orders.desired)
            facts = self._survey.facts(self._orders.desired, self._orders.hold, self._downloads.running)
            decision = diff(facts)
            if self._do(facts, decision, (Withdraw, Publish)):
                continue
            self._report(decision)
            if self._do(facts, decision, (Delete,)):
                continue
            self._fetch_bodies(facts)
            self._downloads.start(self._node, facts, decision, self._bodies, self._survey)
            if not self._at_work and decision.start_at is None:
                return decision
            bell.listen(self._orders.index)
            self._progress.write(self._downloads.running)
            self._wake.wait(min(TICK_S, max(0.0, (decision.start_at or facts.now + TICK_S) - facts.now)))

    @property
    def _at_work(self) -> bool:
        return bool(self._downloads.running or self._downloads.refused or self._fetching)

    def _retake(self) -> None:
        """Take over what came meanwhile, and give up downloads that it does not want any more."""
        assert self._orders.desired is not None
        try:
            self._orders.take_over()
        except Temporary as e:
            log.warning(_NAME, "Consul is away; downloads go on", node=self._node, reason=e)
            return
        self._downloads.give_up(self._orders.desired)

    def _collect(self) -> None:
        """Take note of downloads and fetches that have ended."""
        assert self._orders.desired is not None
        for release, error in self._downloads.ended():
            self._survey.forget(release)
            if error is not None:
                self._failed(release, error)
        if self._fetching is not None and self._fetching.ended:
            for release, problem in self._fetching.errors.items():
                self._failed(release, problem)
            self._fetching = None

    def _failed(self, release: ReleaseId, error: Exception) -> None:
        if not isinstance(error, HydraError):
            raise error
        assert self._orders.desired is not None
        if (hold := self._orders.desired.releases.get(release)) is not None:
            log.warning(_NAME, "release failed", release=release, node=self._node, reason=error)
            self._ledger.failed(release, hold.digest, str(error), self._clock(), random.random())

    def _replace_changed(self, desired: Desired) -> None:
        """Other content under a version that is here: the channel was deleted and made anew.

        The old data would pass as the new one, so it goes first; never while somebody reads it.
        """
        for release, hold in desired.releases.items():
            kept = self._bodies.kept_digest(release)
            if kept is None or kept == hold.digest or release in self._downloads.running:
                continue
            if reason := self._survey.in_use(release) or self._orders.hold:
                self._failed_once(
                    release, hold.digest, f"its content changed, and the old one stays: {reason}"
                )
            else:
                log.info(_NAME, "delete", release=release, node=self._node, reason="its content changed")
                self._volumes.delete(release)
                self._bodies.forget(release)

    def _failed_once(self, release: ReleaseId, digest: str, reason: str) -> None:
        now = self._clock()
        known = self._ledger.failures({release: digest}, now).get(release)
        if known is None or known.next_try <= now:
            self._ledger.failed(release, digest, reason, now, random.random())

    def _do(self, facts: Facts, decision: Decision, kinds: tuple[type[Action], ...]) -> bool:
        """Perform the actions of these kinds; whether there were any that changed something."""
        changed = False
        for action in decision.actions:
            if isinstance(action, kinds):
                with self._contained(action.release, facts):
                    changed |= self._perform(action, facts)
        return changed

    def _perform(self, action: Action, facts: Facts) -> bool:
        """Do it; whether it changed something."""
        log.info(
            _NAME, type(action).__name__.lower(), release=action.release, node=self._node, reason=action.why
        )
        match action:
            case Withdraw(release):
                self._volumes.withdraw(release)
            case Publish(release, volumes):
                self._volumes.publish(release, volumes)
            case Delete(release):
                return self._delete(release, facts)
        return True

    def _delete(self, release: ReleaseId, facts: Facts) -> bool:
        """Its public name first: an instance that came back may have begun with it by now."""
        if release in facts.inventory.released:
            self._volumes.withdraw(release)
            if reason := self._survey.in_use(release):
                places = {p.dataset: v for p, v in facts.inventory.complete.items() if p.release == release}
                self._volumes.publish(release, places)
                log.info(_NAME, "stays after all", release=release, node=self._node, reason=reason)
                return False
        self._volumes.delete(release)
        self._bodies.forget(release)
        return True

    @contextlib.contextmanager
    def _contained(self, release: ReleaseId, facts: Facts) -> Iterator[None]:
        """A disk error with one release must not keep the others from coming and going."""
        try:
            yield
        except HydraError as e:
            if release in facts.desired:
                self._failed(release, e)
            else:
                log.warning(_NAME, "cannot delete", release=release, node=self._node, reason=e)

    def _fetch_bodies(self, facts: Facts) -> None:
        """Fetch missing headers and lists of files in a thread: S3 may be slow, and a rollback may come."""
        assert self._orders.desired is not None
        failures = facts.failures
        lacking = {
            release: hold
            for release, hold in self._orders.desired.releases.items()
            if release not in facts.bodies
            and (release not in failures or failures[release].next_try <= facts.now)
        }
        if lacking and self._fetching is None:
            self._fetching = BodyFetch(self._bodies, lacking, self._wake)

    def _report(self, decision: Decision) -> None:
        """Rewrite `actual` if it is not what is true now; while Consul is away, downloads go on."""
        assert self._orders.desired is not None
        actual = Actual(
            node=self._node,
            generation=self._ledger.generation(),
            releases=decision.statuses,
            alarms=tuple(filter(None, (self._orders.hold, *decision.alarms))),
        )
        self._unwritten = None
        try:
            self._write_actual(actual)
        except Temporary as e:
            self._unwritten = e

    def _write_actual(self, actual: Actual) -> None:
        raw = codec.encode(actual)
        if raw != self._written:
            self._kv.txn([Set(keys.actual(self._node), raw)])
            self._written = raw

    def _settle(self, decision: Decision) -> str:
        """The end of a run: note that the doorbell was answered, and say how it stands."""
        assert self._orders.desired is not None
        if self._unwritten is not None:
            raise self._unwritten
        self._progress.end()
        self._ledger.forget_failures(
            [r for r, s in decision.statuses.items() if s.state is not State.SUCCESS]
        )
        states = [status.state for status in decision.statuses.values()]
        done = states.count(State.SUCCESS)
        entry, hold = self._orders.entry, self._orders.hold
        if not hold and entry is not None and done == len(states):
            self._local.write(doorbell.name(_NAME), doorbell.text(entry.index, entry.value))
        counts = ", ".join(f"{states.count(s)} {s.lower()}" for s in State if states.count(s))
        said = f"generation {self._ledger.generation()}: {counts or 'no releases desired'}"
        return f"{said}; held: {hold}" if hold else said
