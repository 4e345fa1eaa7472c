"""The pods of this node that read data: kept in view for `discover`, and told whether their data is ready.

    API server, watched        ->  the node's instances, with whether each is in service
    <view>/state of each pod   ->  its data-ready condition, Events

Uses nothing of Consul: a pod gets its view, and its readiness, also while Consul and the planner are away.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from msgspec import Struct, field
from msgspec.structs import replace

from handlers import log
from handlers.adapters.mirror import Picture
from handlers.adapters.pods import About, Json, Query, collection
from handlers.adapters.views import Views
from handlers.core.errors import HydraError, Usage
from handlers.core.model import Instance, Ready
from handlers.core.names import READINESS_FILE, InstanceKey
from handlers.core.pods import (
    BETWEEN,
    News,
    Owner,
    Pod,
    Shown,
    gate_wanted,
    in_service,
    instance_of,
    labels_of,
    news,
    node_is_ready,
    owner_of,
    pod_of,
    ready_endpoints,
    stem,
    waits_for,
)

LOOK_S = 0.2  # between looks at the state files; a reload waits this long for its drain to be told
ENDPOINTS_S = 0.5  # between looks at the EndpointSlices of a namespace, asked only while a pod is on its way
WAITING_S = 5.0  # a pod that waits is told why when the reason has been the same for so long
_HIGHEST = 8  # owners above one another; more is a circle


class Server(Protocol):
    """`adapters.pods.Api`, as far as it is used here."""

    def list(self, query: Query) -> tuple[list[Json], str]: ...

    def read(self, path: str) -> Json | None: ...

    def set_data_ready(
        self, namespace: str, pod: str, uid: str, status: str, reason: str, text: str
    ) -> None: ...

    def say(self, about: About, kind: str, reason: str, text: str) -> None: ...


class Source(Protocol):
    """`adapters.mirror.Mirror`."""

    def picture(self) -> Picture: ...


class PodReading(Struct, frozen=True, kw_only=True):
    """The node's pods as instances; None while they cannot be seen. `ended` are UIDs of pods that are gone.

    `lost`: the control plane does not hear from this node's kubelet, so nothing here takes traffic any more.
    `labels`: what of the Kubernetes node's labels are labels of Hydra's; None while it cannot be seen.
    """

    instances: Mapping[InstanceKey, Instance] | None = None
    ended: frozenset[str] = frozenset()
    lost: bool = False
    alarms: tuple[str, ...] = ()
    labels: Mapping[str, str] | None = None


class PodReader(Protocol):
    """`PodWatch`, as discover sees it."""

    def reading(self) -> PodReading: ...


class _Told(Struct):
    """What was seen of a pod last and since when, with which releases it is `out` as an Event told, why it
    `waits` as was told, and what its endpoints said; None where they are to be asked.
    """

    shown: Shown
    since: float
    out: str | None
    waits: str = ""
    endpoints: tuple[bool, ...] | None = None


def keep_looking(name: str, look: Callable[[], None]) -> None:
    """Look again and again, in a thread that ends with the process; what is in the way is told once."""

    def run() -> None:
        pause, complained = threading.Event(), ""
        while True:
            try:
                look()
                complained = ""
            except HydraError as e:
                if str(e) != complained:
                    log.warning("discover", f"cannot see to its {name} now", error=e)
                complained = str(e)
            pause.wait(LOOK_S)

    threading.Thread(target=run, name=name, daemon=True).start()


class PodWatch(Struct):
    """`pods` and `node` are pictures of this node's pods and of its Node object."""

    server: Server
    pods: Source
    node: Source
    views: Views
    environment: str
    ring: Callable[[], None]
    clock: Callable[[], float] = time.monotonic
    _reading: PodReading = field(default_factory=PodReading)
    _owners: dict[str, str] = field(default_factory=dict)
    _told: dict[str, _Told] = field(default_factory=dict)
    _endpoints: dict[str, tuple[float, Mapping[str, tuple[bool, ...]]]] = field(default_factory=dict)

    def reading(self) -> PodReading:
        """What was seen at the last look."""
        return self._reading

    def look(self) -> None:
        """Look once: tell pods what has changed, and ring when the reading did.

        Raises `HydraError`, at the end: what is in the way of one pod is in the way of no other, and whether
        that one is in service is unknown meanwhile.
        """
        picture, node = self.pods.picture(), self.node.picture()
        if not picture.known:
            self._found(replace(self._reading, instances=None))
            return
        lost = node.known and not any(node_is_ready(value) for value in node.objects.values())
        pods = [pod_of(value) for value in picture.objects.values()]
        over = frozenset(pod.uid for pod in pods if pod.ended)
        alarms, found, fault = [], {}, None
        for pod in pods:
            if pod.ended or not pod.address:  # without an address its containers do not run yet
                continue
            try:
                instance = instance_of(pod, self._top(pod), self.environment, None)
                key = InstanceKey.of(instance.service, instance.id)
            except Usage as e:
                alarms.append(f"pod {pod.namespace}/{pod.name}: {e}")
                continue
            except HydraError:
                self._found(replace(self._reading, instances=None))  # a pod left out would count as gone
                raise
            serving = None
            try:
                serving = None if lost else self._see_to(key, pod)
            except HydraError as e:
                fault = fault or e
            found[key] = replace(instance, serving=serving)
        self._found(
            PodReading(
                instances=found,
                ended=picture.ended | over,
                lost=lost,
                alarms=tuple(sorted(alarms)),
                labels=labels_of(node.objects.values()) if node.known else None,
            )
        )
        for uid in self._told.keys() - picture.objects.keys():
            del self._told[uid]
        if fault is not None:
            raise fault

    def _found(self, reading: PodReading) -> None:
        if reading != self._reading:
            self._reading = reading
            self.ring()

    def _top(self, pod: Pod) -> str:
        """The name of the highest owner of a pod; asked for once per owner."""
        if pod.owner is None:
            return pod.name
        if pod.owner.uid not in self._owners:
            self._owners[pod.owner.uid] = self._climb(pod.namespace, pod.owner)
        return self._owners[pod.owner.uid]

    def _climb(self, namespace: str, owner: Owner) -> str:
        for _ in range(_HIGHEST):
            if owner.kind not in BETWEEN:
                return owner.name
            value = self.server.read(f"{collection(*BETWEEN[owner.kind], namespace)}/{owner.name}")
            if value is None:
                return stem(owner)  # it was deleted, and its pods are going
            above = owner_of(value)
            if above is None:
                return owner.name
            owner = above
        return owner.name

    def _see_to(self, key: InstanceKey, pod: Pod) -> bool:
        """Tell the pod what its node says of its data; whether it is in service."""
        told, word, now = self._told.get(pod.uid), self.views.shown(key), self.clock()
        if told is None:
            seen = self._shown(key, word)
            out = seen.releases if word == Ready.DRAINING else None
            told = self._told[pod.uid] = _Told(seen, now, out)
        calm = word == told.shown.word == Ready.READY and told.out is None
        shown = told.shown if calm else self._shown(key, word)
        if shown != told.shown:
            told.since = now
        why = "" if now - told.since < WAITING_S else waits_for(shown)
        heard = why in ("", told.waits)
        if pod.gated and ((wanted := gate_wanted(word, pod.gate)) != pod.gate or not heard):
            reason = f"Data{(word or Ready.WAITING).capitalize()}"
            self.server.set_data_ready(pod.namespace, pod.name, pod.uid, wanted, reason, shown.reason)
        if fresh := news(told.shown, shown, told.out):
            self._say(pod, fresh)
            told.out = shown.releases if word == Ready.DRAINING else None
        if not heard:
            self._say(pod, News("Normal", "DataWaiting", why))
        told.waits = "" if word == Ready.READY else why or told.waits
        told.shown = shown
        return in_service(pod, self._ends(pod, told, word), word)

    def _ends(self, pod: Pod, told: _Told, word: str) -> tuple[bool, ...]:
        """What the pod's endpoints say, asked for while that may change and matters.

        Unless it drains, a pod that is not ready is out of service whatever they say, and may be so for long.
        """
        draining = word == Ready.DRAINING
        if not pod.ready and not draining:
            told.endpoints = None
        elif draining or told.endpoints is None or not all(told.endpoints):
            told.endpoints = self._listed(pod.namespace).get(pod.uid, ())
        return told.endpoints or ()

    def _listed(self, namespace: str) -> Mapping[str, tuple[bool, ...]]:
        """The endpoints of all pods of a namespace, from a list that all share for a while."""
        at, listed = self._endpoints.get(namespace, (float("-inf"), {}))
        if self.clock() - at >= ENDPOINTS_S:
            slices, _ = self.server.list(Query("discovery.k8s.io/v1", "endpointslices", namespace))
            listed = ready_endpoints(slices)
            self._endpoints[namespace] = self.clock(), listed
        return listed

    def _say(self, pod: Pod, fresh: News) -> None:
        """An Event on the pod; whether it arrives decides nothing."""
        try:
            about = About(pod.namespace, pod.name, pod.uid)
            self.server.say(about, fresh.kind, fresh.reason, fresh.text)
        except HydraError as e:
            log.warning("discover", "cannot write an Event", pod=f"{pod.namespace}/{pod.name}", error=e)

    def _shown(self, key: InstanceKey, word: str) -> Shown:
        """`word` with what the readiness file says beside it; nothing while that cannot be read."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            found = json.loads((self.views.path(key) / READINESS_FILE).read_text())
            releases, target = (
                ", ".join(f"{alias}={version}" for alias, version in sorted((found.get(name) or {}).items()))
                for name in ("releases", "target")
            )
            return Shown(word, str(found.get("step", "")), str(found.get("reason", "")), releases, target)
        return Shown(word)
