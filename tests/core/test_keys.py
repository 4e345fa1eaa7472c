"""Keys: where everything lies, and that no name leads anywhere else."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.core import keys
from handlers.core.names import Channel, InstanceKey, Service
from handlers.core.version import Version

C = Channel("prod/search/places")
S = Service("prod/search/complete")
V = Version("2026-01-31T23-59-59")
I = InstanceKey.of(S, "i0")  # noqa: E741 - beside C, S and V

TABLE = [
    (keys.META, "meta"),
    (keys.ALARMS, "alarms"),
    (keys.settings(C), "channels/prod/search/places/settings"),
    (keys.head(C), "channels/prod/search/places/head"),
    (keys.channel_pin(C), "channels/prod/search/places/pin"),
    (keys.rejected(C, V), "channels/prod/search/places/rejected/2026-01-31T23-59-59"),
    (keys.release(C, V), "releases/prod/search/places/2026-01-31T23-59-59"),
    (keys.manifest(C, V), "manifests/prod/search/places/2026-01-31T23-59-59"),
    (keys.subscription(S), "services/prod/search/complete/subscription"),
    (keys.service_pin(S, "places"), "services/prod/search/complete/pin/places"),
    (keys.control(S), "services/prod/search/complete/control"),
    (keys.verdicts(S), "verdicts/prod/search/complete"),
    (keys.proven(S), "proven/prod/search/complete"),
    (keys.slots(S), "slots/prod/search/complete"),
    (keys.slot("n1", I), "slots/prod/search/complete/n1.i0"),
    (keys.info("n1"), "nodes/n1/info"),
    (keys.instances("n1"), "nodes/n1/instances"),
    (keys.alive("n1"), "nodes/n1/alive"),
    (keys.registrations("n1"), "nodes/n1/registrations"),
    (keys.cordon("n1"), "nodes/n1/cordon"),
    (keys.desired("n1"), "desired/n1"),
    (keys.actual("n1"), "actual/n1"),
    (keys.progress("n1"), "progress/n1"),
    (keys.states("n1"), "states/n1"),
    (keys.lock("plan"), "locks/plan"),
    (keys.audit("node/n1", "2026-01-31T23-59-59", "0a"), "audit/node/n1/2026-01-31T23-59-59-0a"),
]


@pytest.mark.parametrize(("key", "rest"), TABLE)
def test_key_is_what_the_format_says(key: str, rest: str) -> None:
    assert key == f"hydra/v1/{rest}"
    assert "/".join(keys.rest(keys.ROOT, key)) == rest


def test_folders_hold_their_keys() -> None:
    assert keys.head(C).startswith(keys.channel(C))
    assert keys.release(C, V).startswith(keys.releases(C))
    assert keys.control(S).startswith(keys.service(S))
    assert keys.info("n1").startswith(keys.node("n1"))
    assert not keys.info("n10").startswith(keys.node("n1"))


def test_rest_of_a_foreign_key_is_refused() -> None:
    with pytest.raises(ValueError, match="not below"):
        keys.rest(keys.CHANNELS, keys.META)


@pytest.mark.parametrize(
    ("key", "order"),
    [
        (keys.channel_pin(C), True),
        (keys.rejected(C, V), True),
        (keys.service_pin(S, "places"), True),
        (keys.control(S), True),
        (keys.head(C), False),
        (keys.settings(Channel("pin/control/rejected")), False),
        (keys.subscription(S), False),
        (keys.META, False),
        (keys.cordon("control"), False),
        (keys.audit("a/b/c/pin", "x", "y"), False),
    ],
)
def test_orders_of_operators_are_known_by_their_keys(key: str, order: bool) -> None:
    assert keys.is_order(key) == order


@given(st.text(st.characters(), max_size=60))
def test_no_node_name_leaves_its_folder(name: str) -> None:
    assert re.fullmatch(r"hydra/v1/nodes/[a-z0-9._-]+/info", keys.info(name))
    assert re.fullmatch(r"hydra/v1/desired/[a-z0-9._-]+", keys.desired(name))
    assert ".." not in keys.info(name)


NAMES = st.from_regex(r"[a-c0-1]([a-c0-1.]{0,3}[a-c0-1])?", fullmatch=True).filter(lambda n: ".." not in n)


@given(NAMES, NAMES, NAMES, NAMES)
def test_two_instances_never_share_a_slot(node: str, foreign: str, other_node: str, other: str) -> None:
    one, two = InstanceKey.of(S, foreign), InstanceKey.of(S, other)
    if (node, foreign) != (other_node, other):
        assert keys.slot(node, one) != keys.slot(other_node, two)
