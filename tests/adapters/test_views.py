"""Views: links that are flipped by one rename, files that say whether an instance may take traffic."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from handlers.adapters.usage import viewed
from handlers.adapters.views import Views, versions
from handlers.core.errors import Temporary, Usage
from handlers.core.model import InstanceState, Ready
from handlers.core.names import Channel, InstanceKey, Service, check_alias
from handlers.core.version import ReleaseId, Version

S = Service("prod/search/api")
KEY = InstanceKey.of(S, "api-1")
P1, P2, P3 = (
    ReleaseId.of(Channel("prod/search/places"), Version(f"2026-01-0{n}T00-00-00")) for n in (1, 2, 3)
)
R1 = ReleaseId.of(Channel("prod/search/ranks"), Version("2026-01-01T00-00-00"))
STATE = InstanceState(service=S, id="api-1", incarnation="1", state=Ready.READY, since="now")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for release in (P1, P2, P3, R1):
        folder = tmp_path / "root" / "releases" / release.channel / release.version / "data"
        folder.mkdir(parents=True)
        (folder / "file").write_text(release)
    return tmp_path / "root"


def read(view: Path, alias: str = "places") -> str:
    return (view / alias / "data" / "file").read_text()


def test_a_view_leads_to_its_releases_and_flips_them_together(root: Path) -> None:
    views = Views(root)

    views.flip(KEY, {"places": P1, "ranks": R1})

    assert read(views.path(KEY)) == P1
    assert read(views.path(KEY), "ranks") == R1
    assert views.current(KEY) == {"places": P1, "ranks": R1}
    assert views.instances() == {KEY}
    views.flip(KEY, {"places": P2, "ranks": R1})
    assert read(views.path(KEY)) == P2
    assert views.path(KEY).joinpath("places").readlink() == Path("..data/places")


def test_a_fresh_view_works_through_a_root_that_is_seen_at_another_path(root: Path, tmp_path: Path) -> None:
    """A container sees the root through one mount at a place of its own: no link may be absolute."""
    views = Views(root)
    views.flip(KEY, {"places": P1})
    elsewhere = tmp_path / "container" / "data"
    elsewhere.parent.mkdir()

    root.rename(elsewhere)

    assert read(Views(elsewhere).path(KEY)) == P1
    assert elsewhere.joinpath("views", KEY, "places").resolve().is_relative_to(elsewhere)


def test_a_release_that_goes_while_the_view_is_flipped_is_no_success(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sync takes its name away and then asks the views: it may have asked just before this one was there."""

    def meanwhile(*_: object) -> None:
        (root / "releases" / P1.channel / P1.version).rename(root / "gone")

    monkeypatch.setattr("handlers.adapters.views._tidy", meanwhile)
    with pytest.raises(Temporary, match="is not on this node"):
        Views(root).flip(KEY, {"places": P1})


def test_the_previous_folder_stays_until_the_next_flip(root: Path) -> None:
    views = Views(root)

    for release in (P1, P2):
        views.flip(KEY, {"places": release})

    assert viewed(root) == {P1, P2}
    views.flip(KEY, {"places": P3})
    assert viewed(root) == {P2, P3}


def test_flipping_to_the_same_again_keeps_the_previous_folder(root: Path) -> None:
    """A handler that died after the flip flips again: what was used just before must not be forgotten."""
    views = Views(root)
    for release in (P1, P2, P2):
        views.flip(KEY, {"places": release})

    assert viewed(root) == {P1, P2}
    data = views.path(KEY).joinpath("..data").readlink()
    views.flip(KEY, {"places": P2}, again=True)
    assert views.path(KEY).joinpath("..data").readlink() != data


def test_aliases_come_and_go_with_a_flip(root: Path) -> None:
    views = Views(root)
    views.flip(KEY, {"places": P1, "ranks": R1})

    views.flip(KEY, {"places": P1})

    assert not views.path(KEY).joinpath("ranks").is_symlink()
    assert views.current(KEY) == {"places": P1}


@pytest.mark.parametrize("call", range(1, 12))
def test_a_flip_that_dies_anywhere_is_finished_by_the_next(
    root: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """Whatever system call it died at, the view shows the old or the new releases, never a mixture."""
    views = Views(root)
    views.flip(KEY, {"places": P1})
    left = [call]

    def dying(real: Callable[..., None]) -> Callable[..., None]:
        def perform(*args: object, **more: object) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt
            real(*args, **more)

        return perform

    with monkeypatch.context() as patch:
        for name in ("symlink", "rename", "mkdir", "fsync", "unlink", "rmdir"):
            patch.setattr(os, name, dying(getattr(os, name)))
        try:
            views.flip(KEY, {"places": P2, "ranks": R1})
        except KeyboardInterrupt:
            assert views.current(KEY) in ({"places": P1}, {"places": P2, "ranks": R1})
            assert read(views.path(KEY)) in (P1, P2)

    views.flip(KEY, {"places": P2, "ranks": R1})

    assert (read(views.path(KEY)), read(views.path(KEY), "ranks")) == (P2, R1)
    views.flip(KEY, {"places": P3, "ranks": R1})
    names = {p.name for p in views.path(KEY).iterdir()}
    assert {"..data", "places", "ranks"} <= names
    assert len([n for n in names if n.startswith("..") and n != "..data"]) == 2
    assert len(names) == 5


def test_a_release_that_is_not_here_is_not_pointed_to(root: Path) -> None:
    views = Views(root)
    views.flip(KEY, {"places": P1})

    with pytest.raises(Temporary, match="not on this node"):
        views.flip(KEY, {"places": ReleaseId.of(P1.channel, Version("2027-01-01T00-00-00"))})

    assert read(views.path(KEY)) == P1


@pytest.mark.parametrize("alias", ["state", "readiness.json"])
def test_an_alias_cannot_hide_a_readiness_file(alias: str) -> None:
    with pytest.raises(Usage, match=alias):
        check_alias(alias)


def test_first_readiness_files_are_written_once(root: Path) -> None:
    views = Views(root)
    views.write_first(KEY, STATE)

    assert views.shown(KEY) == "ready"
    assert json.loads((views.path(KEY) / "readiness.json").read_bytes())["service"] == S
    (views.path(KEY) / "state").write_text("draining")
    views.write_first(KEY, STATE)
    assert views.shown(KEY) == "draining"


def test_a_view_is_removed_with_everything_in_it(root: Path) -> None:
    views = Views(root)
    views.flip(KEY, {"places": P1})
    views.write_first(KEY, STATE)

    for _ in range(2):
        views.remove(KEY)

    assert views.instances() == frozenset()
    assert views.current(KEY) == {}
    assert views.shown(KEY) == ""
    assert (root / "releases" / P1.channel / P1.version / "data" / "file").exists()


def test_foreign_ids_become_one_path_part(root: Path) -> None:
    views = Views(root)
    hostile = InstanceKey.of(S, "../../../etc")

    views.flip(hostile, {"places": P1})

    assert views.path(hostile).parent == root / "views" / S
    assert views.instances() == {hostile}


def test_an_alias_that_points_to_another_channel_is_not_where_it_should_be() -> None:
    view = {"places": P1, "ranks": R1}

    assert versions(view, {"places": P1.channel, "ranks": P1.channel}) == {"places": P1.version}
