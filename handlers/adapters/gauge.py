"""One look at canaries: asks their endpoints, a command, or Prometheus. Used by `judge` alone.

Whatever cannot be asked says nothing, and nothing never passes a release: no error leaves this module.
"""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from msgspec import Struct

from handlers.adapters import commands
from handlers.core.errors import HydraError
from handlers.core.gate import Bound, Check, CommandCheck, HttpCheck, Look, PrometheusCheck, look_at
from handlers.core.names import Service
from handlers.core.policy import Url
from handlers.core.version import ReleaseId

ANSWER_S = 5.0
COMMAND_S = 60.0
_MAX_BODY = 1 << 20
_MAX_SAID = 300  # of an error, in a verdict
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Target(Struct, frozen=True):
    """An instance to ask."""

    id: str
    address: str
    port: int


class Subject(Struct, frozen=True, kw_only=True):
    """What is looked at: the canaries of a service, and the instances that have not moved yet."""

    service: Service
    releases: Sequence[ReleaseId]
    canaries: Sequence[Target]
    others: Sequence[Target]
    compare: float = 0.0


class Gauge:
    """`commands` and `prometheus_url` are the planner's configuration."""

    def __init__(self, commands: Mapping[str, Sequence[str]], prometheus_url: str) -> None:
        self._commands, self._prometheus_url = commands, prometheus_url

    def look(self, check: Check, subject: Subject) -> tuple[Look, str]:
        """What this moment says, and what was seen, as a sentence."""
        try:
            match check:
                case HttpCheck(url, "", _) | HttpCheck(url, _, None):
                    return _answers(url, subject.canaries)
                case HttpCheck(url, field, Bound() as bound):
                    return _compared(
                        field,
                        bound,
                        _mean(url, field, subject.canaries),
                        _mean(url, field, subject.others) if subject.compare else None,
                        subject.compare,
                    )
                case CommandCheck(name):
                    return self._command(name, subject)
                case PrometheusCheck(query, bound):
                    others = self._queried(query, subject.others) if subject.compare else None
                    mine = self._queried(query, subject.canaries)
                    return _compared(query, bound, mine, others, subject.compare)
        except HydraError as e:
            return Look.NOTHING, str(e)
        raise AssertionError(check)

    def _command(self, name: str, subject: Subject) -> tuple[Look, str]:
        environ = {
            "HYDRA_SERVICE": str(subject.service),
            "HYDRA_RELEASES": " ".join(subject.releases),
            "HYDRA_CANARIES": " ".join(f"{t.address}:{t.port}" for t in subject.canaries),
            "HYDRA_OTHERS": " ".join(f"{t.address}:{t.port}" for t in subject.others),
        }
        ended = commands.run(self._commands, name, environ, COMMAND_S)
        look = {0: Look.GOOD, 1: Look.BAD}.get(ended.code, Look.NOTHING)
        return look, f"command {name} ended with {ended.code}" + (f": {ended.line}" if ended.line else "")

    def _queried(self, query: str, targets: Sequence[Target]) -> float | None:
        if not self._prometheus_url:
            raise HydraError("no [prometheus] url in the planner's configuration")
        if not targets:
            return None
        # a class of one character instead of a backslash, which PromQL would want doubled
        pattern = "|".join(target.id.replace(".", "[.]") for target in targets)
        asked = urllib.parse.urlencode({"query": query.replace("{instances}", pattern)})
        _, body = _get(f"{self._prometheus_url.rstrip('/')}/api/v1/query?{asked}")
        return _value(body)


def _answers(url: Url, canaries: Sequence[Target]) -> tuple[Look, str]:
    """Every canary has to answer; one bad answer is enough, one that is missing leaves it open."""
    silent = "" if canaries else "no canary is there to be asked"
    for target in canaries:
        try:
            status, _ = _get(url.at(target.address, target.port))
        except HydraError as e:
            silent = str(e)
            continue
        if not 200 <= status < 300:
            return Look.BAD, f"{target.id} answered {status}"
    return (Look.NOTHING, silent) if silent else (Look.GOOD, "all canaries answered 2xx")


def _mean(url: Url, field: str, targets: Sequence[Target]) -> float | None:
    """The mean of a field over those that have a number there; none has: no evidence."""
    found = []
    for target in targets:
        status, body = _get(url.at(target.address, target.port))
        number = _field(body, field) if 200 <= status < 300 else None
        found += [number] if number is not None else []
    return fmean(found) if found else None


def _field(body: bytes, field: str) -> float | None:
    try:
        value: Any = json.loads(body)
        for part in field.split("."):
            value = value[part]
        return None if isinstance(value, bool) else float(value)
    except (ValueError, KeyError, TypeError):
        return None


def _compared(
    what: str, bound: Bound, value: float | None, others: float | None, compare: float
) -> tuple[Look, str]:
    beside = f", {others:g} where nobody has moved" if others is not None else ""
    seen = f"{what} is {'unknown' if value is None else f'{value:g}'}{beside}"
    limits = f"{bound.op}{bound.limit:g}" + (
        f" and {bound.op}{compare:g} times the others" if compare else ""
    )
    return look_at(bound, value, others, compare), f"{seen} (wanted {limits})"


def _value(body: bytes) -> float | None:
    """The one number in an answer of Prometheus; an empty vector is no evidence.

    Answers are as https://prometheus.io/docs/prometheus/latest/querying/api/ has them.
    """
    try:
        answer = json.loads(body)
        if answer["status"] == "error":
            raise HydraError(f"Prometheus refuses the query: {str(answer['error'])[:_MAX_SAID]}")
        data = answer["data"]
        rows = [data["result"]] if data["resultType"] == "scalar" else [r["value"] for r in data["result"]]
        if len(rows) > 1:
            raise HydraError(f"the query has {len(rows)} results, and must have one")
        return float(rows[0][1]) if rows else None
    except (ValueError, KeyError, TypeError, IndexError) as e:
        raise HydraError(f"the answer of Prometheus cannot be understood: {e!r}") from None


def _get(url: str) -> tuple[int, bytes]:
    """Status and body, without proxies; raises `HydraError` when there is no whole answer."""
    try:
        with _DIRECT.open(url, timeout=ANSWER_S) as answer:
            return answer.status, answer.read(_MAX_BODY)
    except urllib.error.HTTPError as e:
        with e:
            return e.code, e.read(_MAX_BODY)
    except (OSError, http.client.HTTPException, ValueError) as e:
        raise HydraError(f"{url.partition('?')[0]}: {getattr(e, 'reason', None) or e}") from e
