"""What the observer of pods counts, by events as the API server sends them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.kube.cluster import Cluster
from tests.kube.lookout import Lookout


@pytest.fixture
def lookout(tmp_path: Path) -> Lookout:
    """Of three pods that are Ready."""
    made = Lookout(Cluster(tmp_path, images=(), nodes=()), "search", "app=reader")
    for name in ("a", "b", "c"):
        made.take("ADDED", pod(name, "True"))
    return made


def pod(name: str, ready: str, **meta: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name, **meta},
        "status": {"conditions": [{"type": "Ready", "status": ready}]},
    }


def replace(lookout: Lookout, old: str, new: str) -> None:
    """The pod is deleted, and while it still ends another one is made."""
    lookout.take("MODIFIED", pod(old, "True", deletionTimestamp="2026-01-01T00:00:00Z"))
    lookout.take("ADDED", pod(new, "False"))
    lookout.take("DELETED", pod(old, "False"))


def test_pods_that_are_replaced_one_after_the_other_leave_all_but_one(lookout: Lookout) -> None:
    for old, new in (("a", "d"), ("b", "e")):
        replace(lookout, old, new)
        lookout.take("MODIFIED", pod(new, "True"))

    assert lookout.least_ready(3) == 2
    assert lookout.deleted == {"a", "b"}


def test_pod_that_is_deleted_before_the_replacement_of_another_serves_is_too_many(
    lookout: Lookout,
) -> None:
    replace(lookout, "a", "d")
    replace(lookout, "b", "e")

    assert lookout.least_ready(3) == 1
