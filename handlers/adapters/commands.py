"""Programs that the node's own configuration names (`[commands]`): never a text from the KV.

`HYDRA_…` variables say what it is about. The whole process group ends when the time is over.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence

from msgspec import Struct

from handlers.core.errors import HydraError, Timeout, Usage

_LONGEST_LINE = 200


class Ended(Struct, frozen=True):
    """How a program ended: its exit code, and the last line that it wrote."""

    code: int
    line: str


def run(
    commands: Mapping[str, Sequence[str]], name: str, environ: Mapping[str, str], limit_s: float
) -> Ended:
    """Run the command `name` for at most `limit_s`, with `environ` beside our own environment.

    Raises `Usage` when the configuration has no such command, `Timeout`, and `HydraError` when it cannot be
    started.
    """
    words = commands.get(name)
    if not words:
        known = ", ".join(sorted(commands)) or "none"
        raise Usage(
            f"command {name!r} is not in [commands] of this machine's configuration; there are {known}"
        )
    with tempfile.TemporaryFile() as out:
        try:
            process = subprocess.Popen(
                list(words),
                env={**os.environ, **environ},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as e:
            raise HydraError(f"command {name}: {words[0]}: {e.strerror or e}") from e
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise Timeout(f"command {name}: not done within {limit_s:g} s") from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        out.seek(max(0, out.tell() - 4096) if out.tell() else 0)
        return Ended(code, _last_line(out.read()))


def _last_line(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines()
    return lines[-1].strip()[:_LONGEST_LINE] if lines else ""
