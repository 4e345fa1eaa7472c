"""One dataset from the object store into its staging folder: parallel, resumable, checked, durable.

Files are fetched as ranges of at most 32 MiB by several threads, each into a part of its own; a file that
is whole is fsynced, made read-only and renamed to its name in the staging folder. So a staged file of the
right size is right, and a later try fetches only the others. Transient faults are waited out in here;
`Superseded` ends everything within a second, even where a thread is stuck in the network.
"""

from __future__ import annotations

import hashlib
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

from handlers.adapters.folder import Folder, disk_errors
from handlers.adapters.ports import Objects, Source
from handlers.core.errors import Integrity, Temporary
from handlers.core.model import File

RANGE_BYTES = 32 * 1024**2
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 10.0
PATIENCE_S = 300.0  # without one byte from anywhere, before a try counts as failed
_LEAVE_S = 0.8  # how long threads may take to notice that they are not wanted any more
_NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
DATA_FILE = 0o444


class Superseded(Exception):
    """The download was given up because it is not wanted any more; what is staged is kept."""


@dataclass(slots=True, eq=False)
class _Part:
    """A file being fetched: how many of its ranges are open, and the descriptor while there are any."""

    file: File
    ranges_left: int
    fd: int = -1
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True, slots=True)
class _Range:
    part: _Part
    start: int
    end: int


