"""Who served what: the record goes on change by change, and tells of any moment that it covers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from handlers.core import keys
from handlers.core.model import Served
from handlers.core.served import MOST_CHANGES, after, at, recorded, running
from tests.core.worlds import COMPLETE, Cluster, v

DAY = "2026-02-01"
RUNS = st.dictionaries(st.sampled_from(["n1/a", "n1/b", "n2/a"]), st.sampled_from(["p 1", "p 2", "p 3"]))


def test_instances_run_what_they_confirmed_and_nothing_on_a_dead_node() -> None:
    cluster = Cluster()
    cluster.publish(1)
    cluster.subscribe()
    for node in ("n1", "n2"):
        cluster.node(node, COMPLETE)
        cluster.runs(node, places=1)
    cluster.drop(keys.alive("n2"))

    assert running(cluster.world()) == {COMPLETE: {"n1/i0": f"places {v(1)}"}}


@given(st.lists(RUNS, min_size=1, max_size=12))
def test_record_tells_of_every_moment_what_was_run_then(history: list[dict[str, str]]) -> None:
    """Each look is one minute and a new day comes every four looks; `at` must give back each look."""
    documents: list[Served] = []
    moments = [f"2026-02-{1 + n // 4:02d}T00:{n % 4:02d}:00Z" for n in range(len(history))]
    for when, runs in zip(moments, history, strict=True):
        documents = documents[:-1] + (
            recorded(documents[-1] if documents else None, runs, when) or documents[-1:]
        )

    for when, runs in zip(moments, history, strict=True):
        assert (at(documents, when) or {}) == runs


def test_nothing_is_written_while_nothing_changes_and_nothing_is_known_of_before() -> None:
    (first,) = recorded(None, {"n1/a": "p 1"}, f"{DAY}T10:00:00Z")

    assert recorded(first, {"n1/a": "p 1"}, f"{DAY}T11:00:00Z") == []
    assert recorded(None, {}, f"{DAY}T10:00:00Z") == []
    assert at([first], f"{DAY}T09:59:59Z") is None


def test_document_ends_with_its_day_or_when_it_is_full() -> None:
    (first,) = recorded(None, {"n1/a": "p 1"}, f"{DAY}T10:00:00Z")

    past, fresh = recorded(first, {"n1/a": "p 2"}, "2026-02-02T00:00:01Z")
    assert (past.until, fresh.since, fresh.changes) == ("2026-02-02T00:00:01Z", "2026-02-02T00:00:01Z", ())

    (full,) = recorded(first, {}, f"{DAY}T10:00:01Z")
    full = replace(full, changes=full.changes * MOST_CHANGES)
    assert len(recorded(full, {"n1/a": "p 3"}, f"{DAY}T10:00:02Z")) == 2
    assert after(full) == {}
