"""The comparison of catalog and agents, on answers as Consul gives them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from hydra_cli.dev.cluster import Cluster
from tests.chaos.catalog import disputed

NODE_CHECK = {"CheckID": "serfHealth", "ServiceID": "", "Status": "critical"}


def check(instance: str, status: str) -> dict[str, str]:
    return {"CheckID": f"service:{instance}", "ServiceID": instance, "Status": status}


def a_cluster(listed: dict[str, str], known: dict[str, str]) -> Cluster:
    """One node; `listed` and `known`: the status of each instance by catalog and agent."""
    rows = [
        {"Node": {"Node": "n1"}, "Service": {"ID": i}, "Checks": [NODE_CHECK, check(i, status)]}
        for i, status in listed.items()
    ]
    services = {i: {"ID": i, "Service": "reader"} for i in known} | {"x": {"ID": "x", "Service": "other"}}
    checks = {f"service:{i}": check(i, status) for i, status in known.items()}
    answers: dict[str, Any] = {
        "health/service/reader": rows,
        "agent/services": services,
        "agent/checks": checks,
    }
    kv = SimpleNamespace(get_json=lambda path, *_: (answers[path], 1))
    return cast(Cluster, SimpleNamespace(nodes=("n1",), kv=lambda node="": kv))


@pytest.mark.parametrize(
    ("listed", "known", "found"),
    [
        ({}, {}, {}),
        ({"a": "passing", "b": "critical"}, {"a": "passing", "b": "critical"}, {}),
        ({"a": "passing"}, {"a": "critical"}, {"a": (True, False)}),
        ({"a": "passing", "gone": "passing"}, {"a": "passing"}, {"gone": (True, None)}),
        ({}, {"new": "passing"}, {"new": (None, True)}),
    ],
)
def test_what_differs_is_disputed(
    listed: dict[str, str], known: dict[str, str], found: dict[str, tuple[bool | None, bool | None]]
) -> None:
    assert disputed(a_cluster(listed, known), "reader") == {("n1", i): said for i, said in found.items()}
