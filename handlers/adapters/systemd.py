"""systemd's units, through `systemctl`: of the machine, or of the user whose manager Hydra runs under.

The only code that talks to systemd. `systemctl` waits until the job is done and says what went wrong.
"""

from __future__ import annotations

import subprocess

from handlers.core.errors import HydraError

_MOST_SAID = 300


class Systemd:
    """One manager; `limit_s`: how long a unit may take. `user`: that of the user, not the machine's."""

    def __init__(self, limit_s: float, user: bool = False) -> None:
        self._limit_s = limit_s
        self._command = ["systemctl", *(["--user"] if user else []), "--no-ask-password"]

    def reload(self, unit: str) -> None:
        """Let the unit reload, or restart where it cannot reload, and wait for it; raises `HydraError`.

        A unit that does not run is not started: whoever stopped it wants it so.
        """
        code, said = self._run("try-reload-or-restart", unit)
        if code:
            raise HydraError(f"systemd unit {unit}: {said or f'systemctl ended with {code}'}")
        code, said = self._run("is-active", unit)
        if code:
            raise HydraError(f"systemd unit {unit} is {said or 'not active'}")

    def _run(self, verb: str, unit: str) -> tuple[int, str]:
        try:
            ended = subprocess.run(
                [*self._command, verb, "--", unit], capture_output=True, text=True, timeout=self._limit_s
            )
        except FileNotFoundError:
            raise HydraError("there is no systemctl on this machine") from None
        except subprocess.TimeoutExpired:
            raise HydraError(f"systemd unit {unit}: not done within {self._limit_s:g} s") from None
        said = " ".join((ended.stderr.strip() or ended.stdout.strip()).split())
        return ended.returncode, said[:_MOST_SAID]
