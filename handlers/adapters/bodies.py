"""Headers and lists of files of releases: from the node's memory, else from KV or the object that holds them.

Every body is checked against the digest that names it (desired -> header -> manifest) before it is kept or
used, wherever it came from. Used by the `sync` handler.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Collection, Mapping

from handlers.adapters.local import LocalState
from handlers.adapters.ports import KV, Objects, Source, read_object
from handlers.core import acceptance, codec, keys
from handlers.core.errors import HydraError, Integrity, SourceNotReady, Temporary
from handlers.core.model import Hold, Manifest, Release
from handlers.core.names import Channel
from handlers.core.version import ReleaseId, Version

LARGEST_MANIFEST_BYTES = 256 * 1024**2  # what a node will hold in memory; 100,000 files take about 20 MB


class Bodies:
    """The bodies of releases on one node; decoded once in a run."""

    def __init__(self, kv: KV, local: LocalState, objects: Objects) -> None:
        self._kv, self._local, self._objects = kv, local, objects
        self._headers: dict[ReleaseId, tuple[str, Release]] = {}
        self._manifests: dict[ReleaseId, tuple[str, Manifest]] = {}

    def header(self, release: ReleaseId, hold: Hold) -> Release | None:
        """The header that `hold` names, if this node has it; raises `Integrity`, `Malformed`."""
        digest, header = self._headers.get(release, ("", None))
        if digest == hold.digest:
            return header
        raw = self._local.read(_header_name(release))
        if raw is None or codec.digest(raw) != hold.digest:
            return None
        header = acceptance.header_of(release, hold, raw)
        self._headers[release] = hold.digest, header
        return header

    def manifest(self, release: ReleaseId, header: Release) -> Manifest | None:
        """The files of a release, if this node has the list; raises `Integrity`, `Malformed`."""
        wanted = header.manifest.digest
        digest, manifest = self._manifests.get(release, ("", None))
        if digest == wanted:
            return manifest
        raw = self._local.read(_manifest_name(release))
        if raw is None or codec.digest(raw) != wanted:
            return None
        manifest = acceptance.manifest_of(release, header, raw)
        self._manifests[release] = wanted, manifest
        return manifest

    def kept_header(self, release: ReleaseId) -> Release | None:
        """The header that this node once took, whether or not it is desired; None when there is none."""
        raw = self._local.read(_header_name(release))
        try:
            return codec.decode(Release, raw, f"header of {release}") if raw else None
        except HydraError:
            return None  # only sizes are taken from it, to tell whether its room would be enough

    def kept_manifest(self, release: ReleaseId) -> Manifest | None:
        """The list of files that this node once took, read anew as lists are long; None if there is none."""
        raw = self._local.read(_manifest_name(release))
        try:
            return codec.decode(Manifest, raw, f"manifest of {release}") if raw else None
        except HydraError:
            return None  # it only says where to look for bytes that are compared anyway

    def kept_digest(self, release: ReleaseId) -> str | None:
        """The digest of the header that this node took, None when there is none."""
        raw = self._local.read(_header_name(release))
        return codec.digest(raw) if raw is not None else None

    def fetch(self, release: ReleaseId, hold: Hold) -> None:
        """Bring header and manifest here. Raises `Integrity`, `Malformed`, `SourceNotReady`, `Temporary`."""
        header = self.header(release, hold)
        if header is None:
            raw = self._read(keys.release(release.channel, release.version))
            header = acceptance.header_of(release, hold, raw)
            self._local.write(_header_name(release), raw)
        if self.manifest(release, header) is None:
            raw = self._manifest_bytes(release, header)
            acceptance.manifest_of(release, header, raw)
            self._local.write(_manifest_name(release), raw)

    def forget(self, release: ReleaseId) -> None:
        """Drop what this node remembers of a release."""
        self._headers.pop(release, None)
        self._manifests.pop(release, None)
        self._local.delete(_manifest_name(release))
        self._local.delete(_header_name(release))

    def keep_only(self, channel: Channel, releases: Collection[ReleaseId]) -> None:
        """Drop what is remembered of all other releases of a channel."""
        names = {*self._local.names(f"releases/{channel}"), *self._local.names(f"manifests/{channel}")}
        for name in sorted(names):
            if (release := ReleaseId.of(channel, Version(name))) not in releases:
                self.forget(release)

    def _manifest_bytes(self, release: ReleaseId, header: Release) -> bytes:
        ref = header.manifest
        if not ref.object:
            return self._read(keys.manifest(release.channel, release.version))
        source = Source.parse(ref.object)
        info = self._objects.head(source)
        if info.size != ref.bytes or info.size > LARGEST_MANIFEST_BYTES:
            raise Integrity(f"{source}: has {info.size} bytes, the header names {ref.bytes}")
        for pause_s in (0.2, 1.0, 3.0):
            try:
                return read_object(self._objects, source, info)
            except Temporary:
                time.sleep(random.uniform(0, pause_s))
        return read_object(self._objects, source, info)

    def _read(self, key: str) -> bytes:
        entry, _ = self._kv.get(key)
        if entry is None:
            raise SourceNotReady(f"{key} is not in Consul, though desired names it")
        return entry.value


class BodyFetch:
    """Fetches bodies in a thread, since S3 may be slow; sets `wake` at its end. `errors` by release."""

    def __init__(self, bodies: Bodies, lacking: Mapping[ReleaseId, Hold], wake: threading.Event) -> None:
        self.errors: dict[ReleaseId, Exception] = {}
        self._bodies, self._lacking, self._wake = bodies, lacking, wake
        self._over = threading.Event()
        threading.Thread(target=self._run, name="bodies", daemon=True).start()

    @property
    def ended(self) -> bool:
        """Whether all was tried."""
        return self._over.is_set()

    def _run(self) -> None:
        try:
            for release, hold in self._lacking.items():
                try:
                    self._bodies.fetch(release, hold)
                except Exception as e:  # noqa: BLE001 - the handler's own thread looks at it
                    self.errors[release] = e
        finally:
            self._over.set()
            self._wake.set()


def _header_name(release: ReleaseId) -> str:
    return f"releases/{release.channel}/{release.version}"


def _manifest_name(release: ReleaseId) -> str:
    return f"manifests/{release.channel}/{release.version}"
