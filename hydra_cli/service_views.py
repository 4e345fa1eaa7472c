"""Services and their instances, as people and programs read them: for status, view and rollout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from typing import Any

from handlers.core.errors import Usage
from handlers.core.model import Ready, ServicePlan, Step, Verdict
from handlers.core.names import Service, segment
from handlers.core.reading import Reads
from handlers.core.targeting import service_targets
from handlers.core.targets import standing_verdict
from handlers.core.version import ReleaseId, Version
from handlers.core.world import Replica, ServiceFacts, World
from hydra_cli.output import Block, Cell, Line, Table, Tone, ago

_OF_VERDICT = ("verdict", "reason", "node", "instance")
STATE_TONES = {Ready.READY: Tone.GOOD, Ready.DRAINING: Tone.WARN, Ready.WAITING: Tone.WARN}


@dataclass(frozen=True)
class OneService:
    """A service with its instances (`dead` are those on dead nodes) and what it targets.

    `wanted` are the releases that pins, heads and plan name for it and that nobody rejected. `own` are the
    targets of instances that say themselves what they read.
    """

    facts: ServiceFacts
    live: Sequence[Replica]
    dead: Sequence[Replica]
    targets: Mapping[str, Version | None]
    plan: ServicePlan | None = None
    wanted: frozenset[ReleaseId] = frozenset()
    own: Mapping[Reads, Mapping[str, Version | None]] = field(default_factory=dict)

    @property
    def name(self) -> Service:
        """The service."""
        return self.facts.name

    @cached_property
    def ready(self) -> int:
        """How many live instances are ready."""
        return sum(r.state is not None and r.state.state is Ready.READY for r in self.live)

    @cached_property
    def at_target(self) -> int:
        """How many live instances run what the service targets."""
        return sum(self.is_at_target(r) for r in self.live)

    @property
    def out(self) -> Sequence[str]:
        """Who is out of service for a reload."""
        return sorted(self.facts.slots.out)

    def is_at_target(self, replica: Replica) -> bool:
        """Whether the instance runs every target of the service."""
        state, reads = replica.state, self.facts.subscription.channels if self.facts.subscription else {}
        return state is not None and all(
            version is None or state.runs(alias, reads.get(alias), version)
            for alias, version in self.targets_of(replica).items()
        )

    def targets_of(self, replica: Replica) -> Mapping[str, Version | None]:
        """What this instance should run."""
        return self.own.get(replica.instance.reads, self.targets)

    @property
    def verdicts(self) -> Mapping[ReleaseId, Verdict]:
        """Verdicts that hold, of releases that the service is wanted to run."""
        found = {r: standing_verdict(self.facts, r) for r in self.facts.verdicts.releases if r in self.wanted}
        return {release: verdict for release, verdict in sorted(found.items()) if verdict}

    def troubles(self) -> list[str]:
        """What a person should look at, worst first."""
        said = [f"{r} {v.verdict} on {v.node} ({v.instance}): {v.reason}" for r, v in self.verdicts.items()]
        if self.facts.control.paused:
            control = self.facts.control
            said.append(
                f"rollouts are paused by {control.who or 'somebody'}: {control.why or 'no reason given'}"
            )
        if bad := sorted(self.facts.unreadable):
            said.append(f"{', '.join(bad)} cannot be read")
        plans = [plan.of(r.key) for r in self.live if (plan := plan_of(r)) is not None]
        if not plans and self.plan is not None:
            plans = [self.plan]
        held = {(alias, p.held) for plan in plans for alias, p in plan.aliases.items() if p.held}
        said += [f"{alias}: {why}" for alias, why in sorted(held) if not why.startswith("halted")]
        return said


def of(world: World, name: Service, now: datetime) -> OneService:
    """Everything about one service in `world`."""
    facts = world.service(name)
    replicas = world.replicas(name)
    plans = [
        n.desired.services[name] for n in world.nodes.values() if n.desired and name in n.desired.services
    ]
    plan = plans[0] if plans else None
    return OneService(
        facts=facts,
        live=[r for r in replicas if r.node.alive],
        dead=[r for r in replicas if not r.node.alive],
        targets=service_targets(world, facts, now, plan),
        own={
            reads: service_targets(world, facts, now, plan, reads)
            for reads in {r.instance.reads for r in replicas if r.instance.reads}
        },
        plan=plan,
        wanted=_wanted(world, facts),
    )


def find(world: World, name: Service, now: datetime, instance_id: str | None) -> OneService:
    """The service, with the one instance if it is named; raises `Usage` when there is no such thing."""
    one = of(world, name, now)
    if one.facts.subscription is None and not (one.live or one.dead):
        raise Usage(f"there is no service {name}: it has neither a subscription nor instances")
    if not instance_id:
        return one
    keep = {instance_id, segment(instance_id)}
    live, dead = ([r for r in some if {r.instance.id, r.key.segment} & keep] for some in (one.live, one.dead))
    if not (live or dead):
        ids = sorted(r.instance.id for r in [*one.live, *one.dead])
        raise Usage(f"{name} has no instance {instance_id!r}; it has {', '.join(ids) or 'none'}")
    return replace(one, live=live, dead=dead)


def _wanted(world: World, service: ServiceFacts) -> frozenset[ReleaseId]:
    """What pins and heads name for a service, without what is rejected."""
    found: set[ReleaseId] = set()
    for alias, name in service.subscription.channels.items() if service.subscription else ():
        channel = world.channels.get(name)
        pins = (service.pins.get(alias), channel.pin if channel else None)
        versions = {pin.version for pin in pins if pin} | (
            {channel.head} if channel and channel.head else set()
        )
        found |= {ReleaseId.of(name, v) for v in versions if not channel or v not in channel.rejected}
    return frozenset(found)


def subscribed(world: World, now: datetime) -> list[OneService]:
    """All services that have a subscription or instances."""
    names = {name for name, facts in world.services.items() if facts.subscription and not facts.deleted}
    names |= {replica.instance.service for name in world.services for replica in world.replicas(name)}
    names |= {i.service for n in world.nodes.values() if n.instances for i in n.instances.instances.values()}
    return [of(world, name, now) for name in sorted(names)]


def service_table(services: Sequence[OneService], title: str = "") -> Table:
    """Services with how many replicas are ready, at target, out."""
    rows: list[list[Cell | str]] = []
    for one in services:
        count = len(one.live)
        rows.append([
            one.name,
            Cell(f"{one.ready}/{count}", _ready_tone(one)),
            Cell(f"{one.at_target}/{count}", Tone.GOOD if one.at_target == count else Tone.WARN),
            ", ".join(one.out),
            condition(one),
            ", ".join(f"{alias} {version or 'none yet'}" for alias, version in sorted(one.targets.items())),
        ])  # fmt: skip
    columns = ("SERVICE", "READY", "AT TARGET", "OUT", "ROLLOUT", "TARGET")
    return Table(columns, rows, title=title, empty="no services; `hydra subscribe` makes one")


def _ready_tone(one: OneService) -> Tone:
    """Whoever is out for a reload is expected back; whoever is not ready beyond that is in trouble."""
    if one.ready == len(one.live):
        return Tone.GOOD
    return Tone.WARN if one.ready + len(one.out) >= len(one.live) else Tone.BAD


def condition(one: OneService) -> Cell:
    """What the rollout of a service is doing, in one word."""
    if one.facts.subscription is None or one.facts.deleted:
        return Cell("not subscribed", Tone.WARN)
    if one.verdicts and one.at_target < len(one.live):
        return Cell("halted", Tone.BAD)
    if one.facts.control.paused:
        return Cell("paused", Tone.WARN)
    if not one.live:
        return Cell("no instance", Tone.DIM)
    if one.at_target == len(one.live) and not one.facts.rollouts.stage:
        return Cell("done", Tone.GOOD)
    stage = one.facts.rollouts.stage
    return Cell(f"going on ({stage})" if stage else "going on", Tone.WARN)


def instance_table(one: OneService, now: datetime, title: str = "", view: bool = False) -> Table:
    """The instances of a service; with `view` also where each one's view is, below its node's HYDRA_ROOT."""
    rows: list[list[Cell | str]] = []
    for replica in [*one.live, *one.dead]:
        state = replica.state
        word = state.state if state else "not seen yet"
        tone = STATE_TONES[state.state] if state else Tone.WARN
        row: list[Cell | str] = [
            replica.node.name,
            replica.instance.id,
            Cell(word, tone) if replica.node.alive else Cell("node is dead", Tone.BAD),
            Cell(_step(replica), Tone.WARN),
            ", ".join(f"{alias} {v}" for alias, v in sorted(state.releases.items())) if state else "",
            ago(state.since, now) if state else "",
            _reason(replica),
        ]
        rows.append([*row, view_path(replica)] if view else row)
    columns = ("NODE", "INSTANCE", "STATE", "STEP", "RUNS", "SINCE", "REASON", *(["VIEW"] if view else []))
    return Table(columns, rows, title=title, empty="no instances")


def plan_of(replica: Replica) -> ServicePlan | None:
    """What is planned for its service on its node."""
    desired = replica.node.desired
    return desired.services.get(replica.instance.service) if desired else None


def _reason(replica: Replica) -> str:
    """What its node says of it; else why it is on an older release."""
    if replica.state is None or replica.state.reason:
        return replica.state.reason if replica.state else ""
    plan = plan_of(replica)
    passed = (part.passed for part in plan.of(replica.key).aliases.values()) if plan else ()
    return "; ".join(f"passes over {why}" for why in passed if why)


def view_path(replica: Replica) -> str:
    """Where the instance's view is, below the HYDRA_ROOT of its node."""
    return f"views/{replica.key}"


