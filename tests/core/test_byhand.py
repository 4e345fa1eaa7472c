"""Changes that no audit entry explains, and those that one does."""

from __future__ import annotations

from handlers.core import codec, keys, model
from handlers.core.byhand import by_hand, object_of, orders, went_back
from tests.core.worlds import COMPLETE, PLACES, v

HEAD, PIN = keys.head(PLACES), keys.channel_pin(PLACES)
OWNER = f"channel/{PLACES}"


def seen(**entries: tuple[int, bytes]) -> model.Orders:
    return orders("channels", {{"head": HEAD, "pin": PIN}[name]: found for name, found in entries.items()})


def test_only_orders_are_looked_at_and_versions_are_remembered() -> None:
    found = orders(
        "nodes",
        {keys.info("n1"): (1, b"{}"), keys.cordon("n1"): (2, b"{}"), keys.alive("n1"): (3, b"")},
    )
    assert found.seen == {"nodes/n1/cordon": "2"}
    assert seen(head=(5, v(1).encode()), pin=(6, b"nonsense")).seen == {
        f"channels/{PLACES}/head": f"5 {v(1)}",
        f"channels/{PLACES}/pin": "6 unreadable",
    }
    pin = codec.encode(model.Pin(version=v(2)))
    services = orders("services", {keys.service_pin(COMPLETE, "places"): (7, pin)})
    assert services.seen == {f"services/{COMPLETE}/pin/places": f"7 {v(2)}"}


def test_change_in_the_transaction_of_an_audit_entry_is_explained() -> None:
    before, now = seen(head=(5, v(1).encode())), seen(head=(9, v(2).encode()))

    assert by_hand(before, now, lambda owner: {9} if owner == OWNER else set(), since=5) == []


def test_change_without_an_entry_of_its_index_is_by_hand_with_both_versions() -> None:
    before, now = seen(head=(5, v(1).encode())), seen(head=(9, v(2).encode()))

    (change,) = by_hand(before, now, lambda _: {8}, since=5)

    assert (change.object, change.action, change.before, change.after) == (
        OWNER,
        "changed by hand",
        v(1),
        v(2),
    )


def test_written_and_deleted_by_hand() -> None:
    before, now = seen(pin=(5, v(1).encode())), seen(head=(9, v(2).encode()))

    changes = by_hand(before, now, lambda _: {4}, since=5)

    assert {(c.action, c.before, c.after) for c in changes} == {
        ("deleted by hand", v(1), ""),
        ("written by hand", "", v(2)),
    }
    assert by_hand(seen(pin=(5, v(1).encode())), seen(), lambda _: {7}, since=5) == []


def test_restored_kv_explains_nothing() -> None:
    assert went_back(seen(head=(9, v(2).encode())), seen(head=(5, v(1).encode())))
    assert not went_back(seen(head=(5, v(1).encode())), seen(head=(9, v(2).encode())))


def test_each_key_belongs_to_an_object() -> None:
    assert object_of(f"services/{COMPLETE}/control") == f"service/{COMPLETE}"
    assert object_of("nodes/n1/registrations") == "node/n1"
