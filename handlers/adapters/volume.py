"""A node's volumes: where data is staged, completed, published, and taken away again.

    volumes/<volume>/staging/<c>/<version>/<dataset>/…            finished files of a dataset being fetched
    volumes/<volume>/staging/<c>/<version>/.parts/<dataset>/…     files being fetched
    volumes/<volume>/staging/.trash/<random>                      renamed away, being deleted
    volumes/<volume>/data/<c>/<version>/<dataset>/…               complete and read-only
    releases/<c>/<version>/<dataset> -> ../../../../../volumes/…  all datasets complete; one rename

Everything public appears and goes by one rename on its own file system, so a crash leaves staging and trash
only, which `sweep` deletes. Used by the `sync` handler.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from handlers.adapters.folder import RELEASE_DEPTH, Folder, disk_errors, drop_empty, each, release_at
from handlers.adapters.part import part_name
from handlers.core.errors import HydraError
from handlers.core.holdings import Inventory, Piece
from handlers.core.model import RAM, File, VolumeInfo
from handlers.core.names import check_word
from handlers.core.version import ReleaseId

TRASH = ".trash"
PARTS = ".parts"
DATA_FILE, DATA_FOLDER = 0o444, 0o555


class Volumes:
    """The folders for data below one root. Volumes are folders or mounts, never links."""

    def __init__(self, root: Path, volumes: Mapping[str, VolumeInfo]) -> None:
        for name in volumes:
            check_word(name, "volume")
        self.root = root
        self.volumes = volumes
        # downloads run side by side: one must not prune the empty folders in which the other begins
        self._tree = threading.RLock()

    def prepare(self) -> None:
        """Make the folders, delete what a crash left in the trash. Call it first, in the handler's turn."""
        with disk_errors(f"{self.root}"):
            self.root.mkdir(parents=True, exist_ok=True)
            for name in self.volumes:
                if (place := self.root / "volumes" / name).is_symlink():
                    raise HydraError(
                        f"volume {name}: {place} is a link; a volume is a folder, or mounted there"
                    )
                with self.folder(name, "staging", TRASH, make=True) as trash:
                    _empty(trash)
                self.folder(name, "data", make=True).close()
            with self._below("releases", TRASH, make=True) as trash:
                _empty(trash)
            lasting = [("volumes", name, area) for name in self.lasting() for area in ("data", "staging")]
            for parts in [("releases",), *lasting]:
                with self._below(*parts) as top:
                    drop_empty(top, RELEASE_DEPTH)

    @property
    def classes(self) -> dict[str, str]:
        """The class of each volume."""
        return {name: info.cls for name, info in self.volumes.items()}

    def trees(self, volume: str) -> Iterator[tuple[ReleaseId, Folder]]:
        """The folder of each dataset on a volume, also of one that is being fetched."""
        for area in ("data", "staging"):
            for piece in list(self._pieces(volume, area)):
                folder = self.find(volume, area, *_parts(piece.release), piece.dataset)
                if folder:
                    with folder:
                        yield piece.release, folder

    def inventory(self) -> Inventory:
        """What is complete, started and published. RAM volumes are a cache and do not count."""
        complete: dict[Piece, str] = {}
        staged: dict[Piece, str] = {}
        with disk_errors(f"{self.root}"):
            for name in self.lasting():
                complete.update(dict.fromkeys(self._pieces(name, "data"), name))
                staged.update(dict.fromkeys(self._pieces(name, "staging"), name))
            with self._below("releases", make=True) as top:
                released = frozenset(filter(None, map(release_at, each(top, RELEASE_DEPTH))))
        return Inventory(complete, staged, released)

    def stage(self, volume: str, piece: Piece) -> tuple[Folder, Folder]:
        """The folders for finished files and for parts of a dataset; what an earlier try left is in them."""
        with self._tree, disk_errors(f"staging of {piece.release} {piece.dataset}"):
            where = _parts(piece.release)
            done = self.folder(volume, "staging", *where, piece.dataset, make=True)
            try:
                return done, self.folder(volume, "staging", *where, PARTS, piece.dataset, make=True)
            except BaseException:
                done.close()
                raise

    def data(self, volume: str, piece: Piece, above: Sequence[str] = ()) -> Folder:
        """The folder of a complete dataset, or `above` below it; raises FileNotFoundError."""
        return self.folder(volume, "data", *_parts(piece.release), piece.dataset, *above)

    def staged_bytes(self, volume: str, piece: Piece) -> Callable[[File], int]:
        """A function from a file to the bytes that an earlier try left of it: all where it is finished."""
        where = _parts(piece.release)

        def size(file: File) -> int:
            above, _, name = file.path.rpartition("/")
            parts = above.split("/") if above else []
            with disk_errors(f"staging of {piece.release} {piece.dataset}"):
                done = self._stat(name, volume, "staging", *where, piece.dataset, *parts)
                if done is not None and done.st_size == file.size:
                    return file.size
                part = self._stat(part_name(file), volume, "staging", *where, PARTS, piece.dataset)
            return min(file.size, part.st_blocks * 512) if part else 0

        return size

    def unstage(self, volume: str, piece: Piece) -> None:
        """Remove what is staged of a dataset."""
        where, what = _parts(piece.release), f"staging of {piece.release} {piece.dataset}"
        with self._tree, disk_errors(what), self.folder(volume, "staging", TRASH, make=True) as trash:
            for parts in (where, [*where, PARTS]):
                above = self.find(volume, "staging", *parts)
                if above is not None:
                    with above:
                        above.discard(piece.dataset, trash)

    def complete(self, volume: str, piece: Piece) -> None:
        """Make a wholly staged dataset public: folders durable and read-only, one rename, parents durable.

        Its files are durable and read-only already; `download` sees to that.
        """
        where, what = _parts(piece.release), f"data of {piece.release} {piece.dataset}"
        with self._tree, disk_errors(what), contextlib.ExitStack() as stack:
            staging = stack.enter_context(self.folder(volume, "staging", *where))
            data = stack.enter_context(self.folder(volume, "data", *where, make=True))
            dataset = stack.enter_context(staging.open([piece.dataset]))
            _seal(dataset)
            staging.move(piece.dataset, data, piece.dataset)
            os.fchmod(dataset.fd, DATA_FOLDER)  # only now: a read-only folder cannot change its parent
            staging.remove(PARTS)  # of all datasets: those of a release are fetched one after the other
            with self.folder(volume, "staging") as top:
                top.prune(where)

    def copies(self) -> Iterator[tuple[str, Piece]]:
        """Every complete dataset with its volume, RAM copies too."""
        for name in self.volumes:
            with disk_errors(f"volume {name}"), self._below() as root:
                if (top := root.find(["volumes", name, "data"])) is None:
                    continue
                with top:
                    yield from ((name, piece) for piece in _pieces_in(top))

    def restage(self, volume: str, piece: Piece) -> None:
        """Take a damaged dataset, and with it its release, out of use: back to where datasets are fetched.

        The next download compares each file there with the release and fetches those that are wrong.
        """
        self.withdraw(piece.release)
        where, what = _parts(piece.release), f"data of {piece.release} {piece.dataset}"
        with self._tree, disk_errors(what), contextlib.ExitStack() as stack:
            data = stack.enter_context(self.folder(volume, "data", *where))
            staging = stack.enter_context(self.folder(volume, "staging", *where, make=True))
            with data.open([piece.dataset]) as dataset:
                dataset.unseal()
            staging.remove(piece.dataset)  # what an earlier try left of it
            data.move(piece.dataset, staging, piece.dataset)
            with self.folder(volume, "data") as top:
                top.prune(where)

    def publish(self, release: ReleaseId, volumes: Mapping[str, str]) -> None:
        """Give a release its public name, all links to its datasets at once."""
        fresh, where = secrets.token_hex(8), _parts(release)
        with disk_errors(f"releases of {release}"), contextlib.ExitStack() as stack:
            trash = stack.enter_context(self._below("releases", TRASH, make=True))
            above = stack.enter_context(self._below("releases", *where[:-1], make=True))
            if above.stat(where[-1]) is not None:
                return
            with trash.open([fresh], make=True) as folder:
                for dataset, volume in volumes.items():
                    target = "/".join([*[".."] * 5, "volumes", volume, "data", *where, dataset])
                    os.symlink(target, dataset, dir_fd=folder.fd)
                folder.sync()
            trash.move(fresh, above, where[-1])

    def withdraw(self, release: ReleaseId) -> None:
        """Take a release's public name back; its data stays."""
        where = _parts(release)
        with disk_errors(f"releases of {release}"):
            above = self._find_below("releases", *where[:-1])
            if above is not None:
                with above, self._below("releases", TRASH, make=True) as trash:
                    above.discard(where[-1], trash)
            with self._below("releases") as top:
                top.prune(where[:-1])

    def delete(self, release: ReleaseId) -> None:
        """Remove a release: its public name first, then its data and whatever is staged, on all volumes."""
        self.withdraw(release)
        for name in self.volumes:
            self._discard(name, "data", _parts(release))
            self._discard(name, "staging", _parts(release))

    def sweep(self, wanted: Collection[ReleaseId], known: Collection[ReleaseId]) -> None:
        """Delete what nobody can use: staging beyond `wanted`, RAM copies of releases beyond `known`.

        `known` are the releases that are wanted, on disk, or pointed at by a view.
        """
        for name, info in self.volumes.items():
            self._sweep(name, "staging", wanted if info.cls != RAM else known)
            if info.cls == RAM:
                self._sweep(name, "data", known)

    def _sweep(self, volume: str, area: str, keep: Collection[ReleaseId]) -> None:
        with disk_errors(f"volume {volume}"), self.folder(volume, area, make=True) as top:
            found = list(each(top, RELEASE_DEPTH))
        for parts in found:
            if (release := release_at(parts)) is not None and release not in keep:
                self._discard(volume, area, list(parts))

    def _discard(self, volume: str, area: str, where: list[str]) -> None:
        with self._tree, disk_errors(f"volume {volume}, {area}/{'/'.join(where)}"):
            above = self.find(volume, area, *where[:-1])
            if above is None:
                return
            with above, self.folder(volume, "staging", TRASH, make=True) as trash:
                above.discard(where[-1], trash)
            with self.folder(volume, area) as top:
                top.prune(where[:-1])

    def lasting(self) -> list[str]:
        """The volumes that survive a reboot."""
        return [name for name, info in self.volumes.items() if info.cls != RAM]

    def _pieces(self, volume: str, area: str) -> Iterator[Piece]:
        with self.folder(volume, area, make=True) as top:
            yield from _pieces_in(top)

    def _below(self, *parts: str, make: bool = False) -> Folder:
        with Folder.of(self.root.resolve()) as root:
            return root.open(parts, make=make)

    def _find_below(self, *parts: str) -> Folder | None:
        with Folder.of(self.root.resolve()) as root:
            return root.find(parts)

    def folder(self, volume: str, *parts: str, make: bool = False) -> Folder:
        """The folder of a volume, or one below it; raises OSError."""
        return self._below("volumes", volume, *parts, make=make)

    def _stat(self, name: str, volume: str, *parts: str) -> os.stat_result | None:
        folder = self.find(volume, *parts)
        if folder is None:
            return None
        with folder:
            return folder.stat(name)

    def find(self, volume: str, *parts: str) -> Folder | None:
        """Like `folder`, None when there is no such folder."""
        return self._find_below("volumes", volume, *parts)


def _pieces_in(top: Folder) -> Iterator[Piece]:
    for *where, dataset in each(top, RELEASE_DEPTH + 1):
        if (release := release_at(where)) is not None:
            yield Piece(release, dataset)


def _parts(release: ReleaseId) -> list[str]:
    return [*release.channel.split("/"), release.version]


def _empty(folder: Folder) -> None:
    for name in folder.names():
        folder.remove(name)


def _seal(folder: Folder) -> None:
    """Make all folders of a dataset read-only and durable, innermost first; itself stays movable."""
    for name in folder.folders():
        with folder.open([name]) as inner:
            _seal(inner)
            os.fchmod(inner.fd, DATA_FOLDER)
    folder.sync()
