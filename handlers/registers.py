"""All that tells which instances a node has: Consul's catalog, the node's own agent, operators, its pods.

Used by `discover`. Reads everything or raises: what was left out would look as if it were gone.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any
from zlib import crc32

from msgspec import Struct

from handlers import pulse
from handlers.adapters.ledger import Ledger
from handlers.adapters.ports import Entry, Listing
from handlers.context import Context, agent_name
from handlers.core import codec, keys
from handlers.core.acceptance import RECOVER
from handlers.core.discovery import Reading, Registered
from handlers.core.errors import HydraError, Malformed
from handlers.core.model import Desired, Instance, Instances
from handlers.core.names import InstanceKey
from handlers.podwatch import PodReader, PodReading

LONGEST_BLOCK_S = 60.0
RETRY_S = 2.0


class Seen(Struct, frozen=True):
    """One look at the KV and the catalog; `node` is everything below `nodes/<node>/`."""

    reading: Reading
    node: Listing
    alarms: tuple[str, ...]


class Registers:
    """Those of one node. `agent` is the name that its agent has in Consul, empty until it is known."""

    def __init__(self, ctx: Context, pods: PodReader | None) -> None:
        self._ctx, self._kv, self._local = ctx, ctx.kv, ctx.local
        self.pods, self.agent = pods, ""

    def read(self) -> Seen:
        """Everything at once; raises rather than leave something out."""
        node = self._kv.list(keys.node(self._ctx.node))
        catalog, _ = self._kv.get_json(self._services_path(), {"consistent": ""})
        mine, _ = self._kv.get_json("agent/services")
        by_hand, alarms = _by_hand(node.entries.get(keys.registrations(self._ctx.node)))
        if self._is_behind():
            by_hand, alarms = None, (f"the KV is behind this node, and no instance is dropped; {RECOVER}",)
        ids = None if mine is None else frozenset(mine)
        pods = self._of_pods()
        reading = Reading(
            catalog=_rows(catalog), agent_ids=ids, by_hand=by_hand, pods=pods.instances, ended=pods.ended
        )
        return Seen(reading, node, (*alarms, *pods.alarms))

    def read_without_consul(self) -> Reading:
        """What can be seen all the same: pods, and the services of the node's own agent."""
        pods = self._of_pods()
        return Reading(
            catalog=None,
            agent_ids=None,
            by_hand=None,
            pods=pods.instances,
            ended=pods.ended,
            agent=self._of_agent(),
        )

    @property
    def lost(self) -> bool:
        """Whether the control plane of Kubernetes does not hear from this node's kubelet."""
        return self.pods is not None and self.pods.reading().lost

    # --- what discover's threads block on ---

    @property
    def blocks(self) -> tuple[Callable[[int], int], ...]:
        """Each takes an index and returns another one once there may be something to read."""
        return self.block_on_catalog, self.block_on_node, self.block_on_meta, self.block_on_pulse

    def block_on_catalog(self, after: int) -> int:
        """The index of this node's services in the catalog, once it is another one than `after`."""
        return self._kv.get_json(self._services_path(), after=after, wait_s=LONGEST_BLOCK_S)[1]

    def block_on_node(self, after: int) -> int:
        """The same for everything below `nodes/<node>/`: registrations come, `alive` goes."""
        return self._kv.list(keys.node(self._ctx.node), after=after, wait_s=LONGEST_BLOCK_S).index

    def block_on_meta(self, after: int) -> int:
        """The same for `meta`."""
        return self._kv.get(keys.META, after=after, wait_s=LONGEST_BLOCK_S)[1]

    def block_on_pulse(self, after: int) -> int:
        """A number that changes with what `<root>/fresh` says; looks at the file every few seconds."""
        while (found := crc32(pulse.read(self._ctx.settings.root).encode())) == after:
            time.sleep(RETRY_S)
        return found

    # --- one by one ---

    def _of_pods(self) -> PodReading:
        return self.pods.reading() if self.pods else PodReading(instances={})

    def _of_agent(self) -> tuple[Registered, ...]:
        """The services of the node's own agent, which answers while all servers are away."""
        with contextlib.suppress(HydraError):
            mine, _ = self._kv.get_json("agent/services")
            return _rows({"Node": {"Node": self._ctx.node}, "Services": list((mine or {}).values())}) or ()
        return ()

    def _is_behind(self) -> bool:
        """Whether the KV was restored, wiped or exchanged: what operators registered may be missing in it."""
        applied = Ledger(self._local, self._ctx.settings.limits.retry_s).generation()
        if not applied:
            return False
        key = keys.desired(self._ctx.node)
        entry, _ = self._kv.get(key)
        with contextlib.suppress(Malformed):  # sync says so
            return entry is None or codec.decode(Desired, entry.value, key).generation < applied
        return True

    def _services_path(self) -> str:
        return f"catalog/node-services/{self.agent or agent_name(self._kv, self._local)}"


def _by_hand(entry: Entry | None) -> tuple[Mapping[InstanceKey, Instance] | None, tuple[str, ...]]:
    """What operators registered, and alarms; None where it does not parse: then all stays as it is."""
    if entry is None:
        return {}, ()
    try:
        return codec.decode(Instances, entry.value, entry.key).instances, ()
    except Malformed as e:
        return None, (f"{e}; until it is mended no instance of this node is dropped",)


def _rows(answer: Any) -> tuple[Registered, ...] | None:
    """The services in an answer of `catalog/node-services`; None when the catalog does not know the node."""
    if not answer or not answer.get("Node"):
        return None
    address = str(answer["Node"].get("Address", ""))
    return tuple(
        Registered(
            id=row["ID"],
            name=row["Service"],
            address=row.get("Address") or address,
            port=row.get("Port", 0),
            incarnation=str(row.get("CreateIndex") or ""),
            meta=row.get("Meta") or {},
        )
        for row in answer.get("Services") or ()
        if not row.get("Kind")  # a sidecar proxy inherits the meta of its service
    )
