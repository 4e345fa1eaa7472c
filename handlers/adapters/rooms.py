"""How much room the volumes of a node have, and what of it files take.

Free room is what a volume's file system has above the reserve, within the budget, less what other handlers
are about to take there. Volumes on one file system also have a joint room: what one takes, the others have
not.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Collection, Mapping

from handlers.adapters import measure, memory, usage
from handlers.adapters.folder import RELEASE_DEPTH, Folder, disk_errors, each
from handlers.adapters.local import LocalState
from handlers.adapters.machine import in_memory
from handlers.adapters.taking import Taking
from handlers.adapters.volume import Volumes
from handlers.core.holdings import Space
from handlers.core.model import VolumeInfo
from handlers.core.room import joint_room, room_of_namespace
from handlers.core.version import ReleaseId

KEPT_FILES_PERCENT = 7
_ENDLESS = 2**62
_Passing = Callable[[], Mapping[str, int]]


class Rooms:
    """The room on `volumes`; what this handler takes itself is in `taking`."""

    def __init__(self, volumes: Volumes, taking: Taking | None = None) -> None:
        self._volumes = volumes
        self.taking = taking or Taking(volumes.root)
        self._local = LocalState(volumes.root)
        self._in_memory = functools.cache(in_memory)  # asked again and again; a machine may have many mounts

    def all(self) -> dict[str, Space]:
        """What may still be taken: of each volume, of each namespace that has a budget on one, and jointly of
        the volumes on one file system.

        What is free there is in the joint room alone: what goes from one of them makes room for all.
        """
        rooms, joint = dict[str, Space](), self._joint()
        shared = {name for names in joint.values() for name in names}
        for name, info in self._volumes.volumes.items():
            passing = functools.cache(functools.partial(self._passing, name))
            own = self._within_budget(name, passing)
            rooms[name] = own if name in shared else own.least(self._free([name]))
            for namespace, budget in info.namespaces.items():
                rooms[f"{name}/{namespace}"] = Space(budget - self._taken(name, passing, namespace), _ENDLESS)
        return rooms | {room: self._free(names) for room, names in joint.items()}

    def space(self, name: str) -> Space:
        """What may be taken of a volume: above its reserve, within its budget, of the memory there is."""
        return self._free([name]).least(self._within_budget(name, functools.partial(self._passing, name)))

    def size(self, name: str) -> int:
        """What all releases together may take of a volume."""
        info = self._volumes.volumes[name]
        with disk_errors(f"volume {name}"), self._volumes.folder(name) as folder:
            stat = os.fstatvfs(folder.fd)
        total = max(0, stat.f_blocks * stat.f_frsize - info.reserve_bytes)
        return min(total, info.budget_bytes) if info.budget_bytes else total

    def device(self, name: str) -> int:
        """The file system that a volume is on, as `Taking` names it."""
        with disk_errors(f"volume {name}"), self._volumes.folder(name) as folder:
            return os.fstat(folder.fd).st_dev

    def above_reserve(self, name: str) -> Space:
        """What the file system of a volume has above the reserve, whoever takes it."""
        info = self._volumes.volumes[name]
        with disk_errors(f"volume {name}"), self._volumes.folder(name) as folder:
            stat = os.fstatvfs(folder.fd)
            free = stat.f_bavail * stat.f_frsize - info.reserve_bytes
            if self._in_memory(os.fstat(folder.fd).st_dev):
                # shared with all programs; its own size is only a limit
                free = min(free + info.reserve_bytes, memory.available() - info.reserve_bytes)
        # some file systems do not count inodes
        return Space(free, stat.f_favail - _files_kept(info, stat) if stat.f_files else _ENDLESS)

    def on(self, device: int) -> int:
        """Bytes that a file system has above the reserves of its lasting volumes, whoever takes them."""
        names = [name for name in self._volumes.lasting() if self.device(name) == device]
        return min(self.above_reserve(name).bytes for name in names)

    def block_bytes(self) -> int:
        """The largest unit in which a volume here hands out room."""
        sizes = [4096]
        for name in self._volumes.lasting():
            with disk_errors(f"volume {name}"), self._volumes.folder(name) as folder:
                sizes.append(os.fstatvfs(folder.fd).f_frsize)
        return max(sizes)

    def shares(self) -> dict[frozenset[ReleaseId], dict[str, Space]]:
        """What files take, by the exact set of releases that have them: a file may have several names."""
        result: dict[frozenset[ReleaseId], dict[str, Space]] = {}
        joint = {name: room for room, names in self._joint().items() for name in names}
        for name in self._volumes.lasting():

            def rooms(release: ReleaseId, volume: str = name) -> list[str]:
                own = [volume, room_of_namespace(volume, release.channel)]
                return [*own, joint[volume]] if volume in joint else own

            with disk_errors(f"volume {name}"):
                for holders, found in measure.shared(self._volumes.trees(name), rooms).items():
                    into = result.setdefault(holders, {})
                    for room, space in found.items():
                        into[room] = into.get(room, Space(0, 0)) + space
        return result

    def _joint(self) -> dict[str, list[str]]:
        """The lasting volumes that share a file system, by the name of their joint room."""
        by_device: dict[int, list[str]] = {}
        for name in self._volumes.lasting():
            by_device.setdefault(self.device(name), []).append(name)
        return {joint_room(names): names for names in by_device.values() if len(names) > 1}

    def _free(self, names: Collection[str]) -> Space:
        """What is free for volumes of one file system, above all their reserves."""
        taken = self.taking.others().get(self.device(next(iter(names))), 0)
        left = [self.above_reserve(name) for name in names]
        return Space(min(space.bytes for space in left) - taken, min(space.files for space in left))

    def _within_budget(self, name: str, passing: _Passing) -> Space:
        """What its budget leaves of a volume, however full the file system is.

        What was deleted and is still open or mapped counts: it takes its room until it is closed.
        """
        budget = self._volumes.volumes[name].budget_bytes
        if not budget:
            return Space(_ENDLESS, _ENDLESS)
        with disk_errors(f"volume {name}"):
            gone = usage.deleted(self._volumes.root).get(name, 0)
        return Space(budget - self._taken(name, passing) - gone, _ENDLESS)

    def _passing(self, name: str) -> dict[str, int]:
        """What files in staging take of a volume, in all and by namespace."""
        with disk_errors(f"volume {name}"), self._volumes.folder(name, "staging", make=True) as staging:
            return measure.passing(staging)

    def _taken(self, name: str, passing: _Passing, namespace: str = "") -> int:
        """What files take on a volume, or there below a namespace: each once, however many names it has."""
        where, staged = namespace.split("/") if namespace else [], passing().get(namespace, 0)
        with disk_errors(f"volume {name}"):
            data = self._volumes.find(name, "data", *where)
            if data is None:
                return staged
            with data:
                return staged + self._complete(f"taken/{name}/{namespace or 'all'}", data, len(where))

    def _complete(self, memory_name: str, data: Folder, depth: int) -> int:
        """What complete datasets take together.

        They never change, so that is measured again only where others are there than at the last time: a walk
        over 100,000 files takes half a second.
        """
        stamps = {}
        for parts in each(data, RELEASE_DEPTH + 1 - depth):
            with data.open(parts) as dataset:
                info = os.fstat(dataset.fd)
            stamps["/".join(parts)] = [info.st_ino, info.st_ctime_ns]
        try:
            known = json.loads(self._local.read(memory_name) or b"{}")
        except ValueError:
            known = {}
        if known.get("datasets") != stamps:
            known = {"bytes": measure.taken(data), "datasets": stamps}
            self._local.write(memory_name, json.dumps(known, sort_keys=True).encode())
        return int(known["bytes"])


def _files_kept(info: VolumeInfo, stat: os.statvfs_result) -> int:
    """Inodes that stay free where bytes do: the kubelet evicts pods below 5 % of either."""
    return stat.f_files * KEPT_FILES_PERCENT // 100 if info.reserve_bytes else 0
