"""Takes over what `core.reuse` found in complete datasets that are here: links files, copies chunks.

A file with the same bytes is linked (copied where another volume has it). Of a file at the same path with
other content, the chunks that did not change are copied. Both only after the bytes on this disk were
compared with the check of the file that is wanted: a damaged release does not pass its damage on.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from msgspec import Struct

from handlers.adapters import checks
from handlers.adapters.folder import Folder
from handlers.adapters.part import Part
from handlers.core import integrity
from handlers.core.holdings import NOTHING, Piece, Space
from handlers.core.model import File, Manifest
from handlers.core.reuse import Held, Offers, unchanged
from handlers.core.spans import Span
from handlers.core.version import ReleaseId


class Complete(Struct, frozen=True):
    """A complete dataset: its volume, how a folder below it is opened, and its release's list of files."""

    piece: Piece
    volume: str
    folder: Callable[[Sequence[str]], Folder]
    manifest: Callable[[], Manifest | None]


class Reuse:
    """What complete datasets here offer for the files of the dataset `name`.

    `others` are looked at once, the most alike first.
    """

    def __init__(self, name: str, files: Collection[File], others: Iterable[Complete]) -> None:
        self._offers: Offers[Complete] = Offers(name, files)
        for other in others:
            if not self._offers.complete and (listed := other.manifest()):
                self._offers.add(other.piece.dataset, listed.files.get(other.piece.dataset, ()), other)

    @property
    def sources(self) -> frozenset[ReleaseId]:
        """The releases whose files would be linked."""
        return frozenset(where.piece.release for where in self._offers.used)

    def saves(self, files: Iterable[File]) -> dict[str, Space]:
        """The room that links make unnecessary, by the volume where the other releases are."""
        saved: dict[str, Space] = {}
        for file in files:
            if held := self._offers.same(file):
                volume = held.where.volume
                saved[volume] = saved.get(volume, NOTHING) + Space(file.size, 1)
        return saved

    def link(self, file: File, done: Folder, on_bytes: Callable[[int], None]) -> bool:
        """Give `file` a name among the finished ones, as a second name of equal bytes; False if none serves.

        Raises OSError where the disk fails, and what `on_bytes` raises.
        """
        held, check = self._offers.same(file), integrity.parse(file.check, file.size)
        if held is None or check is None:
            return False
        above, _, name = file.path.rpartition("/")
        with _opened(held) as found:
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
        held = self._offers.alike(part.file)
        if held is None or not part.check:
            return missing
        with _opened(held) as found:
            if found is None:
                return missing
            had, fd = unchanged(part.file, held.file), found[2]
            return [s for s in missing if not (had(s[0]) and _copied(fd, part, s, on_bytes))]


@contextlib.contextmanager
def _opened(held: Held[Complete]) -> Iterator[tuple[Folder, str, int] | None]:
    """The folder, name and descriptor of a file; None when it is gone meanwhile."""
    *above, name = held.file.path.split("/")
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(held.where.folder(above))
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder.fd)
        except OSError:
            yield None
            return
        stack.callback(os.close, fd)
        yield folder, name, fd


def _copied(fd: int, part: Part, span: Span, on_bytes: Callable[[int], None]) -> bool:
    """Copy one span; whether it is right. Where chunks have no digests, the end of the file will tell."""
    hasher, (at, end) = checks.blake3_hasher(), span
    for view in checks.read(fd, span, on_bytes):
        if part.chunked:
            hasher.update(view)
        part.write(view, at)
        at += len(view)
    return at == end and (not part.chunked or hasher.digest() == part.digest_at(span[0]))
