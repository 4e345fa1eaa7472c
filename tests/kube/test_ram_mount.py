"""The init container that mounts RAM: once, of the size that was asked for, and writable by root alone."""

from __future__ import annotations

from pathlib import Path

from tests.kube.images import ROOT
from tests.kube.programs import run

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
