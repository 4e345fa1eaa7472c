"""`enroll`: subscribe services as the annotations of their Kubernetes workloads say. Runs until it is ended.

    Deployments, StatefulSets, DaemonSets, Jobs, CronJobs  ->  services/<s>/subscription
    PodDisruptionBudgets                                   ->  its budget, where a workload gives none

One in the cluster, beside the planner: changing a setting on a workload restarts none of its pods, and no
node has to read workloads. What a person wrote with `hydra subscribe` stays; a workload that vanished
changes nothing. A PodDisruptionBudget that lets no pod out is told on the workload, in an Event.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Protocol

from msgspec import Struct, field
from msgspec.structs import replace

from handlers import log
from handlers.adapters.lock import cluster_lock
from handlers.adapters.mirror import Picture
from handlers.adapters.pods import About, Json
from handlers.adapters.ports import Cas, CheckSession
from handlers.context import Context
from handlers.core import codec, keys
from handlers.core.disruption import BUDGETS
from handlers.core.enrolment import KINDS, enrolment, is_ours, is_top
from handlers.core.errors import Conflict, HydraError, Malformed, Usage
from handlers.core.model import Audit, Meta, Subscription, count
from handlers.core.names import Service
from handlers.core.version import Version

ROLE = "enroll"
LOOK_S = 30.0  # also without any change: whoever removed a subscription meant another one
Kind = tuple[str, str]  # API, plural


class Source(Protocol):
    """`adapters.mirror.Mirror`."""

    def picture(self) -> Picture: ...


class Server(Protocol):
    """`adapters.pods.Api`, as far as it is used here."""

    def say(self, about: About, kind: str, reason: str, text: str) -> None: ...


class Sight(Struct):
    """The API server as enroll sees it; `told` is what Events were written about."""

    server: Server
    workloads: Mapping[Kind, Source]
    budgets: Source
    told: set[tuple[About, str]] = field(default_factory=set)

    def look(self) -> tuple[list[tuple[Kind, Json]], list[Json]] | None:
        """All workloads with their kinds, and all PodDisruptionBudgets; None while they cannot be seen."""
        budgets = self.budgets.picture()
        pictures = {kind: source.picture() for kind, source in self.workloads.items()}
        if not all(picture.known for picture in (budgets, *pictures.values())):
            return None
        found = [(kind, value) for kind, picture in pictures.items() for value in picture.objects.values()]
        return sorted(found, key=lambda row: str(row[1]["metadata"]["uid"])), list(budgets.objects.values())

    def tell(self, stuck: set[tuple[About, str]]) -> None:
        """An Event for each workload that cannot be moved, once; whether it arrives decides nothing."""
        for about, text in sorted(stuck - self.told, key=str):
            log.warning(ROLE, text, workload=f"{about.namespace}/{about.name}")
            try:
                self.server.say(about, "Warning", "DataBudget", text)
            except HydraError as e:
                log.warning(
                    ROLE, "cannot write an Event", workload=f"{about.namespace}/{about.name}", error=e
                )
        self.told = stuck


class Wish(Struct, frozen=True):
    """What a workload asks for; `stuck` says why none of its pods is moved."""

    about: About
    subscription: Subscription
    stuck: str


def run(ctx: Context) -> str:
    """Keep the subscriptions true until the process is ended; does not return. Raises `HydraError`."""
    from handlers.adapters.mirror import Mirror
    from handlers.adapters.pods import Api, Query, workloads

    ring = threading.Event()
    api = Api()
    with cluster_lock(ctx.kv, ctx.local, ROLE, node=ctx.node, ttl_s=ctx.settings.limits.plan_ttl_s) as fence:
        mirrors = {kind: Mirror(api, workloads(*kind), ring.set) for kind in KINDS}
        budgets = Mirror(api, Query(*BUDGETS), ring.set)
        for mirror in (*mirrors.values(), budgets):
            mirror.start()
        sight, said = Sight(api, mirrors, budgets), ""
        while True:
            ring.clear()
            sentence = converge(ctx, sight, fence)
            if sentence != said:
                log.info(ROLE, sentence, node=ctx.node)
                said = sentence
            ring.wait(LOOK_S)


def converge(ctx: Context, sight: Sight, fence: CheckSession) -> str:
    """Write what differs; the sentence for the log. Raises `Conflict` when the lock was lost."""
    seen = sight.look()
    if seen is None:
        return "waits for the API server"
    meta, _ = ctx.kv.get(keys.META)
    if meta is None:
        return "holding: the KV has no meta, so it was wiped or is not set up"
    wishes = _wishes(*seen, ctx.settings.environment)
    environments = codec.decode(Meta, meta.value, keys.META).environments
    written, stuck = 0, set()
    for service, wish in sorted(wishes.items()):
        if service.env not in environments:
            log.warning(ROLE, f"environment {service.env} is not served here (hydra init)", service=service)
            continue
        done = _write(ctx, service, wish, fence)
        written += bool(done)
        if wish.stuck and done is not None:
            stuck.add((wish.about, wish.stuck))
    sight.tell(stuck)
    return f"knows {count(len(wishes), 'service')}, wrote {count(written, 'subscription')}"


def _wishes(
    workloads: Sequence[tuple[Kind, Json]], budgets: Sequence[Json], environment: str
) -> Mapping[Service, Wish]:
    """What workloads ask for by service; what makes no sense is named in the log and left out."""
    found: dict[Service, Wish] = {}
    for kind, value in workloads:
        if not is_top(KINDS[kind], value):
            continue
        meta = value["metadata"]
        about = About(meta["namespace"], meta["name"], meta["uid"], kind[0], KINDS[kind])
        try:
            asked = enrolment(value, environment, budgets)
        except Usage as e:
            log.warning(
                ROLE, "cannot enroll a workload", workload=f"{meta['namespace']}/{meta['name']}", error=e
            )
            continue
        if asked.service in found:
            log.warning(ROLE, "two workloads are one service; the first counts", service=asked.service)
        found.setdefault(asked.service, Wish(about, asked.subscription, asked.stuck))
    return found


def _write(ctx: Context, service: Service, wish: Wish, fence: CheckSession) -> bool | None:
    """Whether the subscription was written; None where it is not the workload's to write.

    One that was changed meanwhile is left for the next look.
    """
    key = keys.subscription(service)
    entry, _ = ctx.kv.get(key)
    try:
        there = codec.decode(Subscription, entry.value, key) if entry else None
    except Malformed as e:
        log.warning(ROLE, "leaves alone what does not parse", service=service, error=e)
        return None
    if there is not None and not is_ours(there):
        return None
    fresh = replace(wish.subscription, extra=there.extra if there else {})
    if there == fresh:
        return False
    write = Cas(key, codec.encode(fresh), entry.index if entry else 0)
    try:
        ctx.kv.txn([fence, write, _trace(ctx, service, wish, there)])
    except Conflict as e:
        if e.args and fence.key in str(e):
            raise
        return False
    log.info(
        ROLE, "subscribed as its workload says", service=service, channels=",".join(fresh.channels.values())
    )
    return True


def _trace(ctx: Context, service: Service, wish: Wish, before: Subscription | None) -> Cas:
    """The entry in the service's history; without it, record would take the change for one by hand."""
    now, about = datetime.now(UTC), wish.about
    entry = Audit(
        object=f"service/{service}",
        action="subscribed",
        who=f"{ROLE} on {ctx.node}",
        when=now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        before=before.title() if before else "",
        after=wish.subscription.title(),
        why=f"{about.kind} {about.namespace}/{about.name} says so",
    )
    return Cas(keys.audit(entry.object, Version.of(now), uuid.uuid4().hex[:8]), codec.encode(entry), 0)
