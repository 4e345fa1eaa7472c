"""What the figures were measured on, and how busy it was with other things."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from hydra_cli.programs import program

MIB = 1024**2


def description() -> list[tuple[str, str]]:
    """Cores, processor, memory, kernel and versions, as rows of name and text."""
    memory = fields(Path("/proc/meminfo").read_text())
    return [
        ("cores", f"{len(os.sched_getaffinity(0))} of {processor(Path('/proc/cpuinfo').read_text())}"),
        ("memory", f"{kib(memory['MemTotal']) / MIB:.1f} GiB, {kib(memory['MemAvailable']) / MIB:.1f} free"),
        ("kernel", f"{platform.system()} {platform.release()}"),
        ("Python", platform.python_version()),
        ("Consul", version_of("consul")),
        ("consul-template", version_of("consul-template")),
    ]


def fields(text: str) -> dict[str, str]:
    """`name: value` lines, as several files of /proc have them; the first of each name counts."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            found.setdefault(name.strip(), value.strip())
    return found


def kib(text: str) -> int:
    """The number in `16384 kB`."""
    number, _, unit = text.partition(" ")
    if unit != "kB":
        raise ValueError(f"{text!r} is not a number of kB")
    return int(number)


def processor(cpuinfo: str) -> str:
    """The name of the processor; ARM kernels do not tell it."""
    return fields(cpuinfo).get("model name") or platform.machine()


def version_of(name: str) -> str:
    """The first number that the external program says of itself."""
    said = subprocess.run([program(name), "-version"], capture_output=True, text=True, check=True)
    words = (said.stdout + said.stderr).split()
    return next(word.removeprefix("v") for word in words if word.removeprefix("v")[:1].isdigit())


def cpu_times(stat: str) -> Mapping[str, int]:
    """Clock ticks since the boot by state, from the first line of /proc/stat."""
    names = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
    numbers = stat.splitlines()[0].split()[1 : 1 + len(names)]
    return dict(zip(names, map(int, numbers), strict=True))


def share_busy(before: Mapping[str, int], after: Mapping[str, int]) -> float:
    """The share of all processor time between two looks that somebody used (0 to 1)."""
    spent = {name: after[name] - before[name] for name in before}
    total = sum(spent.values())
    return 1 - (spent["idle"] + spent["iowait"]) / total if total else 0.0


def busy(span_s: float = 1.0) -> float:
    """How much of the processors others use now, while we only look (0 to 1)."""
    before = cpu_times(Path("/proc/stat").read_text())
    time.sleep(span_s)  # the span that is measured
    return share_busy(before, cpu_times(Path("/proc/stat").read_text()))
