"""What is known of one service, its instances taken together: what commands tell and wait by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property

from msgspec import Struct, field
from msgspec.structs import replace

from handlers.core.errors import Usage
from handlers.core.model import Ready, ServicePlan, Verdict
from handlers.core.names import Service, segment
from handlers.core.reading import Reads
from handlers.core.targeting import service_targets
from handlers.core.targets import standing_verdict
from handlers.core.version import ReleaseId, Version
from handlers.core.world import Replica, ServiceFacts, World


class OneService(Struct, frozen=True, dict=True):
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


def plan_of(replica: Replica) -> ServicePlan | None:
    """What is planned for its service on its node."""
    desired = replica.node.desired
    return desired.services.get(replica.instance.service) if desired else None
