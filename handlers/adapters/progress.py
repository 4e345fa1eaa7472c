"""`progress/<node>`: how fast downloads go, and what room there is; written rarely, and watched by nobody."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from handlers.adapters.ledger import timestamp
from handlers.adapters.ports import KV, Set
from handlers.adapters.rooms import Rooms
from handlers.adapters.transfer import Transfer
from handlers.adapters.volume import Volumes
from handlers.core import codec, keys
from handlers.core.errors import HydraError
from handlers.core.model import Download, JointRoom, Progress, VolumeUse
from handlers.core.room import volumes_of
from handlers.core.version import ReleaseId

PAUSE_S = 10.0
REPEAT_S = 600.0
NOTICED = 0.02  # of a volume


class ProgressReport:
    """Writes a node's progress at most every 10 s, and once more when all is done."""

    def __init__(self, kv: KV, node: str, volumes: Volumes, rooms: Rooms, clock: Callable[[], float]) -> None:
        self._kv, self._node, self._volumes, self._rooms, self._clock = kv, node, volumes, rooms, clock
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
        """Say how it is now, unless that was said: nothing is downloaded, and what room there is.

        Said again from time to time, so that whoever publishes can tell a node that is silent.
        """
        try:
            entry, _ = self._kv.get(keys.progress(self._node))
            said = codec.decode(Progress, entry.value, entry.key) if entry else None
            fresh = self._document({})
        except HydraError:
            said = fresh = None
        if fresh is None or (said is not None and not said.downloads and not self._differs(said, fresh)):
            return
        self._put({})

    def _differs(self, said: Progress, fresh: Progress) -> bool:
        """Whether the room is not as it was said, beyond what other programs write meanwhile."""
        stale = said.when < timestamp(self._clock() - REPEAT_S) or said.when > fresh.when
        return (
            stale
            or said.volumes.keys() != fresh.volumes.keys()
            or said.joint.keys() != fresh.joint.keys()
            or any(_moved(said, fresh, name) for name in fresh.volumes)
        )

    def _document(self, downloads: Mapping[ReleaseId, Download]) -> Progress:
        rooms, inventory = self._rooms.all(), self._volumes.inventory()
        holds: dict[str, dict[ReleaseId, tuple[str, ...]]] = {name: {} for name in self._volumes.volumes}
        for piece, volume in sorted(inventory.complete.items()):
            found = holds[volume]
            found[piece.release] = (*found.get(piece.release, ()), piece.dataset)
        sizes = {name: self._rooms.size(name) for name in self._volumes.volumes}
        volumes = {
            name: VolumeUse(
                size=sizes[name],
                free=max(0, min(rooms[name].bytes, sizes[name])),
                files=max(0, rooms[name].files),
                namespaces={ns: max(0, rooms[f"{name}/{ns}"].bytes) for ns in info.namespaces},
                holds=holds[name],
            )
            for name, info in self._volumes.volumes.items()
        }
        joint = {
            name: JointRoom(free=max(0, room.bytes), files=max(0, room.files))
            for name, room in rooms.items()
            if len(volumes_of(name)) > 1
        }
        free = {name: use.free for name, use in volumes.items()}
        for together, room in joint.items():
            free |= {name: min(free[name], room.free) for name in volumes_of(together)}
        return Progress(
            node=self._node,
            downloads=downloads,
            free=free,
            volumes=volumes,
            joint=joint,
            when=timestamp(self._clock()),
        )

    def _put(self, downloads: Mapping[ReleaseId, Download]) -> None:
        try:
            document = self._document(downloads)
            self._kv.txn([Set(keys.progress(self._node), codec.encode(document))])
        except HydraError:
            return  # the download matters; that Consul or the disk fails is reported with `actual`


def _moved(said: Progress, fresh: Progress, name: str) -> bool:
    before, now = said.volumes[name], fresh.volumes[name]
    return (
        (before.size, before.holds) != (now.size, now.holds)
        or abs(said.free[name] - fresh.free[name]) > now.size * NOTICED
        or before.files // 2 > now.files
    )
