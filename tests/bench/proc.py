"""Processes and their memory as the kernel tells it in /proc."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
KIB = 1024


@dataclass(frozen=True)
class Process:
    """One process; `words` is its command line."""

    pid: int
    parent: int
    words: tuple[str, ...]


@dataclass(frozen=True)
class Mapped:
    """One mapping: the file behind it (empty for none), where in it, and bytes in memory.

    `own` bytes belong to no file any more (heap, stack, written copies); `shared` are pages of the file.
    """

    file: str
    offset: int
    own: int
    shared: int


def processes() -> dict[int, Process]:
    """All processes, by id, but for those that have ended: already, or while we look."""
    found = {}
    for folder in PROC.iterdir():
        if folder.name.isdecimal():
            try:
                parent = parent_of((folder / "stat").read_text())
                words = (folder / "cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if any(words):  # else it has ended, and waits for its parent
                found[int(folder.name)] = Process(int(folder.name), parent, tuple(words))
    return found


def parent_of(stat: str) -> int:
    """The parent in /proc/<pid>/stat; the name before it may hold spaces and parentheses."""
    return int(stat.rpartition(")")[2].split()[1])


def tree(root: int, all_of_them: Mapping[int, Process]) -> list[Process]:
    """The process `root` and all below it, parents first; empty when it does not exist."""
    found = [all_of_them[root]] if root in all_of_them else []
    for process in found:  # grows while it is walked
        found += [p for p in all_of_them.values() if p.parent == process.pid and p.pid != process.pid]
    return found


def pss(pid: int) -> int:
    """The bytes of a process, with shared pages divided among those who share them."""
    lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    return next(_bytes(line) for line in lines if line.startswith("Pss:"))


def mapped(smaps: str) -> list[Mapped]:
    """The mappings in the text of /proc/<pid>/smaps."""
    found: list[Mapped] = []
    file, offset, sizes = "", 0, dict[str, int]()
    for line in smaps.splitlines():
        name = line.split(" ", 1)[0]
        if not name.endswith(":"):  # `7f00-7f10 r-xp 00001000 fe:01 1234   /usr/bin/program`
            if sizes:
                found.append(_mapped(file, offset, sizes))
            head = line.split(None, 5)
            file, offset, sizes = (head[5] if len(head) > 5 else ""), int(head[2], 16), {}
        elif line.endswith(" kB"):
            sizes[name] = _bytes(line)
    return [*found, _mapped(file, offset, sizes)] if sizes else found


def alone(each: Iterable[Iterable[Mapped]]) -> int:
    """Bytes that these processes would take if nobody else shared a page with them: an upper bound.

    Own pages of all, and of each piece of a file what the one with the most of it has.
    """
    own, pieces = 0, dict[tuple[str, int], int]()
    for mappings in each:
        for piece in mappings:
            own += piece.own
            where = piece.file, piece.offset
            pieces[where] = max(pieces.get(where, 0), piece.shared)
    return own + sum(pieces.values())


def _mapped(file: str, offset: int, sizes: Mapping[str, int]) -> Mapped:
    own = sizes.get("Anonymous:", 0)
    real = file if file.startswith("/") else ""
    rest = sizes.get("Rss:", 0) - own
    return Mapped(real, offset, own=own if real else own + rest, shared=rest if real else 0)


def _bytes(line: str) -> int:
    return int(line.split()[1]) * KIB
