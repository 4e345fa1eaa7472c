"""Whose turn it is to move to a release that is not proven yet: first the data, the canaries, then the waves.

    data     with `data_first`: nobody moves before all live nodes of the service have the release complete,
             those too that hold its data without an instance (`nodes`)
    canary   the first few instances move, as many as `canaries` says
    check    they are checked (`handlers.judge`); the verdict decides
    pause    with `wave_pause_s`: a while between the canaries and the first wave, and between waves
    wave     with `wave_by`: the nodes with one value of this label after the other; last those without it

Only moves to unproven releases have an order: whoever goes back to a proven one waits for nobody. An
instance that has begun to move is never called back by its turn, only by another target. Each decision
follows from what instances say now and from `rollouts/<s>` as plan wrote it last; a stage that is over stays
over.

What is fresh has one order together. A release of another channel that comes while one is on its way begins
it anew: the canaries move to both, what has passed its check is not checked again, and who is not a canary
stays with what it runs until it may have both. Instances that read different things may move to different
releases; then each kind has canaries of its own, one kind is checked after the other, and a verdict is only
about what its canaries run.

Invariant: with a check, no instance beyond the canaries is allowed to move to a release before there is a
standing verdict `good` on it, or an operator promoted or pinned it; whoever dies, and however often plan is
interrupted.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from msgspec import Struct, field
from msgspec.structs import replace

from handlers.core import keys
from handlers.core.errors import Usage
from handlers.core.evidence import checked, unproven, wanted_at_once
from handlers.core.model import Ready, Rollout, State, Step, Subscription
from handlers.core.reading import EVERYTHING
from handlers.core.reasons import Reason
from handlers.core.selector import parse_nodes
from handlers.core.service_plans import Aliases, Planned, Proven
from handlers.core.version import ReleaseId
from handlers.core.world import NodeFacts, Replica, ServiceFacts, World

SHOWN = 5


class Turns(Struct, frozen=True, kw_only=True):
    """`waits` says why instances that are not in `goes` (slot ids) wait; empty = everybody may move.

    They wait for what is `fresh` only: to anything else they may move at any time.
    `rollout` is the document to write, `due` when it will be different without anything else changing.
    """

    waits: str = ""
    goes: frozenset[str] = frozenset()
    fresh: tuple[ReleaseId, ...] = ()
    rollout: Rollout = field(default_factory=Rollout)
    due: datetime | None = None


class _Case(Struct, frozen=True, kw_only=True):
    """One service while a release is on its way; `order` are its live instances as their turns come.

    One that reads something else is not among them: it waits for nobody.
    """

    world: World
    facts: ServiceFacts
    subscription: Subscription
    planned: Planned
    fresh: tuple[ReleaseId, ...]
    proven: Proven
    order: tuple[Replica, ...]
    last: Rollout
    wanted: frozenset[ReleaseId]
    now: datetime

    @property
    def promoted(self) -> bool:
        """Whether an operator wants all that is fresh at once."""
        return self.wanted.issuperset(self.fresh)

    def passed(self, release: ReleaseId) -> bool:
        """Whether the release needs no check any more."""
        return release in self.wanted or checked(self.facts, release)

    def runs(self, replica: Replica) -> bool:
        """Whether it has taken over all that is fresh, and is back in service from it."""
        state = replica.state
        return (
            state is not None
            and (state.state, state.step) == (Ready.READY, Step.IDLE)
            and all(state.runs(a, p.channel, p.target) for a, p in self.fresh_of(replica).items())
        )

    def begun(self, replica: Replica) -> bool:
        """Whether it runs all that is fresh already, or is on its way to it.

        All of it: one that runs a fresh release of one channel may not have that of another for it.
        """
        state = replica.state
        return state is not None and all(
            state.runs(a, p.channel, p.target) or state.moving.get(a) == p.target
            for a, p in self.fresh_of(replica).items()
        )

    def fresh_of(self, replica: Replica) -> Aliases:
        """What of it an instance should take over, by alias."""
        return self.fresh_in(self.planned.aliases(replica.instance.reads))

    def fresh_in(self, aliases: Aliases) -> Aliases:
        """What of these is fresh."""
        return {
            a: p for a, p in aliases.items() if p.target and ReleaseId.of(p.channel, p.target) in self.fresh
        }


def turns(
    world: World,
    facts: ServiceFacts,
    subscription: Subscription,
    planned: Planned,
    proven: Proven,
    now: datetime,
) -> Turns:
    """Whose turn it is, in a service that is `planned` for all its nodes alike."""
    live = [r for r in world.replicas(facts.name) if r.node.alive and not r.node.cordon]
    kinds = {r.instance.reads for r in live} or {EVERYTHING}
    fresh = tuple(sorted({r for reads in kinds for r in unproven(planned.aliases(reads), proven)}))
    last = facts.rollouts if facts.rollouts.releases == fresh else Rollout()
    lost = facts.subscription is None or "rollouts" in facts.unreadable
    ordered = facts.rollouts.ordered or "rollouts" in facts.unreadable if lost else _ordered(subscription)
    if not fresh or not ordered:
        return Turns(rollout=Rollout(ordered=ordered, extra=facts.rollouts.extra))
    case = _Case(
        world=world,
        facts=facts,
        subscription=subscription,
        planned=planned,
        fresh=fresh,
        proven=proven,
        order=tuple(sorted(live, key=lambda r: (_wave_rank(r, subscription), slot_of(r)))),
        last=last,
        wanted=frozenset(r for r in fresh if wanted_at_once(world, facts, subscription, r, now)),
        now=now,
    )
    others = frozenset(slot_of(r) for r in live if not case.fresh_of(r))
    case = replace(case, order=tuple(r for r in case.order if slot_of(r) not in others))
    if lost or facts.unreadable & {"control", "verdicts"}:
        found = _unknown(case)
    else:
        found = _data(case) or _canary(case) or _waves(case)
    return replace(found, goes=found.goes | others, fresh=fresh)


def _ordered(subscription: Subscription) -> bool:
    """Whether the service has any order to keep."""
    wanted = subscription.canaries or subscription.check or subscription.wave_by or subscription.data_first
    return bool(wanted) and subscription.reload != "frozen"


def slot_of(replica: Replica) -> str:
    """How an instance is called in `slots/<s>`, in `rollouts/<s>`, and here."""
    return keys.slot_id(replica.node.name, replica.key)


def _wave_of(replica: Replica, subscription: Subscription) -> str:
    return replica.node.info.labels.get(subscription.wave_by, "") if replica.node.info else ""


def _wave_rank(replica: Replica, subscription: Subscription) -> tuple[bool, str]:
    wave = _wave_of(replica, subscription) if subscription.wave_by else ""
    return not wave, wave


def _stage(
    case: _Case,
    stage: str,
    why: str,
    goes: Iterable[Replica] = (),
    *,
    canaries: Iterable[str] = (),
    checks: Iterable[ReleaseId] = (),
    wave: str = "",
    until: datetime | None = None,
) -> Turns:
    allowed = {slot_of(r) for r in case.order if case.begun(r)} | {slot_of(r) for r in goes}
    rollout = replace(
        case.facts.rollouts,
        ordered=True,
        stage=stage,
        releases=case.fresh,
        instances=tuple(sorted(canaries)) or case.last.instances,
        checks=tuple(sorted(checks)),
        passed=tuple(r for r in case.fresh if checked(case.facts, r)),
        wave=wave,
        until=until.isoformat(timespec="milliseconds") if until else "",
        reason=why,
    )
    return Turns(waits=why, goes=frozenset(allowed), rollout=rollout, due=until)


def _unknown(case: _Case) -> Turns:
    """What decides cannot be read: whoever may move already may go on, nobody else."""
    why = Reason.TURN_UNKNOWN.say()
    chosen = [r for r in case.order if slot_of(r) in case.last.instances]
    return Turns(waits=why, goes=_stage(case, "", why, chosen).goes, rollout=case.facts.rollouts)


def _data(case: _Case) -> Turns | None:
    """None = all live nodes have what is fresh for them, or need not."""
    if not case.subscription.data_first or case.promoted or case.last.stage not in ("", "data"):
        return None
    missing = {r.node.name for r in case.order if not _has(r.node, case.fresh_of(r))}
    apart = case.fresh_in(case.planned.plan.aliases)
    missing |= {node.name for node in _selected(case) if not _has(node, apart)}
    if not missing:
        return None
    return _stage(case, "data", Reason.TURN_DATA.say(nodes=_some(sorted(missing))))


def _selected(case: _Case) -> Iterable[NodeFacts]:
    """The nodes that hold the data for instances to come, and take new data now."""
    if not case.subscription.nodes:
        return
    try:
        selector = parse_nodes(case.subscription.nodes)
    except Usage:
        selector = None
    for node in case.world.nodes.values():
        if node.known and node.alive and not node.cordon and node.is_selected(case.facts.name, selector):
            yield node


def _has(node: NodeFacts, aliases: Aliases) -> bool:
    there = node.actual.releases if node.actual else {}
    wanted = [ReleaseId.of(part.channel, part.target) for part in aliases.values() if part.target]
    return all(release in there and there[release].state is State.SUCCESS for release in wanted)


def _canary(case: _Case) -> Turns | None:
    """None = there are no canaries, or they have passed."""
    check = case.subscription.check
    wanted = max(case.subscription.canaries, 1 if check else 0)
    # with a check only that tells whether they have passed: a pin, or having none, may have brought the waves
    if not wanted or case.promoted or (not check and case.last.stage in ("pause", "wave")):
        return None
    for releases, members in _kinds(case):
        if all(map(case.passed, releases)):
            continue
        chosen = _chosen(case, members, wanted)
        names = _some(sorted(map(slot_of, chosen)))
        if not chosen or not all(map(case.runs, chosen)):
            why = Reason.TURN_CANARY.say(who=names or "nobody is alive")
            return _stage(case, "canary", why, chosen, canaries=map(slot_of, chosen))
        if check:
            why = Reason.TURN_CHECK.say(who=names, check=check)
            left = [release for release in releases if not case.passed(release)]
            return _stage(case, "check", why, chosen, canaries=map(slot_of, chosen), checks=left)
    return None


def _kinds(case: _Case) -> list[tuple[list[ReleaseId], list[Replica]]]:
    """Who moves to what: the instances by what is fresh for them, those with the least of it first."""
    kinds: dict[tuple[ReleaseId, ...], list[Replica]] = {}
    for replica in case.order:
        parts = case.fresh_of(replica).values()
        releases = sorted({ReleaseId.of(p.channel, p.target) for p in parts if p.target})
        kinds.setdefault(tuple(releases), []).append(replica)
    found = kinds or {case.fresh: []}
    return [(list(releases), found[releases]) for releases in sorted(found, key=lambda r: (len(r), r))]


def _chosen(case: _Case, members: Iterable[Replica], count: int) -> list[Replica]:
    """The canaries: who has begun, then who was chosen before, then who is off the proven releases anyway."""

    def rank(replica: Replica) -> tuple[bool, bool, bool]:
        state = replica.state
        proven = state is not None and all(
            state.releases.get(a) in case.proven.get(p.channel, ())
            for a, p in case.planned.aliases(replica.instance.reads).items()
        )
        return not case.begun(replica), slot_of(replica) not in case.last.instances, proven

    return sorted(members, key=rank)[:count]


def _waves(case: _Case) -> Turns:
    """The first wave that is not through goes, and all before it; everybody, when it is the last."""
    waves = dict.fromkeys(_wave_rank(r, case.subscription) for r in case.order)
    left = [w for w in waves if not all(case.runs(r) for r in case.order if _rank(case, r) == w)]
    if not left:
        return Turns(rollout=case.facts.rollouts)  # until all of it is proven
    current = left[0]
    name = current[1]
    goes = [r for r in case.order if _rank(case, r) < current]
    until = _pause_until(case, name, first=current == next(iter(waves)))
    if until is not None and case.now < until:
        what = f"{case.subscription.wave_by} {name or 'none'}" if case.subscription.wave_by else "all others"
        why = Reason.TURN_PAUSE.say(until=f"{until:%H:%M:%S} UTC", wave=what)
        return _stage(case, "pause", why, goes, wave=name, until=until)
    goes += [r for r in case.order if _rank(case, r) == current]
    if len(left) == 1:
        opened = _stage(case, "wave", "", goes, wave=name)
        return replace(opened, goes=frozenset())  # the last one: nobody is left to wait
    why = Reason.TURN_WAVE.say(label=case.subscription.wave_by, wave=name or "none")
    return _stage(case, "wave", why, goes, wave=name)


def _rank(case: _Case, replica: Replica) -> tuple[bool, str]:
    return _wave_rank(replica, case.subscription)


def _pause_until(case: _Case, wave: str, *, first: bool) -> datetime | None:
    """When the wave may begin; None = at once, or it has begun."""
    pause_s, last = case.subscription.wave_pause_s, case.last
    after_canaries = bool(case.subscription.canaries or case.subscription.check)
    if not pause_s or case.promoted or (first and not after_canaries):
        return None
    if last.stage == "wave" and last.wave == wave:
        return None
    if last.stage == "pause" and last.wave == wave and (until := _time(last.until)):
        return until
    return case.now + timedelta(seconds=pause_s)


def _time(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
