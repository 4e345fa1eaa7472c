"""All instances of a service, on all nodes: who is in service, who has served, which nodes are dead.

Asked by `reload` before one more instance goes out, and so always anew. What cannot be read counts as not in
service, never as absent. One that drains is out, whatever Consul lists: when a snapshot was restored, slots
may be those of before, and the catalog too, until the agents tell it everything anew.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from handlers.adapters.local import LocalState
from handlers.adapters.ports import Consul
from handlers.adapters.service import Health
from handlers.core import codec, keys
from handlers.core.admission import Member
from handlers.core.errors import Malformed
from handlers.core.model import Instance, Instances, InstanceState, NodeInfo, Proven, Ready, Slots, States
from handlers.core.names import InstanceKey, Service

IN_SERVICE: Mapping[Health, bool | None] = {
    Health.IN: True,
    Health.OUT: False,
    Health.GONE: False,
    Health.UNSEEN: None,
}


class Prober(Protocol):
    """The part of `adapters.service.Services` that tells health."""

    def listing(self, consul_name: str, *, after: int = 0, wait_s: float = 0) -> tuple[list[Any], int]: ...

    def health(self, instance: Instance, node: str, rows: list[Any], ready: bool) -> Health: ...


class Census:
    """The members of services. `dead_after_s`: how long a node must look dead to be so.

    The nodes on which members were seen are remembered in `local`: a restored KV may not name all of them.
    """

    def __init__(
        self,
        consul: Consul,
        prober: Prober,
        local: LocalState,
        node: str,
        dead_after_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._consul, self._prober, self._local, self._node = consul, prober, local, node
        self._dead_after_s, self._clock = dead_after_s, clock
        self._suspected: dict[str, float] = {}

    def here(
        self,
        service: Service,
        instances: Mapping[InstanceKey, Instance],
        states: Mapping[InstanceKey, InstanceState],
    ) -> dict[str, Member]:
        """Those of this node that have `states`, by slot id."""
        found: dict[str, Member] = {}
        listings: dict[str, list[Any]] = {}
        for key, instance in instances.items():
            if key.service == service and (state := states.get(key)) is not None:
                health = self._health(instance, self._node, listings, state.state is Ready.READY)
                # one that Consul does not know (yet, or any more) is not simply out of service
                seen = None if health is Health.GONE else _in_service(health, state)
                found[keys.slot_id(self._node, key)] = Member(self._node, seen, state.served)
        return found

    def elsewhere(self, service: Service, slots: Slots) -> dict[str, Member]:
        """Those of all other nodes, by slot id; raises `Malformed` when it is not known which these are.

        Nodes that nobody counts (any more) are looked at as well, if they have a slot or had members before.
        """
        found: dict[str, Member] = {}
        listings: dict[str, list[Any]] = {}
        counted, remembered = self._nodes(service), self._remembered(service)
        for node in counted | remembered | {entry.node for entry in slots.out.values()} - {""}:
            if node != self._node:
                found.update(self._members(node, service, listings))
        seen = counted | {member.node for member in found.values()}
        if seen != remembered:
            self._local.write(f"members/{service}", codec.encode(Proven(nodes=tuple(sorted(seen)))))
        return found

    def _remembered(self, service: Service) -> frozenset[str]:
        """The nodes on which the service had members when this node looked last."""
        name = f"members/{service}"
        raw = self._local.read(name)
        with contextlib.suppress(Malformed):  # a damaged memory is no memory
            return frozenset(codec.decode(Proven, raw, name).nodes) if raw else frozenset()
        return frozenset()

    def _nodes(self, service: Service) -> frozenset[str]:
        """The nodes with instances of the service, as plan has counted them."""
        key = keys.proven(service)
        entry, _ = self._consul.get(key)
        if entry is None:
            raise Malformed(f"{key}: is missing, so nobody knows where the other instances are")
        return frozenset(codec.decode(Proven, entry.value, key).nodes)

    def dead(self, nodes: Iterable[str]) -> frozenset[str]:
        """Those of `nodes` that have looked dead for long enough: no `alive`, or serfHealth critical."""
        now = self._clock()
        result = set()
        for node in set(nodes) - {self._node}:
            if self._looks_dead(node):
                since = self._suspected.setdefault(node, now)
                if now - since >= self._dead_after_s:
                    result.add(node)
            else:
                self._suspected.pop(node, None)
        return frozenset(result)

    def _members(
        self, node: str, service: Service, listings: dict[str, list[Any]]
    ) -> Iterable[tuple[str, Member]]:
        states = self._document(States, keys.states(node))
        known = self._document(Instances, keys.instances(node))
        instances = {k: i for k, i in known.instances.items() if i.service == service} if known else {}
        for key, instance in instances.items():
            state = states.instances.get(key) if states else None
            if states and state is None:
                continue  # it has no view yet
            # without its node's states it may have served: what is not known counts against going out
            ready, served = (state.state is Ready.READY, state.served) if state else (False, True)
            health = self._health(instance, node, listings, ready)
            yield keys.slot_id(node, key), Member(node, _in_service(health, state), served)
        if known is None and states is not None:
            for key, state in states.instances.items():
                if state.service == service:
                    yield keys.slot_id(node, key), Member(node, None, state.served)

    def _health(self, instance: Instance, node: str, listings: dict[str, list[Any]], ready: bool) -> Health:
        rows: list[Any] = []
        if instance.health == "consul":
            name = instance.consul_name
            if name not in listings:
                listings[name], _ = self._prober.listing(name)
            rows = listings[name]
        return self._prober.health(instance, node, rows, ready)

    def _looks_dead(self, node: str) -> bool:
        alive, _ = self._consul.get(keys.alive(node))
        if alive is None:
            return True
        info = self._document(NodeInfo, keys.info(node))
        name = (info.consul_node if info else "") or node
        checks, _ = self._consul.get_json(f"health/node/{name}", {"consistent": ""})
        # a node that Consul does not know by this name is judged by `alive` alone
        return any(c["CheckID"] == "serfHealth" and c["Status"] == "critical" for c in checks or [])

    def _document(self, cls: type[codec.T], key: str) -> codec.T | None:
        entry, _ = self._consul.get(key)
        try:
            return codec.decode(cls, entry.value, key) if entry else None
        except Malformed:
            return None


def _in_service(health: Health, state: InstanceState | None) -> bool | None:
    return False if state and state.state is Ready.DRAINING else IN_SERVICE[health]
