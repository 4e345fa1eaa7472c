"""What a node need not fetch, because a release that it holds already has the same bytes.

Used by `sync` before it downloads, and by the commands that say what a release costs each node. Two rules:

    a file is the same as one that is held, at any path, if its size and its check are equal (a size alone
    says nothing about the content)
    of a file with chunk digests, the chunks are there already that the held file at the same path has at the
    same place
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from handlers.core import integrity
from handlers.core.integrity import Level
from handlers.core.model import File

Files = Mapping[str, Sequence[File]]
"""The files of a release by dataset, as a list of files has them."""


def same(one: File, other: File) -> bool:
    """Whether two files are known to have the same bytes."""
    return bool(one.check) and one.size == other.size and one.check == other.check


def changed(new: File, old: File) -> int:
    """Bytes of the chunks of `new` that `old`, at the same path, has not; its whole size where unknown."""
    if same(new, old):
        return 0
    if not integrity.level_of(new.check) == integrity.level_of(old.check) == Level.DIGEST:
        return new.size
    wanted, there = integrity.parse(new.check, new.size), integrity.parse(old.check, old.size)
    if wanted is None or there is None or wanted.unit != there.unit:
        return new.size
    missing = 0
    for number in range(integrity.chunks(new.size, wanted.unit)):
        if wanted.digest_of(number) != there.digest_of(number):
            missing += min(wanted.unit, new.size - number * wanted.unit)
    return missing


def to_fetch(wanted: Files, held: Iterable[Files]) -> dict[str, int]:
    """Bytes to fetch of each dataset of `wanted` where the releases with the files `held` are complete."""
    known: set[tuple[int, str]] = set()
    places: dict[tuple[str, str], list[File]] = {}
    for release in held:
        for dataset, files in release.items():
            for file in files:
                known.add((file.size, file.check))
                places.setdefault((dataset, file.path), []).append(file)
    result = {}
    for dataset, files in wanted.items():
        missing = 0
        for file in files:
            if not file.check or (file.size, file.check) not in known:
                older = places.get((dataset, file.path), ())
                missing += min((changed(file, old) for old in older), default=file.size)
        result[dataset] = missing
    return result
