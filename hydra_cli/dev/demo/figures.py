"""What the demo measured, and whether it is good enough: no I/O, so that it can be tested row by row.

Three witnesses that know nothing of each other are compared: the traffic client's log (a row per
request), the files in the views (when a view was flipped, when its state file said what), and what the
nodes wrote to Consul.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import quantiles

LEAST_RATE = 200.0  # requests/s; with fewer the other figures say little


@dataclass(frozen=True)
class Request:
    """One row of the traffic log; seconds since the epoch, `versions` one per dataset of the answer."""

    due: float
    sent: float
    done: float
    replica: str
    trouble: str
    versions: tuple[str, ...] = ()

    @classmethod
    def from_row(cls, row: Mapping[str, str]) -> Request:
        """Read a row as `traffic` wrote it."""
        versions = tuple(row[name] for name in ("index", "ranking", "settings") if row[name])
        due, sent, done = (float(row[name]) for name in ("due", "sent", "done"))
        return cls(due, sent, done, row["replica"], row["trouble"], versions)

    @property
    def mixed(self) -> bool:
        """The parts of the answer come from different releases."""
        return len(set(self.versions)) > 1


@dataclass(frozen=True)
class Mark:
    """Something seen in a replica's view: `flip`, or the new word in its state file."""

    at: float
    replica: str
    what: str


@dataclass(frozen=True)
class Outage:
    """A replica between releases, its drain being over: from the flip of its view to `ready`."""

    replica: str
    flipped: float
    ready: float


def outages(marks: Iterable[Mark]) -> list[Outage]:
    """The flips between `draining` and `ready`; one that is still going on lasts for ever."""
    found: list[Outage] = []
    word: dict[str, str] = {}
    flipped: dict[str, float] = {}
    for mark in sorted(marks, key=lambda mark: mark.at):
        if mark.what == "flip":
            if word.get(mark.replica) == "draining":
                flipped.setdefault(mark.replica, mark.at)
            continue
        word[mark.replica] = mark.what
        if mark.what == "ready" and mark.replica in flipped:
            found.append(Outage(mark.replica, flipped.pop(mark.replica), mark.at))
    return found + [Outage(replica, at, float("inf")) for replica, at in flipped.items()]


def late(requests: Iterable[Request], gone: Iterable[Outage]) -> list[Request]:
    """The requests that a replica had in hand at a moment between the end of its drain and its return.

    From sending to the last byte of the answer, on the client's clock, which is also that of the files. The
    drain is over when the view is flipped, and the replica is back when its state file says `ready`.
    """
    by_replica: dict[str, list[Outage]] = {}
    for outage in gone:
        by_replica.setdefault(outage.replica, []).append(outage)
    return [
        request
        for request in requests
        if any(
            request.sent < o.ready and request.done > o.flipped for o in by_replica.get(request.replica, ())
        )
    ]


def all_serving(
    requests: Iterable[Request], replicas: Iterable[str], version: str, since: float
) -> float | None:
    """When the last of the replicas answered from `version` for the first time; None if one never did."""
    first: dict[str, float] = {}
    for request in requests:
        if request.sent >= since and not request.trouble and set(request.versions) == {version}:
            first[request.replica] = min(first.get(request.replica, request.done), request.done)
    missing = set(replicas) - set(first)
    return None if missing or not first else max(first.values())


@dataclass(frozen=True)
class Times:
    """When the things happened that the table measures; None = never seen. Seconds since the epoch."""

    published: float | None = None
    first_byte: float | None = None
    all_serving: float | None = None
    rejected: float | None = None
    first_drain: float | None = None
    all_back: float | None = None
    found_bad: float | None = None
    last_from_it: float | None = None


