"""What happens to a service's pods, as the API server tells it: `Lookout`, an observer that only looks."""

from __future__ import annotations

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
                self._take(event["type"], event["object"])

    def _take(self, kind: str, pod: Mapping[str, Any]) -> None:
        name, conditions = pod["metadata"]["name"], _conditions(pod)
        gate = conditions.get(DATA_READY, {})
        if kind == "DELETED" or "deletionTimestamp" in pod["metadata"]:
            self.deleted.add(name)
            self._out.discard(name)
        elif gate.get("status") == "False" and gate.get("reason") == TAKEN_OUT:
            # a new pod that is told to load something else before it ever was Ready takes nothing away
            self._out |= {name} & self._served
            self.most_out = max(self.most_out, len(self._out))
        elif conditions.get("Ready", {}).get("status") == "True":
            self._served.add(name)
            self._out.discard(name)


def _conditions(pod: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {row["type"]: row for row in pod["status"].get("conditions") or ()}
