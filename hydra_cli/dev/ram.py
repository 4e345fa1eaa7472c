"""A private folder in memory for the RAM volumes of a local cluster, gone with the process that made it.

`python -m hydra_cli.dev.ram FOLDER` is its keeper: it waits until its standard input ends, which happens
however the maker ends, and removes the folder. After a `kill -9` nobody else would: the memory stayed taken.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SHM = Path("/dev/shm")  # noqa: S108 -- memory is what is wanted; the folder in it is private
TRIES = 100
PAUSE_S = 0.1


class RamFolder:
    """Makes the folder at once: in /dev/shm where that can be written, else below `fallback`."""

    def __init__(self, fallback: Path) -> None:
        in_memory = SHM.is_dir() and os.access(SHM, os.W_OK)
        if not in_memory:
            fallback.mkdir(parents=True, exist_ok=True)
        self.path = Path(tempfile.mkdtemp(prefix="hydra-dev-", dir=SHM if in_memory else fallback))
        self._keeper = subprocess.Popen(
            [sys.executable, "-I", "-m", "hydra_cli.dev.ram", str(self.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is not for it
        )

    def remove(self) -> None:
        """Let the keeper remove the folder, and wait for it."""
        if self._keeper.stdin:
            self._keeper.stdin.close()
        self._keeper.wait()


def keep(folder: Path) -> None:
    """Wait for the end of standard input, then remove `folder`, also while somebody still writes into it."""
    sys.stdin.buffer.read()
    for _ in range(TRIES):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(PAUSE_S)


if __name__ == "__main__":
    keep(Path(sys.argv[1]))
