"""entrypoint.sh by itself: RAM is mounted for pods to read and not to write; who waits ends at SIGTERM."""

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
# A node, in a mount namespace of its own, whose mounts are shared, as systemd has them. A pod mounts the root
# as k8s/README.md says. The init container, in one more, mounts root and store; without a size to wait there.
STAGE = """
cd "$1" && here=$(pwd)
mount --make-rshared /
mkdir data data-ram pods container
mount -t tmpfs none pods && mount --make-private pods
mount -t tmpfs none container && mount --make-private container && mkdir container/data container/data-ram
pod() {
    mkdir "pods/$1"
    mount --rbind data "pods/$1"
    mount --make-rslave "pods/$1"
    mount -o remount,bind,ro "pods/$1"
}
ram() {
    unshare --mount --propagation unchanged sh -euc '
        mount --rbind data container/data
        mount --rbind data-ram container/data-ram
        if [ $# = 2 ]; then mount --make-rslave container/data && mount --make-rslave container/data-ram; fi
        here="$1" entrypoint="$2"
        shift 2
        HYDRA_ROOT="$here/container/data" exec sh "$entrypoint" ram "$@"
    ' - "$here" "$entrypoint" "$@"
}
refused() {
    touch "$1" 2>&1 | grep -o "Read-only file system" || echo "written: $1"
}
options() {
    findmnt --noheadings --output FSTYPE,OPTIONS "$1" | tail -n 1
}
"""
REFUSED = "Read-only file system"
RAM = {"nosuid", "nodev", "noexec"}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    tmp_path.chmod(0o755)
    return tmp_path


def on_node(place: Path, script: str) -> list[str]:
    """The lines that a script says on a node."""
    words = ("unshare", "--mount", "--propagation", "private", "sh", "-euc")
    return run(*words, f"entrypoint={ENTRYPOINT}\n{STAGE}\n{script}", "-", str(place)).stdout.splitlines()


def test_ram_is_written_by_hydra_and_read_by_every_pod_also_one_that_was_there_before(place: Path) -> None:
    said = on_node(
        place,
        """
        mkdir -p data/volumes/ram
        pod before
        ram 16
        pod after
        echo kept > data-ram/file
        for pod in before after; do
            cat pods/$pod/volumes/ram/file
            refused pods/$pod/volumes/ram/other
        done
        refused data/volumes/ram/other
        stat --format '%U %a' pods/after/volumes/ram
        """,
    )

    assert said == ["kept", REFUSED, "kept", REFUSED, REFUSED, "root 755"]
    assert not (place / "data-ram" / "file").exists()


def test_ram_is_mounted_once_and_resized_later(place: Path) -> None:
    *said, written, read = on_node(
        place,
        """
        ram 16
        echo kept > data-ram/file
        ram 32
        cat data/volumes/ram/file
        findmnt --noheadings --list --output TARGET | grep -cE "^$here/data(-ram|/volumes/ram)$"
        options data-ram
        options data/volumes/ram
        """,
    )

    assert said == ["kept", "2"]
    for mounted, mode in ((written, "rw"), (read, "ro")):
        kind, options = mounted.split(maxsplit=1)
        assert kind == "tmpfs"
        assert {mode, "size=32768k"} | RAM <= set(options.split(","))


@pytest.mark.parametrize(
    "lost",
    [
        pytest.param("umount data/volumes/ram", id="what-pods-read"),
        pytest.param("umount data-ram", id="what-hydra-writes"),
        pytest.param(
            "umount data/volumes/ram data-ram;"
            "mount -t tmpfs -o nosuid,nodev,noexec hydra-ram data/volumes/ram;"
            "echo kept > data/volumes/ram/file",
            id="as-mounted-by-an-earlier-hydra",
        ),
    ],
)
def test_what_is_there_of_ram_is_completed_and_keeps_its_data(place: Path, lost: str) -> None:
    *said, written, read = on_node(
        place,
        f"""
        ram 16
        echo kept > data-ram/file
        pod before
        {lost}
        ram 32
        pod after
        echo new > data-ram/new
        for pod in before after; do
            cat pods/$pod/volumes/ram/file pods/$pod/volumes/ram/new
            refused pods/$pod/volumes/ram/other
        done
        options data-ram
        options data/volumes/ram
        """,
    )

    assert said == ["kept", "new", REFUSED] * 2
    for mounted, mode in ((written, "rw"), (read, "ro")):
        assert {mode, "size=32768k"} | RAM <= set(mounted.split()[1].split(","))


def test_old_ram_beside_a_new_one_is_hidden_by_it(place: Path) -> None:
    """Somebody unmounted the one of the two that is written, and it was mounted anew."""
    said = on_node(
        place,
        """
        ram 16
        umount data-ram
        mount -t tmpfs none data-ram
        echo new > data-ram/file
        ram 16
        cat data/volumes/ram/file
        refused data/volumes/ram/other
        """,
    )

    assert said == ["new", REFUSED]


def test_ram_that_the_node_mounts_is_waited_for(place: Path) -> None:
    said = on_node(
        place,
        """
        mkdir -p data/volumes/ram pods/aside
        mkfifo said
        (ram && echo done) >said &
        exec 3<said
        read -r line <&3; echo "$line"
        mount -t tmpfs -o size=16m hydra-ram data-ram
        read -r line <&3; echo "$line"
        mount --bind data-ram pods/aside
        mount -o remount,bind,ro pods/aside
        mount --bind pods/aside data/volumes/ram
        read -r line <&3; echo "$line"
        """,
    )

    assert said == [
        f"waiting for a tmpfs at {place}/container/data-ram",
        f"waiting for the same at {place}/container/data/volumes/ram, read-only",
        "done",
    ]


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
