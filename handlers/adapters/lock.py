"""Locks of the whole cluster: one planner plans at a time, and a standby takes over when it dies."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

from handlers.adapters.kv import SessionKeeper
from handlers.adapters.local import LocalState
from handlers.adapters.ports import KV, CheckSession, Lock
from handlers.core import keys
from handlers.core.errors import Conflict, Temporary

_LOOK_S = 10.0  # of one blocking query; whether our own session still lives is looked at in between


@contextlib.contextmanager
def cluster_lock(
    kv: KV, local: LocalState, role: str, *, node: str, ttl_s: int, user: str = ""
) -> Iterator[CheckSession]:
    """Wait for the lock `locks/<role>`, hold it for the block; yields the fence for its transactions.

    What is read inside the block is read after everybody who held the lock before has finished. A holder that
    died is waited for until its session ends (up to twice `ttl_s` seconds). Raises `Temporary` and `Denied`.
    `user` names the handler where that is not the role itself: two handlers of one node that went on with one
    another's session would both hold the lock.
    """
    with SessionKeeper(kv, local, user or role, ttl_s=ttl_s, behavior="delete") as keeper:
        fence = CheckSession(keys.lock(role), keeper.session)
        index = 0
        while not _taken(kv, fence, user or role, node):
            if keeper.lost.is_set():
                raise Temporary(f"{fence.key}: our session ended while somebody else held the lock")
            _, index = kv.get(fence.key, after=index, wait_s=_LOOK_S if index else 0)
        yield fence


def _taken(kv: KV, fence: CheckSession, user: str, node: str) -> bool:
    """Try once; also true when the lock is still ours from a run that died."""
    about = {"about": f"{user} is at work on {node}", "node": node}
    value = (json.dumps(about, indent=2, ensure_ascii=False) + "\n").encode()
    try:
        kv.txn([Lock(fence.key, value, fence.session)])
    except Conflict:
        return False
    return True
