"""Files that need not be fetched, because a complete release on this node has the same bytes.

A file with the same size and check is linked (copied where another volume has it). Of a file at the same path
with other content, the chunks that did not change are copied. Both only after the bytes on this disk were
compared with the check of the file that is wanted: a damaged release does not pass its damage on.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

from handlers.adapters import checks
from handlers.adapters.folder import Folder
from handlers.adapters.part import Part
from handlers.adapters.volume import Volumes
from handlers.core import integrity
from handlers.core.holdings import NOTHING, Piece, Space
from handlers.core.integrity import Level
from handlers.core.model import File, Manifest
from handlers.core.spans import Span
from handlers.core.version import ReleaseId


@dataclass(frozen=True, slots=True)
class Place:
    """A file of a complete dataset on a volume."""

    volume: str
    piece: Piece
    path: str
    size: int
    check: str


class Reuse:
    """What the complete releases of a node offer for the files of one dataset.

    `others` are their datasets, the most alike first, with their volume and list of files; they are looked at
    once, and of their files only what can serve is kept, since lists may be long.
    """

    def __init__(
        self,
        volumes: Volumes,
        piece: Piece,
        files: Collection[File],
        others: Iterable[tuple[Piece, str, Callable[[], Manifest | None]]],
    ) -> None:
        self._volumes = volumes
        wanted = {(f.size, f.check) for f in files if f.check and f.size}
        paths = {f.path for f in files if integrity.level_of(f.check) is Level.DIGEST}
        self._same: dict[tuple[int, str], Place] = {}
        self._older: dict[str, Place] = {}
        for other, volume, manifest in others:
            if wanted <= self._same.keys() or (listed := manifest()) is None:
                continue
            for file in listed.files.get(other.dataset, ()):
                place = Place(volume, other, file.path, file.size, file.check)
                if (file.size, file.check) in wanted:
                    self._same.setdefault((file.size, file.check), place)
                if file.path in paths and other.dataset == piece.dataset:
                    self._older.setdefault(file.path, place)

    @property
    def sources(self) -> frozenset[ReleaseId]:
        """The releases whose files would be linked."""
        return frozenset(place.piece.release for place in self._same.values())

    def saves(self, files: Iterable[File]) -> dict[str, Space]:
        """The room that links make unnecessary, by the volume where the other releases are."""
        saved: dict[str, Space] = {}
        for file in files:
            if place := self._same.get((file.size, file.check)):
                saved[place.volume] = saved.get(place.volume, NOTHING) + Space(file.size, 1)
        return saved

    def link(self, file: File, done: Folder, on_bytes: Callable[[int], None]) -> bool:
        """Give `file` a name among the finished ones, as a second name of equal bytes; False if none serves.

        Raises OSError where the disk fails, and what `on_bytes` raises.
        """
        place, check = self._same.get((file.size, file.check)), integrity.parse(file.check, file.size)
        if place is None or check is None:
            return False
        above, _, name = file.path.rpartition("/")
        with self._opened(place) as found:
            if found is None:
                return False
            folder, own, fd = found
            try:
                if checks.wrong(fd, file.size, check, on_bytes):
                    return False
                with done.open(above.split("/") if above else [], make=True) as target:
                    os.link(own, name, src_dir_fd=folder.fd, dst_dir_fd=target.fd, follow_symlinks=False)
            except OSError:  # unreadable, on another file system, with as many names as it can have
                return False
        return True

    def fill(self, part: Part, missing: list[Span], on_bytes: Callable[[int], None]) -> list[Span]:
        """Copy into `part` what an older or equal file has of the missing spans; those still missing."""
        file = part.file
        place = self._same.get((file.size, file.check)) or self._older.get(file.path)
        if place is None or not part.check:
            return missing
        with self._opened(place) as found:
            if found is None:
                return missing
            unchanged = _unchanged(part, place)
            return [s for s in missing if not (unchanged(s[0]) and _copied(found[2], part, s, on_bytes))]

    @contextlib.contextmanager
    def _opened(self, place: Place) -> Iterator[tuple[Folder, str, int] | None]:
        """The folder, name and descriptor of a file; None when it is gone meanwhile."""
        *above, name = place.path.split("/")
        with contextlib.ExitStack() as stack:
            try:
                folder = stack.enter_context(self._volumes.data(place.volume, place.piece, above))
                fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder.fd)
            except OSError:
                yield None
                return
            stack.callback(os.close, fd)
            yield folder, name, fd


def _unchanged(part: Part, place: Place) -> Callable[[int], bool]:
    """Whether the chunk beginning at a position has, by the lists of both files, the same bytes in both."""
    older = integrity.parse(place.check, place.size)
    if not part.chunked:
        return lambda _start: place.check == part.file.check and place.size == part.file.size
    if older is None or (older.kind, older.unit) != ("blake3", part.unit):
        return lambda _start: False
    return lambda start: older.digest_of(start // part.unit) == part.digest_at(start)


def _copied(fd: int, part: Part, span: Span, on_bytes: Callable[[int], None]) -> bool:
    """Copy one span; whether it is right. Where chunks have no digests, the end of the file will tell."""
    hasher, (at, end) = checks.blake3_hasher(), span
    for view in checks.read(fd, span, on_bytes):
        if part.chunked:
            hasher.update(view)
        part.write(view, at)
        at += len(view)
    return at == end and (not part.chunked or hasher.digest() == part.digest_at(span[0]))
