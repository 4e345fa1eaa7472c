"""What happens to a service's pods, as the API server tells it: `Lookout`, an observer that only looks."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from handlers.core.model import Ready
from handlers.core.pods import DATA_READY
from tests.kube.cluster import Cluster, Stream

TAKEN_OUT = f"Data{Ready.DRAINING.capitalize()}"  # the reason of the condition while Hydra has a pod out


@dataclass
class Lookout:
    """Pods of `namespace` during a block.

    `most_out`: how many that were Ready before Hydra had out of service at the same time, from the moment it
    said so until they were Ready again, or were deleted. `deleted`: names of those that somebody deleted.
    """

    cluster: Cluster
    namespace: str
    label: str
    most_out: int = 0
    deleted: set[str] = field(default_factory=set)
    _out: set[str] = field(default_factory=set)
    _served: set[str] = field(default_factory=set)
    _ready: set[str] = field(default_factory=set)
    _counts: list[int] = field(default_factory=list)
    _over: bool = False
    _stream: Stream | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over = True
        if self._stream is not None:
            self._stream.close()
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _look(self) -> None:
        """One watch after the other: one ends when the API server does, and the next begins with what is."""
        path = f"/api/v1/namespaces/{self.namespace}/pods?labelSelector={self.label}"
        while not self._over:
            self._stream = self.cluster.stream(path)
            for event in self._stream:
                self.take(event["type"], event["object"])

    def take(self, kind: str, pod: Mapping[str, Any]) -> None:
        """One event of the watch."""
        name, conditions = pod["metadata"]["name"], _conditions(pod)
        gate, ready = conditions.get(DATA_READY, {}), conditions.get("Ready", {}).get("status") == "True"
        gone = kind == "DELETED" or "deletionTimestamp" in pod["metadata"]
        self._ready = self._ready | {name} if ready and not gone else self._ready - {name}
        self._counts.append(len(self._ready))
        if gone:
            self.deleted.add(name)
            self._out.discard(name)
        elif gate.get("status") == "False" and gate.get("reason") == TAKEN_OUT:
            # a new pod that is told to load something else before it ever was Ready takes nothing away
            self._out |= {name} & self._served
            self.most_out = max(self.most_out, len(self._out))
        elif ready:
            self._served.add(name)
            self._out.discard(name)

    def least_ready(self, replicas: int) -> int:
        """How many pods were Ready at the worst moment, whoever took others out or deleted them, from when
        all of them first were.
        """
        return min(itertools.dropwhile(lambda count: count < replicas, self._counts), default=0)


def _conditions(pod: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {row["type"]: row for row in pod["status"].get("conditions") or ()}
