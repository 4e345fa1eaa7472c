"""Figure 5: what a reload takes per replica, beyond drain time and the service's own loading.

From the moment the replica is written as draining until it is written as back in service. Once with a
service that tells Consul of its health at once, and once with Consul asking every second, the most often it
can: there it takes up to a second each until Consul has seen the replica leave, and come back.
"""

from __future__ import annotations

from tests.bench import rollback
from tests.bench.report import Findings, Row
from tests.bench.rollouts import Move, cycles

ASKED_RUNS = 5
AIM_MS = 500


def measure() -> Findings:
    """The reloads of the rollbacks of figure 3, there and back, and some with a health check that polls."""
    told = cycles(rollback.RUNS, told=True).moves
    asked = cycles(ASKED_RUNS, told=False).moves
    rows = [Row(5, "reload of a replica beyond drain and loading", _beyond(told), aim=AIM_MS), *_steps(told)]
    rows += [Row(5, "the same with a check that Consul runs every 1 s", _beyond(asked)), *_steps(asked)]
    return Findings(rows)


def _beyond(moves: list[Move]) -> list[float]:
    return [move.beyond_s * 1000 for move in moves]


def _steps(moves: list[Move]) -> list[Row]:
    """How long each step lasted, in the order in which they come; drain and loading are still in them."""
    names = list(dict.fromkeys(step for move in moves for step in move.steps))
    return [
        Row(5, f"   … of which in step {name}", [m.steps[name] * 1000 for m in moves if name in m.steps])
        for name in names
    ]
