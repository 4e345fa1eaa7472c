"""One dataset from the object store into its staging folder: parallel, verified, resumable, durable.

Each file takes the shortest way: it is staged already, another release here has it, an earlier run or an
older file has some of its chunks, and only the rest is fetched, as ranges of at most 32 MiB by several
threads. Bytes are checked while they arrive, chunk by chunk where the release has digests of chunks, else
when the file is whole. A file that is right is made durable and read-only and gets its name in the staging
folder.

Transient faults are waited out in here; `Superseded` ends everything within a second, even where a thread is
stuck in the network. What is written stays for the next run.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
from collections.abc import Callable, Generator, Iterator, Sequence

from handlers.adapters import checks
from handlers.adapters.crew import Crew, Superseded, Task
from handlers.adapters.folder import Folder, disk_errors
from handlers.adapters.link import Link
from handlers.adapters.part import Part
from handlers.adapters.patience import Patience
from handlers.adapters.ports import Objects, Source
from handlers.adapters.reuse import Reuse
from handlers.core import integrity
from handlers.core.errors import Integrity, SlowDown, Temporary
from handlers.core.model import File
from handlers.core.spans import Span, ranges

RANGE_BYTES = 32 * 1024**2
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 10.0
PATIENCE_S = 300.0  # without one byte from anywhere, before a try counts as failed


class Download:
    """Fetches the files of one dataset; `run` it once. Setting `stop`, from any thread, ends it.

    `folders` (finished files, parts) belong to it from now on: it closes them once no thread needs them.
    `on_bytes` is called from several threads with the bytes that arrived, and with those that need not be
    fetched; `fetched` counts the former alone.
    """

    def __init__(
        self,
        objects: Objects,
        source: Source,
        files: Sequence[File],
        folders: tuple[Folder, Folder],
        *,
        link: Link,
        on_bytes: Callable[[int], None],
        stop: threading.Event,
        reuse: Reuse | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._objects, self._source, self._files = objects, source, files
        self._done, self._parts = folders
        self._link, self._on_bytes, self._stop, self._reuse = link, on_bytes, stop, reuse
        self._patience = Patience(patience_s)
        self._crew = Crew(stop, at_end=self._close)
        self._lock = threading.Lock()
        self._open: set[Part] = set()
        self.fetched = 0

    def run(self) -> None:
        """Stage all files. Raises `Superseded`, or the first error that trying again at once cannot mend."""
        self._crew.run(min(self._link.streams, self._streams_worth()), self._begin)

    def _begin(self) -> Iterator[Task]:
        with disk_errors(f"staging of {self._source}"):
            begun = bool(self._done.names() or self._parts.names())
        return (self._task_of(file, begun) for file in self._files)

    def _task_of(self, file: File, begun: bool) -> Task:
        return lambda: self._file(file, begun)

    def _streams_worth(self) -> int:
        return sum(-(-max(1, file.size) // RANGE_BYTES) for file in self._files)

    def _close(self) -> None:
        for part in self._open:
            part.close()
        self._done.close()
        self._parts.close()

    def _look(self, count: int) -> None:
        """Called with bytes that were read from disk: they show that it goes on, or that it need not."""
        if self._crew.leaving():
            raise Superseded
        if count:
            self._patience.came()

    def _file(self, file: File, begun: bool) -> None:
        """One file by the shortest way; what must be fetched of a large one becomes tasks of their own."""
        with disk_errors(str(self._source.object_of(file.path))):
            if begun and self._is_staged(file):
                self._on_bytes(file.size)
                return
            if file.size and self._reuse and self._reuse.link(file, self._done, self._look):
                self._on_bytes(file.size)
                return
            part = Part(file, self._parts)
            missing = part.open(self._look)
            with self._lock:
                self._open.add(part)
            if missing and self._reuse:
                missing = self._reuse.fill(part, missing, self._look)
            self._on_bytes(file.size - sum(end - start for start, end in missing))
            self._fetch_all(part, missing)

    def _is_staged(self, file: File) -> bool:
        """Whether an earlier run finished this file, and it is still right; one that is not is removed."""
        above, _, name = file.path.rpartition("/")
        folder = self._done.find(above.split("/") if above else [])
        if folder is None:
            return False
        with folder:
            info = folder.stat(name)
            if info is None:
                return False
            check = integrity.parse(file.check, file.size)
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder.fd)
            try:
                right = info.st_size == file.size and not (
                    check and checks.wrong(fd, file.size, check, self._look)
                )
            finally:
                os.close(fd)
            if not right:
                folder.remove(name)
            return right

    def _fetch_all(self, part: Part, missing: Sequence[Span]) -> None:
        """Fetch these spans; a small file at once, a large one range by range, by whoever is free."""
        wanted = list(ranges(missing, RANGE_BYTES))
        part.left = max(1, len(wanted))
        if len(wanted) > 1:
            self._crew.first([self._range_task(part, span) for span in wanted])
            return
        for span in wanted:
            self._range(part, span)
        if not wanted:
            self._ended(part)

    def _range_task(self, part: Part, span: Span) -> Task:
        return lambda: self._range(part, span)

    def _range(self, part: Part, span: Span) -> None:
        """Fetch one range; a chunk that is wrong once more. What cannot be right does not keep its room."""
        with disk_errors(str(self._source.object_of(part.file.path))):
            try:
                for bad in self._fetch(part, span):
                    if again := self._fetch(part, bad):
                        raise Integrity(self._wrong_chunk(part, again[0]))
                if part.file.size > RANGE_BYTES:
                    part.flush()
                self._ended(part)
            except Integrity:
                part.remove()
                raise

    def _ended(self, part: Part) -> None:
        """After each span of a file: the last one checks what can be checked only now, and finishes it."""
        if not part.ended():
            return
        if not part.is_wrong(self._look):
            with self._lock:
                self._open.discard(part)
            part.finish(self._done)
            return
        if part.again:
            name = self._source.object_of(part.file.path)
            raise Integrity(f"{name}: is not what the release says ({part.file.check}), fetched twice")
        part.again = True
        self._on_bytes(-part.file.size)
        self._fetch_all(part, [(0, part.file.size)])

    def _fetch(self, part: Part, span: Span) -> list[Span]:
        """Write the bytes of a span; the chunks of it that are not what their digests say."""
        wrong = []
        at, end = span
        hasher, first = checks.blake3_hasher() if part.chunked else None, at
        with contextlib.closing(self._pieces(part.file, at, end)) as pieces:
            for piece in pieces:
                view = piece
                while view:
                    now = view[: first + part.unit - at]
                    view = view[len(now) :]
                    if hasher is not None:
                        hasher.update(now)
                    part.write(now, at)
                    at += len(now)
                    if hasher is not None and (at == first + part.unit or at == end):
                        if hasher.digest() != part.digest_at(first):
                            wrong.append((first, at))
                        hasher, first = checks.blake3_hasher(), at
                    elif at == first + part.unit:
                        first = at
        return wrong

    def _pieces(self, file: File, at: int, end: int) -> Generator[memoryview]:
        """The bytes of a span; breaks are mended by asking for the rest after a pause with full jitter.

        A stream is held while an answer is read, not during the pauses.
        """
        source, tries = self._source.object_of(file.path), 0
        while at < end:
            pause_s = 0.0
            try:
                with self._link.stream(self._crew.leaving), self._patience.asking():
                    for view in self._objects.read_range(source, file.etag, at, end - at, file.version_id):
                        if self._crew.leaving():
                            raise Superseded
                        if at + len(view) > end:
                            raise Integrity(f"{source}: more bytes than the range that was asked for")
                        yield view
                        at, tries = at + len(view), 0
                        self._arrived(len(view))
                if at < end:
                    raise Temporary(f"{source}: the answer ended {end - at} bytes early")
                self._link.went_well()
            except Temporary as e:
                if self._patience.over():
                    raise
                if isinstance(e, SlowDown):
                    self._link.ease()
                    pause_s = e.pause_s
                longest_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**tries)
                tries = min(tries + 1, 10)
                with self._patience.asking():
                    self._stop.wait(pause_s + random.uniform(0, longest_s))
            if self._crew.leaving():
                raise Superseded

    def _arrived(self, count: int) -> None:
        self._patience.came()
        with self._lock:
            self.fetched += count
        self._on_bytes(count)
        self._link.pace(count, self._stop)
        self._patience.came()  # a line that we slow down ourselves is no store that is silent

    def _wrong_chunk(self, part: Part, span: Span) -> str:
        name, number = self._source.object_of(part.file.path), span[0] // part.unit
        found = checks.chunk(part.fd, span)
        return (
            f"{name}: chunk {number} (bytes {span[0]} to {span[1]}) has digest {found.hex()}, "
            f"the release names {part.digest_at(span[0]).hex()}; it was fetched twice"
        )
