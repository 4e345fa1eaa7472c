"""Handlers as processes of their own, started by those that always run: `resync`, and `discover` for pods."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence


class Runner:
    """Runs handlers as processes; one that still runs is left alone."""

    def __init__(self, handlers: Sequence[str], command_of: Callable[[str], Sequence[str]]) -> None:
        self._handlers, self._command_of = handlers, command_of
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def failed(self) -> dict[str, int]:
        """How handlers ended whose last run did not go well; one that runs now is not asked."""
        ended = {name: running.poll() for name, running in list(self._running.items())}
        return {name: code for name, code in ended.items() if code}

    def start(self) -> tuple[str, ...]:
        """Start each handler that is not running; their names. How they end, they log themselves."""
        started = []
        for name in self._handlers:
            running = self._running.get(name)
            if running is None or running.poll() is not None:
                self._running[name] = process = subprocess.Popen(
                    self._command_of(name), stdin=subprocess.DEVNULL, env=environment(os.environ)
                )
                # somebody waits for it, or it would be a zombie until it is asked for the next time
                threading.Thread(target=process.wait, name=f"end of {name}", daemon=True).start()
                started.append(name)
        return tuple(started)


def environment(ours: Mapping[str, str]) -> dict[str, str]:
    """Ours, without what would make a handler believe that a watch has started it."""
    return {name: value for name, value in ours.items() if name != "CONSUL_INDEX"}


def command(handler: str) -> list[str]:
    """How a handler is started; it ends with us, however we end."""
    setpriv = shutil.which("setpriv")
    tied = [setpriv, "--pdeathsig", "KILL"] if setpriv else []
    return [*tied, sys.executable, "-I", "-m", "handlers.main", handler]