def _step(replica: Replica) -> str:
    state = replica.state
    if state is None or state.step is Step.IDLE:
        return ""
    to = ", ".join(sorted({*state.moving.values()}))
    return f"{state.step}{' back' if state.back else ''}" + (f" -> {to}" if to else "")


def service_data(one: OneService) -> dict[str, Any]:
    """A service as JSON, with its instances."""
    subscription = one.facts.subscription
    return {
        "service": one.name,
        "subscribed": subscription is not None and not one.facts.deleted,
        "channels": dict(subscription.channels) if subscription else {},
        "reads": subscription.reads if subscription else "",
        "targets": dict(one.targets),
        "pins": {alias: pin.version for alias, pin in one.facts.pins.items()},
        "replicas": {
            "live": len(one.live),
            "ready": one.ready,
            "at_target": one.at_target,
            "dead": len(one.dead),
        },
        "out": list(one.out),
        "rollout": condition(one).text,
        "paused": one.facts.control.paused,
        "stage": one.facts.rollouts.stage,
        "stage_reason": one.facts.rollouts.reason,
        "verdicts": {
            release: {field: getattr(verdict, field) for field in _OF_VERDICT}
            for release, verdict in one.verdicts.items()
        },
        "troubles": one.troubles(),
        "instances": [instance_data(replica) for replica in [*one.live, *one.dead]],
    }  # fmt: skip


