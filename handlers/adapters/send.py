"""Sends local files to an object store, each byte hashed as it is sent, and goes on where a dead run stopped.

Used by `hydra push`. A file that is there already with the same content is not sent again; of a large one
only the parts that are missing. What is said of a file is computed from the very bytes that were sent, and a
file that changes meanwhile is an error: so the manifest object never claims what nobody has.
"""

from __future__ import annotations

import base64
import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from msgspec import Struct

from handlers.adapters import checks
from handlers.adapters.parallel import at_once
from handlers.adapters.ports import Body, ObjectInfo, PartOf, Source, Uploads
from handlers.core import integrity
from handlers.core.errors import Conflict, Denied, SourceNotReady, Usage
from handlers.core.integrity import CHUNK_BYTES, blake3_check
from handlers.core.model import File
from handlers.core.stored import Stored, check_of

PART_BYTES = 2 * CHUNK_BYTES
MOST_PARTS = 10_000  # that S3 takes
MEMORY_BYTES = 512 * 1024**2  # of parts on their way at once


class Local(Struct, frozen=True):
    """A file to send, as it was found: `path` below the dataset, `stamp` tells another content."""

    path: str
    real: Path
    size: int
    stamp: tuple[int, int]

    @classmethod
    def of(cls, path: str, real: Path) -> Local:
        """The regular file `real`; raises `Usage`."""
        try:
            found = os.lstat(real)
        except OSError as e:
            raise Usage(f"{real}: {e.strerror}") from None
        if stat.S_ISLNK(found.st_mode):
            raise Usage(f"{real} is a symbolic link: only files can be pushed; put the file itself there")
        if not stat.S_ISREG(found.st_mode):
            raise Usage(f"{real} is neither a file nor a folder: only files can be pushed")
        return cls(path, real, found.st_size, _stamp(found))


class Job(Struct, frozen=True):
    """A file and where it goes; `there`: the object that is there, None = none.

    `may_replace`: an object with other content is what a push left that did not end.
    """

    local: Local
    to: Source
    there: ObjectInfo | None = None
    may_replace: bool = False

    @property
    def over(self) -> str:
        """The ETag of what may be replaced: somebody else may be at work, whose objects must stay."""
        return self.there.etag if self.there else ""


class Sent(Struct, frozen=True):
    """A file as it is in the store, and how many of its bytes this run has sent."""

    file: File
    bytes: int


