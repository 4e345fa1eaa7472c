"""The document `states/<node>`: read, repaired from what this node remembers, and written step by step.

Only `reload` of this node writes it. What was written is also kept in the local state, so that a KV that is
behind (a restored snapshot) is put right from here, and new instances get their files while Consul is away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from handlers import log
from handlers.adapters.local import LocalState
from handlers.adapters.ports import KV, Cas, Op
from handlers.adapters.templates import STATES
from handlers.core import codec, keys
from handlers.core.errors import Malformed
from handlers.core.model import InstanceState, States
from handlers.core.names import InstanceKey

Changes = Mapping[InstanceKey, InstanceState | None]


class StateBook:
    """The states of one node's instances, as last read or written."""

    def __init__(self, kv: KV, local: LocalState, node: str) -> None:
        self._kv, self._local, self._node = kv, local, node
        self._key = keys.states(node)
        self._index = 0
        self._doc = self._remembered()

    @property
    def instances(self) -> Mapping[InstanceKey, InstanceState]:
        """All instances by key."""
        return self._doc.instances

    @property
    def sequence(self) -> int:
        """Rises with every write."""
        return self._doc.sequence

    def load(self) -> bool:
        """Read the document; whether KV is behind what this node remembers (then `commit` writes it anew)."""
        entry, _ = self._kv.get(self._key)
        self._index = entry.index if entry else 0
        own, theirs = self._remembered(), self._parsed(entry.value) if entry else None
        if theirs is not None and theirs.sequence >= own.sequence:
            self._doc = theirs
            self._local.write(STATES, codec.encode(theirs))
            return False
        self._doc = own
        return entry is not None or own.sequence > 0

    def commit(self, changes: Changes, others: Sequence[Op] = ()) -> None:
        """Write the changed states (None = gone) and `others` in one transaction.

        Raises `Conflict` when anything was changed by somebody else or a lock was lost, `Temporary`.
        """
        fresh = self._changed(changes)
        raw = codec.encode(fresh)
        written = self._kv.txn([*others, Cas(self._key, raw, self._index)])
        self._tell(changes)
        self._index, self._doc = written[self._key], fresh
        self._local.write(STATES, raw)

    def commit_here(self, changes: Changes) -> None:
        """Write to the node's memory only; the next `load` finds KV behind and `commit` carries it over."""
        self._doc = self._changed(changes)
        self._local.write(STATES, codec.encode(self._doc))

    def _tell(self, changes: Changes) -> None:
        """Keep in the log what the document says only for a moment."""
        for key, state in changes.items():
            before = self._doc.instances.get(key)
            if state and state.reason and (before is None or before.reason != state.reason):
                log.info("reload", "says", instance=key, step=state.step, reason=state.reason)

    def _changed(self, changes: Changes) -> States:
        merged = {**self._doc.instances, **changes}
        kept = {key: state for key, state in merged.items() if state is not None}
        return replace(self._doc, node=self._node, sequence=self._doc.sequence + 1, instances=kept)

    def _remembered(self) -> States:
        raw = self._local.read(STATES)
        parsed = self._parsed(raw) if raw else None
        # a renamed node goes on with what its instances are, under its new name
        return replace(parsed, node=self._node) if parsed else States(node=self._node)

    def _parsed(self, raw: bytes) -> States | None:
        try:
            return codec.decode(States, raw, self._key)
        except Malformed as e:
            log.warning("reload", "states do not parse; the last good ones count", error=e)
            return None
