"""The sign that a node is alive: `nodes/<node>/alive`, a lock of the node's own session.

The session ends with the node's health in Consul, or when it is not renewed; the key goes with it. Its id is
in the local state, so that a new run goes on with it. Used by `discover`.
"""

from __future__ import annotations

import json

from handlers.adapters.local import LocalState
from handlers.adapters.ports import Consul, Entry, Lock
from handlers.core import keys
from handlers.core.model import FORMAT

_SESSION = "sessions/discover"


class Alive:
    """The session of one node and its lock; `ttl_s` is how long it lives unrenewed."""

    def __init__(self, kv: Consul, local: LocalState, node: str, ttl_s: int) -> None:
        self._kv, self._local, self._node, self._ttl_s = kv, local, node, ttl_s

    def hold(self, entry: Entry | None, agent: str) -> str:
        """Be alive; `entry` is what the key is now. A sentence when a machine with another agent holds it."""
        session = self._session()
        if entry and entry.session == session:
            return ""
        if entry and entry.session:
            info, _ = self._kv.get_json(f"session/info/{entry.session}", {"consistent": ""})
            holder = str(info[0]["Node"]) if info else ""
            if holder and holder != agent:
                # both would rewrite each other's documents for ever
                return f"writes nothing: the machine of the Consul agent {holder} has the same node name"
            self._kv.destroy_session(entry.session)  # of a run whose disk was emptied
        self._kv.txn([Lock(keys.alive(self._node), _document(self._node), session)])
        return ""

    def end(self) -> None:
        """Be dead to the others at once: nobody waits for this node any more."""
        if session := self._known():
            self._kv.destroy_session(session)
            self._local.delete(_SESSION)

    def _session(self) -> str:
        """Our session, renewed; a new one where it has ended."""
        session = self._known()
        if session and self._kv.renew_session(session):
            return session
        session = self._kv.create_session(f"hydra alive {self._node}", ttl_s=self._ttl_s, behavior="delete")
        self._local.write(_SESSION, session.encode())
        return session

    def _known(self) -> str:
        return (self._local.read(_SESSION) or b"").decode(errors="replace").strip()


def _document(node: str) -> bytes:
    about = {"about": f"Node {node} is alive for as long as this key exists", "format": FORMAT, "node": node}
    return (json.dumps(about, indent=2) + "\n").encode()
