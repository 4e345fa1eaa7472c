"""What is written on a Kubernetes node: a taint goes with the first data, labels follow the data."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest
from msgspec.structs import replace

from handlers.core.errors import Malformed
from handlers.core.marks import MOST, Change, Wanted, change
from handlers.core.model import AliasPlan, Desired, Hold, ServicePlan
from handlers.core.pods import FILLED, NOT_FILLED, labels_of
from handlers.core.version import ReleaseId
from tests.core.worlds import COMPLETE, PLACES, ROUTE, rid, v

TAINT = {"key": NOT_FILLED, "effect": "NoSchedule"}
OTHER = {"key": "gpu", "value": "yes", "effect": "NoSchedule"}
LABEL = f"{FILLED}complete"
BOTH = Wanted(startup_taint=True, filled={"complete": COMPLETE, "route": ROUTE})


def node(*taints: dict[str, str], **labels: str) -> dict[str, Any]:
    return {
        "metadata": {"labels": {FILLED + n: t for n, t in labels.items()}},
        "spec": {"taints": list(taints)},
    }


def desired(*needed: ReleaseId, kept: Collection[ReleaseId] = ()) -> Desired:
    """Of a node with one service, which moves to 2 and begins with 1."""
    plan = ServicePlan(aliases={"places": AliasPlan(channel=PLACES, target=v(2), start=v(1))})
    holds = {r: Hold(digest="d", sequence=1) for r in needed}
    holds |= {r: Hold(digest="d", sequence=1, until="2026-06-02T00:00:00Z") for r in kept}
    return Desired(node="n1", generation=1, releases=holds, services={COMPLETE: plan})


def found(
    value: dict[str, Any], *here: ReleaseId, wanted: Wanted = BOTH, of: Desired | None = None
) -> Change | None:
    return change(value, wanted, of or desired(rid(1), rid(2)), here.__contains__)


def test_taint_goes_once_all_that_is_needed_is_here_and_others_stay() -> None:
    assert found(node(TAINT, OTHER)) is None
    assert found(node(TAINT, OTHER), rid(1)) == Change({LABEL: "true"})
    assert found(node(TAINT, OTHER), rid(1), rid(2)) == Change({LABEL: "true"}, (OTHER,))
    assert found(node(OTHER, complete="true"), rid(1), rid(2)) is None


def test_taint_waits_for_nothing_that_is_only_kept() -> None:
    of = desired(rid(2), kept=[rid(1)])

    assert found(node(TAINT), rid(2), of=of) == Change({}, ())


def test_node_that_needs_nothing_is_filled() -> None:
    of = Desired(node="n1", generation=1)

    assert found(node(TAINT), of=of) == Change({}, ())


@pytest.mark.parametrize("effect", ["NoSchedule", "NoExecute", "PreferNoSchedule"])
def test_taint_is_known_by_its_key(effect: str) -> None:
    assert found(node({**TAINT, "effect": effect}), rid(1), rid(2)) == Change({LABEL: "true"}, ())


def test_taint_stays_where_nobody_asked_for_it_to_go() -> None:
    assert found(node(TAINT), rid(1), rid(2), wanted=Wanted()) is None


def test_label_says_that_a_new_pod_finds_what_it_begins_with() -> None:
    assert found(node(), rid(2)) is None
    assert found(node(), rid(1)) == Change({LABEL: "true"})
    assert found(node(complete="true"), rid(1)) is None
    assert found(node(complete="false"), rid(1)) == Change({LABEL: "true"})
    assert found(node(complete="true")) == Change({LABEL: None})


def test_label_stays_while_data_waits_for_the_next_pod_and_goes_with_the_service() -> None:
    idle = desired(kept=[rid(1)])
    plan = replace(idle.services[COMPLETE], idle=True)

    assert found(node(), rid(1), of=replace(idle, services={COMPLETE: plan})) == Change({LABEL: "true"})
    assert found(node(complete="true"), rid(1), of=replace(idle, services={})) == Change({LABEL: None})


def test_label_that_nobody_asks_for_any_more_goes() -> None:
    value = node(complete="true", old="true")

    assert found(value, rid(1)) == Change({f"{FILLED}old": None})
    assert value["metadata"]["labels"]


def test_service_without_anything_to_begin_with_is_not_filled() -> None:
    plan = ServicePlan(aliases={"places": AliasPlan(channel=PLACES)})
    for services in ({COMPLETE: plan}, {COMPLETE: replace(plan, aliases={})}):
        assert found(node(), of=Desired(node="n1", generation=1, services=services)) is None


def test_labels_of_hydra_itself_are_none_of_its_nodes() -> None:
    assert labels_of([node(complete="true")]) == {}


@pytest.mark.parametrize(
    ("taint", "labels", "said"),
    [
        ("yes", "", "HYDRA_STARTUP_TAINT: must be 1 or 0"),
        ("", "complete", "'complete' is not NAME=SERVICE"),
        ("", "a b=prod/search/complete", "is not NAME=SERVICE"),
        ("", ",".join(f"a{n}=prod/search/complete" for n in range(MOST + 1)), "17 labels are more than 16"),
    ],
)
def test_what_makes_no_sense_is_refused(taint: str, labels: str, said: str) -> None:
    with pytest.raises(Malformed, match=said):
        Wanted.parse(taint, labels)


def test_what_is_wanted_is_read_from_the_environment() -> None:
    assert Wanted.parse("1", f"complete={COMPLETE},route={ROUTE}") == BOTH
    assert not Wanted.parse("", "")
    assert not Wanted.parse("0", "")
