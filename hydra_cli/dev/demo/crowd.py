"""The traffic client as the demo holds it: started, listened to, ended, and its log read."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from handlers.core.errors import HydraError
from hydra_cli.dev.demo.figures import Request
from hydra_cli.dev.demo.traffic import LIMIT_S

END_S = 30.0


class Crowd:
    """One run of `hydra_cli.dev.demo.traffic`; `take` gets each of its reports, from a thread."""

    def __init__(
        self,
        service: str,
        rate: float,
        log: Path,
        environ: Mapping[str, str],
        take: Callable[[dict[str, Any]], None],
        limit_s: float = LIMIT_S,
    ) -> None:
        self._log, self._take = log, take
        command = [sys.executable, "-m", "hydra_cli.dev.demo.traffic", "--service", service]
        self._process = subprocess.Popen(
            [*command, "--rate", str(rate), "--limit", str(limit_s), "--log", str(log)],
            env={**os.environ, **environ},
            stdin=subprocess.PIPE,  # it ends when this closes, and so at the latest with us
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for us; we end it in order
        )
        self._listener = threading.Thread(target=self._listen, name="crowd", daemon=True)
        self._listener.start()

    def end(self) -> list[Request]:
        """Let it finish what is outstanding; all its requests. Raises `HydraError` when it failed itself."""
        assert self._process.stdin
        self._process.stdin.close()
        try:
            code = self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise HydraError("the traffic client does not end") from None
        self._listener.join(END_S)
        if code != 0:
            raise HydraError(f"the traffic client ended with {code}")
        with self._log.open(newline="") as file:
            return [Request.from_row(row) for row in csv.DictReader(file)]

    def kill(self) -> None:
        """End it now; fine when it has ended."""
        self._process.kill()
        self._process.wait()
        self._listener.join(END_S)

    def _listen(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            if line.endswith("\n"):  # of one that was killed the last line may be half
                self._take(json.loads(line))
        self._process.stdout.close()
