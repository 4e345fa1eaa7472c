"""judge: checks the canaries of every rollout that waits for it, and writes the verdict that lets it go on.

Called by the watch on `rollouts/`, and by resync; ends when no check is open. It runs beside the planner,
under a lock of its own, and not on the canary's node: one place sees the canaries and those who have not
moved, may ask Prometheus, and dies with the planner, without which no rollout goes on anyway. Each look is
counted in `gates/<s>` before the next, so another run, here or on the standby, goes on where this one ended.
All writes are fenced by the lock, and a verdict also by the rollout that it is about.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime

from msgspec.structs import replace

from handlers import log
from handlers.adapters import snapshot
from handlers.adapters.gauge import Gauge, Subject, Target
from handlers.adapters.lock import cluster_lock
from handlers.adapters.ports import Cas, CheckIndex, CheckSession, Consul, Delete
from handlers.context import Context
from handlers.core import codec, keys
from handlers.core.errors import Usage
from handlers.core.gate import Look, Outcome, looks_due, outcome, parse_check
from handlers.core.model import Subscription, Tally, Verdict, count
from handlers.core.names import Service
from handlers.core.turns import slot_of
from handlers.core.version import ReleaseId
from handlers.core.world import Replica, ServiceFacts, World

ROLE = "judge"
LONGEST_S = 30.0  # of one blocking query
SEEN = (keys.SERVICES, keys.VERDICTS, keys.ROLLOUTS, keys.GATES, keys.NODES, keys.STATES)


def run(ctx: Context) -> str:
    """Look at all canaries that wait for it until none does; the sentence to log."""
    if not open_checks(snapshot.load(ctx.kv, *SEEN)):
        return "no canary waits for a check"
    gauge = Gauge(ctx.settings.commands, ctx.settings.prometheus_url)
    ttl_s = ctx.settings.limits.plan_ttl_s
    with cluster_lock(ctx.kv, ctx.local, ROLE, node=ctx.node, ttl_s=ttl_s) as fence:
        return Judge(ctx.kv, fence, gauge, ctx.node).work()


def open_checks(world: World) -> dict[Service, ServiceFacts]:
    """The services whose canaries have moved and wait for a verdict."""
    return {
        name: facts
        for name, facts in world.services.items()
        if facts.rollouts.stage == "check" and facts.subscription and facts.subscription.check
        if not facts.unreadable & {"verdicts", "control", "rollouts"} and not _judged(facts)
    }  # fmt: skip


def _judged(facts: ServiceFacts) -> bool:
    """Whether nothing is left to look at: all is good, or moves stop for what was found already."""
    return not _asked(facts) or any(verdict.stands for verdict in _known(facts).values())


def _asked(facts: ServiceFacts) -> tuple[ReleaseId, ...]:
    """What the canaries are checked for, and has no verdict that holds."""
    known = _known(facts)
    return tuple(release for release in _checks(facts) if release not in known)


def _known(facts: ServiceFacts) -> dict[ReleaseId, Verdict]:
    found = {r: v for r in _checks(facts) if (v := facts.verdicts.releases.get(r))}
    return {release: verdict for release, verdict in found.items() if verdict.id not in facts.control.retry}


def _checks(facts: ServiceFacts) -> tuple[ReleaseId, ...]:
    return facts.rollouts.checks or facts.rollouts.releases  # an older planner does not say `checks`


class Judge:
    """One run, under the lock."""

    def __init__(
        self,
        kv: Consul,
        fence: CheckSession,
        gauge: Gauge,
        node: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kv, self._fence, self._gauge, self._node, self._clock = kv, fence, gauge, node, clock
        self._due: dict[Service, float] = {}
        self._verdicts = 0

    def work(self) -> str:
        """Looks, each when it is due, until no check is open; raises `Temporary`, `Denied`, `Conflict`."""
        index = 0
        while True:
            world = snapshot.load(self._kv, *SEEN)
            checks = open_checks(world)
            if not checks:
                return f"wrote {count(self._verdicts, 'verdict')}; no canary waits for a check any more"
            now = self._clock()
            self._due = {name: self._due.get(name, now + _interval(f)) for name, f in checks.items()}
            for name, facts in checks.items():
                if self._due[name] <= now:
                    self._due[name] = now + _interval(facts)
                    self._look(world, facts)
            left_s = min(self._due.values()) - self._clock()
            if left_s > 0:
                listing = self._kv.list(keys.ROLLOUTS, after=index, wait_s=min(left_s, LONGEST_S))
                index = listing.index

    def _look(self, world: World, facts: ServiceFacts) -> None:
        """One look, counted, and the verdict if it was the last."""
        assert facts.subscription
        try:
            check = parse_check(facts.subscription.check)
            look, seen = self._gauge.look(check, self._subject(world, facts))
        except Usage as e:  # written by hand: it is no evidence of anything
            look, seen = Look.NOTHING, str(e)
        tally = _counted(facts, look, seen)
        log.info("judge", "looked", service=facts.name, look=look, seen=seen)
        key, index = keys.gate(facts.name), world.indexes.get(keys.gate(facts.name), 0)
        found = outcome(facts.subscription, tally)
        if found is None:
            self._kv.txn([self._fence, Cas(key, codec.encode(tally), index)])
            return
        verdict = _verdict(facts, facts.subscription, found, tally, self._node)
        fresh = {**facts.verdicts.releases, **dict.fromkeys(_asked(facts), verdict)}
        verdicts, rollout = keys.verdicts(facts.name), keys.rollout(facts.name)
        self._kv.txn(
            [
                self._fence,
                CheckIndex(rollout, world.indexes.get(rollout, 0)),
                Cas(
                    verdicts,
                    codec.encode(replace(facts.verdicts, releases=fresh)),
                    world.indexes.get(verdicts, 0),
                ),
                Delete(key),
            ]
        )
        self._verdicts += 1
        log.info("judge", "found", service=facts.name, verdict=found, reason=verdict.reason)

    def _subject(self, world: World, facts: ServiceFacts) -> Subject:
        assert facts.subscription
        live = [replica for replica in world.replicas(facts.name) if replica.node.alive]
        canaries = [replica for replica in live if slot_of(replica) in facts.rollouts.instances]
        others = [replica for replica in live if slot_of(replica) not in facts.rollouts.instances]
        return Subject(
            service=facts.name,
            releases=_asked(facts),
            canaries=[self._target(replica) for replica in canaries],
            others=[self._target(replica) for replica in others],
            compare=facts.subscription.check_compare,
        )

    def _target(self, replica: Replica) -> Target:
        """Where to ask an instance; one without an address listens on that of its node."""
        instance, node = replica.instance, replica.node
        address = instance.address
        if not address:
            name = (node.info.consul_node if node.info else "") or node.name
            answer, _ = self._kv.get_json(f"catalog/node/{name}")
            address = str(((answer or {}).get("Node") or {}).get("Address", ""))
        return Target(instance.id, address, instance.port)


def _interval(facts: ServiceFacts) -> float:
    return max(0.1, facts.subscription.check_interval_s) if facts.subscription else LONGEST_S


def _counted(facts: ServiceFacts, look: Look, seen: str) -> Tally:
    """The looks so far with one more; those at other releases do not count."""
    same = facts.gates.releases == _asked(facts) and "gates" not in facts.unreadable
    before = facts.gates if same else Tally(releases=_asked(facts))
    return replace(
        before,
        good=before.good + (look is Look.GOOD),
        bad=before.bad + (look is Look.BAD),
        nothing=before.nothing + (look is Look.NOTHING),
        last=seen,
    )


def _verdict(
    facts: ServiceFacts, subscription: Subscription, found: Outcome, tally: Tally, node: str
) -> Verdict:
    looks = f"{tally.good} good, {tally.bad} bad, {tally.nothing} without evidence"
    return Verdict(
        id=secrets.token_hex(4),
        verdict=found,
        reason=f"{looks} of {looks_due(subscription)} looks; the last: {tally.last}",
        node=node,
        instance=", ".join(facts.rollouts.instances),
        when=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )
