"""Whether a published release was taken over: by which instances, how far the others are, what is in the way.

`hydra publish --wait` looks at this again and again; it decides nothing by a clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from msgspec import Struct, field

from handlers.core.model import InstanceState, Ready, State, Step
from handlers.core.names import Channel, Service
from handlers.core.reading import EVERYTHING
from handlers.core.version import ReleaseId, Version
from handlers.core.world import ChannelFacts, Replica, ServiceFacts, World


class Stage(StrEnum):
    """How far one instance is on its way to the release."""

    PLANNED = "planned"
    DOWNLOADING = "downloading"
    FAILED = "failed"
    COMPLETE = "downloaded"
    MOVING = "moving"
    RUNS = "runs it"
    BLOCKED = "blocked"


class Progress(Struct, frozen=True, kw_only=True):
    """One live instance of one subscribed service; bytes of the download of its node (0 = unknown)."""

    service: Service
    node: str
    instance: str
    stage: Stage
    reason: str = ""
    done_bytes: int = 0
    total_bytes: int = 0
    speed: int = 0


class Takeover(Struct, frozen=True, kw_only=True):
    """The release in the eyes of everybody who should run it; `blocked` says why a service will not."""

    release: ReleaseId
    services: tuple[Service, ...] = ()
    instances: tuple[Progress, ...] = ()
    blocked: Mapping[Service, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether all live instances of all subscribed services run it."""
        return not self.blocked and all(i.stage is Stage.RUNS for i in self.instances)

    @property
    def settled(self) -> bool:
        """Whether waiting longer changes nothing: every instance runs it or will not."""
        return all(i.stage in (Stage.RUNS, Stage.BLOCKED) for i in self.instances)

    @property
    def running(self) -> int:
        """How many live instances run it."""
        return sum(i.stage is Stage.RUNS for i in self.instances)


def taken_over(world: World, channel: Channel, version: Version) -> Takeover:
    """How far the release is taken over, as `world` tells; dead nodes are not waited for."""
    release = ReleaseId.of(channel, version)
    services = {
        name: facts
        for name, facts in sorted(world.services.items())
        if facts.subscription and not facts.deleted and channel in facts.subscription.channels.values()
    }
    whole = _channel_obstacle(world.channels.get(channel), version)
    blocked: dict[Service, str] = {}
    instances: list[Progress] = []
    for name, facts in services.items():
        for alias in _aliases(facts, channel):
            replicas = [*world.replicas(name), *_undiscovered(world, name)]
            obstacle = _service_obstacle(facts, alias, release, whole)
            rows = [
                _progress(r, name, alias, release, obstacle or _passed_over(world, facts, r, alias, release))
                for r in replicas
                if r.node.alive
            ]
            reasons = [row.reason for row in rows if row.stage is Stage.BLOCKED]
            if reasons:
                blocked[name] = reasons[0]
            instances += rows
    return Takeover(release=release, services=tuple(services), instances=tuple(instances), blocked=blocked)


def _undiscovered(world: World, service: Service) -> list[Replica]:
    """Instances that were registered by hand a moment ago: their node will tell of them, so they count."""
    return [
        Replica(node, key, instance, None)
        for node in world.nodes.values()
        for key, instance in (node.registrations.instances.items() if node.registrations else ())
        if instance.service == service and not (node.instances and key in node.instances.instances)
    ]


def _aliases(facts: ServiceFacts, channel: Channel) -> list[str]:
    """Under which names the service reads the channel; more than one is possible."""
    assert facts.subscription is not None
    return sorted(alias for alias, c in facts.subscription.channels.items() if c == channel)


def _channel_obstacle(facts: ChannelFacts | None, version: Version) -> str:
    """What keeps everybody from targeting the version; empty when nothing does."""
    if facts is None:
        return "the channel cannot be read"
    if facts.deleted:
        return "the channel is deleted"
    if bad := sorted(facts.unreadable & {"head", "pin", "settings"}):
        return f"the channel's {' and '.join(bad)} cannot be read: everybody stays where they are"
    if said := facts.rejected.get(version):
        return f"rejected by {said.who or 'somebody'}: {said.why or 'no reason given'}"
    if facts.pin and facts.pin.version != version:
        return f"the channel is pinned to {facts.pin.version}" + (
            f": {facts.pin.why}" if facts.pin.why else ""
        )
    if not facts.pin and facts.head != version:
        return f"the head is {facts.head or 'missing'} now"
    return ""


