"""PodDisruptionBudgets as budgets: which count, which is strictest, and that Hydra's is never laxer."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.core.budget import Budget
from handlers.core.disruption import Workload, allows_nothing, strictest, workload_of

READER = Workload("search", {"app": "reader", "tier": "web"}, 8)


def budget(name: str = "b", namespace: str = "search", **spec: Any) -> dict[str, Any]:
    selector = spec.pop("selector", {"matchLabels": {"app": "reader"}})
    return {"metadata": {"namespace": namespace, "name": name}, "spec": {"selector": selector, **spec}}


def by(text: str) -> str:
    return f"PodDisruptionBudget search/{text}"


@pytest.mark.parametrize(
    ("objects", "found"),
    [
        ([], None),
        ([budget(maxUnavailable=2)], Budget(2, by=by("b: maxUnavailable 2"))),
        ([budget(maxUnavailable="30%")], Budget("30%", by=by("b: maxUnavailable 30%"))),
        ([budget(minAvailable=5)], Budget(min_available=5, by=by("b: minAvailable 5"))),
        (
            [
                budget("a", maxUnavailable=3),
                budget("c", minAvailable="75%"),
                budget("d", maxUnavailable="50%"),
            ],
            Budget(min_available="75%", by=by("c: minAvailable 75%")),
        ),
        (
            [budget("z", maxUnavailable=1), budget("a", maxUnavailable=1)],
            Budget(by=by("a: maxUnavailable 1")),
        ),
        ([budget(namespace="maps", maxUnavailable=0)], None),
        ([budget(selector={"matchLabels": {"app": "other"}}, maxUnavailable=0)], None),
        ([budget(selector=None, maxUnavailable=0)], None),
        ([budget(selector={}, maxUnavailable=2)], Budget(2, by=by("b: maxUnavailable 2"))),
        ([budget(maxUnavailable="half")], None),
        ([budget()], None),
    ],
)
def test_strictest_of_those_that_cover_the_pods_counts(
    objects: list[dict[str, Any]], found: Budget | None
) -> None:
    assert strictest(objects, READER) == found


@pytest.mark.parametrize(
    ("operator", "key", "values", "covers"),
    [
        ("In", "tier", ["web", "api"], True),
        ("In", "tier", ["api"], False),
        ("In", "rack", ["api"], False),
        ("NotIn", "tier", ["api"], True),
        ("NotIn", "rack", ["api"], True),
        ("NotIn", "tier", ["web"], False),
        ("Exists", "tier", [], True),
        ("Exists", "rack", [], False),
        ("DoesNotExist", "rack", [], True),
        ("DoesNotExist", "tier", [], False),
        ("Near", "tier", [], False),
    ],
)
def test_expressions_select_as_kubernetes_does(
    operator: str, key: str, values: list[str], covers: bool
) -> None:
    row = {"key": key, "operator": operator, "values": values}
    found = strictest([budget(selector={"matchExpressions": [row]}, maxUnavailable=1)], READER)

    assert (found is not None) is covers


@pytest.mark.parametrize(
    ("value", "replicas"),
    [
        ({"spec": {"replicas": 3, "template": {"metadata": {"labels": {"app": "x"}}}}}, 3),
        ({"spec": {"replicas": 0, "template": {"metadata": {"labels": {"app": "x"}}}}}, 0),
        (
            {
                "spec": {"template": {"metadata": {"labels": {"app": "x"}}}},
                "status": {"desiredNumberScheduled": 7},
            },
            7,
        ),
        (
            {
                "spec": {
                    "jobTemplate": {
                        "spec": {"parallelism": 2, "template": {"metadata": {"labels": {"app": "x"}}}}
                    }
                }
            },
            2,
        ),
        ({"spec": {"template": {"metadata": {"labels": {"app": "x"}}}}}, 1),
    ],
    ids=["deployment", "scaled-to-zero", "daemonset", "cronjob", "job"],
)
def test_pods_of_each_kind_of_workload(value: dict[str, Any], replicas: int) -> None:
    assert workload_of({"metadata": {"namespace": "search"}, **value}) == Workload(
        "search", {"app": "x"}, replicas
    )


def test_budget_that_allows_nothing_is_seen_also_while_scaled_to_zero() -> None:
    for spec in (
        {"maxUnavailable": 0},
        {"maxUnavailable": "0%"},
        {"minAvailable": "100%"},
        {"minAvailable": 8},
    ):
        found = strictest([budget(**spec)], READER)
        assert found is not None
        assert allows_nothing(found, READER)
    one = strictest([budget(maxUnavailable=1)], READER)
    assert one is not None
    assert not allows_nothing(one, Workload("search", {}, 0))


@given(share=st.integers(0, 100), replicas=st.integers(1, 500))
def test_share_lets_no_more_out_than_kubernetes_would(share: int, replicas: int) -> None:
    """Kubernetes rounds both up: of what may be unavailable, and of what must be available."""
    pods = Workload("search", READER.labels, replicas)
    up = -(-replicas * share // 100)
    for spec, allowed in (
        ({"maxUnavailable": f"{share}%"}, up),
        ({"minAvailable": f"{share}%"}, replicas - up),
    ):
        found = strictest([budget(**spec)], pods)
        assert found is not None
        assert found.of(replicas) <= allowed
