"""An independent witness: what Consul, the file systems of the nodes and a client's log show, as events.

It only looks. One thread follows all of Hydra's KV, so that each answer is one moment of everything there;
one follows the health of the service; one looks at the views and the disks.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from handlers.adapters.local import LocalState
from handlers.adapters.ports import Consul, Entry
from handlers.core import keys
from handlers.core.errors import HydraError
from handlers.core.names import Channel, Service
from hydra_cli.dev.demo.figures import Request
from hydra_cli.dev.demo.sight import Eye, Replica
from tests.chaos import events
from tests.chaos.documents import Documents
from tests.chaos.events import Event

WAIT_S = 5.0  # of one blocking query
LOOK_S = 0.5  # of one for health, of which a restore is not always told
AWAY_S = 0.05
GLANCE_S = 0.05
_NOT_WATCHED = (keys.AUDIT, keys.PROGRESS, keys.MANIFESTS)


class Recorder:
    """Records from `start` to `stop`; `did` and `asked` add what only their caller knows."""

    def __init__(
        self,
        kv: Callable[[], Consul],
        channel: Channel,
        service: Service,
        consul_name: str,
        roots: Mapping[str, Path],
    ) -> None:
        self.events: list[Event] = []
        self._kv, self._channel, self._name, self._roots = kv, channel, consul_name, roots
        self._documents = Documents(channel, service)
        self._eyes: dict[str, tuple[Replica, Eye]] = {}
        self._held: dict[str, frozenset[str]] = {}
        self._desired: dict[str, bytes | None] = {}
        self._wanted: dict[str, frozenset[str]] = {}
        self._viewed: dict[str, str] = {}
        self._dead_agents: frozenset[str] = frozenset()
        self._passing: frozenset[str] | None = None
        self._looking = threading.Lock()
        self._epoch = time.time() - time.monotonic()
        self._lock, self._end = threading.Lock(), threading.Event()
        self._failure: BaseException | None = None
        looks = (self._follow_kv, self._follow_health, self._watch_files)
        self._threads = [
            threading.Thread(target=self._guarded, args=(look,), name=look.__name__, daemon=True)
            for look in looks
        ]

    def start(self) -> None:
        """Begin to look."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Look no more; raises what ended a look too early."""
        self._end.set()
        for thread in self._threads:
            thread.join()
        if self._failure:
            raise RuntimeError("the recorder failed") from self._failure

    def watch(self, replicas: Sequence[Replica]) -> None:
        """Look at the views of these from now on, beside those of before."""
        with self._lock:
            self._eyes |= {r.id: (r, Eye(r)) for r in replicas if r.id not in self._eyes}

    def did(self, what: str, whom: str = "", said: str = "") -> None:
        """Something is done to the cluster now."""
        self._add([events.Did(time.monotonic(), what, whom, said)])

    def asked(self, requests: Sequence[Request]) -> None:
        """The client's log, at the end."""
        self._add([events.Asked(r.sent - self._epoch, r.replica, r.versions, r.trouble) for r in requests])

    def so_far(self) -> list[Event]:
        """The events of now."""
        with self._lock:
            return list(self.events)

    def _add(self, found: Sequence[Event]) -> None:
        with self._lock:
            self.events += found

    def _guarded(self, look: Callable[[], None]) -> None:
        try:
            look()
        except BaseException as e:  # noqa: BLE001 - raised by `stop`: a blind witness must not go unnoticed
            self._failure = e

    # --- Consul

    def _follow_kv(self) -> None:
        kv, index = self._kv(), 0
        before: Mapping[str, Entry] = {}
        while not self._end.is_set():
            try:
                listing = kv.list(keys.ROOT, after=index, wait_s=WAIT_S)
            except HydraError:  # Consul is away: what is seen stays
                kv = self._kv()
                self._end.wait(AWAY_S)
                continue
            at, index = time.monotonic(), _next(index, listing.index)
            entries = {k: e for k, e in listing.entries.items() if not k.startswith(_NOT_WATCHED)}
            self._add(self._documents.changes(at, before, entries, self._dead_agents))
            before = entries

    def _follow_health(self) -> None:
        kv, index = self._kv(), 0
        while not self._end.is_set():
            try:
                rows, found = self._health(kv, index)
            except HydraError:
                kv = self._kv()
                self._end.wait(AWAY_S)
                continue
            index = _next(index, found)
            self._note_health(rows)

    def look(self) -> None:
        """See now what Consul has in service: a restore does not always wake a query that waits."""
        with contextlib.suppress(HydraError):
            self._note_health(self._health(self._kv(), 0)[0])

    def _health(self, kv: Consul, index: int) -> tuple[list[Any], int]:
        # "near" asks for the catalog itself: a stream would not tell at once that it was restored
        asked = {"consistent": "", "near": "_agent"}
        return kv.get_json(f"health/service/{self._name}", asked, after=index, wait_s=LOOK_S)

    def _note_health(self, rows: Sequence[Mapping[str, Any]]) -> None:
        at = time.monotonic()
        passing = frozenset(r["Service"]["ID"] for r in rows if passes(r["Checks"]))
        lost = frozenset(r["Node"]["Node"] for r in rows if not passes(_agents(r["Checks"])))
        with self._looking:
            if passing != self._passing:
                self._passing = passing
                self._add([events.InService(at, passing)])
            if lost != self._dead_agents:
                self._dead_agents = lost
                self._add(self._documents.dead(at, lost))

    # --- files

    def _watch_files(self) -> None:
        while not self._end.wait(GLANCE_S):
            at = time.monotonic()
            with self._lock:
                eyes = list(self._eyes.values())
            found: list[Event] = []
            for replica, eye in eyes:
                found += [events.Shown(m.at - self._epoch, m.replica, m.what) for m in eye.look()]
                version = self._view(replica)
                if version != self._viewed.get(replica.id, ""):
                    self._viewed[replica.id] = version
                    found.append(events.Viewed(at, replica.id, replica.node, version))
            for node, root in self._roots.items():
                found += self._disk(at, node, root)
            self._add(found)

    def _disk(self, at: float, node: str, root: Path) -> list[Event]:
        """What a node holds and has taken over, if that is new; what is wanted before and after counts."""
        held, before = self._complete(root), self._wanted.get(node, frozenset())
        raw = LocalState(root).read("desired")
        if raw != self._desired.get(node):
            self._desired[node], self._wanted[node] = raw, self._documents.wanted(raw) if raw else before
        wanted = self._wanted.get(node, before)
        found: list[Event] = [events.Wanted(at, node, before & wanted)] if wanted != before else []
        if held != self._held.get(node):
            self._held[node] = held
            found.append(events.Held(at, node, held))
        return [*found, events.Wanted(at, node, wanted)] if wanted != before else found

    def _view(self, replica: Replica) -> str:
        """The version that the view points to; the release need not be there."""
        try:
            return (replica.view / "..data" / "data").readlink().name
        except OSError:
            return ""

    def _complete(self, root: Path) -> frozenset[str]:
        """The versions whose disk datasets are there. RAM is a cache, and may be empty."""
        try:
            names = [entry.name for entry in (root / "releases" / self._channel).iterdir()]
        except OSError:
            return frozenset()
        folder = root / "releases" / self._channel
        return frozenset(n for n in names if (folder / n / "index" / "value.json").exists())


def _next(index: int, found: int) -> int:
    """What to block on next. A restore ends a query with what there was before it, under an index that those
    of the restored tables are below for long: then, and after a wait in vain, what there is now is read.
    """
    return found if found > index else 0


def passes(checks: Sequence[Mapping[str, str]]) -> bool:
    """Whether Consul has what these are of in service."""
    return all(check["Status"] == "passing" for check in checks)


def _agents(checks: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    return [check for check in checks if check["CheckID"] == "serfHealth"]
