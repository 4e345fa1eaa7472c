"""PodDisruptionBudgets as budgets of a service: which cover the pods of a workload, which is strictest. Pure.

Takes objects of `policy/v1` as the API has them. A share is rounded up there and down here, so of the same
pods it never lets more out. But Kubernetes counts as out what is wanted and not ready, `core.admission` only
what has served: a pod that is new and not ready yet, or on a dead node, keeps no other in service here,
unless `minAvailable` is a number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct

from handlers.core.budget import Budget, parse_amount
from handlers.core.errors import Usage

Json = Mapping[str, Any]
BUDGETS = ("policy/v1", "poddisruptionbudgets")


class Workload(Struct, frozen=True):
    """The pods of a workload as far as budgets ask for them: namespace, labels, how many are wanted."""

    namespace: str
    labels: Mapping[str, str]
    replicas: int


def spec_of(value: Json) -> Json:
    """What a Deployment, StatefulSet, DaemonSet, Job or CronJob says of its pods."""
    spec = value.get("spec") or {}
    return (spec.get("jobTemplate") or {}).get("spec") or spec


def template_of(value: Json) -> Json:
    """The metadata of the pods of such a workload."""
    return (spec_of(value).get("template") or {}).get("metadata") or {}


def workload_of(value: Json) -> Workload:
    """The pods of a Deployment, StatefulSet, DaemonSet, Job or CronJob."""
    spec, labels = spec_of(value), template_of(value).get("labels") or {}
    of_nodes = (value.get("status") or {}).get("desiredNumberScheduled")  # a DaemonSet counts nodes
    replicas = spec.get("replicas", spec.get("parallelism", of_nodes))
    return Workload(value["metadata"]["namespace"], labels, 1 if replicas is None else int(replicas))


def strictest(budgets: Iterable[Json], workload: Workload) -> Budget | None:
    """The budget that allows the fewest to be out, of those that cover the workload's pods; None without."""
    found = [_budget(value) for value in budgets if _covers(value, workload)]
    # a workload that is scaled to zero is one that will be back
    replicas = max(1, workload.replicas)
    known = [budget for budget in found if budget is not None]
    return min(known, key=lambda budget: (budget.of(replicas), budget.by), default=None)


def allows_nothing(budget: Budget, workload: Workload) -> bool:
    """Whether no pod may be out while as many run as are wanted."""
    return budget.of(max(1, workload.replicas)) == 0


def _budget(value: Json) -> Budget | None:
    """What the object says, with its name; None where it says nothing that is understood."""
    meta, spec = value["metadata"], value.get("spec") or {}
    for field in ("maxUnavailable", "minAvailable"):
        if field not in spec:
            continue
        by = f"PodDisruptionBudget {meta['namespace']}/{meta['name']}: {field} {spec[field]}"
        try:
            amount = parse_amount(spec[field])
        except Usage:
            return None
        return Budget(amount, by=by) if field == "maxUnavailable" else Budget(min_available=amount, by=by)
    return None


def _covers(value: Json, workload: Workload) -> bool:
    """Whether the object selects the pods; an empty selector takes all of the namespace, none takes none."""
    selector = (value.get("spec") or {}).get("selector")
    if selector is None or value["metadata"]["namespace"] != workload.namespace:
        return False
    wanted = selector.get("matchLabels") or {}
    equal = all(workload.labels.get(name) == text for name, text in wanted.items())
    return equal and all(_holds(row, workload.labels) for row in selector.get("matchExpressions") or ())


def _holds(row: Json, labels: Mapping[str, str]) -> bool:
    value, among = labels.get(row["key"]), row.get("values") or ()
    match row["operator"]:
        case "In":
            return value in among
        case "NotIn":
            return value not in among
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
    return False
