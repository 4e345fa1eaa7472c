"""Every command in k8s/README.md, from top to bottom, as it stands there.

kubectl and helm are run on a real API server with its controllers; commands of `hydra` on a whole cluster,
since what they do needs nodes. The build of the image is that of `tests.kube.images`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from handlers.core.names import Channel
from hydra_cli.programs import program
from tests.kube.cluster import Cluster
from tests.kube.control import ControlPlane
from tests.kube.images import ROOT
from tests.kube.stage import V1, V2, Scene
from tests.kube.test_manifests import blocks


@pytest.fixture
def control(tmp_path: Path) -> Iterator[ControlPlane]:
    made = ControlPlane(tmp_path / "control", crowd=True)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def commands() -> list[str]:
    """One command each, continued lines joined, without comments."""
    lines = "\n".join(blocks("sh")).replace("\\\n", " ").splitlines()
    return [text for line in lines if (text := re.sub(r"\s+#.*", "", line).strip())]


def of_hydra(command: str) -> bool:
    """Whether it runs `hydra`, here or in a pod."""
    return command.startswith("hydra ") or " -- hydra " in command


def shell(cluster: Cluster, command: str, folder: Path = ROOT, **more: str) -> str:
    """Run it in a folder, with `more` in its environment; what it says on stdout."""
    folders = [str(Path(sys.executable).parent), *(str(program(n).parent) for n in ("kubectl", "helm"))]
    environ = {
        "KUBECONFIG": str(cluster.kubeconfig),
        "PATH": os.pathsep.join([*folders, os.environ["PATH"]]),
        "HOME": str(cluster.folder),
        "ID": "id",
        "KEY": "key",
        **more,
    }
    answer = subprocess.run(["sh", "-euc", command], cwd=folder, env=environ, capture_output=True, text=True)
    assert answer.returncode == 0, f"{command}\n{answer.stdout}{answer.stderr}"
    return answer.stdout


def test_commands_do_what_the_document_says(control: ControlPlane) -> None:
    manifest = next(text for text in blocks("yaml") if isinstance(yaml.safe_load(text), dict))
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}
    search = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "search"}}
    control.apply(node, search)
    control.kubectl("apply", "-f", "-", given=manifest)
    ran = []
    for command in commands():
        if not of_hydra(command) and not command.startswith("docker build -f k8s/Dockerfile "):
            ran.append(command.split()[0])
            shell(control, command)
            if command.startswith("helm install"):
                assert control.get("daemonset", "hydra-node", "-n", "hydra")["spec"]
    assert {"kubectl", "helm"} == set(ran)
    namespaced = "daemonsets,deployments,statefulsets,configmaps,serviceaccounts"
    kinds = f"{namespaced},clusterroles,clusterrolebindings,priorityclasses"
    assert control.get(kinds, "-A", "-l", "app.kubernetes.io/name=hydra")["items"] == []


def test_commands_of_hydra_publish_show_and_roll_back(scene: Callable[[str], Scene], tmp_path: Path) -> None:
    stage = scene("documented")
    stage.channel = Channel("prod/search/places")
    stage.serve(replicas=2, channels=f"data={stage.channel}")
    (tmp_path / "template.py").write_text(f"DATA_TEMPLATE = {stage.upload(V2)}\n")
    publish, status, rollback = filter(of_hydra, commands())

    def run(command: str) -> str:
        return shell(stage.cluster, command, tmp_path, **stage.hydra.environ())

    run(publish)
    assert {state.releases["data"] for state in stage.states().values()} == {V2}  # it has waited
    assert stage.service in run(status)
    run(rollback)
    stage.await_running(V1, 2)
