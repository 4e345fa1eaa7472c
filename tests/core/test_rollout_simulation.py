"""Many nodes move the instances of one service, die at any point and come back: the budget always holds.

The invariant, checked after every step: of the instances on live nodes, those that Hydra took out of service
within the budget and that are not back yet are never more than the budget allows of all instances there. Once
nobody dies any more, all run the target and are in service, and no slot is left.

The handler is replaced by the smallest thing that uses the decisions as it does: it reads, decides, acts, and
writes with compare-and-set behind a fence. All else (processes, sessions, template files) is simulated.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from handlers.core.admission import Admit, Blocked, Member, admission
from handlers.core.aims import Goal, goal, start
from handlers.core.budget import budget_of
from handlers.core.model import (
    AliasPlan,
    InstanceState,
    Ready,
    ServicePlan,
    SlotEntry,
    Step,
    Verdict,
    Verdicts,
)
from handlers.core.names import Channel, Service
from handlers.core.rollout import Do, Facts, Next, advance, blamed
from handlers.core.version import ReleaseId, Version

S = Service("prod/search/api")
C = Channel("prod/search/places")
V1, V2, BROKEN = (Version(f"2026-01-0{n}T00-00-00") for n in (1, 2, 3))
DEADLINE = 12.0


class Crash(Exception):
    """The run ends here, as kill -9 ends it."""


@dataclass
class Replica:
    """A process and its folder: what really is, whatever documents say."""

    node: str
    loaded: Version
    view: Version
    shown: str = "ready"
    sick: bool = False
    by_budget: bool = False  # it was taken out because the budget allowed it, not because it was out anyway

    @property
    def in_service(self) -> bool:
        return self.shown == "ready" and not self.sick and self.loaded != BROKEN


@dataclass
class World:
    """Consul and the machines; one value per document, writes by compare-and-set on `writes`."""

    plan: ServicePlan
    replicas: dict[str, Replica]
    states: dict[str, InstanceState]
    out: dict[str, SlotEntry] = field(default_factory=dict)
    locks: dict[str, int] = field(default_factory=dict)
    verdicts: Verdicts = field(default_factory=Verdicts)
    dead: set[str] = field(default_factory=set)
    writes: int = 0  # of slots and verdicts
    sessions: int = 0

    def check(self) -> None:
        live = {k: r for k, r in self.replicas.items() if r.node not in self.dead}
        away = [k for k, r in live.items() if r.by_budget and not r.in_service]
        assert len(away) <= budget_of(self.plan).of(len(live)), away


@dataclass
class Node:
    """One node's reload; `clock` and `called` are lost when it dies."""

    name: str
    world: World
    chance: random.Random
    crash_share: float
    session: int = 0
    clock: dict[str, tuple[object, float]] = field(default_factory=dict)
    quiet: dict[str, float] = field(default_factory=dict)
    called: dict[str, str] = field(default_factory=dict)

    def step(self, key: str) -> bool:
        """One pass over one instance; whether anything changed."""
        try:
            return self._pass(key)
        except Crash:
            self.session, self.clock, self.quiet, self.called = 0, {}, {}, {}
            return True

    def _maybe_crash(self) -> None:
        if self.chance.random() < self.crash_share:
            raise Crash

    def _pass(self, key: str) -> bool:
        w, replica, state = self.world, self.world.replicas[key], self.world.states[key]
        if not self.session:
            w.sessions += 1
            self.session = w.sessions
        moving = state.step not in (Step.IDLE, Step.ADMIT, Step.FILL)
        if moving and w.locks.get(key) != self.session:
            w.locks[key] = self.session  # what held it is a run of this node that died
            w.out[key] = w.out.get(key) or entry(self.name, key)
        self._maybe_crash()
        read = w.writes
        aim = goal(state, w.plan, w.verdicts, lambda *_: "")
        if state.state is Ready.WAITING:
            aim = start(w.plan, lambda *_: "")
        answer = advance(state, aim, self._facts(key, state), w.plan)
        before = (replica.view, replica.loaded)
        self._act(key, answer)
        self._maybe_crash()
        self._write(key, state, answer, read)
        self._maybe_crash()
        return (
            answer.state != state or before != (replica.view, replica.loaded) or answer.do is not Do.NOTHING
        )

    def _facts(self, key: str, state: InstanceState) -> Facts:
        replica = self.world.replicas[key]
        phase = (state.step is Step.DRAIN, dict(state.moving), state.back)
        since = self.clock[key][1] + 1 if key in self.clock and self.clock[key][0] == phase else 0.0
        self.clock[key] = (phase, since)
        drained = replica.shown == "draining" and not replica.in_service
        self.quiet[key] = self.quiet.get(key, 0) + 1 if drained else 0.0
        wanted = state.moving.get("places")
        return Facts(
            in_service=replica.in_service,
            shown=replica.shown,
            view={"places": replica.view},
            quiet_s=self.quiet[key],
            phase_s=since,
            called=self.called.pop(key, None),
            confirmed="" if replica.loaded == wanted else f"has {replica.loaded}",
        )

    def _act(self, key: str, answer: Next) -> None:
        replica = self.world.replicas[key]
        if answer.do is Do.FLIP:
            assert not replica.in_service, "flipped under traffic"
            replica.view = answer.state.moving["places"]
        elif answer.do is Do.CALL:
            replica.loaded = replica.view
            fails = replica.view == BROKEN and self.chance.random() < 0.5
            self.called[key] = "HTTP 500" if fails else ""

    def _write(self, key: str, before: InstanceState, answer: Next, read: int) -> None:
        w, state = self.world, answer.state
        if answer.do is Do.ASK:
            self._ask(key, before, state, read)
            return
        if state == before:
            return
        if before.step not in (Step.IDLE, Step.ADMIT, Step.FILL) and w.locks.get(key) != self.session:
            return  # the fence: another session has the lock
        if answer.do is Do.HALT:
            if read != w.writes:
                return
            found = Verdict(
                id=f"v{w.writes}", verdict="halted", reason=answer.error, node=self.name, instance=key
            )
            new = dict.fromkeys(blamed(before, Goal(before.moving, channels={"places": C})), found)
            w.verdicts = Verdicts(releases={**w.verdicts.releases, **new})
            w.writes += 1
        if answer.do is Do.FINISH:
            w.out.pop(key, None)
            w.locks.pop(key, None)
            w.replicas[key].by_budget = False
            w.writes += 1
        w.states[key] = state

    def _ask(self, key: str, before: InstanceState, state: InstanceState, read: int) -> None:
        w = self.world
        members = {k: Member(r.node, r.in_service, w.states[k].served) for k, r in w.replicas.items()}
        answer = admission(key, w.out, members, w.dead, budget_of(w.plan))
        self._maybe_crash()
        if isinstance(answer, Blocked):
            w.states[key] = replace(before, step=Step.ADMIT, reason=answer.reason)
        elif read == w.writes:
            w.out[key] = entry(self.name, key)
            w.locks[key] = self.session
            w.replicas[key].by_budget = isinstance(answer, Admit)
            w.states[key] = state
            w.writes += 1


