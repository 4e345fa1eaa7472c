"""The download of one release in a thread of its own: dataset after dataset, each complete by one rename."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from handlers.adapters.crew import Superseded
from handlers.adapters.download import PATIENCE_S, Download
from handlers.adapters.link import Link
from handlers.adapters.ports import Objects, Source
from handlers.adapters.reuse import Reuse
from handlers.adapters.volume import Volumes
from handlers.core.errors import NoRoom
from handlers.core.holdings import Piece
from handlers.core.model import Manifest, Release
from handlers.core.version import ReleaseId

_JOIN_S = 1.0


class Transfer:
    """Fetches the datasets in `places` (volume by dataset). `error` is set when it ended with one.

    `done` counts the bytes that are here by dataset, `fetched` those that the object store had to send.

    `digest` is that of the header which is being fetched: the same version may come to name other content.
    """

    def __init__(
        self,
        release: ReleaseId,
        digest: str,
        header: Release,
        manifest: Manifest,
        places: Mapping[str, str],
        volumes: Volumes,
        objects: Objects,
        *,
        link: Link,
        reuse: Callable[[Piece], Reuse | None],
        wake: threading.Event,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.release, self.digest, self.places = release, digest, places
        self.error: Exception | None = None
        self.done: dict[str, int] = dict.fromkeys(places, 0)
        self.fetched = 0
        self.total = sum(header.datasets[name].bytes for name in places)
        self._header, self._manifest = header, manifest
        self._volumes, self._objects, self._link, self._reuse = volumes, objects, link, reuse
        self._patience_s = patience_s
        self._wake, self._stop, self._over = wake, threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=f"release-{release}", daemon=True)

    def start(self) -> None:
        """Begin; `wake` is set whenever it ends."""
        self._thread.start()

    @property
    def ended(self) -> bool:
        """Whether it is over, one way or another."""
        return self._over.is_set()

    @property
    def superseded(self) -> bool:
        """Whether it was given up rather than finished."""
        return isinstance(self.error, Superseded)

    def cancel(self) -> None:
        """Ask it to give up; what is staged stays."""
        self._stop.set()

    def join(self) -> None:
        """Wait until it is over, but not for a thread that is stuck."""
        self._thread.join(_JOIN_S)

    def left(self, dataset: str) -> int:
        """Bytes of a dataset that are still to come."""
        return max(0, self._header.datasets[dataset].bytes - self.done[dataset])

    def _run(self) -> None:
        try:
            for dataset, volume in self.places.items():
                self._fetch(dataset, volume)
        except Exception as e:  # noqa: BLE001 - the handler's own thread asks for it
            self.error = e
        finally:
            self._over.set()
            self._wake.set()

    def _fetch(self, dataset: str, volume: str) -> None:
        piece = Piece(self.release, dataset)
        download = Download(
            self._objects,
            Source.parse(self._header.datasets[dataset].source),
            self._manifest.files[dataset],
            self._volumes.stage(volume, piece),
            link=self._link,
            on_bytes=lambda count: self._add(dataset, count),
            stop=self._stop,
            reuse=self._reuse(piece),
            patience_s=self._patience_s,
        )
        try:
            download.run()
        except NoRoom:
            # what is staged would keep others from their room until it is tried again
            self._volumes.unstage(volume, piece)
            raise
        finally:
            self.fetched += download.fetched
        self._volumes.complete(volume, piece)

    def _add(self, dataset: str, count: int) -> None:
        with self._lock:
            self.done[dataset] += count
