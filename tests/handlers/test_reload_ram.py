"""`reload` fills RAM before a move and drops it afterwards; what does not fit goes another way."""

from __future__ import annotations

import shutil
import threading

import pytest
from msgspec.structs import replace

from handlers.core.model import (
    VolumeInfo,
)
from handlers.core.names import InstanceKey
from handlers.core.version import ReleaseId
from tests.handlers.reload_fleet import (
    PLACES,
    V1,
    V2,
    Fleet,
    Node,
    S,
)
from tests.servers import wait_until


def in_ram(node: Node, version: object) -> bool:
    link = node.root / "releases" / PLACES / str(version) / "table"
    return "volumes/ram" in str(link.readlink()) and (link / "file").exists()


def test_ram_is_filled_before_the_move_and_dropped_after_it(fleet: Fleet) -> None:
    node = fleet.node("n1", "a", "b")
    node.ram = {f"{PLACES}/table": V1}
    fleet.want()
    fleet.run()
    assert in_ram(node, V1)
    assert node.state().media == {"places/table": "RAM"}

    node.ram = {f"{PLACES}/table": V2}
    fleet.want(V2)
    fleet.run()

    assert (in_ram(node, V1), in_ram(node, V2)) == (False, True)
    assert node.state().media == {"places/table": "RAM"}
    assert all(r.reloads == [V1, V2] for r in node.replicas.values())


def test_what_does_not_fit_beside_the_old_copy_goes_via_disk(fleet: Fleet) -> None:
    node = fleet.node("n1", "a", "b")
    node.volumes = {**node.volumes, "ram": VolumeInfo(cls="RAM", budget_bytes=10_000)}
    node.ram = {f"{PLACES}/table": V1}
    fleet.want()
    fleet.run()
    assert in_ram(node, V1)

    node.ram = {f"{PLACES}/table": V2}
    fleet.want(V2)
    fleet.run()

    assert (in_ram(node, V1), in_ram(node, V2)) == (False, True)
    assert all(r.reloads == [V1, V2, V2] for r in node.replicas.values())
    assert fleet.most_out <= 2
    assert fleet.verdicts().releases == {}


def test_after_a_boot_releases_are_read_from_disk_until_ram_is_full_again(fleet: Fleet) -> None:
    node = fleet.node("n1", "a")
    node.ram = {f"{PLACES}/table": V1}
    fleet.want()
    fleet.run()
    for path in sorted((node.root / "volumes" / "ram").rglob("*")):
        path.chmod(0o755)
    shutil.rmtree(node.root / "volumes" / "ram" / "data")
    assert not (node.root / "releases" / PLACES / V1 / "table" / "file").exists()
    node.ram = {}
    fleet.want()

    fleet.run()

    assert (node.root / "releases" / PLACES / V1 / "table" / "file").exists()
    assert node.state().media == {}


def short_of_ram(fleet: Fleet, budget: int, room: int = 10_000) -> Node:
    """A node whose two instances read V1 from RAM, and are to move to V2, which does not fit beside it."""
    fleet.plan = replace(fleet.plan, ram="drain-node", max_unavailable=budget)
    node = fleet.node("n1", "a", "b")
    node.volumes = {**node.volumes, "ram": VolumeInfo(cls="RAM", budget_bytes=room)}
    node.ram = {f"{PLACES}/table": V1}
    fleet.want()
    fleet.run()
    node.ram = {f"{PLACES}/table": V2}
    fleet.want(V2)
    return node


def test_node_is_drained_where_the_new_copy_does_not_fit_beside_the_old_one(fleet: Fleet) -> None:
    node = short_of_ram(fleet, budget=2)

    fleet.run()

    assert (in_ram(node, V1), in_ram(node, V2)) == (False, True)
    for instance in ("a", "b"):
        assert node.state(instance).runs("places", PLACES, V2)
        assert node.state(instance).media == {"places/table": "RAM"}
    assert all(r.reloads == [V1, V2, V2] for r in node.replicas.values())  # off the old copy, then from RAM
    assert fleet.most_out == 2  # once, and not a second time for RAM
    assert fleet.slots().out == {}


def test_node_is_not_drained_where_the_budget_does_not_allow_it(fleet: Fleet) -> None:
    node = short_of_ram(fleet, budget=1)
    run = threading.Thread(target=fleet.run)
    run.start()

    wait_until(lambda: all("must be out at once" in node.state(name).reason for name in ("a", "b")))
    for instance in ("a", "b"):
        reason = node.state(instance).reason
        assert "bytes of RAM" in reason
        assert "2 instances here must be out at once" in reason
        assert "of 1 allowed" in reason
    assert (in_ram(node, V1), in_ram(node, V2)) == (True, False)
    assert all(r.reloads == [V1] for r in node.replicas.values())
    assert fleet.slots().out == {}

    fleet.want(max_unavailable=2)
    run.join(60)
    assert not run.is_alive()
    assert in_ram(node, V2)


def test_what_can_never_be_in_ram_is_not_moved_to(fleet: Fleet) -> None:
    node = short_of_ram(fleet, budget=2, room=6_000)

    fleet.run()

    assert node.state().runs("places", PLACES, V1)
    assert "nothing can make room" in node.state().reason


def test_ram_is_filled_again_after_a_boot_while_consul_is_away(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the node remembers is enough: its desired, and the disk copies."""
    monkeypatch.setattr("handlers.reload.PATIENCE_S", 2.0)
    node = fleet.node("n1", "a")
    node.ram = {f"{PLACES}/table": V1}
    fleet.want()
    fleet.run()
    for path in sorted((node.root / "volumes" / "ram").rglob("*")):
        path.chmod(0o755)
    shutil.rmtree(node.root / "volumes" / "ram")
    (node.root / "volumes" / "ram").mkdir()  # the tmpfs of the next boot
    fleet.fake.away = True
    node.register("b")

    node.run()

    assert in_ram(node, V1)
    assert node.views.current(InstanceKey.of(S, "b")) == {"places": ReleaseId.of(PLACES, V1)}