def entry(node: str, key: str) -> SlotEntry:
    return SlotEntry(node=node, instance=key, incarnation="1")


def build(nodes: int, replicas: int, budget: int) -> World:
    plan = ServicePlan(
        aliases={"places": AliasPlan(channel=C, target=V1, start=V1)},
        max_unavailable=budget,
        deadline_s=DEADLINE,
        drain_s=1,
    )
    keys = {f"r{i}": f"n{i % nodes}" for i in range(replicas)}
    state = InstanceState(
        service=S, id="", incarnation="1", state=Ready.READY, releases={"places": V1}, served=True
    )
    return World(
        plan=plan,
        replicas={k: Replica(n, V1, V1) for k, n in keys.items()},
        states={k: replace(state, id=k) for k in keys},
    )


def render(world: World, key: str) -> bool:
    """consul-template, some time later."""
    replica, word = world.replicas[key], str(world.states[key].state)
    changed, replica.shown = replica.shown != word, word
    return changed


def aim_at(world: World, target: Version, retry: tuple[str, ...] = ()) -> None:
    plan = AliasPlan(channel=C, target=target, start=V1)
    world.plan = replace(world.plan, aliases={"places": plan}, retry=retry)


def disturb(world: World, chance: random.Random, nodes: Mapping[str, Node]) -> None:
    match chance.randrange(12):
        case 0:
            aim_at(world, chance.choice([V1, V2, BROKEN]), world.plan.retry)
        case 1:
            key = chance.choice(sorted(world.replicas))
            # a replica that falls over by itself while it is out was not kept out by Hydra alone
            world.replicas[key].sick = not world.replicas[key].sick
            if world.replicas[key].sick:
                world.replicas[key].by_budget = False
        case 2 if len(world.dead) + 2 < len(nodes):
            world.dead.add(chance.choice(sorted(nodes)))


