"""The list of watches: each row wakes a handler that exists, on a key that somebody writes."""

from handlers.core import keys
from watches import registry

HANDLERS = {"node": {"sync", "reload"}, "cluster": {"plan", "judge"}}


def test_every_row_has_a_name_of_its_own() -> None:
    names = [watch.name for watch in registry.WATCHES]

    assert len(names) == len(set(names))


def test_rows_of_a_scope_wake_the_handlers_of_that_scope() -> None:
    woken = {scope: {watch.handler for watch in registry.of(scope)} for scope in ("node", "cluster")}

    assert woken == HANDLERS


def test_prefixes_end_in_a_slash_and_keys_do_not() -> None:
    """Without the slash, the watch of n1 would ring for n10 as well."""
    ends = {watch.name: watch.path("n1").endswith("/") for watch in registry.WATCHES}

    assert ends == {watch.name: watch.type == "keyprefix" for watch in registry.WATCHES}


def test_rows_of_a_node_watch_keys_of_this_node_alone() -> None:
    for watch in registry.of("node"):
        assert watch.path("n1") != watch.path("n2")
        assert "n1" in watch.path("n1").rstrip("/").split("/")


def test_a_foreign_node_name_is_a_legal_key() -> None:
    for watch in registry.of("node"):
        assert " " not in watch.path("Node 1")
        assert watch.path("Node 1").startswith(keys.ROOT)
