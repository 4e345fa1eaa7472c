"""What a whole process took: wall time, processor time, the most memory.

A launcher of our own starts it and waits for it, `python -m tests.bench.usage WORD …`: the peak that the
kernel notes for a child begins with that of its parent at the fork, and whoever measures is large.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

KIB = 1024
LIMIT_S = 600.0


@dataclass(frozen=True)
class Usage:
    """Of one process with its children; `said` is what it wrote."""

    code: int
    wall_s: float
    cpu_s: float
    peak_bytes: int
    said: str


def measured(words: Sequence[str], environment: Mapping[str, str]) -> Usage:
    """Run a command to its end, with a whole environment of its own."""
    launcher = [sys.executable, "-I", "-S", str(Path(__file__).resolve()), *words]
    ended = subprocess.run(
        launcher,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    told = json.loads(ended.stdout.splitlines()[-1])
    return Usage(told["code"], told["wall_s"], told["cpu_s"], told["peak_bytes"], ended.stdout + ended.stderr)


def cpu_s_of(pid: int) -> float:
    """Processor seconds that a running process has had so far, with all its threads."""
    fields = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_of(pid: int) -> int:
    """The most memory that a running process had so far, 0 when it has ended."""
    try:
        lines = Path("/proc", str(pid), "status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * KIB for line in lines if line.startswith("VmHWM:")), 0)


def _launch(words: list[str]) -> None:
    began = time.perf_counter()
    child = os.posix_spawnp(words[0], words, os.environ)
    _, status, used = os.wait4(child, 0)
    told = {
        "code": os.waitstatus_to_exitcode(status),
        "wall_s": time.perf_counter() - began,
        "cpu_s": used.ru_utime + used.ru_stime,
        "peak_bytes": used.ru_maxrss * KIB,
    }
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    _launch(sys.argv[1:])
