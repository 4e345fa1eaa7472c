"""consul-template: which files it renders for this node's instances, and how it is told.

All templates read the one document `states/<node>` (one connection) and, beside it, what this node remembers
of it, so that an older document (a restored snapshot) takes nobody out of service. The configuration lies in
`state/consul-template/instances.hcl`; `hydra node run` starts consul-template with it, and it gets HUP when
it changed: at most once a second, since each HUP leaves long polls behind, and not while it starts, when HUP
would end it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

from handlers import resources
from handlers.adapters.local import LocalState
from handlers.adapters.views import Views
from handlers.core import keys
from handlers.core.names import READINESS_FILE, STATE_FILE, InstanceKey

CONFIG = "consul-template/instances.hcl"
TOLD = "consul-template/told"  # its time is that of the last HUP
PID = "consul-template.pid"
STATES = "states"  # the document as this node wrote it last
_APART_S, _YOUNG_S = 1.0, 0.2
_HZ = os.sysconf("SC_CLK_TCK")


class Templates:
    """The templates of all instances of one node."""

    def __init__(self, views: Views, local: LocalState, node: str) -> None:
        self._views, self._local, self._node = views, local, node

    def write(self, instances: Iterable[InstanceKey]) -> None:
        """Let exactly these instances have readiness files. The states must have been written before."""
        # consul-template ends when the file that its templates read is missing
        if self._local.read(STATES) is not None:
            self._local.write(CONFIG, self.text(instances).encode())

    def text(self, instances: Iterable[InstanceKey]) -> str:
        """The configuration, in the syntax that consul-template 0.42 reads."""
        head = "# Written by reload: two files for each instance of this node.\n"
        return head + "".join(self._blocks(key) for key in sorted(instances))

    def _blocks(self, key: InstanceKey) -> str:
        facts = {
            "@KEY@": keys.states(self._node),
            "@FILE@": str(self._local.path(STATES)),
            "@INSTANCE@": key,
        }
        blocks = []
        for source, name in (("state.ctmpl", STATE_FILE), ("readiness.json.ctmpl", READINESS_FILE)):
            text = resources.path("templates", source).read_text()
            for word, value in facts.items():
                text = text.replace(f'"{word}"', _quoted(value))
            blocks.append(
                _BLOCK.format(contents=_quoted(text), file=_quoted(str(self._views.path(key) / name)))
            )
        return "".join(blocks)

    def tell(self) -> float | None:
        """Send HUP if consul-template has not read the configuration yet.

        Returns the seconds after which to call again when it is too early, else None. A consul-template that
        is not there reads the configuration when it starts.
        """
        changed, told = _time(self._local.path(CONFIG)), _time(self._local.path(TOLD))
        pid, started = self._process()
        if not pid or changed is None or changed < (told or 0.0) or changed < started:
            return None
        now = time.time()
        early = max((told or 0.0) + _APART_S, started + _YOUNG_S) - now
        if 0 < early <= _APART_S:  # a clock that was set back must not put it off for long
            return early
        path = self._local.path(TOLD)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        with contextlib.suppress(ProcessLookupError):  # it ended just now, and reads the file when it starts
            os.kill(pid, signal.SIGHUP)
        return None

    def _process(self) -> tuple[int, float]:
        """The running consul-template and when it started; 0 when there is none."""
        raw = (self._local.read(PID) or b"").strip()
        if not raw.isdigit():
            return 0, 0.0
        process = Path("/proc") / raw.decode()
        try:
            # a pid file outlives a crash, and HUP would end whoever has the number now
            if b"consul-template" not in (process / "cmdline").read_bytes():
                return 0, 0.0
            ticks = int((process / "stat").read_text().rpartition(")")[2].split()[19])
            up_s = float(Path("/proc/uptime").read_text().split()[0])
        except (OSError, ValueError, IndexError):
            return 0, 0.0
        return int(raw), time.time() - (up_s - ticks / _HZ)


# `create_dest_dirs`: a late rendering must not bring back the view of an instance that is gone.
# `error_fatal`: a document that does not parse must not end consul-template, which then keeps the files.
_BLOCK = """template {{
  contents = {contents}
  destination = {file}
  perms = 0644
  create_dest_dirs = false
  error_fatal = false
}}
"""


def _quoted(text: str) -> str:
    """Text in double quotes, as HCL, JSON and Go's templates read it alike."""
    return json.dumps(text).replace("${", "$\\u007b")


def _time(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None