class Download:
    """Fetches the files of one dataset; `run` it once. Setting `stop`, from any thread, ends it.

    `folders` (finished files, parts) belong to it from now on: it closes them once no thread needs them.
    `on_bytes` is called from several threads with the bytes that arrived, and with those staged already.
    """

    def __init__(
        self,
        objects: Objects,
        source: Source,
        files: Sequence[File],
        folders: tuple[Folder, Folder],
        *,
        streams: int,
        on_bytes: Callable[[int], None],
        stop: threading.Event,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._objects, self._source, self._files = objects, source, files
        self._done, self._parts = folders
        self._streams, self._on_bytes, self._stop = streams, on_bytes, stop
        self._patience_s = patience_s
        self._queue: deque[_Range] = deque()
        self._changed = threading.Condition()
        self._open_parts: set[_Part] = set()
        self._working = 1  # `run` itself
        self._error: Exception | None = None
        self._last_byte = time.monotonic()

    def run(self) -> None:
        """Stage all files. Raises `Superseded`, or the first error that trying again at once cannot mend."""
        try:
            self._plan()
            self._last_byte = time.monotonic()
            for n in range(min(self._streams, len(self._queue))):
                # daemons: one that is stuck in the network must not keep the process from ending
                self._working += 1
                threading.Thread(target=self._work, name=f"download-{n}", daemon=True).start()
            self._wait()
            if self._error is not None:
                raise self._error
            if self._stop.is_set():
                raise Superseded
        finally:
            self._leave()

    def _plan(self) -> None:
        """Queue the ranges of all files that are not staged yet; make folders and empty files."""
        with disk_errors(f"staging of {self._source}"):
            for file in self._files:
                if _size(self._done, file.path) == file.size:
                    self._on_bytes(file.size)
                elif file.size == 0:
                    self._finish(self._open(_Part(file, 0)))
                else:
                    starts = range(0, file.size, RANGE_BYTES)
                    part = _Part(file, len(starts))
                    self._queue.extend(_Range(part, s, min(s + RANGE_BYTES, file.size)) for s in starts)

    def _wait(self) -> None:
        """Until all threads are done; after a stop or an error only for a moment."""
        with self._changed:
            while self._working > 1 and not self._leaving():
                self._changed.wait(0.25)
            self._changed.wait_for(lambda: self._working == 1, timeout=_LEAVE_S)

    def _work(self) -> None:
        """One thread: ranges from the queue until it is empty or somebody gives up."""
        try:
            while not self._leaving():
                try:
                    piece = self._queue.popleft()
                except IndexError:
                    return
                self._fetch(piece)
        except Superseded:
            return
        except Exception as e:  # noqa: BLE001 - raised again by `run`, in the thread that asked for the data
            with self._changed:
                self._error = self._error or e
        finally:
            self._leave()

    def _leave(self) -> None:
        """The last one to leave removes unfinished parts and closes the folders: nobody writes any more."""
        with self._changed:
            self._working -= 1
            self._changed.notify_all()
            if self._working:
                return
        for part in self._open_parts:
            os.close(part.fd)
            self._parts.remove(_part_name(part.file.path))
        self._done.close()
        self._parts.close()

    def _leaving(self) -> bool:
        return self._stop.is_set() or self._error is not None

    def _fetch(self, piece: _Range) -> None:
        part = piece.part
        with disk_errors(str(self._source.object_of(part.file.path))):
            with part.lock:
                if part.fd < 0:
                    self._open(part)
            at = piece.start
            for data in self._bytes(piece):
                at += _write(part.fd, data, at)
            with part.lock:
                part.ranges_left -= 1
                if not part.ranges_left:
                    self._finish(part)

    def _bytes(self, piece: _Range) -> Iterator[bytes]:
        """The bytes of a range; breaks are mended by asking for the rest after a pause with full jitter."""
        file, at, tries = piece.part.file, piece.start, 0
        source = self._source.object_of(file.path)
        while at < piece.end:
            try:
                for data in self._objects.read_range(source, file.etag, at, piece.end - at):
                    if self._leaving():
                        raise Superseded
                    if at + len(data) > piece.end:
                        raise Integrity(f"{source}: more bytes than the range that was asked for")
                    yield data
                    at, tries = at + len(data), 0
                    self._last_byte = time.monotonic()
                    self._on_bytes(len(data))
                if at < piece.end:
                    raise Temporary(f"{source}: the answer ended {piece.end - at} bytes early")
            except Temporary:
                if time.monotonic() - self._last_byte > self._patience_s:
                    raise
                pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**tries)
                tries = min(tries + 1, 10)
                self._stop.wait(random.uniform(0, pause_s))
            if self._leaving():
                raise Superseded

    def _open(self, part: _Part) -> _Part:
        part.fd = os.open(_part_name(part.file.path), _NEW_FILE, 0o600, dir_fd=self._parts.fd)
        self._open_parts.add(part)
        return part

    def _finish(self, part: _Part) -> None:
        """All bytes are written: check the size, make durable and read-only, rename into place."""
        path = part.file.path
        above, _, name = path.rpartition("/")
        size = os.fstat(part.fd).st_size
        if size != part.file.size:
            raise Integrity(
                f"{self._source} {path}: {size} bytes on disk, the release names {part.file.size}"
            )
        os.fchmod(part.fd, DATA_FILE)
        os.fsync(part.fd)
        self._open_parts.discard(part)
        os.close(part.fd)
        with self._done.open(above.split("/") if above else [], make=True) as folder:
            os.rename(_part_name(path), name, src_dir_fd=self._parts.fd, dst_dir_fd=folder.fd)


def footprint(files: Collection[File], size_of: Callable[[str], int | None], block: int) -> tuple[int, int]:
    """Bytes in whole blocks and inodes that a dataset still takes; `size_of`: of a path staged already."""
    left = [f for f in files if size_of(f.path) != f.size]
    folders = {f.path.rpartition("/")[0] for f in left}
    # an inode and a block for each folder above a file, and some for those of the dataset itself
    extra = sum(folder.count("/") + 1 for folder in folders if folder) + 8
    return sum(-(-f.size // block) * block for f in left) + extra * block, len(left) + extra


def _part_name(path: str) -> str:
    """A name for a part that no path of the dataset can have: parts live in a folder of their own."""
    return hashlib.sha256(path.encode("utf-8", "surrogatepass")).hexdigest()[:40]


def _size(top: Folder, path: str) -> int | None:
    above, _, name = path.rpartition("/")
    folder = top.find(above.split("/") if above else [])
    if folder is None:
        return None
    with folder:
        info = folder.stat(name)
    return info.st_size if info else None


def _write(fd: int, data: bytes, at: int) -> int:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, at)
        view, at = view[written:], at + written
    return len(data)
