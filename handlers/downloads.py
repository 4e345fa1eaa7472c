"""The releases that `sync` fetches now: started as far as limits and room allow, given up, and ended.

Used by `sync`, in its thread; each download has its own.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

from handlers import log
from handlers.adapters.bodies import Bodies
from handlers.adapters.link import Link
from handlers.adapters.ports import Objects
from handlers.adapters.rooms import Rooms
from handlers.adapters.survey import Survey
from handlers.adapters.transfer import Transfer
from handlers.adapters.volume import Volumes
from handlers.core.diff import Decision, Download
from handlers.core.holdings import Facts, Piece
from handlers.core.model import Desired
from handlers.core.room import need_on
from handlers.core.version import ReleaseId
from handlers.settings import Limits


class Downloads:
    """`running` by release. What they still take is said to the other handlers of this node.

    `refused`: a download could not be begun, because another handler has taken its room meanwhile.
    """

    def __init__(
        self, limits: Limits, volumes: Volumes, rooms: Rooms, objects: Objects, wake: threading.Event
    ) -> None:
        self.running: dict[ReleaseId, Transfer] = {}
        self.refused = False
        self._limits, self._volumes, self._rooms, self._objects = limits, volumes, rooms, objects
        self._link = Link(limits.streams, limits.bandwidth_bytes_s)
        self._wake = wake
        self._needs: dict[Piece, int] = {}

    def start(self, node: str, facts: Facts, decision: Decision, bodies: Bodies, survey: Survey) -> None:
        """Start downloads, as many as the limits allow."""
        self.refused = False
        for action in decision.actions:
            if not isinstance(action, Download) or len(self.running) >= self._limits.downloads:
                continue
            if not self._claims(facts, action):
                self.refused = True
                continue
            header = facts.bodies[action.release]
            manifest = bodies.manifest(action.release, header)
            assert manifest is not None  # the survey shows incomplete releases only with their files
            log.info("sync", "download", release=action.release, node=node, reason=action.why)
            self.running[action.release] = transfer = Transfer(
                action.release,
                facts.desired[action.release].digest,
                header,
                manifest,
                action.volumes,
                self._volumes,
                self._objects,
                link=self._link,
                reuse=survey.reuse,
                patience_s=self._limits.patience_s,
                wake=self._wake,
            )
            transfer.start()

    def give_up(self, desired: Desired) -> None:
        """Cancel those that are not wanted any more; they end within a second."""
        for release, transfer in self.running.items():
            wanted = desired.releases.get(release)
            if wanted is None or wanted.digest != transfer.digest or desired.cordoned:
                transfer.cancel()

    def ended(self) -> Iterator[tuple[ReleaseId, Exception | None]]:
        """Those that have ended since the last time, with what went wrong; the others take less by now."""
        for release, transfer in list(self.running.items()):
            if transfer.ended:
                del self.running[release]
                yield release, None if transfer.superseded else transfer.error
        self._rooms.taking.left(self._still_to_come())

    def stop(self) -> None:
        """Give up all; a thread that is stuck ends with the process."""
        for transfer in self.running.values():
            transfer.cancel()
        for transfer in self.running.values():
            transfer.join()
        self._rooms.taking.end()

    def _claims(self, facts: Facts, action: Download) -> bool:
        """Whether the room that was found for a download is there still; then nobody else may take it."""
        wanted = self._still_to_come()
        for dataset, volume in action.volumes.items():
            piece, device = Piece(action.release, dataset), self._rooms.device(volume)
            self._needs[piece] = max(0, need_on(facts, volume, piece).bytes)
            wanted[device] = wanted.get(device, 0) + self._needs[piece]
        return self._rooms.taking.claim(wanted, self._rooms.on)

    def _still_to_come(self) -> dict[int, int]:
        """Bytes by file system that running downloads will take, at most."""
        result: dict[int, int] = {}
        for release, transfer in self.running.items():
            for dataset, volume in transfer.places.items():
                device = self._rooms.device(volume)
                left = min(transfer.left(dataset), self._needs[Piece(release, dataset)])
                result[device] = result.get(device, 0) + left
        return result
