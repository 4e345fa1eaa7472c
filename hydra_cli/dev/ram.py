"""Memory for the RAM volumes of a local cluster: a tmpfs mounted below each root, as on a real machine.

`python -m hydra_cli.dev.ram` is the keeper of the mounts: it reads their paths from its standard input, and
when that ends, which happens however the cluster's maker ends, it unmounts them. After a `kill -9` nobody
else would, and the memory would stay taken.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

PAUSE_S = 0.1
TRIES = 100
LARGEST = "50%"  # of the machine's memory; only what is written is taken


class Memory:
    """The mounts of one cluster; `remove` unmounts all."""

    def __init__(self) -> None:
        self._keeper: subprocess.Popen[bytes] | None = None
        self.mounts: list[Path] = []

    def add(self, path: Path) -> bool:
        """Mount memory on the folder `path`; False where that is not permitted: it stays a plain folder."""
        if self._keeper is None:
            self._keeper = subprocess.Popen(
                [sys.executable, "-I", "-m", "hydra_cli.dev.ram"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is not for it
            )
        assert self._keeper.stdin
        self._keeper.stdin.write(bytes(path) + b"\0")  # told first: we may die right after the mount
        self._keeper.stdin.flush()
        options = f"mode=0755,size={LARGEST}"
        command = ["mount", "-n", "-t", "tmpfs", "-o", options, "hydra-dev", str(path)]
        try:
            mounted = subprocess.run(command, capture_output=True).returncode == 0
        except FileNotFoundError:
            mounted = False
        if mounted:
            self.mounts.append(path)
        return mounted

    def remove(self) -> None:
        """Let the keeper unmount everything, and wait for it."""
        if self._keeper and self._keeper.stdin:
            self._keeper.stdin.close()
            self._keeper.wait()
        self._keeper = None
        self.mounts = []


def unmount(paths: Iterable[Path]) -> None:
    """Unmount what is mounted of `paths`, also while somebody still has a file open there."""
    for path in paths:
        for _ in range(TRIES):
            if not path.is_mount():
                break
            subprocess.run(["umount", "-n", "-l", str(path)], capture_output=True)
            time.sleep(0 if not path.is_mount() else PAUSE_S)


if __name__ == "__main__":
    unmount(Path(name.decode()) for name in sys.stdin.buffer.read().split(b"\0") if name)
