"""Whole processes, timed from their start to their end."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Command:
    """A command line with its whole environment and a file as its stdin."""

    what: str
    words: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    stdin: Path = Path("/dev/null")

    def run(self) -> float:
        """Milliseconds from start to end; raises RuntimeError with the output when the exit code is not 0."""
        with self.stdin.open("rb") as stdin:
            begin = time.perf_counter()
            ended = subprocess.run(
                self.words, stdin=stdin, capture_output=True, text=True, env=dict(self.environment)
            )
            took = time.perf_counter() - begin
        if ended.returncode != 0:
            raise RuntimeError(f"{self.what} ended with {ended.returncode}:\n{ended.stdout}{ended.stderr}")
        return took * 1000


def rounds(commands: Sequence[Command], count: int, warm: int = 2) -> dict[str, list[float]]:
    """`count` times of each command by what it is; in turns, so that a slow moment hits all of them alike.

    The order moves on by one from round to round; the first `warm` rounds are not counted.
    """
    times: dict[str, list[float]] = {command.what: [] for command in commands}
    for number in range(-warm, count):
        first = number % len(commands)
        for command in (*commands[first:], *commands[:first]):
            took = command.run()
            if number >= 0:
                times[command.what].append(took)
    return times