def _service_obstacle(facts: ServiceFacts, alias: str, release: ReleaseId, whole: str) -> str:
    pin = facts.pins.get(alias)
    if pin and pin.version != release.version:
        return f"the service is pinned to {pin.version}" + (f": {pin.why}" if pin.why else "")
    if bad := sorted(facts.unreadable & {"subscription", "control", f"pin/{alias}"}):
        return f"the service's {' and '.join(bad)} cannot be read: its instances stay where they are"
    if whole and not (pin and not whole.startswith("rejected")):
        return whole
    control = facts.control
    if release in control.abort:
        return f"aborted by {control.who or 'somebody'}: {control.why or 'no reason given'}"
    verdict = facts.verdicts.releases.get(release)
    if verdict and verdict.stands and not control.overrules(release, verdict):
        return f"{verdict.verdict} by {verdict.instance} on {verdict.node}: {verdict.reason}"
    if control.paused:
        return f"its rollouts are paused by {control.who or 'somebody'}: {control.why or 'no reason given'}"
    assert facts.subscription is not None
    if facts.subscription.reload == "frozen":
        return "its instances are frozen: they keep what they started with"
    return ""


def _passed_over(world: World, facts: ServiceFacts, replica: Replica, alias: str, release: ReleaseId) -> str:
    """Why the instance runs an older one: it cannot read this one, or what this needs is not there."""
    subscription, channel = facts.subscription, world.channels.get(release.channel)
    header = channel.by_version.get(release.version) if channel else None
    reads = replica.instance.reads or (subscription.reads if subscription else EVERYTHING)
    if header and (why := reads.misfit(alias, header.labels)):
        return f"{release.version} {why}"
    plan = replica.node.desired.services.get(facts.name) if replica.node.desired else None
    part = plan.of(replica.key).aliases.get(alias) if plan else None
    return part.passed if part and part.passed.startswith(release.version) else ""


def _progress(replica: Replica, service: Service, alias: str, release: ReleaseId, obstacle: str) -> Progress:
    stage, reason = _stage(replica, alias, release, obstacle)
    found = replica.node.progress.downloads.get(release) if replica.node.progress else None
    return Progress(
        service=service,
        node=replica.node.name,
        instance=replica.instance.id,
        stage=stage,
        reason=reason,
        done_bytes=found.done if found else 0,
        total_bytes=found.total if found else 0,
        speed=found.speed if found and stage is Stage.DOWNLOADING else 0,
    )


def _stage(replica: Replica, alias: str, release: ReleaseId, obstacle: str) -> tuple[Stage, str]:
    node, state = replica.node, replica.state
    if state and _runs(state, alias, release):
        return Stage.RUNS, ""
    if obstacle:
        return Stage.BLOCKED, obstacle
    if node.cordon:
        return Stage.BLOCKED, f"node {node.name} is cordoned by {node.cordon.who or 'somebody'}"
    status = node.actual.releases.get(release) if node.actual else None
    if status is None:
        return Stage.PLANNED, ""
    match status.state:
        case State.WAITING:
            return Stage.PLANNED, status.reason
        case State.DOWNLOADING:
            return Stage.DOWNLOADING, status.reason
        case State.FAILED:
            return Stage.FAILED, status.reason
    if state and state.step is not Step.IDLE:
        return Stage.MOVING, f"{state.step}" + (f": {state.reason}" if state.reason else "")
    return Stage.COMPLETE, state.reason if state else ""


def _runs(state: InstanceState, alias: str, release: ReleaseId) -> bool:
    """Confirmed, and back in service from the move."""
    confirmed = state.runs(alias, release.channel, release.version)
    return confirmed and state.state is Ready.READY and state.step is Step.IDLE
