"""What to look at when a test on a real cluster failed: documents, and the last words of each program."""

from __future__ import annotations

from collections.abc import Iterator

from handlers.core import keys
from handlers.core.errors import HydraError
from hydra_cli.dev.cluster import Cluster

LOG_BYTES = 3000
_CHATTER = ("consul.log", "run.log", "node.log", "planner.log")  # of Consul and supervisord
_NOT_SHOWN = (keys.AUDIT, keys.MANIFESTS, keys.PROGRESS)


def of(cluster: Cluster, space: str) -> Iterator[tuple[str, str]]:
    """Titles and texts: documents of the namespace `space` and of the nodes, then the ends of all logs."""
    try:
        entries = cluster.kv().list(keys.ROOT).entries
    except HydraError as e:
        entries = {}
        yield "KV", f"cannot be read: {e}"
    common = (keys.DESIRED, keys.ACTUAL, keys.STATES, keys.ALARMS, keys.META, keys.NODES)
    for key, entry in entries.items():
        if not key.startswith(_NOT_SHOWN) and (f"/{space}/" in key or key.startswith(common)):
            yield f"KV {key}", entry.value.decode(errors="replace")
    for log in sorted(cluster.folder.rglob("*.log")):
        if log.stat().st_size and log.name not in _CHATTER:
            yield f"log {log.relative_to(cluster.folder)}", _end(log.read_bytes())


def _end(raw: bytes) -> str:
    return raw[-LOG_BYTES:].decode(errors="replace")
