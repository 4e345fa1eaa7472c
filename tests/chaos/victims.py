"""The processes of a cluster that something may happen to: found by their marks and their command lines."""

from __future__ import annotations

from collections.abc import Callable

from hydra_cli.dev import processes
from hydra_cli.dev.cluster import Cluster
from hydra_cli.dev.node import MARK
from hydra_cli.dev.processes import PROC, Process
from tests.e2e import reader

HANDLERS = (b"plan", b"sync", b"reload", b"retain")
TIMERS = (b"discover", b"resync")


def found_in(cluster: Cluster, wanted: Callable[[list[bytes]], bool]) -> list[Process]:
    """Those whose command line is `wanted`, the oldest first."""
    all_of_them = processes.marked(MARK, cluster._backbone.mark)
    return sorted((p for p in all_of_them if wanted(words_of(p))), key=lambda p: (p.start, p.pid))


def words_of(process: Process) -> list[bytes]:
    """Its command line."""
    try:
        return (PROC / str(process.pid) / "cmdline").read_bytes().split(b"\0")[:-1]
    except OSError:  # it has ended
        return []


def whose(process: Process) -> str:
    """The node of a process of the cluster."""
    try:
        found = (PROC / str(process.pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return ""
    return next((w.partition(b"=")[2].decode() for w in found if w.startswith(b"HYDRA_NODE=")), "")


def command_of(process: Process) -> str:
    """The end of its command line, without folders."""
    return b" ".join(word.rpartition(b"/")[2] for word in words_of(process)[-2:]).decode(errors="replace")


def is_handler(words: list[bytes]) -> bool:
    """A handler that works now; not the watch that would start it."""
    return words[-2:-1] == [b"handlers.main"] and words[-1] in HANDLERS and b"watch" not in words


def is_program(words: list[bytes]) -> bool:
    """A child of a supervisord: a watch, or one of the timers."""
    return b"watch" in words[:3] or (len(words) > 1 and words[-2] == b"handlers.main" and words[-1] in TIMERS)


def is_template(words: list[bytes]) -> bool:
    """consul-template."""
    return bool(words) and words[0].endswith(b"consul-template")


def is_reader(words: list[bytes]) -> bool:
    """A replica of the service."""
    return reader.__file__.encode() in words
