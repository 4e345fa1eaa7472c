"""`[volumes]` of a node's configuration: what stays free where its rows do not say it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from handlers import settings

TABLE = """
[volumes.disk]
class = "DISK"
[volumes.fast]
class = "nvme"
reserve_bytes = 5
[volumes.ram]
class = "RAM"
"""


def reserves(root: Path, text: str, kubernetes: str) -> dict[str, int]:
    (root / "node.toml").write_text(text)
    environ = {"HYDRA_CONFIG": str(root / "node.toml"), "HYDRA_KUBERNETES": kubernetes}
    own = settings.load({**environ, "HYDRA_ROOT": str(root / "not" / "made" / "yet")})
    return {name: volume.reserve_bytes for name, volume in own.volumes.items()}


@pytest.mark.parametrize("text", ["", TABLE])
def test_beside_a_kubelet_so_much_stays_free_that_it_evicts_no_pods(tmp_path: Path, text: str) -> None:
    found = os.statvfs(tmp_path)
    whole = found.f_blocks * found.f_frsize

    said = reserves(tmp_path, text, "1")

    assert said.pop("ram") == 0
    assert said.pop("fast", 5) == 5
    assert whole * 0.15 < said["disk"] + 1024**3
    assert said["disk"] <= max(1024**3, whole * 0.17)


def test_elsewhere_it_is_as_written(tmp_path: Path) -> None:
    assert reserves(tmp_path, "", "0") == {"disk": 1024**3, "ram": 0}
    assert reserves(tmp_path, TABLE, "0") == {"disk": 0, "fast": 5, "ram": 0}