def instance_data(replica: Replica) -> dict[str, Any]:
    """An instance as JSON."""
    state = replica.state
    return {
        "node": replica.node.name,
        "node_alive": replica.node.alive,
        "id": replica.instance.id,
        "incarnation": replica.instance.incarnation,
        "address": replica.instance.address,
        "port": replica.instance.port,
        "health": replica.instance.health,
        "reads": replica.instance.reads,
        "state": state.state if state else None,
        "step": state.step if state else None,
        "reason": _reason(replica),
        "releases": dict(state.releases) if state else {},
        "moving": dict(state.moving) if state else {},
        "media": dict(state.media) if state else {},
        "since": state.since if state else "",
        "view": view_path(replica),
    }


@dataclass(frozen=True)
class ServiceView:
    """One service in full: what is wrong, its numbers, its instances."""

    one: OneService
    now: datetime
    view: bool = False

    def data(self) -> Mapping[str, Any]:
        """The service."""
        return service_data(self.one)

    def blocks(self) -> Iterator[Block]:
        """Troubles, numbers, instances."""
        for text in self.one.troubles():
            yield Line(text, Tone.BAD)
        if self.one.facts.rollouts.stage:
            yield Line(self.one.facts.rollouts.title(), Tone.WARN)
        if self.one.facts.gates.releases:
            yield Line(self.one.facts.gates.title(), Tone.WARN)
        yield service_table([self.one])
        yield instance_table(self.one, self.now, title="Instances", view=self.view)
