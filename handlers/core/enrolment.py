"""What the annotations of a Kubernetes workload say of its service: one subscription. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_type_hints

from msgspec import Struct

from handlers.core import policy
from handlers.core.budget import Amount, parse_amount
from handlers.core.disruption import allows_nothing, strictest, template_of, workload_of
from handlers.core.errors import Usage
from handlers.core.model import Subscription
from handlers.core.names import Channel, Service, check_alias
from handlers.core.pods import BETWEEN, PREFIX, Json, owner_of, service_of
from handlers.core.reading import Reads
from handlers.core.selector import parse_nodes

ORIGIN = "kubernetes"
RELEASE_LABEL = "app.kubernetes.io/instance"  # Helm's release: the name of the default channel
# Kinds that stand at the top of a pod's owners (see `is_top`): by API and plural, since objects in a list do
# not say it.
KINDS = {
    ("apps/v1", "deployments"): "Deployment",
    ("apps/v1", "statefulsets"): "StatefulSet",
    ("apps/v1", "daemonsets"): "DaemonSet",
    ("batch/v1", "cronjobs"): "CronJob",
    ("batch/v1", "jobs"): "Job",
}
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")


def _seconds(text: str) -> float:
    found = _SPAN.fullmatch(text)
    if not found:
        raise Usage(f"{text!r} is not a duration such as 90s or 10m")
    return float(found[1]) * _UNITS[found[2]]


def _switch(text: str) -> bool:
    if text not in ("true", "false"):
        raise Usage(f"{text!r} is neither true nor false")
    return text == "true"


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise Usage(f"{text!r} is not a number") from None


def _count(text: str) -> int:
    if not text.isdecimal():
        raise Usage(f"{text!r} is not a whole number, 0 or more")
    return int(text)


_READERS: Mapping[Any, Callable[[str], Any]] = {
    str: str,
    Reads: Reads.parse,
    int: _count,
    float: _number,
    bool: _switch,
    Amount: parse_amount,
    Amount | None: parse_amount,
}
_OURS = ("origin", "budget_by")  # no settings


def _annotation(field: str) -> str:
    """`drain-time` of `drain_s`, as the command line calls it; else the field with dashes."""
    return {"drain_s": "drain-time"}.get(field, field.removesuffix("_s").replace("_", "-"))


# annotation without its prefix -> field of the subscription, how its text is read; what one text cannot say
# is left to `hydra subscribe`
ANNOTATIONS: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    _annotation(field): (field, _seconds if field.endswith("_s") else _READERS[kind])
    for field, kind in get_type_hints(Subscription).items()
    if kind in _READERS and field not in _OURS
}
CHANNELS = f"{PREFIX}channels"
_BUDGET = {"max_unavailable", "min_available"}


class Enrolment(Struct, frozen=True):
    """A service and what it subscribes to; `stuck` says which PodDisruptionBudget lets no pod out."""

    service: Service
    subscription: Subscription
    stuck: str = ""


def enrolment(workload: Json, environment: str, budgets: Iterable[Json] = ()) -> Enrolment:
    """What a workload asks for. Raises `Usage`.

    Where it does not say, its environment is `environment`, its budget the strictest of `budgets`, all
    PodDisruptionBudgets, that covers its pods.
    """
    meta = workload["metadata"]
    notes = meta.get("annotations") or {}
    # the settings of a workload with pods count as well where the pods' template has them
    named = {**(template_of(workload).get("annotations") or {}), **notes}
    service = service_of(meta["namespace"], meta["name"], named, environment)
    given: dict[str, Any] = {}
    for name, (field, read) in ANNOTATIONS.items():
        if (text := notes.get(PREFIX + name)) is not None:
            try:
                given[field] = read(text.strip())
            except Usage as e:
                raise Usage(f"annotation {PREFIX}{name}: {e}") from None
    channels = _channels(notes.get(CHANNELS, ""), service, (meta.get("labels") or {}).get(RELEASE_LABEL, ""))
    stuck = "" if given.keys() & _BUDGET else _by_disruption(given, workload, budgets)
    subscription = Subscription(channels=channels, origin=ORIGIN, **given)
    parse_nodes(subscription.nodes)
    if policy.of_subscription(subscription).drain is policy.Drain.MAINTENANCE:
        raise Usage(f"annotation {PREFIX}drain: maintenance is Consul's; pods drain by check")
    return Enrolment(service, subscription, stuck)


def _by_disruption(given: dict[str, Any], workload: Json, budgets: Iterable[Json]) -> str:
    """Add to the settings the budget that the pods have in Kubernetes; a sentence where it lets none out."""
    pods = workload_of(workload)
    budget = strictest(budgets, pods)
    if budget is None:
        return ""
    given |= {
        "max_unavailable": budget.max_unavailable,
        "min_available": budget.min_available,
        "budget_by": budget.by,
    }
    if not allows_nothing(budget, pods):
        return ""
    return f"no pod is taken out of service to reload its data: {budget.by}, and {pods.replicas} are wanted"


def _channels(text: str, service: Service, release: str) -> dict[str, Channel]:
    """`[ALIAS=]ENV/NAMESPACE/NAME, …`; without any, the channel that is called as the Helm release."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words and release:
        words = [f"{service.env}/{service.namespace}/{release}"]
    if not words:
        raise Usage(f"no channel: set the annotation {CHANNELS}, or the label {RELEASE_LABEL}")
    found: dict[str, Channel] = {}
    for word in words:
        alias, equals, name = word.rpartition("=")
        channel = Channel.parse(name)
        found[check_alias(alias if equals else channel.name)] = channel
    return found


def is_top(kind: str, workload: Json) -> bool:
    """Whether its pods are called after the workload; those of a Job are after what made it, as a CronJob."""
    return kind not in BETWEEN or owner_of(workload) is None


def is_ours(there: Subscription) -> bool:
    """Whether the subscription is the workload's to change: never one that a person wrote, or took back."""
    return there.origin == ORIGIN and not there.tombstone
