"""The pulse of a node: `<root>/fresh`, written and touched by the thread of `resync`, read by `discover`.

What it says is decided in `core.freshness`; here is looked at what supervisord, the handlers' last runs and
the readiness files show. A probe may read the file (see README), `hydra status` shows what discover tells.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from handlers import log
from handlers.adapters.local import LocalState, write_atomic
from handlers.adapters.supervisor import Supervisor
from handlers.adapters.templates import STATES
from handlers.adapters.views import Views
from handlers.core import codec
from handlers.core.errors import HydraError, Malformed
from handlers.core.freshness import PATIENCE_S, as_seen, freshness
from handlers.core.model import States

FILE = "fresh"


class Pulse:
    """One node as its timer sees it; `beat` it every few seconds.

    `away` and `failed` ask the timer: whether Consul is away, and how the handlers ended last.
    """

    def __init__(
        self,
        root: Path,
        local: LocalState,
        supervisor_url: str,
        away: Callable[[], bool],
        failed: Callable[[], Mapping[str, int]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file, self._local, self._views = root / FILE, local, Views(root)
        self._url, self._away, self._failed, self._clock = supervisor_url, away, failed, clock
        self._since: dict[str, float] = {}

    def beat(self) -> str:
        """Look, and write what is so now; the line."""
        line = freshness(
            self._away(),
            self._lasting("program", self._dead()),
            self._failed(),
            self._lasting("files", self._unrendered()),
        )
        text = f"{line}\n".encode()
        try:
            if self._file.exists() and self._file.read_bytes() == text:
                os.utime(self._file)
            else:
                write_atomic(self._file, text)
                log.info("resync", f"this node is {line}")
        except OSError as e:
            log.warning("resync", "cannot write whether this node is fresh", error=e)
        return line

    def _lasting(self, kind: str, names: Sequence[str]) -> list[str]:
        """Those that have been in this way for longer than it takes to mend itself."""
        now = self._clock()
        known = {f"{kind} {name}" for name in names}
        for gone in [k for k in self._since if k.startswith(f"{kind} ") and k not in known]:
            del self._since[gone]
        return [n for n in names if now - self._since.setdefault(f"{kind} {n}", now) >= PATIENCE_S]

    def _dead(self) -> list[str]:
        """Programs that do not run; none where no supervisord is known or answers: it would have ended us."""
        if not self._url:
            return []
        try:
            return Supervisor(self._url, 2.0).down()
        except HydraError:
            return ["supervisord"]

    def _unrendered(self) -> list[str]:
        """Instances whose state file says something else than what reload wrote last."""
        raw = self._local.read(STATES)
        try:
            states = codec.decode(States, raw, STATES).instances if raw else {}
            return [str(key) for key, state in states.items() if self._views.shown(key) != state.state]
        except (Malformed, HydraError):
            return []


def read(root: Path) -> str:
    """What `<root>/fresh` says to a reader now."""
    file = root / FILE
    try:
        return as_seen(file.read_text().strip(), time.time() - file.stat().st_mtime)
    except OSError:
        return as_seen("", 0)
