"""The Kubernetes node of this Hydra: its startup taint taken off, its filled-labels kept true.

    state/desired, <root>/releases  ->  `core.marks`  ->  the Node object

Runs in `discover`, which alone has loaded the client of Kubernetes, and only where the administrator asked
for it: it takes the right to patch nodes.
"""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from handlers import log
from handlers.adapters.mirror import Picture
from handlers.core.errors import Conflict
from handlers.core.marks import Change, Wanted, change
from handlers.core.version import ReleaseId
from handlers.home import Home


class Server(Protocol):
    """`adapters.pods.Api`, as far as it is used here."""

    def mark(self, node: str, version: str, change: Change) -> None: ...


class Source(Protocol):
    """`adapters.mirror.Mirror`."""

    def picture(self) -> Picture: ...


class NodeDesk(Struct):
    """`node` is a picture of this node's Node object, `home` what the node knows without Consul."""

    server: Server
    node: Source
    home: Home
    wanted: Wanted

    def look(self) -> None:
        """Look once, and write what is not true on the node. Raises `HydraError`."""
        picture = self.node.picture()
        self.home.refresh()
        if not picture.known or self.home.desired is None:
            return  # what is not known is not changed
        for value in picture.objects.values():
            found = change(value, self.wanted, self.home.desired, self._is_complete)
            if found is not None:
                self._write(value["metadata"]["name"], value["metadata"]["resourceVersion"], found)

    def _is_complete(self, release: ReleaseId) -> bool:
        return self.home.complete(release.channel, release.version)

    def _write(self, node: str, version: str, found: Change) -> None:
        try:
            self.server.mark(node, version, found)
        except Conflict:
            return  # somebody else was first: the next look has the node as it is then
        if found.taints is not None:
            log.info("discover", "all data is here: took the startup taint off", node=node)
