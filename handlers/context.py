"""What `handlers.main` hands to each handler: `def run(ctx: Context) -> str`, the sentence that is logged."""

from __future__ import annotations

from dataclasses import dataclass

from handlers.adapters.local import LocalState
from handlers.adapters.ports import Consul
from handlers.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Context:
    """The surroundings of one run of a handler.

    `node` is the name as it really is, never empty. `index` is what `consul watch` saw when it started this
    run (0 when nobody did): only for logs, since reads are consistent and so never older.
    """

    settings: Settings
    node: str
    kv: Consul
    local: LocalState
    index: int = 0
