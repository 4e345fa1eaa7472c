"""discover writes on its Kubernetes node what is true, and nothing where it does not know it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from handlers.adapters.local import LocalState
from handlers.adapters.mirror import Picture
from handlers.core import codec
from handlers.core.errors import Conflict
from handlers.core.marks import Change, Wanted
from handlers.core.model import Desired, Hold
from handlers.core.pods import NOT_FILLED, Json
from handlers.home import Home
from handlers.nodedesk import NodeDesk
from tests.core.worlds import rid


@dataclass
class Desk:
    """An API server with one node that is still tainted."""

    known: bool = True
    version: int = 1
    written: list[tuple[str, Change]] = field(default_factory=list)

    def picture(self) -> Picture:
        meta = {"name": "n1", "resourceVersion": str(self.version)}
        value: Json = {"metadata": meta, "spec": {"taints": [{"key": NOT_FILLED, "effect": "NoSchedule"}]}}
        return Picture(self.known, {"uid": value})

    def mark(self, node: str, version: str, change: Change) -> None:
        if version != "1":
            raise Conflict("HTTP 409: the object has been modified")
        self.written.append((node, change))


@pytest.fixture
def desk() -> Desk:
    return Desk()


def look(desk: Desk, root: Path) -> list[tuple[str, Change]]:
    home = Home(root, LocalState(root))
    NodeDesk(desk, desk, home, Wanted(startup_taint=True)).look()
    return desk.written


def planned(root: Path) -> None:
    desired = Desired(node="n1", generation=1, releases={rid(1): Hold(digest="d", sequence=1)})
    LocalState(root).write("desired", codec.encode(desired))


def test_taint_goes_when_the_release_has_its_public_name(desk: Desk, tmp_path: Path) -> None:
    planned(tmp_path)
    assert look(desk, tmp_path) == []

    (tmp_path / "releases" / rid(1).channel / rid(1).version).mkdir(parents=True)
    assert look(desk, tmp_path) == [("n1", Change({}, ()))]


def test_nothing_is_written_before_the_node_is_planned_or_while_it_cannot_be_seen(
    desk: Desk, tmp_path: Path
) -> None:
    assert look(desk, tmp_path) == []
    planned(tmp_path)
    (tmp_path / "releases" / rid(1).channel / rid(1).version).mkdir(parents=True)
    desk.known = False
    assert look(desk, tmp_path) == []


def test_node_that_somebody_else_changed_meanwhile_is_looked_at_again(desk: Desk, tmp_path: Path) -> None:
    planned(tmp_path)
    (tmp_path / "releases" / rid(1).channel / rid(1).version).mkdir(parents=True)
    desk.version = 2

    assert look(desk, tmp_path) == []
