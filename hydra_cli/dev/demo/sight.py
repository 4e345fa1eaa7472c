"""What the file systems of the nodes show: views as the replicas see them, bytes of releases as they arrive.

Times are those that the kernel gave to the files, so it does not matter how late we look.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from handlers.core.names import Channel
from hydra_cli.dev.demo.figures import Mark


@dataclass(frozen=True)
class Replica:
    """One replica of the demo's service: where it runs, what it reads, where it answers."""

    id: str
    node: str
    view: Path
    port: int


class Eye:
    """Looks at one view, and says what is new since the last look."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._flipped_ns = 0
        self._written_ns = 0
        self._word = ""

    def look(self) -> list[Mark]:
        """The flips and words since the last look, with the times that the file system has for them."""
        marks = []
        try:
            flipped_ns = (self._replica.view / "..data").lstat().st_ctime_ns
            if flipped_ns != self._flipped_ns:
                self._flipped_ns = flipped_ns
                marks.append(Mark(flipped_ns / 1e9, self._replica.id, "flip"))
            state = self._replica.view / "state"
            written_ns = state.stat().st_mtime_ns
            if written_ns != self._written_ns:
                word = state.read_text().strip()
                self._written_ns = written_ns
                if word != self._word:
                    self._word = word
                    marks.append(Mark(written_ns / 1e9, self._replica.id, word))
        except OSError:
            return marks  # not there yet, or between two files: the next look sees it
        return marks


def bytes_of(root: Path, channel: Channel, version: str) -> int:
    """Bytes that a node has on its volumes of one release, finished or not."""
    total = 0
    for volume in _folders(root / "volumes"):
        for stage in ("staging", "data"):
            total += sum(_allocated(path) for path in _files(volume / stage / channel / version))
    return total


def _folders(path: Path) -> list[Path]:
    try:
        return [entry for entry in path.iterdir() if entry.is_dir()]
    except OSError:
        return []


def _files(path: Path) -> list[Path]:
    try:
        return [entry for entry in path.rglob("*") if not entry.is_dir()]
    except OSError:
        return []  # renamed away while we looked: the next look finds it where it is now


def _allocated(path: Path) -> int:
    try:
        status = path.stat()
    except OSError:
        return 0
    return min(status.st_size, status.st_blocks * 512)  # room that is only reserved holds no byte yet