class Sender:
    """Sends files with up to `streams` requests at once; `moved` is told the bytes that are done with."""

    def __init__(self, uploads: Uploads, *, streams: int, moved: Callable[[int], None]) -> None:
        self._uploads, self._streams, self._moved = uploads, streams, moved

    def send(self, jobs: Sequence[Job]) -> list[Sent]:
        """Send all, large files one after the other in parallel parts, then small ones side by side.

        Raises `Conflict` where other content is in the way, `SourceNotReady` where a file changes.
        """
        done: dict[str, Sent] = {}
        for job in jobs:
            if job.local.size > PART_BYTES:
                done[job.local.path] = self._large(job)
        small = [job for job in jobs if job.local.size <= PART_BYTES]
        for job, sent in zip(small, at_once(self._small, small, self._streams), strict=True):
            done[job.local.path] = sent
        return [done[job.local.path] for job in jobs]

    def _small(self, job: Job) -> Sent:
        with _opened(job.local) as fd:
            if known := self._there(job, fd):
                return known
            body = _bytes(job.local, fd, 0, job.local.size)
            digests, crc = _hashed(body)
            stored = self._kept(
                job, _text(crc), lambda: self._uploads.write(job.to, body, _text(crc), over=job.over)
            )
        self._moved(job.local.size)
        return Sent(_file(job.local, stored, digests), job.local.size)

    def _large(self, job: Job) -> Sent:
        from awscrt.checksums import combine_crc64nvme

        local, unit = job.local, _part_bytes(job.local.size)
        with _opened(local) as fd:
            if known := self._there(job, fd):
                return known
            upload, begun = self._begun(job.to)
            have = {part.number: part for part in begun}

            def one(number: int) -> tuple[PartOf, list[bytes], int, bool]:
                start = (number - 1) * unit
                body = _bytes(local, fd, start, min(unit, local.size - start))
                digests, crc = _hashed(body)
                part = have.get(number)
                again = part is not None and (part.size, part.crc) == (len(body), _text(crc))
                if part is None or not again:
                    part = self._uploads.write_part(job.to, upload, number, body, _text(crc))
                self._moved(part.size)
                return part, digests, crc, again

            streams = max(1, min(self._streams, MEMORY_BYTES // unit))
            rows = at_once(one, range(1, -(-local.size // unit) + 1), streams)
        whole = 0
        for part, _, crc, _ in rows:
            whole = combine_crc64nvme(whole, crc, part.size)
        made = [row[0] for row in rows]
        stored = self._kept(
            job, _text(whole), lambda: self._uploads.finish(job.to, upload, made, _text(whole), over=job.over)
        )
        sent = sum(part.size for part, _, _, again in rows if not again)
        return Sent(_file(local, stored, [digest for row in rows for digest in row[1]]), sent)

    def _kept(self, job: Job, crc: str, write: Callable[[], Stored]) -> Stored:
        """Write; what is there meanwhile is fine where it is the same: a lost answer may have been a yes."""
        try:
            return write()
        except Conflict:
            there = self._uploads.stored(job.to)
            if (there.size, there.checksums.get("crc64nvme")) != (job.local.size, crc):
                raise Conflict(
                    f"{job.to} was written by somebody else meanwhile, with other content than "
                    f"{job.local.real}: push it as a new version"
                ) from None
            return there

    def _begun(self, to: Source) -> tuple[str, Sequence[PartOf]]:
        """The upload to go on with, or a new one."""
        with contextlib.suppress(Denied):  # whoever may write need not be allowed to list uploads
            upload, parts = self._uploads.begun(to)
            if upload:
                return upload, parts
        return self._uploads.begin(to), ()

    def _there(self, job: Job, fd: int) -> Sent | None:
        """The file as it is in the store already; None = it must be sent."""
        if job.there is None:
            return None
        local = job.local
        if job.there.size == local.size:
            stored = self._uploads.stored(job.to)
            check = integrity.parse(check_of(stored), local.size)
            if check is not None and not checks.wrong(fd, local.size, check):
                self._moved(local.size)
                return Sent(_file(local, stored, checks.digests(fd, local.size)), 0)
        if not job.may_replace:
            raise Conflict(
                f"{job.to} is there with other content than {local.real}: what was pushed never changes; "
                "push it as a new version"
            )
        return None


def crc64nvme(body: Body) -> str:
    """The CRC64NVME of a small body, in base64."""
    return _text(_hashed(body)[1])


def _file(local: Local, stored: Stored, digests: Iterable[bytes]) -> File:
    return File(local.path, local.size, stored.etag, blake3_check(digests), stored.version_id)


def _part_bytes(size: int) -> int:
    """The size of the parts of a file: whole chunks, as few of them as fit into an upload."""
    return max(PART_BYTES, -(-size // (MOST_PARTS * CHUNK_BYTES)) * CHUNK_BYTES)


@contextlib.contextmanager
def _opened(local: Local) -> Iterator[int]:
    """The file open for reading; it must be, and stay, what was found."""
    try:
        fd = os.open(local.real, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as e:
        raise Usage(f"{local.real}: cannot be read ({e.strerror})") from None
    try:
        _refuse_change(local, fd)
        yield fd
        _refuse_change(local, fd)
    except OSError as e:
        raise Usage(f"{local.real}: cannot be read ({e.strerror})") from None
    finally:
        os.close(fd)


def _refuse_change(local: Local, fd: int) -> None:
    found = os.fstat(fd)
    if (found.st_size, _stamp(found)) != (local.size, local.stamp):
        raise _changed(local)


def _changed(local: Local) -> SourceNotReady:
    return SourceNotReady(
        f"{local.real} changes while it is pushed: push it again when nobody writes to it any more"
    )


def _stamp(found: os.stat_result) -> tuple[int, int]:
    return found.st_ino, found.st_mtime_ns


def _bytes(local: Local, fd: int, start: int, length: int) -> bytearray:
    body = bytearray(length)
    view, at = memoryview(body), 0
    while at < length:
        count = os.preadv(fd, [view[at:]], start + at)
        if not count:
            raise _changed(local)
        at += count
    view.release()
    return body


def _hashed(body: Body) -> tuple[list[bytes], int]:
    """The digests of the chunks, and the CRC64NVME of all."""
    from awscrt import checksums

    view, digests = memoryview(body), []
    for start in range(0, max(1, len(body)), CHUNK_BYTES):
        hasher = checks.blake3_hasher()
        hasher.update(view[start : start + CHUNK_BYTES])
        digests.append(bytes(hasher.digest()))
    return digests, checksums.crc64nvme(view)


def _text(crc: int) -> str:
    return base64.b64encode(crc.to_bytes(8, "big")).decode()
