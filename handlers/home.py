"""What this node knows without Consul: the desired state it applied, its instances, releases on its disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from msgspec.structs import replace

from handlers import log
from handlers.adapters.local import LocalState
from handlers.core import codec
from handlers.core.errors import Malformed
from handlers.core.model import Desired, Doc, Hold, Instance, Instances, ServicePlan
from handlers.core.names import Channel, InstanceKey
from handlers.core.version import ReleaseId, Version

DESIRED, INSTANCES = "desired", "instances"
_Document = TypeVar("_Document", bound=Doc)


class Home:
    """The node's own documents; one that does not parse leaves the one before in force."""

    def __init__(self, root: Path, local: LocalState) -> None:
        self.desired: Desired | None = None
        self.instances: Mapping[InstanceKey, Instance] | None = None
        self._root, self._local = root, local
        self._read: dict[str, bytes] = {}

    def refresh(self) -> None:
        """Read again what changed."""
        if (desired := self._changed(DESIRED, Desired)) is not None:
            self.desired = desired
        if (instances := self._changed(INSTANCES, Instances)) is not None:
            self.instances = instances.instances

    @property
    def here(self) -> Mapping[InstanceKey, Instance]:
        """The instances of this node, as far as known."""
        return self.instances or {}

    @property
    def holds(self) -> Mapping[ReleaseId, Hold]:
        """The releases that plan wants here."""
        return self.desired.releases if self.desired else {}

    def plan(self, instance: InstanceKey) -> ServicePlan | None:
        """What plan wants of an instance here; a cordoned node takes part in no rollout."""
        plan = self.desired.services.get(instance.service) if self.desired else None
        own = plan.of(instance) if plan else None
        return replace(own, paused=True) if own and self.desired and self.desired.cordoned else own

    def complete(self, channel: Channel, version: Version) -> bool:
        """Whether a release is on this node; its name appears only once all of it is there."""
        return (self._root / "releases" / channel / version).is_dir()

    def _changed(self, name: str, cls: type[_Document]) -> _Document | None:
        raw = self._local.read(name)
        if raw is None or raw == self._read.get(name):
            return None
        self._read[name] = raw
        try:
            return codec.decode(cls, raw, name)
        except Malformed as e:
            log.warning("reload", "the node's own memory does not parse", error=e)
            return None
