"""`progress/<node>`: how fast downloads go, for people; written rarely, since nobody decides by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from handlers.adapters.ledger import timestamp
from handlers.adapters.ports import KV, Set
from handlers.adapters.transfer import Transfer
from handlers.adapters.volume import Volumes
from handlers.core import codec, keys
from handlers.core.errors import HydraError
from handlers.core.model import Download, Progress
from handlers.core.version import ReleaseId

PAUSE_S = 10.0


class ProgressReport:
    """Writes a node's progress at most every 10 s, and once more when all is done."""

    def __init__(self, kv: KV, node: str, volumes: Volumes, clock: Callable[[], float]) -> None:
        self._kv, self._node, self._volumes, self._clock = kv, node, volumes, clock
        self._last = 0.0
        self._before: dict[ReleaseId, int] = {}

    def write(self, running: Mapping[ReleaseId, Transfer]) -> None:
        """Write if the last time is long enough ago; being unable to is no error."""
        now = self._clock()
        passed_s = now - self._last
        if 0 <= passed_s < PAUSE_S:
            return
        done = {release: sum(transfer.done.values()) for release, transfer in running.items()}
        downloads = {
            release: Download(
                done=done[release],
                total=transfer.total,
                speed=int(max(0, done[release] - self._before[release]) / passed_s)
                if release in self._before and passed_s > 0
                else 0,
            )
            for release, transfer in running.items()
        }
        self._last, self._before = now, done
        self._put(downloads)

    def end(self) -> None:
        """Say that nothing is being downloaded, if somebody said otherwise (an ended process perhaps)."""
        try:
            entry, _ = self._kv.get(keys.progress(self._node))
            said = codec.decode(Progress, entry.value, entry.key).downloads if entry else {}
        except HydraError:
            return
        if said:
            self._put({})

    def _put(self, downloads: Mapping[ReleaseId, Download]) -> None:
        try:
            free = {name: max(0, self._volumes.space(name).bytes) for name in self._volumes.volumes}
            document = Progress(
                node=self._node, downloads=downloads, free=free, when=timestamp(self._clock())
            )
            self._kv.txn([Set(keys.progress(self._node), codec.encode(document))])
        except HydraError:
            return  # the download matters; that Consul or the disk fails is reported with `actual`
