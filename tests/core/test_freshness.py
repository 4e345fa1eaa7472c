"""One word for how the Hydra of a node is, and why where that is not `fresh`."""

from __future__ import annotations

import pytest

from handlers.core import keys, model
from handlers.core.freshness import OLDEST_S, as_seen, freshness
from tests.core.worlds import Cluster


@pytest.mark.parametrize(
    ("away", "dead", "failed", "unrendered", "line"),
    [
        (False, [], {}, [], "fresh"),
        (True, [], {"sync": 10}, [], "away Consul does not answer; what is here stays as it is"),
        (True, ["discover"], {}, [], "stale discover does not run"),
        (False, [], {"sync": 1}, ["s/1"], "stale sync ended with 1 when it ran last"),
        (False, [], {}, ["s/2", "s/1"], "stale consul-template does not render the files of s/1, s/2"),
    ],
    ids=["fresh", "away", "dead", "failed", "unrendered"],
)
def test_word_and_reason(
    away: bool, dead: list[str], failed: dict[str, int], unrendered: list[str], line: str
) -> None:
    assert freshness(away, dead, failed, unrendered) == line


def test_file_that_is_missing_or_old_is_stale_whatever_it_says() -> None:
    assert as_seen("fresh", OLDEST_S) == "fresh"
    assert as_seen("fresh", OLDEST_S + 1) == "stale the node's timer is dead"
    assert as_seen("", 0) == "stale the node's timer has not run yet"


def test_only_a_stale_node_is_a_complaint() -> None:
    cluster = Cluster()
    for name, health in (("n1", "stale discover does not run"), ("n2", "fresh"), ("n3", "away Consul")):
        cluster.put(keys.info(name), model.NodeInfo(node=name, health=health))
    nodes = cluster.world().nodes

    complaints = {name: node.complaints for name, node in nodes.items()}
    assert complaints == {"n1": ("Hydra is stale discover does not run",), "n2": (), "n3": ()}
