"""Transactions: split to what Consul takes, and what its refusals mean."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.adapters.kv import split
from handlers.adapters.ports import MAX_OPS, MAX_TXN_BYTES, CheckSession, Lock, Op, Set
from handlers.adapters.txn import check_size, op_bytes, plain, refusal
from handlers.core.errors import Conflict, Denied, Usage

CONSUL_TAKES = 512 * 1024
GUARD = CheckSession("locks/plan", "s" * 36)


def test_nothing_to_write_is_no_batch() -> None:
    assert split([], [GUARD]) == []


def test_few_small_writes_are_one_batch_behind_the_guards() -> None:
    ops = [Set("a", b"1"), Set("b", b"2")]

    assert split(ops, [GUARD]) == [[GUARD, *ops]]


sizes = st.lists(st.integers(0, 120_000), max_size=150)


@given(sizes, st.integers(0, 3))
def test_batches_keep_all_writes_in_order_within_the_limits(lengths: list[int], guards: int) -> None:
    ops: list[Op] = [Set(f"key/{i}", b"\xff" * length) for i, length in enumerate(lengths)]
    guard: list[Op] = [GUARD] * guards

    batches = split(ops, guard)

    assert [op for batch in batches for op in batch[guards:]] == ops
    for batch in batches:
        check_size(batch)
        assert batch[:guards] == guard
        assert len(batch) > guards


def test_single_write_that_is_too_large_is_refused_by_name() -> None:
    with pytest.raises(Usage, match="huge"):
        split([Set("small", b"1"), Set("huge", b"x" * MAX_TXN_BYTES)])


def test_largest_allowed_transaction_is_below_what_consul_takes() -> None:
    key, session = "k" * 500, "s" * 36
    value = b"\xff" * (MAX_TXN_BYTES // MAX_OPS - len(key))
    ops: list[Op] = [Lock(key, value, session)] * MAX_OPS
    check_size(ops)

    body = json.dumps([{"KV": plain(op)} for op in ops])

    assert len(body) <= CONSUL_TAKES
    assert len(base64.b64encode(b"\xff" * (MAX_TXN_BYTES - 2))) + 200 <= CONSUL_TAKES
    assert op_bytes(ops[0]) == len(key) + len(value)


@pytest.mark.parametrize(
    ("errors", "kind", "text"),
    [
        ([{"OpIndex": 1, "What": "index is stale"}], Conflict, "b: index is stale"),
        ([{"OpIndex": 1, "What": "x"}, {"OpIndex": 0, "What": "y"}], Conflict, "a: y"),
        ([{"OpIndex": 0, "What": "Permission denied: token lacks"}], Denied, "a: Permission denied"),
        ([{"OpIndex": 9, "What": "strange"}], Conflict, "strange"),
        ([], Conflict, "without a reason"),
    ],
)
def test_refusal_names_the_first_key(
    errors: list[dict[str, object]], kind: type[Exception], text: str
) -> None:
    error = refusal(errors, [Set("a", b""), Set("b", b"")])

    assert type(error) is kind
    assert text in str(error)
