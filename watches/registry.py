"""Which key wakes which handler: the only list of watches.

`watches.render` turns each row into one `consul watch` process. A watch is a doorbell: a handler reads for
itself what it needs, so a row only has to ring whenever there may be work, and once too often does no harm.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from msgspec import Struct

from handlers.core import keys

Scope = Literal["node", "cluster"]


class Watch(Struct, frozen=True):
    """One row: when what `path` names changes, `handler` runs. `path` takes the node's real name.

    Scope `node`: on every node, for its own keys. Scope `cluster`: where a planner runs.
    """

    name: str
    type: Literal["key", "keyprefix"]
    path: Callable[[str], str]
    handler: str
    scope: Scope


def _everywhere(prefix: str) -> Callable[[str], str]:
    return lambda _node: prefix


# Nobody watches `releases/`, `manifests/`, `slots/`, `progress/`, `audit/`, `alarms`, `locks/`: a head or a
# desired document names what is needed of the first two, the rest changes too often or concerns people only.
WATCHES = (
    Watch("desired", "key", keys.desired, "sync", "node"),
    Watch("actual", "key", keys.actual, "reload", "node"),
    Watch("node", "keyprefix", keys.node, "reload", "node"),
    Watch("channels", "keyprefix", _everywhere(keys.CHANNELS), "plan", "cluster"),
    Watch("services", "keyprefix", _everywhere(keys.SERVICES), "plan", "cluster"),
    Watch("nodes", "keyprefix", _everywhere(keys.NODES), "plan", "cluster"),
    Watch("verdicts", "keyprefix", _everywhere(keys.VERDICTS), "plan", "cluster"),
    Watch("states", "keyprefix", _everywhere(keys.STATES), "plan", "cluster"),
    Watch("rollouts", "keyprefix", _everywhere(keys.ROLLOUTS), "judge", "cluster"),
)


def of(scope: Scope) -> tuple[Watch, ...]:
    """The rows of one scope, in the order of the list."""
    return tuple(watch for watch in WATCHES if watch.scope == scope)
