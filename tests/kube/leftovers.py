"""What outlives the programs of a test cluster: containers, mounts, networks, control groups."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.kube.documents import GROUP
from tests.kube.programs import run

BRIDGE = "hydra-kube"
FOLDERS = "/tmp/hydra-kube-"  # of all runs; a short path: containerd's sockets lie below it
LOCK = Path("/tmp/hydra-kube.lock")


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Wait for other runs on this machine to end: all use the same addresses."""
    with LOCK.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def sweep() -> None:
    """Take away what a run left that was killed; only while no other run goes on (`alone`)."""
    kill_containers(FOLDERS)
    for namespace in Path("/run/netns").glob(f"{BRIDGE}-*"):
        run("ip", "netns", "delete", namespace.name, check=False)
    for link in Path("/sys/class/net").glob(f"{BRIDGE}*"):
        run("ip", "link", "delete", link.name, check=False)
    for folder in Path("/").glob(f"{FOLDERS.strip('/')}*"):
        unmount_below(folder)
        shutil.rmtree(folder, ignore_errors=True)
    remove_cgroups()


def kill_containers(mounts: str) -> None:
    """End the shims of a node's containerd, and what runs in their containers: both outlive containerd."""
    mark = mounts.encode()
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal():
            continue
        with contextlib.suppress(OSError):
            command = (process / "cmdline").read_bytes()
            own = (process / "mountinfo").read_bytes() if b"containerd-shim" in command else b""
            if mark in own:
                _kill_tree(int(process.name))


def _kill_tree(pid: int) -> None:
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            _kill_tree(int(child))
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def unmount_below(folder: Path) -> None:
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for path in sorted((m for m in mounts if m.startswith(f"{folder}/")), reverse=True):
        run("umount", "--lazy", path, check=False)


def _cgroups() -> list[Path]:
    """The control group of all pods here: one, or with version 1 one per controller."""
    top = Path("/sys/fs/cgroup")
    mounted = [file.parent for file in (*top.glob("cgroup.procs"), *top.glob("*/cgroup.procs"))]
    return [path / GROUP for path in (mounted[:1] if top in mounted else mounted)]


def make_cgroups(nodes: Iterable[str]) -> None:
    """One for each node, with as much weight beside everything else as a machine of its own would have."""
    for group in _cgroups():
        for node in nodes:
            (group / node).mkdir(parents=True, exist_ok=True)
        if (weight := group / "cpu.shares").exists():
            weight.write_text(str(1024 * (os.cpu_count() or 1) * 2))


def remove_cgroups() -> None:
    """What kubelet and runc leave below the group that the nodes were given."""
    for group in _cgroups():
        for path, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                Path(path).rmdir()
