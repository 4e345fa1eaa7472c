"""Whether the Hydra of a node works, in one word and a reason: `fresh`, `away` or `stale`.

    fresh    the programs run, the last run of each handler went well, readiness files are as they should be
    away     as far as can be told the same, but Consul does not answer: nothing new comes, what is here stays
    stale    something of Hydra on this node is dead: what the files say may not be so any more

The node's timer (`resync`) writes it into `<root>/fresh` and touches the file every few seconds, so a file
that is old is stale as well, whatever it says. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

TICK_S = 5.0  # how often the timer touches the file
OLDEST_S = 30.0  # an older file says that the timer is dead
PATIENCE_S = 15.0  # a program that is restarted, or a file that is about to be rendered, is not dead yet


class Fresh(StrEnum):
    """The word."""

    FRESH = "fresh"
    AWAY = "away"
    STALE = "stale"


def freshness(away: bool, dead: Sequence[str], failed: Mapping[str, int], unrendered: Sequence[str]) -> str:
    """The line in the file: the word, and why where that is not `fresh`.

    `dead`: programs that have not run for a while; `failed`: exit codes other than 0 of the handlers' last
    runs; `unrendered`: instances whose state file has not said for a while what it should.
    """
    if dead:
        return f"{Fresh.STALE} {', '.join(sorted(dead))} does not run"
    if away:
        return f"{Fresh.AWAY} Consul does not answer; what is here stays as it is"
    if failed:
        ended = ", ".join(f"{name} ended with {code}" for name, code in sorted(failed.items()))
        return f"{Fresh.STALE} {ended} when it ran last"
    if unrendered:
        return f"{Fresh.STALE} consul-template does not render the files of {', '.join(sorted(unrendered))}"
    return Fresh.FRESH


def as_seen(line: str, age_s: float) -> str:
    """What the file says to a reader: nothing, if it is too old."""
    if not line:
        return f"{Fresh.STALE} the node's timer has not run yet"
    if age_s > OLDEST_S:
        return f"{Fresh.STALE} the node's timer is dead"
    return line
