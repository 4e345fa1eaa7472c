"""Run a long command with signs of life on stderr; for `programs.py`, so with the standard library alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ATTEMPTS = 2  # a download that breaks off should not cost a person a second command
PLAIN_PROGRESS_EVERY_S = 30.0


class Failed(Exception):
    """The command failed each time; the text holds the end of its output."""


def follow(
    title: str,
    command: list[str],
    log: Path,
    *,
    folder: Path | None = None,
    settings: dict[str, str] | None = None,
) -> None:
    """Run a command with its progress on the terminal and its output in a log that is shown when it fails."""
    started = time.monotonic()
    environment = {**os.environ, **(settings or {})}
    code = 0
    for attempt in range(1, ATTEMPTS + 1):
        say(title if attempt == 1 else f"{title}, again")
        with log.open("wb") as output:
            child = subprocess.Popen(
                command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
            try:
                code = show_until_over(title, child, log, started)
            finally:
                child.kill()  # an interrupted build must not go on compiling behind the prompt
                child.wait()
        if code == 0:
            say(f"{title}: done in {time.monotonic() - started:.0f} s")
            return
    tail = "\n  ".join(log.read_text(errors="replace").splitlines()[-15:])
    raise Failed(f"{title} failed with exit code {code} (all of its output: {log})\n  {tail}")


def show_until_over(title: str, child: subprocess.Popen[bytes], log: Path, started: float) -> int:
    """On a terminal one line that is redrawn; elsewhere a line now and then, so that a log shows life."""
    live = sys.stderr.isatty()
    next_line_s = PLAIN_PROGRESS_EVERY_S
    while child.poll() is None:
        time.sleep(0.2)
        elapsed_s = time.monotonic() - started
        if live or elapsed_s >= next_line_s:
            next_line_s = elapsed_s + PLAIN_PROGRESS_EVERY_S
            lines = log.read_text(errors="replace").splitlines() or [""]
            say(f"{title}, {elapsed_s:.0f} s, {len(lines)} steps, {lines[-1]}", redraw=live)
    if live:
        say("", redraw=True)
    return child.returncode


def say(line: str, *, redraw: bool = False) -> None:
    """One line for people, on stderr: stdout carries the paths alone."""
    width = shutil.get_terminal_size().columns - 1
    sys.stderr.write("\r\x1b[K" + line[:width] if redraw else line + "\n")
    sys.stderr.flush()
