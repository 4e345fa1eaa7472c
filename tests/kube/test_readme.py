"""Every command in k8s/README.md, from top to bottom, on a real API server with its controllers.

kubectl and helm are run as they stand there. Commands of `hydra` are parsed, since what they do needs nodes:
other tests here do that on a whole cluster. The build of the image is that of `tests.kube.images`.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from hydra_cli.programs import program
from tests.kube.control import ControlPlane
from tests.kube.images import ROOT
from tests.kube.test_manifests import blocks
from tests.test_docs import parse


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


def shell(control: ControlPlane, command: str) -> str:
    folders = [str(program(name).parent) for name in ("kubectl", "helm")]
    environ = {
        "KUBECONFIG": str(control.kubeconfig),
        "PATH": os.pathsep.join([*folders, os.environ["PATH"]]),
        "HOME": str(control.folder),
        "ID": "id",
        "KEY": "key",
    }
    answer = subprocess.run(["sh", "-euc", command], cwd=ROOT, env=environ, capture_output=True, text=True)
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
        _, inside, hydra = command.partition(" -- hydra ")
        if inside or command.startswith("hydra "):
            parse(f"hydra {hydra}" if inside else command)
        elif not command.startswith("docker build -f k8s/Dockerfile "):
            ran.append(command.split()[0])
            shell(control, command)
            if command.startswith("helm install"):
                assert control.get("daemonset", "hydra-node", "-n", "hydra")["spec"]
    assert {"kubectl", "helm"} == set(ran)
    namespaced = "daemonsets,deployments,statefulsets,configmaps,serviceaccounts"
    kinds = f"{namespaced},clusterroles,clusterrolebindings,priorityclasses"
    assert control.get(kinds, "-A", "-l", "app.kubernetes.io/name=hydra")["items"] == []
