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
class Change:
    """In `file`, `text` becomes `instead`."""

    file: str
    text: str
    instead: str


@dataclass(frozen=True)
class Mutant:
    """Hydra without what keeps `promise`: while `acts` are done, it must be found broken.

    Where several things keep it, each behind the other, all of them are gone.
    """

    promise: str
    acts: str
    changes: tuple[Change, ...]


MUTANTS: Mapping[str, Mutant] = {
    "budget": Mutant(
        "within the budget",
        "1 publish; 15 resume",
        (
            Change(
                "handlers/core/admission.py",
                "    if len(away) + len(sick) + 1 <= allowed:\n        return Admit()\n",
                "    return Admit()\n",
            ),
        ),
    ),
    "drain": Mutant(
        "no request after the drain",
        "1 publish; 20 publish 0.9; 40 resume",
        (
            Change(
                "handlers/core/rollout.py",
                "    if facts.shown != Ready.DRAINING:\n"
                "        return Next(Do.NOTHING, "
                "replace(state, reason=Reason.NOT_SHOWN.say(word=Ready.DRAINING)))\n"
                "    if facts.in_service and facts.phase_s > plan.deadline_s:\n"
                "        return _halt(state, aim, Reason.NOT_DRAINED.say(seconds=facts.phase_s))\n"
                "    if facts.in_service or facts.quiet_s < plan.drain_s:\n"
                "        return Next(Do.NOTHING, replace(state, reason=Reason.DRAINING.say()))\n",
                "",
            ),
        ),
    ),
    # what is in RAM is a copy of any release, and nobody asks the instance what it has loaded
    "mixture": Mutant(
        "no mixed answer",
        "1 publish; 20 resume",
        (
            Change(
                "handlers/adapters/ram.py",
                "        source = self._disk(piece)\n        if source is None or not self._ram:\n",
                "        source = self._disk(piece)\n"
                "        if source:\n"
                "            source = min(source.parent.parent.glob(f'*/{piece.dataset}'))\n"
                "        if source is None or not self._ram:\n",
            ),
            Change(
                "handlers/core/rollout.py",
                "    if not facts.confirmed:\n        return _confirmed(",
                "    if facts.confirmed is not None:\n        return _confirmed(",
            ),
        ),
    ),
    # neither the planner nor nodes notice that the KV is older than they are
    "order": Mutant(
        "no way back without an order",
        "1 publish 0.9; 25 restore 0 30",
        (
            Change(
                "handlers/core/desired.py",
                '    if highest <= written:\n        return ""\n',
                '    return ""\n',
            ),
            Change(
                "handlers/core/acceptance.py",
                "    if desired.generation < applied:\n",
                "    if desired.generation < 0:\n",
            ),
            Change(
                "handlers/core/acceptance.py",
                "    if desired.generation == applied and raw != last and _generation(last) == applied:\n",
                "    if desired.generation < 0:\n",
            ),
        ),
    ),
    # all but the newest goes at once, whether or not it is desired or in use
    "deletion": Mutant(
        "nothing needed is deleted",
        "1 budget 0.55; 3 publish 0.9; 15 resume",
        (
            Change(
                "handlers/core/room.py",
                "    return sorted(facts.inventory.held - facts.desired.keys())\n",
                "    return sorted(facts.inventory.held)[:-1]\n",
            ),
            Change(
                "handlers/core/diff.py",
                "        if (due := since + grace_s) > facts.now:\n"
                "            times.append(due)\n"
                "        elif release not in facts.used and release not in facts.running:\n",
                "        if release not in facts.running:\n",
            ),
        ),
    ),
    "sequence": Mutant(
        "heads are linear",
        "1 publish; 5 resume",
        (
            Change(
                "hydra_cli/publish_release.py",
                "sequence=before.highest + 1, manifest=ref)",
                "sequence=1, manifest=ref)",
            ),
        ),
    ),
    # what dies is not started again
    "restart": Mutant(
        "converged a minute later",
        "1 kill_template; 2 resume",
        (Change("templates/supervisord.conf.j2", "autorestart=true\n", "autorestart=false\n"),),
    ),
}


def changed(change: Change, source: str) -> str:
    """The file with the change; raises ValueError when the place is not there exactly once."""
    if source.count(change.text) != 1:
        raise ValueError(f"{change.file} has {source.count(change.text)} times, not once:\n{change.text}")
    return source.replace(change.text, change.instead)


def caught(mutant: Mutant, folder: Path) -> bool:
    """Whether chaos finds the broken promise; all that it says goes to stdout.

    The folder of a cluster on which it did is left, as its last line says.
    """
    copy = folder / "checkout"
    shutil.copytree(CHECKOUT, copy, ignore=LEFT_OUT)
    for change in mutant.changes:
        place = copy / change.file
        place.write_text(changed(change, place.read_text()))
    words = ("-m", "tests.chaos", "--acts", mutant.acts)
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    python = str(_interpreter(folder / "venv", copy))
    answer = subprocess.run([python, *words], cwd=copy, env=environ, stdout=subprocess.PIPE, text=True)
    print(answer.stdout, flush=True)
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
