"""The check that canaries must pass: what it asks, what one look says, and how all looks together end.

    http://:PORT/PATH             each canary answers 2xx; another status is a failure
    http://:PORT/PATH#FIELD<=N    a number in the JSON that each canary answers, against a threshold
    command:NAME                  a command of the planner's configuration: 0 good, 1 bad, else no evidence
    prometheus:QUERY<=N           the value of a PromQL query; `{instances}` in it stands for the ids of the
                                  canaries as a regular expression

A look is `good`, `bad`, or says nothing: no traffic, no answer, no such number. Looks without evidence never
pass a release; a release is good only by enough good looks. What counts are looks, not clocks.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Protocol

from msgspec import Struct

from handlers.core.errors import Usage
from handlers.core.policy import Url, parse_url

_BOUND = re.compile(r"(?P<what>.+?)\s*(?P<op><=|>=|<|>)\s*(?P<limit>\d+(\.\d+)?([eE][+-]?\d+)?)")
_FIELD = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_OPS: Mapping[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}


class Look(StrEnum):
    """What one look says."""

    GOOD = "good"
    BAD = "bad"
    NOTHING = "nothing"


class Outcome(StrEnum):
    """How a check ended; also the word of the verdict."""

    GOOD = "good"
    BAD = "bad"
    INCONCLUSIVE = "inconclusive"


class Bound(Struct, frozen=True):
    """What a number has to be."""

    op: str
    limit: float

    def holds(self, value: float, limit: float | None = None) -> bool:
        """Whether it is; against another `limit` where that is given."""
        return _OPS[self.op](value, self.limit if limit is None else limit)


class HttpCheck(Struct, frozen=True):
    """Each canary is asked; `field` (parts joined by dots) of its JSON is a number within `bound`."""

    url: Url
    field: str = ""
    bound: Bound | None = None


class CommandCheck(Struct, frozen=True):
    """`[commands]` of the planner's configuration names the program."""

    name: str


class PrometheusCheck(Struct, frozen=True):
    """`[prometheus] url` of the planner's configuration is asked."""

    query: str
    bound: Bound


Check = HttpCheck | CommandCheck | PrometheusCheck


def parse_check(text: str) -> Check:
    """The text of a subscription, understood; raises `Usage`."""
    kind, _, rest = text.partition(":")
    if kind == "command" and _NAME.fullmatch(rest):
        return CommandCheck(rest)
    if kind == "prometheus" and (found := _BOUND.fullmatch(rest)):
        return PrometheusCheck(found["what"], Bound(found["op"], float(found["limit"])))
    if kind == "http":
        url, mark, condition = text.partition("#")
        if not mark:
            return HttpCheck(parse_url(url, "check"))
        found = _BOUND.fullmatch(condition)
        if found and _FIELD.fullmatch(found["what"]):
            return HttpCheck(
                parse_url(url, "check"), found["what"], Bound(found["op"], float(found["limit"]))
            )
    raise Usage(
        f"check {text!r} is none of http://:PORT/PATH, http://:PORT/PATH#FIELD<=NUMBER, command:NAME, "
        "prometheus:QUERY<=NUMBER"
    )


def look_at(bound: Bound, value: float | None, others: float | None, compare: float) -> Look:
    """What a number says; with `compare`, it must also be within so many times what the `others` have."""
    if value is None or not math.isfinite(value):
        return Look.NOTHING
    if not bound.holds(value):
        return Look.BAD
    if not compare:
        return Look.GOOD
    if others is None or not math.isfinite(others):
        return Look.NOTHING
    return Look.GOOD if bound.holds(value, compare * others) else Look.BAD


class Texts(Protocol):
    """The part of a `Subscription` that says how to check."""

    @property
    def check_interval_s(self) -> float: ...
    @property
    def check_time_s(self) -> float: ...
    @property
    def check_failures(self) -> int: ...
    @property
    def check_least(self) -> int: ...


class Counts(Protocol):
    """Looks so far: a `Tally`."""

    @property
    def good(self) -> int: ...
    @property
    def bad(self) -> int: ...
    @property
    def nothing(self) -> int: ...


def looks_due(texts: Texts) -> int:
    """How many looks make a whole check."""
    return max(1, math.ceil(texts.check_time_s / max(texts.check_interval_s, 0.1)))


def outcome(texts: Texts, counts: Counts) -> Outcome | None:
    """How the check ended; None = it goes on.

    Bad as soon as more looks failed than are allowed. Good only after all looks, when enough of them said
    anything; otherwise inconclusive.
    """
    if counts.bad > texts.check_failures:
        return Outcome.BAD
    if counts.good + counts.bad + counts.nothing < looks_due(texts):
        return None
    enough = counts.good + counts.bad >= max(1, texts.check_least) and counts.good > 0
    return Outcome.GOOD if enough else Outcome.INCONCLUSIVE
