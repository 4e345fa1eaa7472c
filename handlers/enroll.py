"""`enroll`: subscribe services as the annotations of their Kubernetes workloads say. Runs until it is ended.

    Deployments, StatefulSets, DaemonSets, Jobs, CronJobs  ->  services/<s>/subscription

One in the cluster, beside the planner: changing a setting on a workload restarts none of its pods, and no
node has to read workloads. What a person wrote with `hydra subscribe` stays; a workload that vanished
changes nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from handlers import log
from handlers.adapters.lock import cluster_lock
from handlers.adapters.pods import Json, Picture
from handlers.adapters.ports import Cas, CheckSession
from handlers.context import Context
from handlers.core import codec, keys
from handlers.core.enrolment import KINDS, Enrolment, enrolment, takes_over
from handlers.core.errors import Conflict, Malformed, Usage
from handlers.core.model import Meta, Subscription, count
from handlers.core.names import Service

ROLE = "enroll"
LOOK_S = 30.0  # also without any change: whoever removed a subscription meant another one


class Source(Protocol):
    """`adapters.pods.Mirror`."""

    def picture(self) -> Picture: ...


def run(ctx: Context) -> str:
    """Keep the subscriptions true until the process is ended; does not return. Raises `HydraError`."""
    from handlers.adapters.pods import Api, Mirror, workloads

    ring = threading.Event()
    api = Api()
    with cluster_lock(ctx.kv, ctx.local, ROLE, node=ctx.node, ttl_s=ctx.settings.limits.plan_ttl_s) as fence:
        mirrors = [Mirror(api, workloads(*kind), ring.set) for kind in KINDS]
        for mirror in mirrors:
            mirror.start()
        said = ""
        while True:
            ring.clear()
            sentence = converge(ctx, mirrors, fence)
            if sentence != said:
                log.info(ROLE, sentence, node=ctx.node)
                said = sentence
            ring.wait(LOOK_S)


def converge(ctx: Context, sources: Sequence[Source], fence: CheckSession) -> str:
    """Write what differs; the sentence for the log. Raises `Conflict` when the lock was lost."""
    pictures = [source.picture() for source in sources]
    if not all(picture.known for picture in pictures):
        return "waits for the API server"
    meta, _ = ctx.kv.get(keys.META)
    if meta is None:
        return "holding: the KV has no meta, so it was wiped or is not set up"
    wanted = _wanted(
        [value for picture in pictures for value in picture.objects.values()], ctx.settings.environment
    )
    environments = codec.decode(Meta, meta.value, keys.META).environments
    written = 0
    for service, subscription in sorted(wanted.items()):
        if service.env in environments:
            written += _write(ctx, service, subscription, fence)
        else:
            log.warning(ROLE, f"environment {service.env} is not served here (hydra init)", service=service)
    return f"knows {count(len(wanted), 'service')}, wrote {count(written, 'subscription')}"


def _wanted(workloads: Sequence[Json], environment: str) -> Mapping[Service, Subscription]:
    """The subscriptions by service; what makes no sense is named in the log and left out."""
    found: dict[Service, Subscription] = {}
    for value in sorted(workloads, key=lambda value: str(value["metadata"]["uid"])):
        meta = value["metadata"]
        try:
            asked: Enrolment = enrolment(value, environment)
        except Usage as e:
            log.warning(
                ROLE, "cannot enroll a workload", workload=f"{meta['namespace']}/{meta['name']}", error=e
            )
            continue
        if asked.service in found:
            log.warning(ROLE, "two workloads are one service; the first counts", service=asked.service)
        found.setdefault(asked.service, asked.subscription)
    return found


def _write(ctx: Context, service: Service, wanted: Subscription, fence: CheckSession) -> bool:
    """Whether the subscription was written; one that was changed meanwhile is left for the next look."""
    key = keys.subscription(service)
    entry, _ = ctx.kv.get(key)
    try:
        there = codec.decode(Subscription, entry.value, key) if entry else None
    except Malformed as e:
        log.warning(ROLE, "leaves alone what does not parse", service=service, error=e)
        return False
    if not takes_over(there, replace(wanted, extra=there.extra if there else {})):
        return False
    fresh = codec.encode(replace(wanted, extra=there.extra if there else {}))
    try:
        ctx.kv.txn([fence, Cas(key, fresh, entry.index if entry else 0)])
    except Conflict as e:
        if e.args and fence.key in str(e):
            raise
        return False
    log.info(
        ROLE, "subscribed as its workload says", service=service, channels=",".join(wanted.channels.values())
    )
    return True
