"""Objects of the Kubernetes API kept true: `Mirror` lists once, then watches.

Used by `discover` for the node's pods and its Node, by `enroll` for workloads.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping

from msgspec import Struct, field

from handlers import log
from handlers.adapters.pods import Api, Expired, Json, Query
from handlers.core.errors import HydraError

UNSEEN_AFTER_S = 5.0  # for so long a restart of the API server changes nothing
AWAY_S = 1.0
REMEMBERED = 1000  # UIDs of objects that were deleted


class Picture(Struct, frozen=True):
    """What the API server has for a query; without `known` it cannot be seen now.

    `ended`: UIDs of objects that it said were deleted.
    """

    known: bool = False
    objects: Mapping[str, Json] = field(default_factory=dict)
    ended: frozenset[str] = frozenset()


class Mirror:
    """A picture kept true by a thread that lists once, then watches; `ring` is called when it changed."""

    def __init__(
        self, api: Api, query: Query, ring: Callable[[], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._api, self._query, self._ring, self._clock = api, query, ring, clock
        self._objects: dict[str, Json] = {}
        self._ended: deque[str] = deque(maxlen=REMEMBERED)
        self._failing_since: float | None = None
        self._listed = False
        self._version = ""  # from which to watch; empty: list first
        self._lock = threading.Lock()

    def start(self) -> None:
        """Begin; the thread ends with the process."""
        threading.Thread(target=self._run, name=f"mirror {self._query.plural}", daemon=True).start()

    def picture(self) -> Picture:
        """What is there now."""
        with self._lock:
            since = self._failing_since
            away = since is not None and self._clock() - since > UNSEEN_AFTER_S
            return Picture(self._listed and not away, dict(self._objects), frozenset(self._ended))

    def _run(self) -> None:
        while True:
            if not self.step():
                time.sleep(AWAY_S * random.uniform(0.5, 1.5))

    def step(self) -> bool:
        """One round, whatever comes of it; whether the server answered."""
        try:
            self.round()
        except Expired:
            self._version = ""
        except HydraError as e:
            self._failed(e)
            return False
        return True

    def round(self) -> None:
        """List if that was not done yet, or has to be done again; else watch until the server ends that."""
        if self._version:
            for event in self._api.watch(self._query, self._version):
                self._take(event)
                self._version = str(event["object"]["metadata"]["resourceVersion"])
        else:
            objects, version = self._api.list(self._query)
            with self._lock:
                self._objects = {str(value["metadata"]["uid"]): value for value in objects}
                self._listed = True
            self._version = version
        self._answered()

    def _take(self, event: Json) -> None:
        value = event["object"]
        if event["type"] != "BOOKMARK":
            uid = str(value["metadata"]["uid"])
            with self._lock:
                if event["type"] == "DELETED":
                    self._objects.pop(uid, None)
                    self._ended.append(uid)
                else:
                    self._objects[uid] = value
        self._answered()

    def _answered(self) -> None:
        with self._lock:
            self._failing_since = None
        self._ring()

    def _failed(self, error: HydraError) -> None:
        with self._lock:
            first = self._failing_since is None
            if first:
                self._failing_since = self._clock()
        if first:
            log.warning("pods", f"cannot watch {self._query.plural}", error=error)
        self._ring()
