"""Transactions as Consul takes them: their size, their JSON, and what a refusal means."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from handlers.adapters.ports import (
    MAX_OPS,
    MAX_TXN_BYTES,
    Cas,
    CheckIndex,
    CheckSession,
    Delete,
    DeleteCas,
    Lock,
    Op,
    Set,
    Unlock,
)
from handlers.core.errors import Conflict, Denied, HydraError, Usage


def check_size(ops: Sequence[Op]) -> None:
    """Raise `Usage` when a transaction is larger than Consul takes."""
    if len(ops) > MAX_OPS:
        raise Usage(f"a transaction of {len(ops)} operations; at most {MAX_OPS} fit")
    total = sum(op_bytes(op) for op in ops)
    if total > MAX_TXN_BYTES:
        largest = max(ops, key=op_bytes)
        raise Usage(
            f"a transaction of {total} bytes; at most {MAX_TXN_BYTES} fit "
            f"(the largest part is {largest.key} with {op_bytes(largest)})"
        )


def op_bytes(op: Op) -> int:
    """What an operation counts against MAX_TXN_BYTES: its key and its value.

    Base64 makes 506,667 of 380,000 bytes, and JSON adds at most 200 for each of 60 operations: 518,667,
    which is below the 524,288 bytes that Consul takes.
    """
    return len(op.key.encode()) + len(getattr(op, "value", b""))


def split(ops: Sequence[Op], guards: Sequence[Op] = ()) -> list[list[Op]]:
    """`ops` in order, in batches that each fit into a transaction and begin with `guards`.

    Raises `Usage` when one operation alone (with the guards) does not fit.
    """
    batches: list[list[Op]] = []
    base = sum(op_bytes(op) for op in guards)
    used = 0
    for op in ops:
        size = op_bytes(op)
        if not batches or len(batches[-1]) >= MAX_OPS or used + size > MAX_TXN_BYTES:
            batches.append([*guards])
            used = base
        batches[-1].append(op)
        used += size
    for batch in batches:
        check_size(batch)
    return batches


def plain(op: Op) -> dict[str, Any]:
    """The operation as `/v1/txn` reads it."""
    match op:
        case Set(key, value):
            return {"Verb": "set", "Key": key, "Value": _text(value)}
        case Cas(key, value, index):
            return {"Verb": "cas", "Key": key, "Value": _text(value), "Index": index}
        case Delete(key):
            return {"Verb": "delete", "Key": key}
        case DeleteCas(key, index):
            return {"Verb": "delete-cas", "Key": key, "Index": index}
        case CheckIndex(key, 0):
            return {"Verb": "check-not-exists", "Key": key}
        case CheckIndex(key, index):
            return {"Verb": "check-index", "Key": key, "Index": index}
        case CheckSession(key, session):
            return {"Verb": "check-session", "Key": key, "Session": session}
        case Lock(key, value, session):
            return {"Verb": "lock", "Key": key, "Value": _text(value), "Session": session}
        case Unlock(key, value, session):
            return {"Verb": "unlock", "Key": key, "Value": _text(value), "Session": session}


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()


def refusal(errors: Sequence[Mapping[str, Any]], ops: Sequence[Op]) -> HydraError:
    """What a refused transaction means; Consul says 409 for lost races and for missing permission alike."""
    if not errors:
        return Conflict("the transaction was refused without a reason")
    first = min(errors, key=lambda e: int(e["OpIndex"]))
    what, at = str(first["What"]), int(first["OpIndex"])
    key = ops[at].key if at < len(ops) else "?"
    for error in errors:
        if "Permission denied" in str(error["What"]):
            return Denied(f"{key}: {error['What']}")
    return Conflict(f"{key}: {what}")
