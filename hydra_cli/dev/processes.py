"""Processes by their real identity: a process id together with the moment of its start.

A number alone may belong to somebody else by the time a signal is sent. Here a signal goes through a handle
on the process (pidfd) that was taken before its identity was checked, so a foreign process is never hit.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
POLL_S = 0.02
_STATE, _START = 0, 19  # fields of /proc/<pid>/stat after the name


@dataclass(frozen=True)
class Process:
    """One process: `start` is in clock ticks after the boot."""

    pid: int
    start: int

    @property
    def alive(self) -> bool:
        """It runs, or is stopped; a zombie does not count."""
        return find(self.pid) == self

    def send(self, number: signal.Signals) -> None:
        """Send a signal; nothing when the process is gone."""
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(self.pid)
            try:
                if self.alive:
                    signal.pidfd_send_signal(handle, number)
            finally:
                os.close(handle)


def find(pid: int) -> Process | None:
    """The process with this id, if it lives."""
    try:
        fields = (PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[_STATE] in (b"Z", b"X") else Process(pid, int(fields[_START]))


def marked(name: str, value: str) -> list[Process]:
    """All living processes that were started with `name=value` in their environment, by whomever."""
    wanted = f"{name}={value}".encode()
    found = []
    for folder in PROC.iterdir():
        if not folder.name.isdecimal():
            continue
        process = find(int(folder.name))
        try:
            has = wanted in (folder / "environ").read_bytes().split(b"\0")
        except OSError:  # it is gone, or somebody else's
            continue
        if process and has and process.pid != os.getpid():
            found.append(process)
    return found


def await_end(processes: Iterable[Process], limit_s: float) -> list[Process]:
    """Wait until all have ended; those that have not after `limit_s`."""
    until = time.monotonic() + limit_s
    left = [p for p in processes if p.alive]
    while left and time.monotonic() < until:
        time.sleep(POLL_S)
        left = [p for p in left if p.alive]
    return left


def kill_marked(name: str, value: str) -> None:
    """Kill all marked processes as a power cut would: stopped first, so that none acts on another's death."""
    while processes := marked(name, value):
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for process in processes:
                process.send(number)
        await_end(processes, 1.0)
