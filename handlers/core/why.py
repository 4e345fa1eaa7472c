"""What one instance waits for, in one sentence of `core.reasons`: asked by `hydra why`.

An instance waits for the first thing in this order that is not as it should be: the KV, its node, the plan
of its node, what the node itself says of it. Pure: everything is in the `World`.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

from handlers.core.model import AliasPlan, InstanceState, Ready, ServicePlan, State, Step
from handlers.core.names import Service
from handlers.core.reasons import Reason
from handlers.core.version import ReleaseId, Version
from handlers.core.world import NodeFacts, Replica, World

Targets = Mapping[str, Version | None]
"""By alias what the service targets now, whether that is planned already or not."""


def why(world: World, replica: Replica, targets: Targets) -> str:
    """The sentence about one instance."""
    node, state = replica.node, replica.state
    whole = node.desired.services.get(replica.instance.service) if node.desired else None
    plan = whole.of(replica.key) if whole else None
    return (
        _of_node(world, node)
        or (Reason.NO_PLAN.say() if plan is None else _of_planner(plan, targets))
        or _of_state(world, node, replica.instance.service, state, plan)
    )


def _of_node(world: World, node: NodeFacts) -> str:
    if world.meta is None:
        return Reason.NO_META.say()
    if not node.alive:
        return Reason.NODE_DEAD.say(node=node.name)
    behind = node.actual is None or (node.desired and node.actual.generation != node.desired.generation)
    if behind and node.actual and node.actual.alarms:
        return Reason.HOLDS_OFF.say(why=node.actual.alarms[0])
    return ""


def _of_planner(plan: ServicePlan, targets: Targets) -> str:
    """Whether the node was not told yet what the service targets."""
    for alias, version in sorted(targets.items()):
        planned = plan.aliases.get(alias)
        if version is not None and planned is not None and planned.target != version:
            return Reason.NOT_PLANNED.say(release=ReleaseId.of(planned.channel, version))
    return ""


def _of_state(
    world: World, node: NodeFacts, service: Service, state: InstanceState | None, plan: ServicePlan | None
) -> str:
    if state is None:
        return Reason.NOT_TAKEN_UP.say()
    aliases = plan.aliases if plan else {}
    if node.cordon and (Reason.PAUSED.told_in(state.reason) or Reason.INCOMPLETE.told_in(state.reason)):
        return Reason.CORDONED.say(
            who=node.cordon.who or "somebody", why=node.cordon.why or "no reason given"
        )
    if Reason.INCOMPLETE.told_in(state.reason) and (download := _of_download(node, aliases)):
        others = [part for part in state.reason.split("; ") if not Reason.INCOMPLETE.told_in(part)]
        return "; ".join([*others, download])
    if state.reason:
        return state.reason
    for alias, part in sorted(aliases.items()):
        at_rest = state.state is Ready.READY and state.step is Step.IDLE
        if part.target and not (at_rest and state.runs(alias, part.channel, part.target)):
            return Reason.NOT_BEGUN.say(release=ReleaseId.of(part.channel, part.target))
    return _settled(world, service, state, aliases)


def _of_download(node: NodeFacts, aliases: Mapping[str, AliasPlan]) -> str:
    """How far sync is with what an instance waits for; empty where nothing is known of it."""
    wanted = chain.from_iterable(
        [ReleaseId.of(part.channel, version) for version in (part.target, part.start) if version]
        for _, part in sorted(aliases.items())
    )
    for release in wanted:
        status = node.actual.releases.get(release) if node.actual else None
        if status is None or status.state is State.SUCCESS:
            continue
        if status.state is State.FAILED:
            return Reason.NOT_LOADED.say(release=release, why=status.reason)
        done = node.progress.downloads.get(release) if node.progress else None
        if done:
            return Reason.LOADING.say(release=release, done=done.done, total=done.total)
    return ""


def _settled(world: World, service: Service, state: InstanceState, aliases: Mapping[str, AliasPlan]) -> str:
    """It runs what it should; said is also who wants that, where it is not simply the head."""
    runs = ", ".join(f"{alias} {version}" for alias, version in sorted(state.releases.items())) or "nothing"
    for alias, part in sorted(aliases.items()):
        channel = world.channels.get(part.channel)
        pin = world.service(service).pins.get(alias) or (channel.pin if channel else None)
        if pin and pin.version == part.target:
            return Reason.PINNED.say(releases=runs, who=pin.who or "somebody by hand")
        if channel and channel.head and channel.head != part.target and channel.head in channel.rejected:
            return Reason.BARRED.say(releases=runs, barred=channel.head)
        if part.passed:
            return Reason.PASSED.say(releases=runs, passed=part.passed)
    return Reason.SETTLED.say(releases=runs)
