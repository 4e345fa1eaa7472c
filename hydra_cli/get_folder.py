"""A folder that holds one release of one channel, as `hydra get` makes it.

DIR/<dataset>/<file…>           complete and verified; appears by one rename per dataset
DIR/.hydra/get.json             whose folder this is: channel, release, and which datasets are ours
DIR/.hydra/volumes/…            what is being fetched, as on a node: resumable
DIR/.hydra/state/…              headers and lists of files of this release and of those that are here still
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from msgspec import Struct, field
from msgspec.structs import asdict, replace

from handlers.adapters.folder import Folder, disk_errors
from handlers.adapters.local import write_atomic
from handlers.adapters.reuse import Complete
from handlers.adapters.volume import TRASH, Volumes
from handlers.core.errors import Conflict, Usage
from handlers.core.holdings import Piece
from handlers.core.model import DISK, Manifest, VolumeInfo
from handlers.core.names import Channel, check_word
from handlers.core.version import ReleaseId

HIDDEN, STATE, VOLUME = ".hydra", "get.json", "get"
_FORMAT = 1


class Content(Struct, frozen=True):
    """`ours` are the datasets in the folder that `hydra get` made, `placed` those of this very release.

    `older` says of the others which release they are of.
    """

    channel: str
    release: str = ""
    digest: str = ""
    ours: tuple[str, ...] = ()
    placed: tuple[str, ...] = ()
    older: Mapping[str, ReleaseId] = field(default_factory=dict)

    @property
    def datasets(self) -> dict[str, ReleaseId]:
        """The datasets that are in the folder, with the release that each is of."""
        return {**self.older, **{name: ReleaseId.parse(self.release) for name in self.placed}}

    @property
    def releases(self) -> set[ReleaseId]:
        """The releases whose lists of files are needed."""
        return {*self.older.values(), *([ReleaseId.parse(self.release)] if self.release else ())}


class GetFolder:
    """The folder while it is worked on; use `opened`."""

    def __init__(self, path: Path, content: Content) -> None:
        self.path, self.content = path, content
        self.hidden = path / HIDDEN
        self.volumes = Volumes(self.hidden, {VOLUME: VolumeInfo(cls=DISK)})

    def begin(self, release: ReleaseId, digest: str, datasets: Collection[str]) -> None:
        """From now on the folder is to hold this release; raises `Usage` where something is in its way."""
        unknown = sorted(set(datasets) - set(self.content.ours))
        foreign = [dataset for dataset in unknown if (self.path / dataset).exists()]
        if foreign:
            raise Usage(f"{self.path}: {', '.join(foreign)} is there and not from `hydra get`; move it away")
        if (release, digest) != (self.content.release, self.content.digest):
            # what was staged may be another content of the same version
            if self.content.release:
                self.volumes.delete(ReleaseId.parse(self.content.release))
            older = self.content.datasets
            self._write(replace(self.content, release=release, digest=digest, placed=(), older=older))

    def lacks(self, manifest: Manifest) -> list[str]:
        """The datasets that are not there with all their files in the right size."""
        return [
            dataset
            for dataset, files in sorted(manifest.files.items())
            if dataset not in self.content.placed
            or any(_size(self.path / dataset / file.path) != file.size for file in files)
        ]

    def complete(self, manifest: Callable[[ReleaseId], Manifest | None]) -> list[Complete]:
        """The datasets that are in the folder, for others to take over what they have in common."""
        return [
            Complete(
                Piece(release, dataset), VOLUME, partial(self._below, dataset), partial(manifest, release)
            )
            for dataset, release in sorted(self.content.datasets.items())
        ]

    def _below(self, dataset: str, above: Sequence[str]) -> Folder:
        with Folder.of(self.path) as top:
            return top.open([dataset, *above])

    def place(self, release: ReleaseId, dataset: str) -> None:
        """Move a complete dataset to its name, in place of the one that an earlier release left there."""
        self._write(
            replace(
                self.content,
                ours=tuple(sorted({*self.content.ours, dataset})),
                placed=tuple(d for d in self.content.placed if d != dataset),
                older={d: r for d, r in self.content.older.items() if d != dataset},
            )
        )
        self._remove(dataset)
        with disk_errors(str(self.path)), Folder.of(self.path) as top:
            with self.volumes.data(VOLUME, Piece(release, dataset)) as data:
                data.unseal()  # nodes keep it read-only, people want to tidy up
            above = [HIDDEN, "volumes", VOLUME, "data", *release.channel.split("/"), release.version]
            with top.open(above) as source:
                source.move(dataset, top, dataset)
        self._write(replace(self.content, placed=tuple(sorted({*self.content.placed, dataset}))))

    def end(self, release: ReleaseId, datasets: Collection[str]) -> None:
        """Remove what the release has not, and all that was only needed on the way."""
        for dataset in self.content.ours:
            if dataset not in datasets:
                self._remove(dataset)
        self._write(replace(self.content, ours=tuple(sorted(datasets)), older={}))
        self.volumes.delete(release)

    def _remove(self, dataset: str) -> None:
        where = [HIDDEN, "volumes", VOLUME, "staging", TRASH]
        with (
            disk_errors(str(self.path)),
            Folder.of(self.path) as top,
            top.open(where, make=True) as trash,
        ):
            top.discard(dataset, trash)

    def _write(self, content: Content) -> None:
        text = json.dumps({"format": _FORMAT, **asdict(content)}, indent=2, sort_keys=True)
        write_atomic(self.hidden / STATE, f"{text}\n".encode())
        self.content = content


@contextlib.contextmanager
def opened(path: Path, channel: Channel) -> Iterator[GetFolder]:
    """The folder, made if it is missing, for this process alone.

    Raises `Usage` when it is somebody else's or holds another channel, `Conflict` when another process works
    in it.
    """
    with disk_errors(str(path)):
        content = _content(path, channel)
        (path / HIDDEN).mkdir(parents=True, exist_ok=True)
        with (path / HIDDEN / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Conflict(f"{path}: another `hydra get` works in this folder") from None
            content = _content(path, channel)  # whoever had the lock before may have changed it
            if not (path / HIDDEN / STATE).exists():
                text = json.dumps({"format": _FORMAT, **asdict(content)}, indent=2, sort_keys=True)
                write_atomic(path / HIDDEN / STATE, f"{text}\n".encode())
            folder = GetFolder(path, content)
            folder.volumes.prepare()
            yield folder


def _content(path: Path, channel: Channel) -> Content:
    if path.exists() and not path.is_dir():
        raise Usage(f"{path} is a file; name a folder")
    state = path / HIDDEN / STATE
    if not state.exists():
        there = {p.name for p in path.iterdir()} - {HIDDEN} if path.is_dir() else set()
        hidden = {p.name for p in (path / HIDDEN).iterdir()} - {"lock"} if (path / HIDDEN).is_dir() else set()
        if there or hidden:
            raise Usage(f"{path} holds something that `hydra get` did not make; name a new or empty folder")
        return Content(channel)
    try:
        row = json.loads(state.read_bytes())
        if row.pop("format") != _FORMAT:
            raise ValueError("another format")
        ours, placed = (tuple(check_word(d, "dataset") for d in row[name]) for name in ("ours", "placed"))
        older = {check_word(d, "dataset"): ReleaseId.parse(r) for d, r in row.get("older", {}).items()}
        content = Content(row["channel"], row["release"], row["digest"], ours, placed, older)
    except (ValueError, TypeError, KeyError, AttributeError, Usage) as e:
        raise Usage(f"{state} does not read as what `hydra get` writes ({e}); name another folder") from None
    if content.channel != channel:
        raise Usage(f"{path} holds {content.channel}; name another folder for {channel}")
    return content


def _size(path: Path) -> int | None:
    try:
        return os.lstat(path).st_size
    except OSError:
        return None
