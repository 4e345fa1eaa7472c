"""The whole decision of plan: what every node should hold and run, from what is written and what was planned.

Pure and deterministic: the same world gives the same plan, and the plan of its own output changes nothing, so
a planner that died between two writes is completed by the next run. Three things are said in this order:
what is proven and what is wrong (with the generation to come), then the documents of the nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from msgspec import Struct, field, structs

from handlers.core.acceptance import RECOVER
from handlers.core.claims import BRAKED, Holds, claims, lost, with_crowds
from handlers.core.ledger import Home, Ledger
from handlers.core.local_plans import on_cordoned, ram, with_idle, with_selected
from handlers.core.model import Alarm, Alarms, Desired, Hold, Proven, Rollout, ServicePlan, Subscription
from handlers.core.names import Channel, Service
from handlers.core.proof import proven_versions
from handlers.core.reading import Reads
from handlers.core.service_plans import Aliases, Planned, planned, subscription_of
from handlers.core.staging import promoted
from handlers.core.targets import pins_end
from handlers.core.turns import Turns, turns
from handlers.core.version import Version
from handlers.core.world import NodeFacts, ServiceFacts, World

MOST_ALARMS = 200  # of a document that must fit into one value


class Plan(Struct, frozen=True, kw_only=True):
    """What plan wants: `desired` by segment of all nodes, of which `changed` differ from what is written.

    `proven` and `rollouts` hold only documents that differ. `held` says why nothing may be planned; then only
    `alarms` counts. `generation` is the highest one, after this plan. `promotions` are staged releases whose
    time has come: they become heads, and another plan follows. At `due` time alone changes the plan.
    """

    desired: Mapping[str, Desired] = field(default_factory=dict)
    changed: tuple[str, ...] = ()
    proven: Mapping[Service, Proven] = field(default_factory=dict)
    rollouts: Mapping[Service, Rollout] = field(default_factory=dict)
    promotions: Mapping[Channel, Version] = field(default_factory=dict)
    due: datetime | None = None
    alarms: Alarms
    generation: int = 0
    held: str = ""


def plan(world: World, *, now: datetime, remembered: int = 0, brake_share: float = 0.5) -> Plan:
    """What the world asks for. `remembered` is the highest generation that this planner has ever written.

    `now` decides only about what a person or a subscription gave a time: pins that end by themselves, staged
    releases that become heads, pauses between waves; and for how long what nothing needs is kept.
    """
    written = highest_generation(world)
    if reason := behind(world, written, remembered):
        alarms = [*world.alarms, Alarm(object="meta", text=f"planning is held: {reason}")]
        seen = max([remembered, *(n.actual.generation for n in world.nodes.values() if n.actual)])
        told = structs.replace(_alarms(alarms, world.published.generation), seen=seen)
        return Plan(alarms=told, generation=written, held=reason)
    homes, alarms = _homes(world)
    ledger, found = _ledger(world, homes, now)
    homes, unclear = with_selected(homes, ledger)
    homes = with_idle(homes, ledger)
    holds, braked = _holds(homes, ledger, brake_share)
    holds = with_crowds(homes, holds, ledger)
    generation = max(written, remembered) + 1
    desired, changed = {}, []
    for home in homes:
        fresh = _desired(home, ledger, holds[home.node.segment], generation)
        if home.node.desired is None or _differs(fresh, home.node.desired) or _below_floor(home, world):
            changed.append(home.node.segment)
        else:
            fresh = structs.replace(fresh, generation=home.node.desired.generation)
        desired[home.node.segment] = fresh
    generation = generation if changed else max(written, world.published.generation)
    promotions, later, staged = promoted(world, now)
    wrong = [*world.alarms, *alarms, *found, *unclear, *ledger.alarms, *braked, *_unfetchable(world), *staged]
    return Plan(
        desired=desired,
        changed=tuple(changed),
        proven=_proven(world, ledger),
        rollouts=_rollouts(world, ledger),
        promotions=promotions,
        due=min(
            [*later, *pins_end(world, now), *(t.due for t in ledger.turns.values() if t.due)], default=None
        ),
        alarms=_alarms(wrong, generation),
        generation=generation,
    )


def highest_generation(world: World) -> int:
    """The highest generation that KV knows of."""
    planned = [node.desired.generation for node in world.nodes.values() if node.desired]
    return max([0, world.published.generation, world.meta.generation_floor if world.meta else 0, *planned])


def behind(world: World, written: int, remembered: int) -> str:
    """Why KV must not be trusted: wiped, or older than what was seen of it. Empty = it may be."""
    if "meta" in world.unreadable:
        return "meta does not parse"
    if world.meta is None:
        return "meta is missing, so KV was never set up (hydra init) or is wiped (hydra recover)"
    seen = [
        (node.actual.generation, f"node {node.name} has applied")
        for node in world.nodes.values()
        if node.actual is not None
    ]
    highest, who = max([*seen, (remembered, "this planner has written")])
    if highest <= written:
        return ""
    return (
        f"{who} generation {highest}, KV knows only {written}: it was restored from an older state "
        f"({RECOVER})"
    )


def _homes(world: World) -> tuple[list[Home], list[Alarm]]:
    """All nodes that are known, each with what it held so far."""
    homes, alarms = [], []
    for node in world.nodes.values():
        if node.gone:
            continue
        if not node.known:
            text = "lost its documents below nodes/; nothing changes here (hydra node forget, if it is gone)"
            alarms.append(Alarm(object=f"node/{node.name}", text=text))
            continue
        alarms += [Alarm(object=f"node/{node.name}", text=text) for text in node.unfit]
        before = _previous(node)
        services = (
            {instance.service for instance in node.instances.instances.values()} if node.instances else set()
        )
        if node.instances is None and before.services:
            services = {service for service, plan in before.services.items() if not plan.idle}
            if "instances" not in node.unreadable:
                text = "its instances are missing; it keeps what it has"
                alarms.append(Alarm(object=f"node/{node.name}", text=text))
        states_missing = node.states is None and bool(services)
        unsure = (node.instances is None and before.services) or "states" in node.unreadable or states_missing
        homes.append(Home(node=node, previous=before, services=tuple(sorted(services)), sure=not unsure))
    return homes, alarms


def _previous(node: NodeFacts) -> Desired:
    """What was planned for the node; where that is lost, what the node itself says that it holds."""
    if node.desired is not None:
        return node.desired
    held = node.actual.releases if node.actual else {}
    return Desired(
        node=node.name, generation=0, releases={release: Hold(digest="", sequence=0) for release in held}
    )


def _ledger(world: World, homes: list[Home], now: datetime) -> tuple[Ledger, list[Alarm]]:
    """The plans of all services that have instances or a subscription."""
    last = _last_plans(homes)
    own = _last_own(homes)
    known = {service: Planned(plan=plan, own=own.get(service, {})) for service, plan in last.items()}
    uncordoned = _last_plans(home for home in homes if not home.previous.cordoned)
    nodes: dict[Service, list[str]] = {}
    unsure: set[Service] = set()
    for home in homes:
        for service in home.services:
            nodes.setdefault(service, []).append(home.node.name)
        if home.node.instances is None:
            unsure.update(home.previous.services)
    plans: dict[Service, Planned] = {}
    proven: dict[Service, Mapping[Channel, tuple[Version, ...]]] = {}
    order: dict[Service, Turns] = {}
    alarms: list[Alarm] = []
    for name in sorted(world.services.keys() | nodes.keys() | last.keys()):
        facts = world.service(name)
        subscription = _subscription(facts, last.get(name))
        if subscription is None:
            if name in nodes and not facts.deleted:
                text = "has instances, but no subscription that can be read"
                alarms.append(Alarm(object=f"service/{name}", text=text))
            continue
        before = last.get(name)
        has_nodes = name in nodes or bool(before and before.nodes)
        if facts.subscription is None and "subscription" not in facts.unreadable and has_nodes:
            text = (
                "its subscription is missing; it goes on as it was last planned (hydra unsubscribe ends it)"
            )
            alarms.append(Alarm(object=f"service/{name}", text=text))
        sure = name not in unsure
        proven[name] = proven_versions(world, facts, subscription, uncordoned.get(name), sure, now)
        plans[name], found = planned(world, facts, subscription, proven[name], known.get(name), now)
        order[name] = turns(world, facts, subscription, plans[name], proven[name], now)
        alarms += found
    first = {r: hold for home in homes for r, hold in home.previous.releases.items() if hold.digest}
    named = {service: tuple(sorted(names)) for service, names in nodes.items()}
    return Ledger(world, plans, proven, named, first, now, order), alarms


def _last_plans(homes: Iterable[Home]) -> dict[Service, ServicePlan]:
    """Each service as it was planned last; cordoned nodes have plans that differ, so they count least."""
    ordered = sorted(homes, key=lambda h: (not h.previous.cordoned, h.previous.generation, h.node.segment))
    return {service: plan for home in ordered for service, plan in home.previous.services.items()}


def _last_own(homes: Iterable[Home]) -> dict[Service, dict[Reads, Aliases]]:
    """What instances that say what they read were to run by the last plan, by that."""
    found: dict[Service, dict[Reads, Aliases]] = {}
    for home in homes:
        for key, instance in home.instances.items():
            if instance.reads and (plan := home.previous.services.get(key.service)):
                found.setdefault(key.service, {})[instance.reads] = plan.of(key).aliases
    return found


def _subscription(facts: ServiceFacts, last: ServicePlan | None) -> Subscription | None:
    """The subscription in force; None = unsubscribed, or nothing is known."""
    if facts.deleted:
        return None
    return facts.subscription or (subscription_of(last) if last else None)


def _holds(homes: list[Home], ledger: Ledger, brake_share: float) -> tuple[dict[str, Holds], list[Alarm]]:
    """What each node holds, after the brake: no run empties much of the fleet because instances vanish."""
    holds = {home.node.segment: claims(home, ledger) for home in homes}
    losses = {home.node.segment: lost(home, holds[home.node.segment], ledger) for home in homes}
    total = sum(len(home.previous.releases) for home in homes)
    count, nodes = sum(map(len, losses.values())), sum(map(bool, losses.values()))
    # one node that gives up its last instances is daily life, also where it is the only one
    if nodes < 2 or count <= brake_share * total:
        return holds, []
    for segment, releases in losses.items():
        for release in releases:
            if hold := ledger.hold(release, (BRAKED,)):
                holds[segment][release] = hold
    text = (
        f"instances vanished on {nodes} nodes at once, which would drop {count} of {total} releases there; "
        "the data stays (hydra unsubscribe, or hydra node forget, if that is meant)"
    )
    return holds, [Alarm(object="brake", text=text)]


def _desired(home: Home, ledger: Ledger, holds: Holds, generation: int) -> Desired:
    plans = {s: ledger.plan(s, home) for s in (*home.readers, *home.idle) if s in ledger.planned}
    if home.cordoned:
        plans = {service: on_cordoned(home, plan, holds, ledger.world) for service, plan in plans.items()}
    return Desired(
        node=home.node.name,
        generation=generation,
        releases=holds,
        # RAM is for who reads it; data for instances to come waits on the disk
        ram=ram(home, {s: plans[s] for s in home.services if s in plans}, holds, ledger.world),
        services=plans,
        cordoned=home.cordoned,
        extra=home.previous.extra,
    )


def _below_floor(home: Home, world: World) -> bool:
    """Whether nodes hold the document off: it is from before the KV was restored, they may be further."""
    floor = world.meta.generation_floor if world.meta else 0
    return home.previous.generation <= floor > 0


def _differs(fresh: Desired, written: Desired) -> bool:
    """Whether the documents differ beyond their generation."""
    return structs.replace(fresh, generation=written.generation) != written


def _proven(world: World, ledger: Ledger) -> dict[Service, Proven]:
    """The documents about services that differ from what is written; nothing is said about nothing."""
    result = {}
    for service, channels in ledger.proven.items():
        facts = world.service(service)
        before = facts.proven
        fresh = structs.replace(before, channels=channels, nodes=ledger.nodes.get(service, ()))
        if fresh != before or "proven" in facts.unreadable:
            result[service] = fresh
    return result


def _rollouts(world: World, ledger: Ledger) -> dict[Service, Rollout]:
    """The documents about whose turn it is that differ from what is written."""
    return {s: t.rollout for s, t in ledger.turns.items() if t.rollout != world.service(s).rollouts}


def _unfetchable(world: World) -> Iterable[Alarm]:
    """Releases that no new node could get any more, as `hydra doctor` found."""
    for channel in world.channels.values():
        for version, reason in channel.unfetchable.releases.items():
            if version in channel.by_version and not channel.deleted:
                text = f"{version} cannot be fetched any more (hydra doctor): {reason}"
                yield Alarm(object=f"channel/{channel.name}", text=text)


def _alarms(alarms: Iterable[Alarm], generation: int) -> Alarms:
    ordered = sorted({(alarm.object, alarm.text) for alarm in alarms})
    shown = [Alarm(object=owner, text=text) for owner, text in ordered[:MOST_ALARMS]]
    if len(ordered) > MOST_ALARMS:
        shown.append(Alarm(object="alarms", text=f"{len(ordered) - MOST_ALARMS} more are not listed"))
    return Alarms(alarms=tuple(shown), generation=generation)