def settle(world: World, nodes: Mapping[str, Node]) -> None:
    """Everybody runs in turn until nobody has anything to do."""
    idle = 0
    for _ in range(5000):
        changed = False
        for key, replica in world.replicas.items():
            if replica.node in world.dead:
                world.out.pop(key, None)  # its entry is anybody's to remove
                continue
            changed |= nodes[replica.node].step(key)
            changed |= render(world, key)
            world.check()
        idle = 0 if changed else idle + 1
        if idle > DEADLINE + 2:  # longer than anybody waits for a deadline
            return
    raise AssertionError("it does not come to rest")


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 6), st.integers(1, 3))
def test_budget_holds_and_all_converge(seed: int, node_count: int, replicas: int, budget: int) -> None:
    chance = random.Random(seed)
    world = build(node_count, replicas, budget)
    nodes = {f"n{i}": Node(f"n{i}", world, chance, crash_share=0.05) for i in range(node_count)}
    for _ in range(400):
        key = chance.choice(sorted(world.replicas))
        if chance.random() < 0.02:
            disturb(world, chance, nodes)
        if world.replicas[key].node not in world.dead:
            if chance.random() < 0.5:
                nodes[world.replicas[key].node].step(key)
            else:
                render(world, key)
        world.check()
    for node in nodes.values():
        node.crash_share = 0
    for replica in world.replicas.values():
        replica.sick = False
    aim_at(world, V2, tuple(v.id for v in world.verdicts.releases.values()))

    settle(world, nodes)

    live = {k: r for k, r in world.replicas.items() if r.node not in world.dead}
    assert {r.loaded for r in live.values()} <= {V2}
    assert all(r.in_service and r.view == V2 for r in live.values())
    assert all(world.states[k].step is Step.IDLE and world.states[k].releases["places"] == V2 for k in live)
    assert not world.out


@pytest.mark.parametrize("crash_at", range(60))
def test_every_interruption_point_is_survived(crash_at: int) -> None:
    """The same move, killed at its n-th opportunity to die, ends like the move that nobody disturbed."""
    world = build(1, 2, 1)
    node = CrashOnce("n0", world, random.Random(0), crash_share=0, left=crash_at)
    aim_at(world, V2)

    settle(world, {"n0": node})

    assert {r.loaded for r in world.replicas.values()} == {V2}
    assert world.verdicts.releases == {}


@dataclass
class CrashOnce(Node):
    left: int = 0

    def _maybe_crash(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Crash


def test_a_broken_release_stops_at_the_first_replica() -> None:
    world = build(3, 6, 1)
    nodes = {f"n{i}": Node(f"n{i}", world, random.Random(i), crash_share=0) for i in range(3)}
    aim_at(world, BROKEN)

    settle(world, nodes)

    assert {r.loaded for r in world.replicas.values()} == {V1}
    assert list(world.verdicts.releases) == [ReleaseId.of(C, BROKEN)]
    assert all(r.in_service for r in world.replicas.values())


def test_rollback_mends_a_service_whose_replicas_are_all_sick() -> None:
    world = build(2, 4, 1)
    for key, replica in world.replicas.items():
        replica.loaded = replica.view = BROKEN
        world.states[key] = replace(world.states[key], releases={"places": BROKEN})
    aim_at(world, V1)
    nodes = {f"n{i}": Node(f"n{i}", world, random.Random(i), crash_share=0) for i in range(2)}

    settle(world, nodes)

    assert all(r.in_service and r.loaded == V1 for r in world.replicas.values())


def test_goal_of_an_undisturbed_instance_is_to_stay() -> None:
    world = build(1, 1, 1)

    assert goal(world.states["r0"], world.plan, Verdicts(), lambda *_: "no") == Goal(
        {"places": V1}, channels={"places": C}
    )
