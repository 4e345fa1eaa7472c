"""What README.md tells people to type is typed, in its order, and does what it says."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hydra_cli.dev.folder import Folder

pytestmark = pytest.mark.timeout(600)
ROOT = Path(__file__).resolve().parents[2]
FIRST, LAST = "## Step by step, by hand", "## How a service uses its view"
# Run before the last command, which ends the cluster: what curl published is taken over like any other.
TAKEN_OVER = """
hydra subscribe dev/search/editor --channel dev/search/notes --reload none --drain-time 0s
hydra register dev/search/editor one --node n2
note=.hydra-dev/nodes/n2/root/views/dev/search/editor/one/notes/notes/notes.txt
word=.hydra-dev/nodes/n1/root/views/dev/search/speller/one/words/words/list.txt
timeout 120 sh -c "until test -e $note; do sleep 0.1; done"
timeout 120 sh -c "until grep -q one $word; do sleep 0.1; done"
cat $note > note.txt
hydra status -o json > status.json
"""


def blocks(text: str) -> list[str]:
    """The shell commands of the part of README.md that is meant to be typed."""
    part = text[text.index(FIRST) : text.index(LAST)]
    return re.findall(r"^```sh\n(.*?)^```$", part, re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where the commands are typed: as in a checkout. The cluster there is ended whatever happens."""
    for name in (".venv", "tools"):
        (tmp_path / name).symlink_to(ROOT / name)
    try:
        yield tmp_path
    finally:
        Folder(tmp_path / ".hydra-dev").end()


def test_steps_of_the_readme_work_as_written(folder: Path) -> None:
    *steps, last = blocks((ROOT / "README.md").read_text())
    assert len(steps) >= 6
    assert last.strip() == "hydra dev down"
    patient = [step.replace("--timeout 60s", "--timeout 300s") for step in steps]  # on a busy machine
    script = "\n".join(["set -eux", *patient, TAKEN_OVER, last])

    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=dict(os.environ), capture_output=True, text=True
    )

    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert (folder / "note.txt").read_text() == "all of it"
    status = json.loads((folder / "status.json").read_text())
    assert status["ok"], status["troubles"]
    assert not (folder / ".hydra-dev" / "env").exists()
