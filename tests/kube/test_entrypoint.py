"""What entrypoint.sh does by itself: RAM is mounted once, and who waits ends at SIGTERM."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kube.images import ROOT
from tests.kube.programs import run, until

ENTRYPOINT = ROOT / "k8s" / "entrypoint.sh"


def test_ram_is_mounted_once_resized_later_and_written_by_root_alone(tmp_path: Path) -> None:
    """In a mount namespace of its own, as what the container does reaches nobody else."""
    folder = tmp_path / "volumes" / "ram"
    tmp_path.chmod(0o755)
    script = f"""
        HYDRA_ROOT={tmp_path} sh {ENTRYPOINT} ram 16
        echo kept > {folder}/file
        HYDRA_ROOT={tmp_path} sh {ENTRYPOINT} ram 32
        cat {folder}/file
        findmnt --noheadings --output FSTYPE,OPTIONS {folder}
        stat --format '%U %a' {folder}
    """

    said = run("unshare", "--mount", "--propagation", "private", "sh", "-euc", script).stdout.splitlines()

    kept, mounted, owner = said
    assert kept == "kept"
    kind, options = mounted.split(maxsplit=1)
    assert kind == "tmpfs"
    assert {"rw", "nosuid", "nodev", "noexec", "size=32768k"} <= set(options.split(","))
    assert owner == "root 755"
    assert not (folder / "file").exists()


def hydra(folder: Path, script: str) -> Path:
    """A folder for PATH with a program `hydra` that is this script."""
    program = folder / "hydra"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return folder


@contextmanager
def first_process(log: Path, *words: str, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    """entrypoint.sh as process 1, which a signal ends only where it is expected."""
    inside = ("unshare", "--pid", "--fork", "--kill-child", "sh", str(ENTRYPOINT), *words)
    with log.open("wb") as file:
        unshare = subprocess.Popen(inside, stdout=file, stderr=file, env={**os.environ, **environ})
    try:
        yield unshare
    finally:
        unshare.kill()
        unshare.wait()


def terminated(unshare: subprocess.Popen[bytes]) -> int:
    """What process 1 ends with after SIGTERM, in far less than the grace period of a pod."""
    (inner,) = Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children").read_text().split()
    os.kill(int(inner), signal.SIGTERM)
    return unshare.wait(10)


def test_pod_that_waits_for_its_view_ends_at_once(tmp_path: Path) -> None:
    log = tmp_path / "log"

    with first_process(log, "wait", HYDRA_VIEW=str(tmp_path / "view")) as waits:
        until("it waits", lambda: "waiting for" in log.read_text())
        assert terminated(waits) == 143


def test_init_that_tries_again_ends_at_once(tmp_path: Path) -> None:
    """Consul is away all the time."""
    log, path = tmp_path / "log", hydra(tmp_path, "echo tried; exit 10")

    with first_process(log, "init", PATH=f"{path}:{os.environ['PATH']}") as tries:
        until("it tries again", lambda: log.read_text().count("tried") > 1)
        assert terminated(tries) == 143


def test_init_passes_the_signal_on_and_waits_for_its_program(tmp_path: Path) -> None:
    script = "trap 'echo ended; exit 0' TERM; echo began; while :; do sleep 0.1; done"
    log, path = tmp_path / "log", hydra(tmp_path, script)

    with first_process(log, "init", PATH=f"{path}:{os.environ['PATH']}") as runs:
        until("it runs", lambda: "began" in log.read_text())
        assert terminated(runs) == 143

    assert log.read_text().split() == ["began", "ended"]


@pytest.mark.parametrize("code", [0, 3])
def test_init_ends_with_what_its_program_ends_with(tmp_path: Path, code: int) -> None:
    path = hydra(tmp_path, f'echo "$@"; exit {code}')
    words = ("env", f"PATH={path}:{os.environ['PATH']}", "sh", str(ENTRYPOINT), "init", "--env", "prod")

    answer = run(*words, check=False)

    assert (answer.returncode, answer.stdout) == (code, "init --env prod\n")
