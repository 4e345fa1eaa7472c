"""RAM round by round: what is being filled is waited for."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from handlers.adapters.ram import RamCache
from handlers.cache import Cache
from handlers.core.holdings import Piece
from handlers.core.model import DISK, RAM, Desired, VolumeInfo
from handlers.core.names import Channel
from handlers.core.version import ReleaseId, Version
from tests.servers import wait_until

PLACES, VERSION = Channel("prod/search/places"), Version("2026-01-01T00-00-00")
PIECE = Piece(ReleaseId.of(PLACES, VERSION), "table")
SIZE = 200_000
VOLUMES = {"disk": VolumeInfo(cls=DISK), "ram": VolumeInfo(cls=RAM, budget_bytes=SIZE * 3 // 2)}
WANTED = Desired(node="n1", generation=1, ram={f"{PLACES}/table": VERSION})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    data = Path("volumes", "disk", "data", PLACES, VERSION, "table")
    (tmp_path / data).mkdir(parents=True)
    (tmp_path / data / "file").write_bytes(b"x" * SIZE)
    (tmp_path / "volumes" / "ram").mkdir()
    release = tmp_path / "releases" / PLACES / VERSION
    release.mkdir(parents=True)
    (release / "table").symlink_to(f"../../../../../{data}")
    return tmp_path


def test_copy_that_is_half_filled_is_waited_for_though_the_rest_of_ram_is_too_small(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that took it for too large would end, and the fill with it, each time anew."""
    half, go_on, fill = threading.Event(), threading.Event(), RamCache.fill

    def slowly(cache: RamCache, piece: Piece, stop: Callable[[], bool]) -> None:
        staged = root / "volumes" / "ram" / "staging" / "half"
        staged.parent.mkdir(parents=True, exist_ok=True)
        staged.write_bytes(b"x" * (SIZE * 3 // 4))
        half.set()
        assert go_on.wait(60)
        staged.unlink()
        fill(cache, piece, stop)

    monkeypatch.setattr(RamCache, "fill", slowly)
    wake = threading.Event()
    cache = Cache(root, VOLUMES, wake, time.monotonic)
    cache.round(WANTED, {})
    assert half.wait(60)

    again_s = cache.round(WANTED, {})

    assert again_s is not None
    assert "is in RAM" in cache.reason(PLACES, VERSION)
    go_on.set()
    wait_until(wake.is_set)
    assert cache.round(WANTED, {}) is None
    assert cache.media({"places": PIECE.release}) == {"places/table": "RAM"}


def test_release_that_is_completed_in_mid_round_waits_for_ram(root: Path) -> None:
    """Or its instances would move onto disk, and a second time onto RAM."""
    release, aside = root / "releases" / PLACES / VERSION, root / "aside"
    release.rename(aside)
    wake = threading.Event()
    cache = Cache(root, VOLUMES, wake, time.monotonic)
    assert cache.round(WANTED, {}) is None

    aside.rename(release)

    assert "is in RAM" in cache.reason(PLACES, VERSION)
    assert cache.round(WANTED, {}) is not None
    wait_until(wake.is_set)
    assert cache.round(WANTED, {}) is None
    assert cache.reason(PLACES, VERSION) == ""
