"""What the plan of a service becomes on one node: without an instance there, on a cordoned one, in RAM.

A service that has left a node (scaled to zero for the night, say) stays planned there for a day, as long as
the node has all that a new instance begins with. So that one has its view at once, whoever is away then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from handlers.core.claims import Holds, is_over
from handlers.core.errors import Usage
from handlers.core.ledger import Home, Ledger
from handlers.core.model import RAM, Alarm, AliasPlan, ServicePlan, State
from handlers.core.names import Service
from handlers.core.reading import Reads
from handlers.core.selector import Selector, parse_nodes
from handlers.core.service_plans import Aliases
from handlers.core.version import ReleaseId, Version
from handlers.core.world import World


def with_selected(homes: Iterable[Home], ledger: Ledger) -> tuple[list[Home], list[Alarm]]:
    """The homes with the services that want their data there though they have no instance on them."""
    selectors: dict[Service, Selector | None] = {}
    alarms = []
    for service, plan in ledger.plans.items():
        if not plan.nodes:
            continue
        try:
            selectors[service] = parse_nodes(plan.nodes)
        except Usage as e:
            selectors[service] = None
            alarms.append(Alarm(object=f"service/{service}", text=f"{e}; nodes keep what they have"))
    found = []
    for home in homes:
        selected = [
            s for s, by in selectors.items() if s not in home.services and home.node.is_selected(s, by)
        ]
        found.append(replace(home, selected=tuple(selected)) if selected else home)
    return found, alarms


def with_idle(homes: Iterable[Home], ledger: Ledger) -> list[Home]:
    """The homes with the services that have left them, whose data waits there for the next instance."""
    found = []
    for home in homes:
        idle = [
            service
            for service, before in home.previous.services.items()
            if service not in home.readers
            and (plan := ledger.plans.get(service)) is not None
            and plan.nodes == before.nodes  # or its data was sent elsewhere
            and _may_begin(home, ledger, service)
        ]
        found.append(replace(home, idle=tuple(sorted(idle))) if idle else home)
    return found


def _may_begin(home: Home, ledger: Ledger, service: Service) -> bool:
    """Whether the node still has what a new instance begins with: all of it, and not kept for too long."""
    starts, held = ledger.starts(service), home.previous.releases
    statuses = home.node.actual.releases if home.node.actual else {}
    return bool(starts) and all(
        release in held
        and not is_over(held[release], ledger.now)
        # where the node does not say it (its word may be lost), it has what it was told to hold
        and (release not in statuses or statuses[release].state is State.SUCCESS)
        for release in starts
    )


def on_cordoned(home: Home, plan: ServicePlan, holds: Holds, world: World) -> ServicePlan:
    """No moves; and a new instance begins with what is here, since nothing else will come: if it is good."""
    reads = {key.segment: instance.reads for key, instance in home.instances.items()}
    others = {
        name: replace(own, aliases=_from_here(own.aliases, reads.get(name, plan.reads), holds, world))
        for name, own in plan.others.items()
    }
    aliases = _from_here(plan.aliases, plan.reads, holds, world)
    return replace(plan, aliases=aliases, others=others, paused=True)


def _from_here(aliases: Aliases, reads: Reads, holds: Holds, world: World) -> dict[str, AliasPlan]:
    found = {}
    for alias, part in aliases.items():
        channel = world.channels.get(part.channel)
        bad = channel.rejected if channel else ()
        headers = channel.by_version if channel else {}
        here = [
            r
            for r in holds
            if r.channel == part.channel
            and r.version not in bad
            and not (r.version in headers and reads.misfit(alias, headers[r.version].labels))
        ]
        found[alias] = part
        if here and part.start is not None and ReleaseId.of(part.channel, part.start) not in here:
            newest = max(here, key=lambda r: (holds[r].sequence, r))
            found[alias] = replace(part, start=newest.version)
    return found


def ram(home: Home, plans: Mapping[Service, ServicePlan], holds: Holds, world: World) -> dict[str, Version]:
    """The one version of each RAM dataset of the node: where its services move, or stay while moves stop.

    With services that target different releases of one channel the newest has RAM; the others read from disk.
    """
    result: dict[str, tuple[int, Version]] = {}
    for service, plan in plans.items():
        for part in _in_use(home, service, plan):
            channel = world.channels.get(part.channel)
            before = {
                name: version
                for name, version in home.previous.ram.items()
                if name.startswith(f"{part.channel}/") and ReleaseId.of(part.channel, version) in holds
            }
            waits = plan.paused or (plan.waits and not plan.goes)
            version = part.start if part.held or waits else part.target
            body = channel.by_version.get(version) if channel and version else None
            fresh = {
                f"{part.channel}/{name}": body.version
                for name, dataset in (body.datasets.items() if body else ())
                if body and dataset.placement == RAM and ReleaseId.of(part.channel, body.version) in holds
            }
            stay = waits or body is None
            for name, v in ({**fresh, **before} if stay else fresh).items():
                sequence = holds[ReleaseId.of(part.channel, v)].sequence
                result[name] = max(result.get(name, (-1, v)), (sequence, v))
    return {name: version for name, (_, version) in sorted(result.items())}


def _in_use(home: Home, service: Service, plan: ServicePlan) -> Iterable[AliasPlan]:
    """What the instances here run under any alias; without any, what one would."""
    here = [key for key in home.instances if key.service == service]
    for aliases in [plan.of(key).aliases for key in here] or [plan.aliases]:
        yield from aliases.values()
