"""Environment and `/etc/hydra/node.toml` → one frozen value, read once at the start of a process."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct, field
from msgspec.structs import fields

from handlers.core.errors import Malformed
from handlers.core.marks import Wanted
from handlers.core.model import VolumeInfo
from handlers.core.source_table import SourceTable
from handlers.core.source_table import parse as parse_sources
from handlers.core.volumes import parse_volumes

DEFAULT_ROOT = "/var/lib/hydra"
DEFAULT_CONFIG = "/etc/hydra/node.toml"


class Limits(Struct, frozen=True):
    """Times in seconds and counts; `[limits]` in the node's configuration.

    `drop_after_s`: how long an instance must be gone before discover drops it. `slot_ttl_s`: TTL of the
    session that holds a reload slot (Consul ends it after up to twice that). `dead_after_s`: how long a
    node's serfHealth must fail before others stop waiting for it. `unused_grace_s`: how long a release that
    is no longer desired stays (`idle_grace_s` where no instance is left). `spread_s`: within which nodes
    begin anew when Consul is back, so that not all of them ask it in the same second. `stall_s`: how long an
    answer of an object store may bring nothing, `patience_s`: how long all of them, before a try has failed.
    `downloads`: releases fetched at the same time; `streams` and `bandwidth_bytes_s` (0 = no limit) are for
    all of them together.
    `start_spread_s`: within which nodes that get the same release at once begin to load it (few: at once).
    """

    resync_s: float = 60.0
    spread_s: float = 2.0
    drop_after_s: float = 60.0
    alive_ttl_s: int = 120
    slot_ttl_s: int = 15
    plan_ttl_s: int = 15
    plan_pause_s: float = 4.0
    dead_after_s: float = 20.0
    unused_grace_s: float = 60.0
    idle_grace_s: float = 4 * 3600.0
    brake_share: float = 0.5
    downloads: int = 2
    streams: int = 4
    bandwidth_bytes_s: int = 0
    start_spread_s: float = 30.0
    retry_s: float = 60.0
    stall_s: float = 30.0
    patience_s: float = 300.0


class Notify(Struct, frozen=True):
    """`[notify]` of a planner: whom to tell of which `events`; an instance is stuck after so many seconds."""

    command: tuple[str, ...] = ()
    url: str = ""
    events: tuple[str, ...] = ("published", "halted", "returned", "stuck")
    stuck_after_s: float = 900.0

    @property
    def wanted(self) -> bool:
        """Whether there is anybody to tell."""
        return bool(self.command or self.url)


class Settings(Struct, frozen=True):
    """What a process on a node knows about itself. `node` may be empty: then the agent's node name counts.

    `kubernetes`: instances are pods, and `node` is the name of the Kubernetes node. `environment` is that of
    pods and workloads that name none, `marks` what is to be written on that node.
    """

    root: Path
    node: str
    config: Path
    limits: Limits = Limits()
    volumes: Mapping[str, VolumeInfo] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    supervisor_url: str = ""
    supervisor_include: str = ""
    sources: SourceTable = field(default_factory=SourceTable)
    commands: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    prometheus_url: str = ""
    kubernetes: bool = False
    environment: str = ""
    marks: Wanted = field(default_factory=Wanted)
    systemd_user: bool = False
    notify: Notify = Notify()


def load(environ: Mapping[str, str] = os.environ) -> Settings:
    """Read `HYDRA_ROOT`, `HYDRA_NODE`, `HYDRA_KUBERNETES`, `HYDRA_STARTUP_TAINT`, `HYDRA_FILLED_LABELS`,
    `HYDRA_ENV`, `HYDRA_CONFIG` and the file that it names.

    A missing default file is fine, a missing named one is `Malformed`.
    """
    path = Path(environ.get("HYDRA_CONFIG") or DEFAULT_CONFIG)
    root = Path(environ.get("HYDRA_ROOT") or DEFAULT_ROOT)
    if path.exists():
        table = _read(path)
    elif environ.get("HYDRA_CONFIG"):
        raise Malformed(f"HYDRA_CONFIG: no file {path}")
    else:
        table = {}
    tables = {
        "limits",
        "volumes",
        "labels",
        "sources",
        "supervisor",
        "commands",
        "prometheus",
        "notify",
        "systemd",
    }
    known = tables | {"node", "root", "kubernetes"}
    if unknown := set(table) - known:
        raise Malformed(f"{path}: unknown {', '.join(sorted(unknown))}; known are {', '.join(sorted(known))}")
    supervisor = table.get("supervisor", {})
    root = Path(environ.get("HYDRA_ROOT") or table.get("root") or root)
    kubernetes = _switch(environ.get("HYDRA_KUBERNETES", ""), table.get("kubernetes", False))
    usual = functools.partial(_kept_for_kubelet, root) if kubernetes else lambda _: 0
    return Settings(
        root=root,
        node=environ.get("HYDRA_NODE") or str(table.get("node", "")),
        config=path,
        limits=_limits(table.get("limits", {}), path),
        volumes=parse_volumes(table.get("volumes", {}), f"{path}: volumes", usual),
        labels={str(k): str(v) for k, v in table.get("labels", {}).items()},
        supervisor_url=str(supervisor.get("url", "")),
        supervisor_include=str(supervisor.get("include", "")),
        sources=parse_sources(table.get("sources", {}), f"{path}: sources"),
        commands=_commands(table.get("commands", {}), path),
        prometheus_url=str(table.get("prometheus", {}).get("url", "")),
        kubernetes=kubernetes,
        environment=environ.get("HYDRA_ENV", ""),
        marks=Wanted.parse(environ.get("HYDRA_STARTUP_TAINT", ""), environ.get("HYDRA_FILLED_LABELS", "")),
        systemd_user=bool(table.get("systemd", {}).get("user", False)),
        notify=_notify(table.get("notify", {}), path),
    )


def _kept_for_kubelet(root: Path, volume: str) -> int:
    """What stays free on a volume's file system where a kubelet uses it as well, in whole GiB: it evicts pods
    below 15 % of the one that has its images.
    """
    from handlers.core.proposal import GIB, SHARED_RESERVE

    place = root / "volumes" / volume
    while not place.exists():  # on the first start
        place = place.parent
    found = os.statvfs(place)
    return int(found.f_blocks * found.f_frsize * SHARED_RESERVE) // GIB * GIB


def _switch(text: str, default: object) -> bool:
    """`1` and `0`, as HYDRA_KUBERNETES says it; empty = as the file says."""
    if text not in ("", "0", "1"):
        raise Malformed(f"HYDRA_KUBERNETES: must be 1 or 0, not {text!r}")
    return text == "1" if text else default is True


def _read(path: Path) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(path.read_text())
    except (OSError, ValueError) as e:
        raise Malformed(f"{path}: {e}") from None


def _limits(table: Mapping[str, Any], path: Path) -> Limits:
    kinds: dict[str, type[int | float]] = {
        f.name: int if isinstance(f.default, int) else float for f in fields(Limits)
    }
    for name, value in table.items():
        if name not in kinds:
            raise Malformed(f"{path}: limits: unknown {name}; known are {', '.join(sorted(kinds))}")
        if not isinstance(value, (int, float)) or isinstance(value, bool) or value < 0:
            raise Malformed(f"{path}: limits.{name}: must be a number, 0 or more")
    return Limits(**{name: kinds[name](value) for name, value in table.items()})  # type: ignore[arg-type]


def _commands(table: Mapping[str, Any], path: Path) -> dict[str, tuple[str, ...]]:
    """`[commands] NAME = ["program", "argument"]`; no shell, so no text to quote."""
    for name, words in table.items():
        if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
            raise Malformed(f"{path}: commands.{name}: must be a list of texts, the program first")
    return {str(name): tuple(words) for name, words in table.items()}


def _notify(table: Mapping[str, Any], path: Path) -> Notify:
    """`[notify] command = ["…"], url = "https://…", events = ["halted"], stuck_after_s = 900`."""
    usual = Notify()
    if unknown := table.keys() - {f.name for f in fields(Notify)}:
        raise Malformed(f"{path}: notify: unknown {', '.join(sorted(unknown))}")
    command, events = table.get("command", ()), table.get("events", usual.events)
    for name, words in (("command", command), ("events", events)):
        if not isinstance(words, (list, tuple)) or not all(isinstance(word, str) and word for word in words):
            raise Malformed(f"{path}: notify.{name}: must be a list of words")
    if wrong := set(events) - set(usual.events):
        raise Malformed(
            f"{path}: notify.events: {', '.join(sorted(wrong))} is none of {', '.join(usual.events)}"
        )
    url = str(table.get("url", ""))
    if url and not url.startswith(("http://", "https://")):
        raise Malformed(f"{path}: notify.url: must begin with http:// or https://")
    after_s = table.get("stuck_after_s", usual.stuck_after_s)
    if not isinstance(after_s, (int, float)) or isinstance(after_s, bool) or after_s <= 0:
        raise Malformed(f"{path}: notify.stuck_after_s: must be a number of seconds above 0")
    return Notify(tuple(command), url, tuple(events), float(after_s))
