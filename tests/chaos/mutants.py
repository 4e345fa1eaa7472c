"""`python -m tests.chaos.mutants [NAME …]`: the checker on real clusters whose Hydra has lost a protection.

Each mutant is a copy of this checkout with one place changed, run by an interpreter that imports the copy;
chaos there must find the broken promise. `tests/chaos/test_mutants.py` sees to it that the places are there.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", ".*_cache", "__pycache__", "build", ".hydra-dev")


@dataclass(frozen=True)
class Mutant:
    """In `file`, `text` becomes `instead`; chaos with `seed` for `minutes` must find `promise` broken."""

    file: str
    text: str
    instead: str
    promise: str
    seed: int
    minutes: float


MUTANTS: Mapping[str, Mutant] = {
    "budget": Mutant(
        "handlers/core/admission.py",
        "    if len(away) + len(sick) + 1 <= allowed:\n        return Admit()\n",
        "    return Admit()\n",
        "within the budget",
        seed=1,
        minutes=1,
    ),
    "drain": Mutant(
        "handlers/core/rollout.py",
        "    if facts.shown != Ready.DRAINING:\n"
        "        return Next(Do.NOTHING, replace(state, reason=Reason.NOT_SHOWN.say(word=Ready.DRAINING)))\n"
        "    if facts.in_service and facts.phase_s > plan.deadline_s:\n"
        "        return _halt(state, aim, Reason.NOT_DRAINED.say(seconds=facts.phase_s))\n"
        "    if facts.in_service or facts.quiet_s < plan.drain_s:\n"
        "        return Next(Do.NOTHING, replace(state, reason=Reason.DRAINING.say()))\n",
        "",
        "no request after the drain",
        seed=1,
        minutes=1,
    ),
}


def changed(mutant: Mutant, source: str) -> str:
    """The file with the change; raises ValueError when the place is not there exactly once."""
    if source.count(mutant.text) != 1:
        raise ValueError(f"{mutant.file} has {source.count(mutant.text)} times, not once:\n{mutant.text}")
    return source.replace(mutant.text, mutant.instead)


def caught(mutant: Mutant, folder: Path) -> bool:
    """Whether chaos finds the broken promise; all that it says goes to stdout.

    The folder of a cluster on which it did is left, as its last line says.
    """
    copy = folder / "checkout"
    shutil.copytree(CHECKOUT, copy, ignore=LEFT_OUT)
    place = copy / mutant.file
    place.write_text(changed(mutant, place.read_text()))
    words = ("-m", "tests.chaos", "--seed", str(mutant.seed), "--minutes", str(mutant.minutes))
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    python = str(_interpreter(folder / "venv", copy))
    answer = subprocess.run([python, *words], cwd=copy, env=environ, stdout=subprocess.PIPE, text=True)
    print(answer.stdout)
    return answer.returncode == 1 and f"BROKEN: {mutant.promise}" in answer.stdout


def _interpreter(folder: Path, copy: Path) -> Path:
    """A Python that finds the copy first, then what this one has; `-I` makes no difference to it."""
    venv.create(folder, symlinks=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    lines = [copy, *(Path(sysconfig.get_path(name)) for name in ("purelib", "platlib"))]
    (site / "mutant.pth").write_text("".join(f"{line}\n" for line in dict.fromkeys(map(str, lines))))
    return folder / "bin" / "python"


def main(arguments: Sequence[str]) -> int:
    """Try the mutants named in `arguments` (default: all); 0 when all are caught."""
    parser = argparse.ArgumentParser("python -m tests.chaos.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MUTANTS)}")
    names = parser.parse_args(arguments).names or list(MUTANTS)
    missed = []
    for name in names:
        with tempfile.TemporaryDirectory(prefix=f"hydra-mutant-{name}-") as folder:
            if not caught(MUTANTS[name], Path(folder)):
                missed.append(name)
    print(f"{len(names) - len(missed)} of {len(names)} were caught; missed: {', '.join(missed) or 'none'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
