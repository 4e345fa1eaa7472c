"""The RAM copies of datasets: filled from the disk copies, dropped again; the links of releases follow.

    volumes/<ram>/data/<c>/<version>/<dataset>/                    a copy; existing means complete
    releases/<c>/<version>/<dataset> -> …/volumes/<volume>/data/…  re-pointed by renaming a new link over it

A link never points to a copy that is not there: it is re-pointed after the fill and before the drop, and
first thing after a boot, when RAM is empty. Used by `reload`, the only one that fills RAM.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from handlers.adapters.folder import RELEASE_DEPTH, Folder, disk_errors, each, release_at
from handlers.adapters.rooms import Rooms
from handlers.adapters.taking import Taking
from handlers.adapters.volume import DATA_FILE, TRASH, Volumes
from handlers.core.errors import Integrity, NoRoom, Temporary
from handlers.core.holdings import Piece
from handlers.core.model import RAM, VolumeInfo
from handlers.core.version import ReleaseId

_BLOCK = 4096
_CHUNK = 8 << 20


class RamCache:
    """The RAM volume of one node; without one, nothing is ever in RAM."""

    def __init__(self, root: Path, volumes: Mapping[str, VolumeInfo]) -> None:
        self._root, self._volumes = root, Volumes(root, volumes)
        self._taking = Taking(root, "reload")
        self._rooms = Rooms(self._volumes, self._taking)
        self._ram = next((name for name, info in volumes.items() if info.cls == RAM), "")
        self._disks = [name for name, info in volumes.items() if info.cls != RAM]

    def copies(self) -> frozenset[Piece]:
        """All complete copies, also one that its release does not point to (yet, or any more)."""
        if not self._ram:
            return frozenset()
        with disk_errors(f"volume {self._ram}"), self._top() as top:
            data = top.find(["volumes", self._ram, "data"])
            if data is None:
                return frozenset()
            with data:
                return frozenset(
                    Piece(release, dataset)
                    for *where, dataset in each(data, RELEASE_DEPTH + 1)
                    if (release := release_at(where)) is not None
                )

    def linked(self, piece: Piece) -> bool:
        """Whether whoever opens this dataset now reads from RAM."""
        return bool(self._ram) and self._target(piece) == self._link(piece, self._ram)

    def repair(self) -> list[Piece]:
        """Point links to copies that are gone back to the disk; which those were."""
        gone = [p for p in self._published() if self.linked(p) and not self._folder(self._ram, p).is_dir()]
        for piece in gone:
            self._point_to_disk(piece)
        return gone

    def room(self) -> int:
        """Bytes that may still be taken: of the budget, and of what is free above the reserve."""
        return self._rooms.space(self._ram).bytes if self._ram else 0

    def size(self, piece: Piece) -> int | None:
        """Bytes that a copy would take; None while the release is not complete on this node."""
        disk = self._disk(piece)
        if disk is None or self._target(piece) == "":
            return None
        with disk_errors(f"data of {piece.release} {piece.dataset}"):
            return sum(-(-file.stat().st_size // _BLOCK) * _BLOCK for file in _files(disk)) + _BLOCK

    def fill(self, piece: Piece, stop: Callable[[], bool] = lambda: False) -> None:
        """Copy a dataset into RAM, check its sizes, then let the release's link point there.

        Raises `Temporary` when there is no room or `stop` says so; what was begun is removed then.
        """
        source = self._disk(piece)
        if source is None or not self._ram:
            raise Temporary(f"{piece.release} {piece.dataset}: no disk copy, or no RAM volume")
        if not self._folder(self._ram, piece).is_dir():
            self._forget_staged(piece)
            try:
                with self._claimed(piece) as left:
                    self._copy(piece, source, stop, left)
            except BaseException:
                self._forget_staged(piece)
                raise
        self._point(piece, self._ram)

    def drop(self, piece: Piece) -> None:
        """Point the release's link back to the disk, then remove the copy."""
        if self.linked(piece):
            self._point_to_disk(piece)
        with disk_errors(f"RAM copy of {piece.release} {piece.dataset}"), self._top() as top:
            where = ["volumes", self._ram, "data", *_parts(piece.release)]
            above = top.find(where)
            if above is not None:
                with above, top.open(["volumes", self._ram, "staging", TRASH], make=True) as trash:
                    above.discard(piece.dataset, trash)
            with top.open(["volumes", self._ram, "data"], make=True) as data:
                data.prune(_parts(piece.release))

    @contextlib.contextmanager
    def _claimed(self, piece: Piece) -> Iterator[Callable[[int], None]]:
        """Keep others from the room of a copy; is told the bytes of it that have come. Raises `NoRoom`."""
        device, size = self._rooms.device(self._ram), self.size(piece) or 0

        def came(count: int) -> None:
            nonlocal size
            size = max(0, size - count)
            self._taking.left({device: size})

        try:
            if not self._taking.claim({device: size}, lambda _: self._rooms.above_reserve(self._ram).bytes):
                raise NoRoom(f"{piece.release} {piece.dataset}: takes {size} bytes, others take what is free")
            yield came
        finally:
            self._taking.end()

    def _copy(
        self, piece: Piece, source: Path, stop: Callable[[], bool], came: Callable[[int], None]
    ) -> None:
        what = f"RAM copy of {piece.release} {piece.dataset}"
        done, parts = self._volumes.stage(self._ram, piece)
        parts.close()
        with done, disk_errors(what):
            for file in _files(source):
                if stop():
                    raise Temporary(f"{what}: not wanted any more")
                *above, name = file.relative_to(source).parts
                with done.open(above, make=True) as folder:
                    came(_copy_file(file, folder, name, what))
        self._volumes.complete(self._ram, piece)

    def _forget_staged(self, piece: Piece) -> None:
        with disk_errors(f"volume {self._ram}"), self._top() as top:
            above = top.find(["volumes", self._ram, "staging", *_parts(piece.release)])
            if above is not None:
                with above:
                    above.remove(piece.dataset)

    def _point_to_disk(self, piece: Piece) -> None:
        disk = next((v for v in self._disks if self._folder(v, piece).is_dir()), None)
        if disk is not None:  # without a disk copy the release is being removed, its link with it
            self._point(piece, disk)

    def _point(self, piece: Piece, volume: str) -> None:
        with disk_errors(f"releases of {piece.release}"), self._top() as top:
            release = top.find(["releases", *_parts(piece.release)])
            if release is None:
                raise Temporary(f"{piece.release} was withdrawn meanwhile")
            with release:
                aside = f".{secrets.token_hex(8)}"
                os.symlink(self._link(piece, volume), aside, dir_fd=release.fd)
                os.rename(aside, piece.dataset, src_dir_fd=release.fd, dst_dir_fd=release.fd)
                for name in release.names():  # what a crash between these two lines left
                    if name.startswith("."):
                        release.remove(name)
                release.sync()

    def _published(self) -> Iterator[Piece]:
        with disk_errors("releases"), self._top() as top:
            releases = top.find(["releases"])
            if releases is None:
                return
            with releases:
                found = [r for parts in each(releases, RELEASE_DEPTH) if (r := release_at(parts)) is not None]
        for release in found:
            with contextlib.suppress(FileNotFoundError):  # withdrawn meanwhile
                for link in (self._root / "releases" / release.channel / release.version).iterdir():
                    if not link.name.startswith("."):
                        yield Piece(release, link.name)

    def _target(self, piece: Piece) -> str:
        """Where the link of the dataset points; empty when the release is not complete here."""
        release = self._root.joinpath("releases", *_parts(piece.release))
        try:
            return str((release / piece.dataset).readlink())
        except OSError:
            return ""

    def _link(self, piece: Piece, volume: str) -> str:
        return "/".join([*[".."] * 5, "volumes", volume, "data", *_parts(piece.release), piece.dataset])

    def _disk(self, piece: Piece) -> Path | None:
        return next((f for v in self._disks if (f := self._folder(v, piece)).is_dir()), None)

    def _folder(self, volume: str, piece: Piece) -> Path:
        return self._root.joinpath("volumes", volume, "data", *_parts(piece.release), piece.dataset)

    def _top(self) -> Folder:
        return Folder.of(self._root.resolve())


def _parts(release: ReleaseId) -> list[str]:
    return [*release.channel.split("/"), release.version]


def _files(folder: Path) -> Iterator[Path]:
    for where, _, names in os.walk(folder):
        yield from (Path(where, name) for name in names)


def _copy_file(source: Path, folder: Folder, name: str, what: str) -> int:
    """One file, durable and read-only; its bytes. Raises `Integrity` when it does not arrive whole."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    fd = os.open(name, flags, 0o600, dir_fd=folder.fd)
    with os.fdopen(fd, "wb") as writer, source.open("rb") as reader:
        size = os.fstat(reader.fileno()).st_size
        copied = 0
        while sent := os.sendfile(writer.fileno(), reader.fileno(), None, _CHUNK):
            copied += sent
        if copied != size:
            raise Integrity(f"{what}: {source.name} has {size} bytes, {copied} arrived")
        os.fchmod(writer.fileno(), DATA_FILE)
        os.fsync(writer.fileno())
    return size