@dataclass(frozen=True)
class Figures:
    """The result of the demo; seconds in `_s`. `tried`: replicas that answered from the broken release."""

    requests: int
    rate: float
    failed: int
    mixed: int
    late: int
    moves: int
    moves_due: int
    tried: int
    most_out: int
    fewest_in_service: int
    late_sends: int
    oldest_view_s: float
    typical_s: float
    slow_s: float
    spans: Mapping[str, float | None] = field(default_factory=dict)
    reasons: Mapping[str, int] = field(default_factory=dict)  # of failed requests

    def shortcomings(self) -> list[str]:
        """Why the demo failed, a sentence each; empty when it is as it should be."""
        said = []
        if not self.requests:
            said.append("no request was sent")
        if self.rate < LEAST_RATE:
            said.append(f"only {self.rate:.0f} requests/s were sent, {LEAST_RATE:.0f} were due")
        for count, what in (
            (self.failed, "failed"),
            (self.mixed, "mixed two releases"),
            (self.late, "came late"),
        ):
            if count:
                said.append(f"{count} of {self.requests} requests {what}")
        if self.most_out > 1:
            said.append(f"{self.most_out} replicas were out at a time because of Hydra")
        if self.moves < self.moves_due:
            said.append(f"{self.moves} moves of replicas were seen, {self.moves_due} were due")
        if self.tried != 1:
            said.append(f"{self.tried} replicas answered from the broken release, 1 was due")
        said += [f"failed {count} times: {reason}" for reason, count in self.reasons.items()]
        said += [f"never seen: {name}" for name, span in self.spans.items() if span is None]
        return said

    def rows(self) -> list[tuple[str, str]]:
        """The table: what, how much."""
        rows = [
            ("requests", f"{self.requests} ({self.rate:.0f}/s)"),
            ("failed", str(self.failed)),
            ("mixed", str(self.mixed)),
            ("late after drain", str(self.late)),
            ("moves of an instance from release to release", str(self.moves)),
            ("most instances out by Hydra at a time", str(self.most_out)),
            ("instances that ever answered from the broken release", str(self.tried)),
        ]
        rows += [(name, "never" if span is None else f"{span:.2f} s") for name, span in self.spans.items()]
        return [
            *rows,
            ("fewest instances in service for the client", str(self.fewest_in_service)),
            (
                "answer: median, 99 of 100 within",
                f"{self.typical_s * 1000:.1f} ms, {self.slow_s * 1000:.1f} ms",
            ),
            ("sends more than 0.1 s late", str(self.late_sends)),
            ("oldest health view used", f"{self.oldest_view_s:.2f} s"),
        ]


def spans(times: Times) -> dict[str, float | None]:
    """The five durations, by the words of the table."""

    def between(begin: float | None, end: float | None) -> float | None:
        return None if begin is None or end is None else max(0.0, end - begin)

    return {
        "publish → first byte on a node": between(times.published, times.first_byte),
        "publish → all serving": between(times.published, times.all_serving),
        "rollback → first drain": between(times.rejected, times.first_drain),
        "rollback → all back": between(times.rejected, times.all_back),
        "canary found bad → last answer from it": between(times.found_bad, times.last_from_it),
    }


def answering(requests: Iterable[Request], version: str) -> set[str]:
    """The replicas of which an answer, or a part of one, came from `version`."""
    return {request.replica for request in requests if version in request.versions}


def last_from(requests: Iterable[Request], version: str) -> float | None:
    """When the last answer came from `version`; None if none ever did."""
    return max((request.done for request in requests if version in request.versions), default=None)


def rate(requests: Sequence[Request]) -> float:
    """Requests per second that were sent."""
    if len(requests) < 2:
        return 0.0
    sent = [request.sent for request in requests]
    return (len(sent) - 1) / max(max(sent) - min(sent), 1e-9)


def percentiles(requests: Sequence[Request]) -> tuple[float, float]:
    """Median and 99th percentile of the time an answer took; good answers only."""
    took = [request.done - request.sent for request in requests if not request.trouble]
    if len(took) < 2:
        return (took[0], took[0]) if took else (0.0, 0.0)
    cuts = quantiles(took, n=100)
    return cuts[49], cuts[98]
