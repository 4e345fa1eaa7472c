"""`file://`: files of this machine or of a mounted share as an object store, below a folder that a row names.

A file has no ETag, so its size, its time and its inode stand for one: whoever replaces or rewrites it changes
that. Links are not followed below the folder that the row names, so nothing outside of it is ever read.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from handlers.adapters.folder import Folder
from handlers.adapters.ports import ObjectInfo, Source, read_object
from handlers.core.errors import Conflict, Denied, Integrity, SourceNotReady, Temporary, Usage

_READ_BYTES = 1024**2
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class FileObjects:
    """`ports.Objects` over the folder `top`, a row of the table of sources."""

    def __init__(self, top: Path) -> None:
        self._top = top
        self._skip = len(str(top).strip("/")) + 1  # what keys have before the path below `top`

    def head(self, source: Source) -> ObjectInfo:
        """Size and what stands for an ETag; `SourceNotReady` when there is no such file."""
        with _errors(source), self._open(source) as fd:
            return _info(source.key, os.fstat(fd))

    def list(self, source: Source) -> Iterator[ObjectInfo]:
        """All files below the folder, in key order.

        A link or a device in it is a `Usage` error: leaving it out would make an incomplete dataset.
        """
        found: list[ObjectInfo] = []
        with _errors(source), self._folder(source.key) as folder:
            if folder is not None:
                _walk(folder, source, source.key, found)
        yield from sorted(found, key=lambda info: info.key)

    def folders(self, source: Source) -> Iterator[str]:
        """The names directly below the folder."""
        with _errors(source), self._folder(source.key) as folder:
            names = folder.names() if folder is not None else []
        yield from names

    def read_range(
        self, source: Source, etag: str, start: int, length: int, version_id: str = ""
    ) -> Iterator[memoryview]:
        """As `ports.Objects.read_range`; a file that changes meanwhile is `Integrity`."""
        del version_id
        buffer = memoryview(bytearray(min(_READ_BYTES, max(1, length))))
        at, end = start, start + length
        with _errors(source), self._open(source) as fd:
            _check(source, etag, fd)
            if os.fstat(fd).st_size < end:
                raise Integrity(f"{source}: has not the size that the release names")
            while at < end:
                count = os.preadv(fd, [buffer[: min(len(buffer), end - at)]], at)
                _check(source, etag, fd)
                if not count:
                    raise Integrity(f"{source}: became shorter while it was read")
                yield buffer[:count]
                at += count

    def put(self, source: Source, body: bytes) -> None:
        """Write a small file; `Conflict` when it exists with other content, nothing when it is the same."""
        *above, name = source.key[self._skip :].split("/")
        fresh = f".{secrets.token_hex(8)}"
        with _errors(source), Folder.of(self._top) as top, top.open(above, make=True) as folder:
            try:
                with os.fdopen(os.open(fresh, _NEW, 0o644, dir_fd=folder.fd), "wb") as file:
                    file.write(body)
                    file.flush()
                    os.fsync(file.fileno())
                with contextlib.suppress(FileExistsError):
                    os.link(fresh, name, src_dir_fd=folder.fd, dst_dir_fd=folder.fd)
            finally:
                folder.remove(fresh)
            folder.sync()
        if read_object(self, source, self.head(source)) != body:
            raise Conflict(f"{source}: exists already with other content")

    @contextlib.contextmanager
    def _folder(self, key: str) -> Iterator[Folder | None]:
        """The folder of a prefix; None when it is not there."""
        if not self._top.is_dir():
            raise SourceNotReady(f"file://{self._top}/: no such folder on this machine")
        parts = [part for part in key[self._skip :].split("/") if part]
        with Folder.of(self._top) as top:
            folder = top.find(parts)
            try:
                yield folder
            finally:
                if folder is not None:
                    folder.close()

    @contextlib.contextmanager
    def _open(self, source: Source) -> Iterator[int]:
        above, _, name = source.key.rpartition("/")
        with self._folder(above) as folder:
            if folder is None:
                raise SourceNotReady(f"{source}: no such file")
            fd = os.open(name, _READ, dir_fd=folder.fd)
            try:
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise SourceNotReady(f"{source}: is no file")
                yield fd
            finally:
                os.close(fd)


def _walk(folder: Folder, source: Source, key: str, found: list[ObjectInfo]) -> None:
    for name in folder.names():
        try:
            name.encode()
        except UnicodeEncodeError:
            raise Usage(f"{source}: {name!r} is not UTF-8") from None
        info = folder.stat(name)
        if info is None:
            continue  # it was taken away meanwhile
        if stat.S_ISDIR(info.st_mode):
            with folder.open([name]) as inner:
                _walk(inner, source, f"{key}{name}/", found)
        elif stat.S_ISREG(info.st_mode):
            found.append(_info(f"{key}{name}", info))
        else:
            raise Usage(f"{source}: {key}{name} is neither file nor folder; links are not followed")


def _info(key: str, info: os.stat_result) -> ObjectInfo:
    return ObjectInfo(key, info.st_size, f"{info.st_size:x}-{info.st_mtime_ns:x}-{info.st_ino:x}")


def _check(source: Source, etag: str, fd: int) -> None:
    if (now := _info(source.key, os.fstat(fd)).etag) != etag:
        raise Integrity(f"{source}: is {now} now, the release names {etag}: it was replaced")


@contextlib.contextmanager
def _errors(source: Source) -> Iterator[None]:
    """Turn disk errors into ours."""
    try:
        yield
    except FileNotFoundError:
        raise SourceNotReady(f"{source}: no such file") from None
    except PermissionError as e:
        raise Denied(f"{source}: {e.strerror}") from None
    except (NotADirectoryError, IsADirectoryError) as e:
        raise SourceNotReady(f"{source}: {e.strerror}") from None
    except OSError as e:
        if e.errno == errno.ELOOP:
            raise Usage(f"{source}: there is a link on the way; links are not followed") from None
        raise Temporary(f"{source}: {e.strerror}") from e
