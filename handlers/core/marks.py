"""What Hydra writes on its own Kubernetes node, where the administrator wants it: for the scheduler to read.

    taint hydra.datasets/not-filled      the node pool begins with it; taken off once all data is here
    label hydra.datasets/filled-<name>   there while a new pod of a service would find its data here

Pure: takes the Node as the API has it. `handlers.nodedesk` looks and acts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct, field

from handlers.core.errors import Malformed, Usage
from handlers.core.model import Desired, ServicePlan
from handlers.core.names import Service, check_word
from handlers.core.pods import FILLED, NOT_FILLED
from handlers.core.version import ReleaseId

MOST = 16  # filled-labels; every change of one wakes whoever watches nodes
_TRUE = "true"

Complete = Callable[[ReleaseId], bool]
"""Whether all of a release is on this node."""


class Wanted(Struct, frozen=True):
    """What the administrator asks for; `filled` names the service of each filled-label."""

    startup_taint: bool = False
    filled: Mapping[str, Service] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.startup_taint or bool(self.filled)

    @classmethod
    def parse(cls, taint: str, labels: str) -> Wanted:
        """`1`, `0` or nothing; and `NAME=SERVICE,…`. Raises `Malformed`."""
        if taint not in ("", "0", "1"):
            raise Malformed(f"HYDRA_STARTUP_TAINT: must be 1 or 0, not {taint!r}")
        found: dict[str, Service] = {}
        for row in filter(None, labels.split(",")):
            name, _, service = row.partition("=")
            try:
                found[check_word(name, "label")] = Service.parse(service)
            except Usage as e:
                raise Malformed(f"HYDRA_FILLED_LABELS: {row!r} is not NAME=SERVICE: {e}") from None
        if len(found) > MOST:
            raise Malformed(f"HYDRA_FILLED_LABELS: {len(found)} labels are more than {MOST}")
        return cls(taint == "1", found)


class Change(Struct, frozen=True):
    """What to write: labels by name, None for one that goes; all taints that stay, None where none goes."""

    labels: Mapping[str, str | None]
    taints: tuple[Mapping[str, Any], ...] | None = None


def change(node: Mapping[str, Any], wanted: Wanted, desired: Desired, complete: Complete) -> Change | None:
    """What is to be written on the node; None when it says what is true."""
    labels = node["metadata"].get("labels") or {}
    taints = node.get("spec", {}).get("taints") or []
    true = {
        f"{FILLED}{name}"
        for name, service in wanted.filled.items()
        if (plan := desired.services.get(service)) is not None and _has_all(plan, complete)
    }
    there = {name for name in labels if name.startswith(FILLED)}
    changed: dict[str, str | None] = dict.fromkeys(sorted(there - true))
    changed |= {name: _TRUE for name in sorted(true) if labels.get(name) != _TRUE}
    stay = tuple(taint for taint in taints if taint.get("key") != NOT_FILLED)
    goes = wanted.startup_taint and len(stay) < len(taints) and is_filled(desired, complete)
    return Change(changed, stay if goes else None) if changed or goes else None


def is_filled(desired: Desired, complete: Complete) -> bool:
    """Whether all that is needed here is here; what is only kept for a rollback does not count."""
    return all(complete(release) for release, hold in desired.releases.items() if not hold.until)


def _has_all(plan: ServicePlan, complete: Complete) -> bool:
    """Whether a new instance would find all that it begins with."""
    parts = plan.aliases.values()
    return bool(parts) and all(p.start and complete(ReleaseId.of(p.channel, p.start)) for p in parts)
