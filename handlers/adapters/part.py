"""A file being fetched: its bytes on disk, what of them is known to be right, and which are still missing.

No journal says what an earlier run wrote. The file system knows which bytes were ever written, and the check
of the file tells whether they are right: at level `digest` chunk by chunk, else at the end for the whole.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import threading
from collections.abc import Callable, Iterator

from handlers.adapters import checks
from handlers.adapters.folder import Folder
from handlers.core import integrity
from handlers.core.integrity import CHUNK_BYTES
from handlers.core.model import File
from handlers.core.spans import Span

DATA_FILE = 0o444
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class Part:
    """One file in the folder for parts; use it from several threads, `open` first.

    `left` counts the spans that are being fetched, `again` says whether the whole file was wrong once.
    """

    def __init__(self, file: File, folder: Folder) -> None:
        self.file, self._folder, self._name = file, folder, part_name(file)
        self.check = integrity.parse(file.check, file.size)
        self.unit = self.check.unit if self.chunked and self.check else CHUNK_BYTES
        self.fd = -1
        self.left = 0
        self.again = False
        self._lock = threading.Lock()

    @property
    def chunked(self) -> bool:
        """Whether each chunk has a digest of its own."""
        return self.check is not None and self.check.kind == "blake3"

    def open(self, on_bytes: Callable[[int], None]) -> list[Span]:
        """Open or make the file; the spans of whole chunks that are missing or wrong in it.

        Without a check nothing could tell whether what is there is right, so such a file begins anew.
        """
        written: list[Span] = []
        try:
            self.fd = os.open(self._name, _FLAGS | os.O_EXCL, 0o600, dir_fd=self._folder.fd)
        except FileExistsError:
            self.fd = os.open(self._name, _FLAGS, 0o600, dir_fd=self._folder.fd)
            os.ftruncate(self.fd, self.file.size if self.check else 0)
            written = list(_written(self.fd))
        return [span for span in self._chunks() if not self._has(span, written, on_bytes)]

    def digest_at(self, start: int) -> bytes:
        """The digest that the chunk beginning at `start` must have."""
        assert self.check is not None
        return self.check.digest_of(start // self.unit)

    def write(self, view: memoryview, at: int) -> None:
        """Write all of `view` at a position."""
        while view:
            count = os.pwrite(self.fd, view, at)
            view, at = view[count:], at + count

    def flush(self) -> None:
        """Begin early to make durable what a large file has: its end need not wait for everything."""
        os.fdatasync(self.fd)

    def ended(self) -> bool:
        """One of the spans is done; whether it was the last one."""
        with self._lock:
            self.left -= 1
            return not self.left

    def is_wrong(self, on_bytes: Callable[[int], None]) -> bool:
        """Whether a file that is checked as a whole is not what it should be."""
        if self.chunked:
            return False  # each chunk was looked at when it came
        if self.check is None:
            return os.fstat(self.fd).st_size != self.file.size
        return bool(checks.wrong(self.fd, self.file.size, self.check, on_bytes))

    def finish(self, done: Folder) -> None:
        """Make it durable and read-only, and give it its name among the finished files."""
        above, _, name = self.file.path.rpartition("/")
        os.fchmod(self.fd, DATA_FILE)
        os.fsync(self.fd)
        self.close()
        if not above:
            os.rename(self._name, name, src_dir_fd=self._folder.fd, dst_dir_fd=done.fd)
            return
        with done.open(above.split("/"), make=True) as folder:
            os.rename(self._name, name, src_dir_fd=self._folder.fd, dst_dir_fd=folder.fd)

    def remove(self) -> None:
        """Give its name and its room back; whoever still writes to it does no harm."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._name, dir_fd=self._folder.fd)

    def close(self) -> None:
        """Close it; what was written stays."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _chunks(self) -> Iterator[Span]:
        size, unit = self.file.size, self.unit
        return ((at, min(at + unit, size)) for at in range(0, size, unit))

    def _has(self, span: Span, written: list[Span], on_bytes: Callable[[int], None]) -> bool:
        """Whether a chunk was written; and right, where it has a digest."""
        start, end = span
        if not any(first <= start and end <= last for first, last in written):
            return False
        if not self.chunked:
            return True
        return checks.chunk(self.fd, span, on_bytes) == self.digest_at(start)


def part_name(file: File) -> str:
    """A name that no path of the dataset has, and that other content under the same path does not get."""
    what = f"{file.path}\0{file.size}\0{file.etag}\0{file.check}"
    return hashlib.sha256(what.encode("utf-8", "surrogatepass")).hexdigest()[:40]


def _written(fd: int) -> Iterator[Span]:
    """The spans that were ever written; holes are what never was."""
    at = 0
    while True:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
            at = os.lseek(fd, start, os.SEEK_HOLE)
        except OSError as e:
            if e.errno in (errno.ENXIO, errno.EINVAL):  # no data behind `at`; no such question here
                return
            raise
        yield start, at
