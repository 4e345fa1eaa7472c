"""Documents of services: what they read, and who of them is out."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import field

from handlers.core.budget import Amount
from handlers.core.model.base import Doc, Note, Part
from handlers.core.names import Channel
from handlers.core.reading import EVERYTHING, Reads
from handlers.core.version import ReleaseId, Version


class Subscription(Doc, frozen=True, kw_only=True):
    """`services/<s>/subscription`: channels by alias and how instances are moved; or a tombstone.

    `reload`, `confirm`, `drain` are texts as in `handlers.core.policy`, the budget (`max_unavailable`, or
    `min_available` in its place) as in `handlers.core.budget`, the order (`data_first`, `canaries`,
    `wave_by`) as in `handlers.core.turns`, the `check` as in `handlers.core.gate`, `reads` as in
    `handlers.core.reading`. Seconds in `_s`.
    `nodes` selects nodes that hold the data also without an instance, as in `handlers.core.selector`.
    `origin` is `kubernetes` where it was taken from a workload's annotations, empty where a person wrote it;
    `budget_by` is what the budget comes from where nobody gave one, such as a PodDisruptionBudget.
    """

    channels: Mapping[str, Channel] = field(default_factory=dict)
    reads: Reads = EVERYTHING
    reload: str = "none"
    confirm: str = "health"
    drain: str = "check"
    drain_s: float = 5.0
    deadline_s: float = 300.0
    max_unavailable: Amount = 1
    min_available: Amount | None = None
    warm_up: str = ""
    ram: str = "via-disk"
    data_first: bool = False
    canaries: int = 0
    check: str = ""
    check_interval_s: float = 10.0
    check_time_s: float = 60.0
    check_failures: int = 0
    check_least: int = 1
    check_compare: float = 0.0
    wave_by: str = ""
    wave_pause_s: float = 0.0
    nodes: str = ""
    origin: str = ""
    budget_by: str = ""
    tombstone: Note | None = None

    def title(self) -> str:
        if self.tombstone:
            return f"This service is unsubscribed ({self.tombstone.why or 'no reason given'})"
        return "Reads " + ", ".join(f"{a} from {c}" for a, c in sorted(self.channels.items()))


class Control(Doc, frozen=True, kw_only=True):
    """`services/<s>/control`: an operator's orders for the rollouts of one service.

    `retry` names verdict ids that no longer hold; `abort` releases that nobody may run or move to; `promote`
    releases that need no check and no pauses.
    """

    paused: bool = False
    retry: tuple[str, ...] = ()
    abort: tuple[ReleaseId, ...] = ()
    promote: tuple[ReleaseId, ...] = ()
    who: str = ""
    when: str = ""
    why: str = ""

    def overrules(self, release: ReleaseId, verdict: Verdict) -> bool:
        """Whether an operator has taken it back; who promotes a release needs no evidence for it."""
        return verdict.id in self.retry or (verdict.verdict == "inconclusive" and release in self.promote)

    def title(self) -> str:
        return "Rollouts are paused" if self.paused else "Rollouts may go on"


class Verdict(Part, frozen=True, kw_only=True):
    """What was found of one release.

    `halted` by an instance: moves stop. By the check of canaries: `bad` (instances go back), `inconclusive`
    (moves stop), `good` (moves go on).
    """

    id: str
    verdict: str
    reason: str
    node: str
    instance: str
    when: str = ""

    @property
    def stands(self) -> bool:
        """Whether it is in the way of anything."""
        return self.verdict != "good"


class Verdicts(Doc, frozen=True, kw_only=True):
    """`verdicts/<s>`."""

    releases: Mapping[ReleaseId, Verdict] = field(default_factory=dict)

    def title(self) -> str:
        found = [f"{r} {v.verdict}: {v.reason}" for r, v in sorted(self.releases.items())]
        return "; ".join(found) or "No verdict"


class SlotEntry(Part, frozen=True, kw_only=True):
    """One instance that is out of service for a reload; outlives the session that made it.

    `left`: it was deleted for its reload, and its place is kept since then for the one that comes instead.
    """

    node: str
    instance: str
    incarnation: str
    since: str = ""
    left: str = ""


class Slots(Doc, frozen=True, kw_only=True):
    """`slots/<s>`: who is out, by `<node>.<id>`."""

    out: Mapping[str, SlotEntry] = field(default_factory=dict)

    def title(self) -> str:
        return f"Out of service for a reload: {', '.join(sorted(self.out)) or 'nobody'}"


class Proven(Doc, frozen=True, kw_only=True):
    """`proven/<s>`, written by plan: what nobody sees from one node alone.

    `channels`: by channel what all live instances confirmed, newest last. `nodes`: the real names of all
    nodes with instances of the service, dead ones included; here and not in each node's `desired`, since a
    thousand documents with a thousand names each would be rewritten whenever one instance moves.
    """

    channels: Mapping[Channel, tuple[Version, ...]] = field(default_factory=dict)
    nodes: tuple[str, ...] = ()

    def title(self) -> str:
        newest = ", ".join(f"{c}@{v[-1]}" for c, v in sorted(self.channels.items()) if v)
        return f"Proven: {newest or 'nothing yet'}"


class Rollout(Doc, frozen=True, kw_only=True):
    """`rollouts/<s>`, written by plan: how far releases are that not every instance may move to yet.

    `ordered` = the service has an order to keep, also when its subscription is lost. `stage` is empty when
    everybody may, else `data`, `canary`, `check`, `pause` or `wave`. `instances` are the canaries by slot id,
    `checks` those of the `releases` that they are checked for, `passed` those whose check was good.
    `wave` is the one that goes or comes next; `until` ends its `pause`.
    """

    ordered: bool = False
    stage: str = ""
    releases: tuple[ReleaseId, ...] = ()
    instances: tuple[str, ...] = ()
    checks: tuple[ReleaseId, ...] = ()
    passed: tuple[ReleaseId, ...] = ()
    wave: str = ""
    until: str = ""
    reason: str = ""

    def title(self) -> str:
        what = ", ".join(self.releases)
        return f"{what}: {self.reason or 'every instance may move'}" if what else "Nobody waits for a turn"


class Tally(Doc, frozen=True, kw_only=True):
    """`gates/<s>`: the looks of the check of canaries so far, and what the last one saw."""

    releases: tuple[ReleaseId, ...] = ()
    good: int = 0
    bad: int = 0
    nothing: int = 0
    last: str = ""

    def title(self) -> str:
        seen = f"{self.good} good, {self.bad} bad, {self.nothing} without evidence"
        return f"Check of {', '.join(self.releases)}: {seen}"
