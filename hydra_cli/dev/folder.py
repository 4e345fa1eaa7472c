"""The folder of a local cluster: who uses it, what runs for it, and how to end that without its maker.

lock    held while a cluster runs here
pids    its processes by id and moment of start, its mark, its mounts
env     what a person's shell needs, written when the cluster is ready
consul/ planner/ s3/ nodes/<node>/    one folder per program, with its log
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import shutil
import signal
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

from handlers.adapters.local import write_atomic
from handlers.core.errors import Conflict, Usage
from hydra_cli.dev import processes
from hydra_cli.dev.node import END_S, MARK
from hydra_cli.dev.processes import Process
from hydra_cli.dev.ram import unmount
from hydra_cli.dev.servers import Running

_OURS = ("env", "pids", "consul", "planner", "s3", "nodes")
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_ORDERLY_S = 3 * END_S
_GRACE_S = 5.0


def as_toml(limits: Mapping[str, float]) -> str:
    """The `[limits]` table of a node's configuration."""
    return "[limits]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in limits.items())


class Folder:
    """One cluster's folder; `claim` before the first use, `release` when nothing runs any more."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: IO[str] | None = None

    def claim(self) -> None:
        """Take the folder for one cluster and remove what an earlier one left.

        Raises `Conflict` when a cluster runs here, `Usage` when files of somebody else are in the way.
        """
        known = (self.path / "lock").exists()
        if not known and (strange := [name for name in _OURS if (self.path / name).exists()]):
            raise Usage(f"{self.path} has {', '.join(strange)}, not of `hydra dev`; choose another --dir")
        self.path.mkdir(parents=True, exist_ok=True)
        lock = (self.path / "lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise Conflict(f"a cluster runs in {self.path} already; `hydra dev down` ends it") from None
        self._lock = lock
        _end_leftovers(self._recorded())
        for name in _OURS:
            if (self.path / name).is_dir():
                shutil.rmtree(self.path / name)
            else:
                (self.path / name).unlink(missing_ok=True)

    def release(self) -> None:
        """Nothing runs here any more; logs and data stay."""
        if self._lock:
            for name in ("env", "pids"):
                (self.path / name).unlink(missing_ok=True)
            self._lock.close()
            self._lock = None

    def record(self, mark: str, mounts: Iterable[Path], running: Iterable[Running]) -> None:
        """Note what runs, so that `end` can end it when we cannot."""
        known = {r.name: processes.find(r.process.pid) for r in running}
        text = {
            "boot": _BOOT.read_text().strip(),
            "mark": mark,
            "maker": _plain(processes.find(os.getpid())),
            "mounts": [str(path) for path in mounts],
            "processes": {name: _plain(process) for name, process in known.items() if process},
        }
        write_atomic(self.path / "pids", json.dumps(text, indent=2).encode(), mode=0o600)

    def write_env(self, environ: Mapping[str, str]) -> None:
        """Write `env`, for `. DIR/env` in a shell; it holds secrets."""
        lines = (f"export {name}={shlex.quote(value)}\n" for name, value in sorted(environ.items()))
        write_atomic(self.path / "env", "".join(lines).encode(), mode=0o600)

    def end(self) -> bool:
        """End the cluster that runs here, from outside; False when there was none and nothing was left."""
        recorded = self._recorded()
        if not recorded:
            return False
        maker = _process(recorded["maker"])
        if maker and recorded["boot"] == _BOOT.read_text().strip() and maker.pid != os.getpid():
            maker.send(signal.SIGTERM)
            processes.await_end([maker], _ORDERLY_S)
            maker.send(signal.SIGKILL)
        _end_leftovers(self._recorded())
        for name in ("env", "pids"):
            (self.path / name).unlink(missing_ok=True)
        return True

    def _recorded(self) -> dict[str, Any]:
        """What `pids` says; empty when there is none or it does not read."""
        try:
            recorded = json.loads((self.path / "pids").read_text())
        except (OSError, ValueError):
            return {}
        return recorded if isinstance(recorded, dict) else {}


def _end_leftovers(recorded: Mapping[str, Any]) -> None:
    """End what the maker of a cluster left: by record and start time, and by its mark."""
    if not recorded:
        return
    if recorded["boot"] == _BOOT.read_text().strip():
        known = [process for plain in recorded["processes"].values() if (process := _process(plain))]
        for process in known:
            process.send(signal.SIGTERM)
        for process in processes.await_end(known, _GRACE_S):
            process.send(signal.SIGKILL)
        processes.kill_marked(MARK, recorded["mark"])
    unmount(Path(path) for path in recorded["mounts"])


def _plain(process: Process | None) -> list[int]:
    return [process.pid, process.start] if process else []


def _process(plain: list[int]) -> Process | None:
    return Process(*plain) if plain else None
