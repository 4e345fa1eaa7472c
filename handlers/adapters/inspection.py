"""What lies on this node read again and compared with its release: every file, or some chunks by chance.

Nothing is written. A file is divided into units: chunks where the release has digests of chunks, else the
whole file, since a checksum of all of it says nothing of a part. Used by `hydra verify`.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence

from msgspec import Struct

from handlers.adapters import checks
from handlers.adapters.folder import Folder
from handlers.adapters.volume import Volumes
from handlers.core import integrity
from handlers.core.holdings import Piece
from handlers.core.model import File
from handlers.core.spans import Span

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Copy(Struct, frozen=True):
    """A dataset of a release on one volume, and the files that it should have."""

    volume: str
    piece: Piece
    files: Sequence[File]


class Unit(Struct, frozen=True):
    """What is compared at once: a chunk (`span`), or a whole file (None)."""

    copy: Copy
    file: File
    span: Span | None

    @property
    def bytes(self) -> int:
        """How much is read; nothing where only the size can be compared."""
        if self.span:
            return self.span[1] - self.span[0]
        return self.file.size if self.file.check else 0


class Damage(Struct, frozen=True):
    """Something that is not as the release says; `span` where only a chunk is."""

    copy: Copy
    path: str
    what: str
    span: Span | None = None


def units(copy: Copy) -> Iterator[Unit]:
    """All of a dataset, unit by unit."""
    for file in copy.files:
        check = integrity.parse(file.check, file.size)
        if check is None or check.kind != "blake3":
            yield Unit(copy, file, None)
            continue
        for start in range(0, max(1, file.size), check.unit):
            yield Unit(copy, file, (start, min(start + check.unit, file.size)))


def damage(volumes: Volumes, unit: Unit, on_bytes: Callable[[int], None]) -> Damage | None:
    """What is wrong with a unit; None when nothing is, or when its dataset was removed meanwhile."""
    copy, file = unit.copy, unit.file
    above, _, name = file.path.rpartition("/")
    try:
        with volumes.data(copy.volume, copy.piece, above.split("/") if above else []) as folder:
            fd = os.open(name, _READ, dir_fd=folder.fd)
        try:
            return _compared(unit, fd, on_bytes)
        finally:
            os.close(fd)
    except FileNotFoundError:
        return Damage(copy, file.path, "is missing") if exists(volumes, copy) else None
    except OSError as e:
        return Damage(copy, file.path, f"cannot be read: {e.strerror}", unit.span)


def strangers(volumes: Volumes, copy: Copy) -> list[Damage]:
    """Files in a dataset that its release does not name."""
    known = {file.path for file in copy.files}
    found: list[str] = []
    with contextlib.suppress(FileNotFoundError), volumes.data(copy.volume, copy.piece) as folder:
        _walk(folder, "", found)
    return [Damage(copy, path, "is not of this release") for path in found if path not in known]


def exists(volumes: Volumes, copy: Copy) -> bool:
    """Whether the dataset is (still) here."""
    try:
        volumes.data(copy.volume, copy.piece).close()
    except FileNotFoundError:
        return False
    return True


def _compared(unit: Unit, fd: int, on_bytes: Callable[[int], None]) -> Damage | None:
    copy, file, info = unit.copy, unit.file, os.fstat(fd)
    if not stat.S_ISREG(info.st_mode):
        return Damage(copy, file.path, "is no file")
    if info.st_size != file.size:
        return Damage(copy, file.path, f"has {info.st_size} bytes, the release names {file.size}")
    check = integrity.parse(file.check, file.size)
    if check is None:
        return None
    if unit.span is None:
        wrong = checks.wrong(fd, file.size, check, on_bytes)
        return Damage(copy, file.path, f"is not what its {check.kind} says") if wrong else None
    found = checks.chunk(fd, unit.span, on_bytes)
    if found == check.digest_of(unit.span[0] // check.unit):
        return None
    return Damage(copy, file.path, "is not what its digest says", unit.span)


def _walk(folder: Folder, above: str, found: list[str]) -> None:
    for name in folder.names():
        info = folder.stat(name)
        if info is None:
            continue
        if stat.S_ISDIR(info.st_mode):
            with folder.open([name]) as inner:
                _walk(inner, f"{above}{name}/", found)
        else:
            found.append(f"{above}{name}")
