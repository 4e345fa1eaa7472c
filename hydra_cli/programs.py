"""The external programs, for the commands that run them; `tools/programs.py` knows where each one is."""

import subprocess
import sys
from functools import cache
from pathlib import Path

from handlers import resources
from handlers.core.errors import HydraError


@cache
def program(name: str) -> Path:
    """The external program `name`; where it is missing it is built now, with its progress on stderr."""
    command = [sys.executable, str(resources.path("tools", "programs.py")), "path", name]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if answer.returncode != 0:
        raise HydraError(f"{name} is not on PATH and could not be built; the reason is above")
    return Path(answer.stdout.strip())
