"""`resync`: the timer that makes up for whatever a watch missed. Runs until it is ended.

Runs the other handlers of its scope (HYDRA_SCOPE: `node`: sync and reload; `cluster`: plan, judge and
retain) as
processes of their own, from time to time. And keeps an eye on Consul: after an outage a `consul watch` sleeps
for up to three minutes, and after a restored snapshot it does not fire at all, so as soon as Consul is back,
or its KV older than before, the watches are restarted and the handlers run at once.
"""

from __future__ import annotations

import os
import queue
import random
import threading
import time
from collections.abc import Callable, Sequence

from handlers import log, plan
from handlers.adapters.local import LocalState
from handlers.adapters.ports import KV
from handlers.adapters.supervisor import Supervisor
from handlers.context import Context
from handlers.core import keys
from handlers.core.errors import HydraError, Usage
from handlers.core.freshness import TICK_S
from handlers.pulse import Pulse
from handlers.runner import Runner, command

HANDLERS = {"node": ("sync", "reload"), "cluster": ("plan", "judge", "retain")}
WATCH_GROUP = "watch"
PROBE_S = 5.0  # how long one look at a healthy Consul lasts; one that fails ends at once
AWAY_S = 1.0
DUE_S = 1.0  # how often it is looked whether something is due


def run(ctx: Context) -> str:
    """Run the handlers of this scope from time to time, and when Consul comes back; does not return."""
    scope = os.environ.get("HYDRA_SCOPE") or "node"
    if scope not in HANDLERS:
        raise Usage(f"HYDRA_SCOPE {scope!r} is none of {', '.join(HANDLERS)}")
    alarms: queue.SimpleQueue[str] = queue.SimpleQueue()
    eye = Eye(ctx.kv, watched_keys(scope, ctx.node))
    threading.Thread(target=_look, args=(eye, alarms.put), name="eye", daemon=True).start()
    runner = Runner(HANDLERS[scope], command)
    if scope == "node":
        threading.Thread(target=_beat, args=(ctx, eye, runner), name="pulse", daemon=True).start()
    url = os.environ.get("SUPERVISOR_SERVER_URL") or ctx.settings.supervisor_url
    while True:
        # all nodes start together; the jitter keeps them from staying together
        runner.start()
        wait_s = ctx.settings.limits.resync_s * random.uniform(0.8, 1.2)
        reason = _next(alarms, lambda: _due_at(ctx.local) if scope == "cluster" else 0.0, wait_s)
        if reason:
            log.info("resync", f"{reason}: restarts the watches and runs the handlers", node=ctx.node)
            time.sleep(spread_s(scope, ctx.settings.limits.spread_s))
            wake(url)


def _beat(ctx: Context, eye: Eye, runner: Runner) -> None:
    """Say in `<root>/fresh` how this node is, until the process is ended."""
    url = os.environ.get("SUPERVISOR_SERVER_URL") or ctx.settings.supervisor_url
    pulse = Pulse(ctx.settings.root, ctx.local, url, lambda: eye.away, lambda: runner.failed)
    while True:
        pulse.beat()
        time.sleep(TICK_S)


def spread_s(scope: str, most_s: float) -> float:
    """How long to wait for the others: all nodes see in the same second that Consul is back."""
    return random.uniform(0, most_s) if scope == "node" else 0.0


def _next(alarms: queue.SimpleQueue[str], due_at: Callable[[], float], wait_s: float) -> str:
    """What the eye reports within `wait_s`, or nothing; also ends when something is due (Unix time)."""
    begun, until = time.time(), time.monotonic() + wait_s
    while (left_s := until - time.monotonic()) > 0 and not begun < due_at() <= time.time():
        try:
            return alarms.get(timeout=min(left_s, DUE_S))
        except queue.Empty:
            continue
    return ""


def _due_at(local: LocalState) -> float:
    """When time alone changes what plan wants; 0 = never."""
    return plan.Memory.read(local).wake_at


def wake(url: str) -> None:
    """Restart the watches: ended by TERM, supervisord starts them again, and each fires at its start."""
    if not url:
        log.warning("resync", "no supervisord is known, so watches end their back-off by themselves")
        return
    try:
        Supervisor(url).signal_group(WATCH_GROUP, "TERM")
    except HydraError as e:
        log.warning("resync", "cannot restart the watches; they end their back-off by themselves", error=e)


def watched_keys(scope: str, node: str) -> tuple[str, ...]:
    """Keys that only ever get younger; blocked on is the first."""
    return (keys.desired(node), keys.states(node)) if scope == "node" else (keys.ALARMS, keys.META)


class Eye:
    """Looks at Consul, and tells when it is back after an outage, or when its KV is older than it was."""

    def __init__(self, kv: KV, watched: Sequence[str]) -> None:
        self._kv, self._watched = kv, watched
        self._seen: dict[str, int] = {}
        self._index = 0
        self.away = False

    def look(self, wait_s: float = PROBE_S) -> str:
        """Look for up to `wait_s`; what has to be made up for, or nothing."""
        try:
            fresh = self._read(wait_s)
        except HydraError as e:
            if not self.away:
                log.warning("resync", "Consul does not answer", error=e)
            self.away, self._index = True, 0
            return ""
        older = [key for key, index in self._seen.items() if fresh.get(key, 0) < index]
        back, self.away, self._seen = self.away, False, fresh
        if older:
            return f"the KV went back, {older[0]} is gone or older than it was"
        return "Consul is back" if back else ""

    def _read(self, wait_s: float) -> dict[str, int]:
        """The ModifyIndex of each watched key that exists."""
        first, *others = self._watched
        entry, self._index = self._kv.get(first, after=self._index, wait_s=wait_s)
        entries = [entry, *(self._kv.get(key)[0] for key in others)]
        return {entry.key: entry.index for entry in entries if entry}


def _look(eye: Eye, report: Callable[[str], None]) -> None:
    pause = threading.Event()
    while True:
        if sentence := eye.look():
            report(sentence)
        if eye.away:
            pause.wait(AWAY_S)
