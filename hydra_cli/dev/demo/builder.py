"""The program that builds the demo's data, as the demo holds it: started early, waited for when needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from handlers.core.errors import HydraError
from hydra_cli.dev.demo.editions import Edition


class Gazetteer:
    """One run of `hydra_cli.dev.demo.gazetteer`; the data is below `data`."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self._log = folder / "gazetteer.log"
        self._ready: set[str] = set()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "hydra_cli.dev.demo.gazetteer", str(self.data)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C is for us; we end it in order
            )

    def wait_for(self, edition: Edition) -> None:
        """Return when the edition is there; raises `HydraError` when it could not be built."""
        assert self._process.stdout
        while edition.version not in self._ready:
            line = self._process.stdout.readline()
            if not line:
                said = self._log.read_text(errors="replace").strip()
                raise HydraError(f"the data could not be built: {said}")
            self._ready.add(line.strip())

    def kill(self) -> None:
        """End it now; fine when it has ended."""
        self._process.kill()
        self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
