"""What this node is told to hold: the last `desired/<node>` that was taken over, and why a newer one is not.

Used by `sync`. What is good is kept in the local state, before `actual` says so; from there `reload` works
without Consul, and so does the next run that finds a document which must not be taken over.
"""

from __future__ import annotations

from handlers import log
from handlers.adapters.ledger import Ledger
from handlers.adapters.local import LocalState
from handlers.adapters.ports import KV, Entry
from handlers.core import codec, keys
from handlers.core.acceptance import Held, accept
from handlers.core.errors import Malformed
from handlers.core.model import Desired

_DESIRED = "desired"


class Orders:
    """The last good `desired` (None before the first), the `entry` that was read last and its `index`.

    `hold` says why that entry was not taken over; empty when it was.
    """

    def __init__(self, kv: KV, local: LocalState, ledger: Ledger, node: str) -> None:
        self._kv, self._local, self._ledger, self._node = kv, local, ledger, node
        self.desired: Desired | None = None
        self.entry: Entry | None = None
        self.index = 0
        self.hold = ""

    def take_over(self) -> None:
        """Read `desired`; keep it locally if it is good, else hold off with the last good one."""
        key = keys.desired(self._node)
        meta, _ = self._kv.get(keys.META)
        entry, self.index = self._kv.get(key)
        raw, last = entry.value if entry else None, self._local.read(_DESIRED)
        applied = self._ledger.generation()
        try:
            desired = accept(raw, self._node, applied, meta is not None, key, last)
        except Held as e:
            self.entry, self.hold = entry, str(e)
            self.desired = self.desired or self._last_good(last)
            return
        assert entry is not None  # nothing is accepted that is not there
        self._local.write(_DESIRED, entry.value)
        self._ledger.took_over(self._node, desired.generation)
        self.entry, self.hold, self.desired = entry, "", desired

    def _last_good(self, raw: bytes | None) -> Desired | None:
        try:
            return codec.decode(Desired, raw, "the last good desired") if raw else None
        except Malformed as e:
            log.warning("sync", "local state is damaged", node=self._node, reason=e)
            return None
