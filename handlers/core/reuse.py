"""What need not be fetched, because a release that is held already has the same bytes.

One decision for all: `sync` and `hydra get` ask before they download, and the commands that say what a
release costs each node. Two rules:

    a file is the same as one that is held, at any path, if its size and its check are equal (a size alone
    says nothing about the content)
    of a file with chunk digests, the chunks are there already that the held file at the same path has at the
    same place
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Generic, TypeVar

from msgspec import Struct

from handlers.core import integrity
from handlers.core.integrity import Level
from handlers.core.model import File

Files = Mapping[str, Sequence[File]]
"""The files of a release by dataset, as a list of files has them."""

W = TypeVar("W")


class Held(Struct, Generic[W], frozen=True):
    """A file that is held; `where` its dataset is."""

    where: W
    file: File


class Offers(Generic[W]):
    """What files that are held offer for `wanted`, those of the dataset `name`.

    Lists of files may be long, so only what can serve is kept of them. Of several files that serve the first
    one counts, at the same path the one with the fewest bytes that changed.
    """

    def __init__(self, name: str, wanted: Collection[File]) -> None:
        self._name = name
        self._contents = {(f.size, f.check) for f in wanted if f.check and f.size}
        self._chunked = {f.path: f for f in wanted if integrity.level_of(f.check) is Level.DIGEST}
        self._same: dict[tuple[int, str], Held[W]] = {}
        self._older: dict[str, tuple[int, Held[W]]] = {}

    @property
    def complete(self) -> bool:
        """Whether all is here already, and more lists of files can add nothing."""
        return self._contents <= self._same.keys()

    def add(self, name: str, files: Iterable[File], where: W) -> None:
        """Look at the files of a dataset that is held."""
        for file in files:
            if (file.size, file.check) in self._contents:
                self._same.setdefault((file.size, file.check), Held(where, file))
            elif name == self._name and (new := self._chunked.get(file.path)):
                bytes_changed = changed(new, file)
                if bytes_changed < self._older.get(file.path, (new.size,))[0]:
                    self._older[file.path] = bytes_changed, Held(where, file)

    @property
    def used(self) -> frozenset[W]:
        """Where the files are that are the same as one that is wanted."""
        return frozenset(held.where for held in self._same.values())

    def same(self, file: File) -> Held[W] | None:
        """A file that has the same bytes."""
        return self._same.get((file.size, file.check))

    def alike(self, file: File) -> Held[W] | None:
        """The file that has the most of its bytes at the same place."""
        return self.same(file) or self._older.get(file.path, (0, None))[1]

    def to_fetch(self, file: File) -> int:
        """Bytes that none of them has."""
        return 0 if self.same(file) else self._older.get(file.path, (file.size,))[0]


def same(one: File, other: File) -> bool:
    """Whether two files are known to have the same bytes."""
    return bool(one.check) and one.size == other.size and one.check == other.check


def unchanged(new: File, old: File) -> Callable[[int], bool]:
    """Whether the chunk of `new` that begins at a position is, by their checks, the same in `old`."""
    if same(new, old):
        return lambda _start: True
    if not integrity.level_of(new.check) == integrity.level_of(old.check) == Level.DIGEST:
        return lambda _start: False
    wanted, there = integrity.parse(new.check, new.size), integrity.parse(old.check, old.size)
    if wanted is None or there is None or wanted.unit != there.unit:
        return lambda _start: False
    return lambda start: wanted.digest_of(start // wanted.unit) == there.digest_of(start // wanted.unit)


def changed(new: File, old: File) -> int:
    """Bytes of the chunks of `new` that `old`, at the same path, has not; its whole size where unknown."""
    check = integrity.parse(new.check, new.size)
    unit = (check.unit if check else 0) or max(1, new.size)
    had = unchanged(new, old)
    return sum(min(unit, new.size - start) for start in range(0, new.size, unit) if not had(start))


def to_fetch(wanted: Files, held: Iterable[Files]) -> dict[str, int]:
    """Bytes to fetch of each dataset of `wanted` where the releases with the files `held` are complete."""
    offers = {name: Offers[None](name, files) for name, files in wanted.items()}
    for release in held:
        for offer in offers.values():
            for name, files in release.items():
                offer.add(name, files, None)
    return {name: sum(map(offers[name].to_fetch, files)) for name, files in wanted.items()}
