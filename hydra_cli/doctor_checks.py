"""What `hydra doctor` finds: from facts about Consul, S3 and this machine to findings with advice. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any

from msgspec import Struct

from handlers.core.model import RAM, VolumeInfo
from hydra_cli.output import size, span

OLDEST_CONSUL = (1, 14)  # 64 operations in a transaction before; single-key waits that wake at every write
BROKEN_CONSUL = (1, 22, 4)
LEAST_TIMEOUT_S = 660.0  # the longest blocking query is 10 min and a sixteenth
LEAST_CONNECTIONS = 500
MOST_SKEW_S = 5.0
FATAL_SKEW_S = 300.0  # S3 refuses signatures that are 15 min off
_SPAN = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:([\d.]+)s)?")


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Finding(Struct, frozen=True):
    """One line: what was looked at, how it is, and what to do about it."""

    name: str
    level: Level
    text: str
    advice: str = ""


def consul_version(text: str) -> Finding:
    """Whether Hydra works with this Consul."""
    numbers = tuple(int(n) for n in re.findall(r"\d+", text)[:3])
    if numbers[:3] == BROKEN_CONSUL:
        return Finding(
            "consul version", Level.FAIL, f"{text} cuts blocking queries after 30 s", "take 1.22.5 or later"
        )
    if numbers[:2] < OLDEST_CONSUL:
        return Finding("consul version", Level.FAIL, f"{text} is too old", "take 1.14 or later")
    return Finding("consul version", Level.OK, text)


def agent_settings(settings: Mapping[str, Any], is_server: bool) -> Iterator[Finding]:
    """Settings of the agent that would break watches, sessions or listings."""
    for name, key in (("HTTPWriteTimeout", "write_timeout"), ("HTTPReadTimeout", "read_timeout")):
        seconds = _seconds(str(settings.get(name, "0s")))
        if seconds and seconds < LEAST_TIMEOUT_S:
            text = f"http_config.{key} is {span(seconds)}: it cuts every blocking query"
            yield Finding("http time-outs", Level.FAIL, text, f"set it to {LEAST_TIMEOUT_S:.0f}s or more")
            break
    else:
        yield Finding("http time-outs", Level.OK, "long enough for blocking queries")
    if settings.get("ACLsEnabled") and not settings.get("ACLEnableKeyListPolicy"):
        text = "acl.enable_key_list_policy is off: a list that ACLs filter looks like deleted keys"
        yield Finding("key list policy", Level.FAIL, text, "set it to true on servers and clients")
    else:
        acls = "on" if settings.get("ACLsEnabled") else "not needed: there are no ACLs"
        yield Finding("key list policy", Level.OK, acls)
    most = int(settings.get("HTTPMaxConnsPerClient") or 0)
    if most and most < LEAST_CONNECTIONS:
        text = f"limits.http_max_conns_per_client is {most}; all of a node's watches count as one client"
        yield Finding("connections", Level.WARN, text, f"raise it to {LEAST_CONNECTIONS} or more")
    else:
        yield Finding("connections", Level.OK, f"{most or 'any number'} per client")
    if not is_server and (settings.get("LeaveOnTerm") or not settings.get("SkipLeaveOnInt")):
        text = "the agent leaves the cluster when it is stopped, which ends the node's sessions"
        advice = "set leave_on_terminate = false and skip_leave_on_interrupt = true"
        yield Finding("agent restarts", Level.WARN, text, advice)
    if settings.get("ACLsEnabled") is False:
        text = "there are no ACLs: whoever reaches Consul may change everything"
        yield Finding(
            "acl", Level.WARN, text, 'acl { enabled = true, default_policy = "deny" }; see `hydra acl show`'
        )


def clock(name: str, date: str, before: datetime, after: datetime) -> Finding:
    """The server's Date header against our clock, which was read `before` and `after` the request."""
    try:
        theirs = parsedate_to_datetime(date)
    except ValueError:
        return Finding(f"clock ({name})", Level.WARN, f"it tells no time ({date!r})")
    # the header has whole seconds
    ahead = max(
        (theirs - after).total_seconds(), (before - theirs - timedelta(seconds=1)).total_seconds(), 0.0
    )
    if ahead <= MOST_SKEW_S:
        return Finding(f"clock ({name})", Level.OK, f"equal within {MOST_SKEW_S:.0f} s")
    level = Level.FAIL if ahead > FATAL_SKEW_S else Level.WARN
    return Finding(
        f"clock ({name})", level, f"{span(ahead)} apart from this machine's", "set the clocks (NTP)"
    )


def volume(name: str, path: str, free: int, reserve: int) -> Finding:
    """Room on one volume, above its reserve."""
    what = f"space ({name})"
    if free <= reserve:
        text = f"{size(free)} free on {path}, all of it reserved ({size(reserve)})"
        return Finding(what, Level.FAIL, text, "make room: nothing can be downloaded")
    if free < 2 * reserve:
        return Finding(
            what, Level.WARN, f"{size(free - reserve)} above the reserve on {path}", "make room soon"
        )
    return Finding(what, Level.OK, f"{size(free)} free on {path}")


def volume_place(name: str, path: str, kind: str, info: VolumeInfo, total: int) -> Finding:
    """Whether a volume is where it should be: `kind` is `link`, `memory` or `disk`."""
    what = f"volume ({name})"
    if kind == "link":
        return Finding(what, Level.FAIL, f"{path} is a link", "make it a folder, or mount the disk there")
    if info.budget_bytes > total:
        text = f"its budget is {size(info.budget_bytes)}, and {path} has {size(total)}"
        return Finding(what, Level.FAIL, text, f"lower volumes.{name}.budget_bytes (hydra node volumes)")
    if info.cls == RAM and kind == "disk":
        advice = "mount a tmpfs there (hydra node volumes): now it only takes room from the disk"
        return Finding(what, Level.WARN, f"its class is {RAM}, and {path} is no memory", advice)
    return Finding(what, Level.OK, f"{path} is in memory" if kind == "memory" else f"{path} is on disk")


def may_write(areas: Iterable[tuple[str, bool]]) -> Finding:
    """Which of Hydra's documents the token may change."""
    allowed = [area for area, yes in areas if yes]
    return Finding(
        "permissions", Level.OK, f"may write {', '.join(allowed)}" if allowed else "may write nothing"
    )


def _seconds(text: str) -> float:
    """A duration as Go prints it, `15m0s`; 0 when it is none."""
    match = _SPAN.fullmatch(text)
    return (
        sum(float(n) * u for n, u in zip(match.groups(), (3600, 60, 1), strict=True) if n) if match else 0.0
    )
