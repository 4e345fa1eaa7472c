"""`python -I -m watches.wait PROGRAM …` becomes PROGRAM as soon as Consul answers and has a leader.

supervisord starts each watch through this. A `consul watch` without its agent ends at once, and each restart
by supervisord comes a second later than the one before: after an hour without Consul, over a minute too late.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping

from handlers import log
from handlers.adapters.kv import ConsulKV
from handlers.core.errors import HydraError, Temporary

PAUSE_S = 0.5
REPEAT_S = 60.0


def for_leader(environ: Mapping[str, str]) -> None:
    """Return once the agent named by `environ` knows a leader; says every minute why it still waits."""
    consul = ConsulKV.from_env(environ)
    told_s = float("-inf")
    while True:
        leader, why = "", "there is no leader"
        try:
            leader, _ = consul.get_json("status/leader")
        except Temporary as e:
            why = str(e)
        if leader:
            return
        if time.monotonic() - told_s >= REPEAT_S:
            log.info("wait", "waiting for Consul", reason=why)
            told_s = time.monotonic()
        time.sleep(PAUSE_S)


def main(arguments: list[str]) -> int:
    """Wait, then become `arguments` with the environment as it is; returns only when that failed."""
    log.setup()
    try:
        for_leader(os.environ)
        os.execvp(arguments[0], arguments)  # noqa: S606 -- becomes the program: no process is left in between
    except (HydraError, OSError) as e:
        log.warning("wait", "cannot start", program=arguments[0], reason=str(e))
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
