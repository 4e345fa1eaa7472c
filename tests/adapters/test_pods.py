"""A mirror of the API server: lists once, then watches; an outage is told late, and expiry lists anew."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from handlers.adapters.mirror import UNSEEN_AFTER_S, Mirror
from handlers.adapters.pods import Expired, Json, Query, collection, pods_of
from handlers.core.errors import HydraError, Temporary

PODS = pods_of("n1")


@dataclass
class Server:
    """An API server that answers what a test put into it; an error in a list is raised in its place."""

    lists: list[Any] = field(default_factory=list)
    watches: list[Any] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def list(self, query: Query) -> tuple[list[Json], str]:
        self.asked.append("list")
        answer = self.lists.pop(0)
        if isinstance(answer, HydraError):
            raise answer
        return answer, "10"

    def watch(self, query: Query, version: str) -> Iterator[Json]:
        self.asked.append(f"watch {version}")
        for event in self.watches.pop(0):
            if isinstance(event, HydraError):
                raise event
            yield event


def pod(uid: str, version: str = "10") -> Json:
    return {"metadata": {"uid": uid, "resourceVersion": version}}


def event(kind: str, uid: str, version: str) -> Json:
    return {"type": kind, "object": pod(uid, version)}


def mirror(server: Server, clock: list[float]) -> tuple[Mirror, list[int]]:
    rung: list[int] = []
    return Mirror(server, PODS, lambda: rung.append(1), lambda: clock[0]), rung  # type: ignore[arg-type]


def test_paths_and_selectors_ask_for_the_pods_of_one_node_only() -> None:
    assert PODS.path == "/api/v1/pods"
    assert PODS.selectors == {
        "fieldSelector": "spec.nodeName=n1",
        "labelSelector": "hydra.datasets/consumer=true",
    }
    assert collection("apps/v1", "deployments", "search") == "/apis/apps/v1/namespaces/search/deployments"


def test_nothing_is_known_before_the_first_list() -> None:
    made, _ = mirror(Server([[]]), [0.0])

    assert not made.picture().known
    made.round()
    assert made.picture().known


def test_events_change_the_picture_and_deleted_objects_have_ended() -> None:
    events = [
        event("ADDED", "u2", "11"),
        event("MODIFIED", "u1", "12"),
        event("DELETED", "u2", "13"),
        event("BOOKMARK", "none", "20"),
    ]
    server = Server([[pod("u1")]], [events, []])
    made, rung = mirror(server, [0.0])
    for _ in range(3):
        made.round()

    picture = made.picture()
    assert set(picture.objects) == {"u1"}
    assert picture.objects["u1"]["metadata"]["resourceVersion"] == "12"
    assert picture.ended == {"u2"}
    assert server.asked == ["list", "watch 10", "watch 20"]
    assert rung


def test_watch_that_breaks_goes_on_where_it_was() -> None:
    server = Server([[]], [[event("ADDED", "u1", "11"), Temporary("reset")], []])
    made, _ = mirror(server, [0.0])
    made.round()
    with pytest.raises(Temporary):
        made.round()
    made.round()

    assert server.asked == ["list", "watch 10", "watch 11"]
    assert set(made.picture().objects) == {"u1"}


def test_expired_watch_lists_anew_and_tells_nothing_of_what_is_missing() -> None:
    server = Server([[pod("u1"), pod("u2")], [pod("u2")]], [[Expired("too old")]])
    made, _ = mirror(server, [0.0])
    made.round()
    made.step()
    made.step()

    assert server.asked == ["list", "watch 10", "list"]
    assert (set(made.picture().objects), made.picture().ended) == ({"u2"}, frozenset())


def test_server_that_is_away_is_told_late_and_its_return_at_once() -> None:
    clock = [0.0]
    server = Server([[pod("u1")]], [[Temporary("away")], [Temporary("away")], []])
    made, _ = mirror(server, clock)
    made.step()
    made.step()
    clock[0] = UNSEEN_AFTER_S - 1
    assert made.picture().known
    clock[0] = UNSEEN_AFTER_S + 1
    made.step()
    assert not made.picture().known
    made.step()
    assert made.picture().known
