"""The real `sync` command, which dies at the n-th thing of a kind that it does.

A program of its own, `python -m tests.faults.killed PHASE NTH [MOUNT]`: it counts calls of a few functions of
`os` and of the Consul client, and kills itself with SIGKILL before (odd NTH) or after (even) one of them.
With a MOUNT the power of that disk is cut first. With NTH 0 it lives, and prints how many calls there were.
"""

from __future__ import annotations

import atexit
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from handlers import main
from handlers.adapters import checks
from handlers.adapters.kv import ConsulKV
from tests.faults.mounts import cut_power

PHASES: dict[str, tuple[tuple[object, str], ...]] = {
    "stage": ((os, "pwrite"), (os, "pwritev"), (os, "ftruncate"), (os, "mkdir")),
    "verify": ((checks, "blake3_hasher"), (os, "preadv")),
    "fsync": ((os, "fsync"), (os, "fdatasync")),
    "rename": ((os, "rename"), (os, "replace")),
    "link": ((os, "link"), (os, "symlink")),
    "report": ((ConsulKV, "txn"),),
    "clean-up": ((os, "unlink"), (os, "rmdir")),
}


class Counter:
    """Counts calls, and ends the process at the one that is chosen."""

    def __init__(self, nth: int, mount: str) -> None:
        self.count = 0
        self._nth, self._mount = nth, mount
        self._lock = threading.Lock()

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, counted."""

        @functools.wraps(call)
        def counted(*args: Any, **kwargs: Any) -> Any:
            with self._lock:
                self.count += 1
                chosen = self.count == self._nth
            if chosen and self._nth % 2:
                self._die()
            result = call(*args, **kwargs)
            if chosen:
                self._die()
            return result

        return counted

    def _die(self) -> None:
        if self._mount:
            cut_power(Path(self._mount))
        os.kill(os.getpid(), signal.SIGKILL)


def run(phase: str, nth: int, mount: str = "") -> int:
    """Run the command; its exit code, if it lives."""
    counter = Counter(nth, mount)
    for owner, name in PHASES[phase]:
        setattr(owner, name, counter.around(getattr(owner, name)))
    if not nth:
        atexit.register(lambda: print(counter.count))
    return main.main(["sync"])


if __name__ == "__main__":
    sys.exit(run(sys.argv[1], int(sys.argv[2]), *sys.argv[3:]))
