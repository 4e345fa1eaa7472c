"""RAM copies: links that never dangle, copies that are whole, whatever dies in between."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from handlers.adapters.ram import RamCache
from handlers.core.errors import Temporary
from handlers.core.holdings import Piece
from handlers.core.model import DISK, RAM, VolumeInfo
from handlers.core.names import Channel
from handlers.core.version import ReleaseId, Version

PIECE = Piece(ReleaseId.of(Channel("prod/search/places"), Version("2026-01-01T00-00-00")), "table")
VOLUMES = {"disk": VolumeInfo(cls=DISK), "ram": VolumeInfo(cls=RAM, budget_bytes=1 << 20)}
FILES = {"a": b"one", "deep/b": b"two" * 5000, "deep/er/empty": b""}


def where(root: Path, volume: str) -> Path:
    return root / "volumes" / volume / "data" / PIECE.release.channel / PIECE.release.version / "table"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, body in FILES.items():
        file = where(tmp_path, "disk") / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(body)
    link = tmp_path / "releases" / PIECE.release.channel / PIECE.release.version / "table"
    link.parent.mkdir(parents=True)
    link.symlink_to(f"../../../../../{where(tmp_path, 'disk').relative_to(tmp_path)}")
    (tmp_path / "volumes" / "ram").mkdir()
    return tmp_path


def dataset(root: Path) -> Path:
    return root / "releases" / PIECE.release.channel / PIECE.release.version / "table"


def content(root: Path) -> dict[str, bytes]:
    folder = dataset(root).resolve(strict=True)
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_a_copy_is_filled_read_and_dropped(root: Path) -> None:
    cache = RamCache(root, VOLUMES)
    before = cache.room()

    cache.fill(PIECE)

    assert dataset(root).resolve() == where(root, "ram")
    assert content(root) == FILES
    assert (cache.copies(), cache.linked(PIECE)) == (frozenset({PIECE}), True)
    assert before - cache.room() <= (cache.size(PIECE) or 0)
    assert (where(root, "ram") / "a").stat().st_mode & 0o777 == 0o444
    cache.drop(PIECE)
    assert dataset(root).resolve() == where(root, "disk")
    assert (cache.copies(), cache.linked(PIECE), cache.room()) == (frozenset(), False, before)


def test_links_stay_relative(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    RamCache(root, VOLUMES).fill(PIECE)
    elsewhere = tmp_path_factory.mktemp("seen") / "as"

    root.rename(elsewhere)

    assert content(elsewhere) == FILES


def test_after_a_boot_releases_point_to_the_disk(root: Path) -> None:
    """A tmpfs comes back empty."""
    cache = RamCache(root, VOLUMES)
    cache.fill(PIECE)
    (root / "volumes" / "ram").rename(root / "gone")
    (root / "volumes" / "ram").mkdir()

    assert cache.repair() == [PIECE]

    assert content(root) == FILES
    assert not cache.linked(PIECE)
    assert cache.repair() == []
    cache.fill(PIECE)
    assert cache.linked(PIECE)


def test_a_node_without_ram_has_no_copies(root: Path) -> None:
    cache = RamCache(root, {"disk": VOLUMES["disk"]})

    assert (cache.copies(), cache.repair(), cache.room()) == (frozenset(), [], 0)
    with pytest.raises(Temporary):
        cache.fill(PIECE)


def test_a_release_that_is_not_complete_has_no_size(root: Path) -> None:
    dataset(root).unlink()

    assert RamCache(root, VOLUMES).size(PIECE) is None


def test_a_fill_that_is_not_wanted_any_more_leaves_nothing(root: Path) -> None:
    cache = RamCache(root, VOLUMES)

    with pytest.raises(Temporary, match="not wanted"):
        cache.fill(PIECE, lambda: True)

    assert not where(root, "ram").exists()
    assert not [f for f in (root / "volumes" / "ram" / "staging").rglob("*") if f.is_file()]
    assert content(root) == FILES


@pytest.mark.parametrize("what", ["fill", "drop"])
def test_whatever_dies_in_between_the_release_can_be_read(
    root: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    for number in range(1, 300):
        cache = RamCache(root, VOLUMES)
        if what == "drop":
            cache.fill(PIECE)
        left = [number]

        def dying(real: Callable[..., object], left: list[int] = left) -> Callable[..., object]:
            def perform(*args: object, **more: object) -> object:
                left[0] -= 1
                if left[0] == 0:
                    raise KeyboardInterrupt
                return real(*args, **more)

            return perform

        died = False
        with monkeypatch.context() as patch:
            for name in ("symlink", "rename", "mkdir", "fsync", "unlink", "rmdir", "sendfile"):
                patch.setattr(os, name, dying(getattr(os, name)))
            try:
                getattr(cache, what)(PIECE)
            except KeyboardInterrupt:
                died = True
        assert content(root) == FILES, f"died at {number}"
        RamCache(root, VOLUMES).repair()
        getattr(RamCache(root, VOLUMES), what)(PIECE)
        assert content(root) == FILES
        assert RamCache(root, VOLUMES).linked(PIECE) == (what == "fill")
        assert {p.name for p in dataset(root).parent.iterdir()} == {"table"}
        RamCache(root, VOLUMES).drop(PIECE)
        if not died:
            return
    raise AssertionError("it never came to its end")
