"""Figure 3: from a rollback until the first instance is draining, on a real local cluster."""

from __future__ import annotations

from tests.bench.report import Findings, Row
from tests.bench.rollouts import Rollback, cycles

RUNS = 20
AIM_MS = 1000
_STEPS = (
    ("rollback committed → desired written by plan", "committed", "planned"),
    ("desired written → taken over by sync", "planned", "taken_over"),
    ("taken over → draining written by reload", "taken_over", "decided"),
    ("draining written → read by the service in its state file", "decided", "draining"),
)


def measure() -> Findings:
    """20 rollbacks; the largest counts."""
    runs = cycles(RUNS, told=True).rollbacks
    rows = [
        Row(3, "rollback → first instance draining", _between(runs, "committed", "draining"), aim=AIM_MS),
        *(Row(3, f"   … {what}", _between(runs, begin, end)) for what, begin, end in _STEPS),
        Row(3, "start of `hydra rollback` → draining", _between(runs, "asked", "draining")),
    ]
    return Findings(rows)


def _between(runs: list[Rollback], begin: str, end: str) -> list[float]:
    return [(getattr(run, end) - getattr(run, begin)) * 1000 for run in runs]
