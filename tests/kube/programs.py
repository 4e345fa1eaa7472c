"""Programs that tests run: to their end, or beside the test until it ends them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

LIMIT_S = 120.0


class Failed(AssertionError):
    """Something did not happen in time; the text ends with what the programs said last."""


def until(what: str, true: Callable[[], object], limit_s: float = LIMIT_S) -> Any:
    """Look again and again until the answer is true, and return it; fails after `limit_s`."""
    end = time.monotonic() + limit_s
    while True:
        if answer := true():
            return answer
        if time.monotonic() > end:
            raise Failed(f"after {limit_s:g} s still not so: {what}")
        time.sleep(0.1)


def run(*command: str, given: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; fails with all that it said, unless `check` is false."""
    answer = subprocess.run(command, input=given, capture_output=True, text=True)
    if check and answer.returncode:
        said = f"{answer.stdout}{answer.stderr}".strip()
        raise Failed(f"{' '.join(command)} ended with {answer.returncode}:\n{said}")
    return answer


class Programs:
    """The processes of one machine, simulated or not: started in `inside`, with their logs in `folder`."""

    def __init__(self, folder: Path, inside: Sequence[str] = ()) -> None:
        self.folder, self.inside = folder, list(inside)
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *command: object, environ: Mapping[str, str] | None = None) -> None:
        """Start a program that dies with this process, however that ends."""
        self.folder.mkdir(parents=True, exist_ok=True)
        tied = ["setpriv", "--pdeathsig", "KILL"]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [*tied, *self.inside, *tied, *map(str, command)]
                if self.inside
                else [*tied, *map(str, command)],
                env={**os.environ, **(environ or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop(self, name: str, how: signal.Signals = signal.SIGTERM) -> None:
        """End one program; by force where it does not follow within 10 s."""
        running = self.running.pop(name)
        running.send_signal(how)
        try:
            running.wait(10)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()

    def stop_all(self) -> None:
        for name in reversed(list(self.running)):
            self.stop(name)

    def last_words(self) -> str:
        """The end of each log, for whoever has to find out what went wrong."""
        texts = [f"--- {f.name}\n{_tail(f)}" for f in sorted(self.folder.glob("*.log"))]
        return "\n".join(texts)


def _tail(file: Path) -> str:
    return "\n".join(file.read_text(errors="replace").splitlines()[-12:])
