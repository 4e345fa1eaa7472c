"""What Hydra's service accounts may not do: tried with their own tokens, on things that are there."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from handlers.core.pods import DATA_READY
from hydra_cli.programs import program
from tests.kube.cluster import API
from tests.kube.installed import Installed
from tests.kube.programs import run
from tests.kube.stage import Scene, condition

METADATA = "changes no label, annotation or finalizer of a pod"
CONDITIONS = "changes no condition of a pod but hydra.datasets/data-ready"
STATUS = "changes nothing of a pod's status but its conditions"
NODES = "tells the pods of its own node alone"
# merged into a pod's status, and why it is refused
REFUSED: Sequence[tuple[Mapping[str, Any], str]] = (
    ({"metadata": {"labels": {"a": "b"}}}, METADATA),
    ({"metadata": {"labels": {"app": None}}}, METADATA),
    ({"metadata": {"annotations": {"a": "b"}}}, METADATA),
    ({"metadata": {"finalizers": ["a.example/b"]}}, METADATA),
    ({"status": {"conditions": [{"type": "Ready", "status": "False"}]}}, CONDITIONS),
    ({"status": {"conditions": [{"type": "Ready", "$patch": "delete"}]}}, CONDITIONS),
    ({"status": {"conditions": [{"type": "a.example/b", "status": "True"}]}}, CONDITIONS),
    ({"status": {"podIP": "192.0.2.1"}}, STATUS),
    ({"status": {"phase": "Failed"}}, STATUS),
    ({"status": {"message": "a"}}, STATUS),
    ({"status": {"containerStatuses": None}}, STATUS),
)
# as Hydra itself writes it
TOLD = {"type": DATA_READY, "status": "True", "reason": "DataReady", "message": "this is a try"}
TELLING = {"status": {"conditions": [TOLD]}}


def answer(hydra: Installed, role: str, *words: str) -> str:
    """What kubectl says to somebody who has nothing but the token of one of Hydra's roles."""
    token = hydra.kubectl("create", "token", f"hydra-{role}").strip()
    trust = hydra.cluster.folder / "pki" / "ca.crt"
    who = (f"--server={API}", f"--certificate-authority={trust}", f"--token={token}")
    said = run(str(program("kubectl")), "--kubeconfig=/dev/null", *who, *words, check=False)
    return said.stdout + said.stderr


def patched(server: str, trust: Path, token: str, pod: Mapping[str, Any], patch: Mapping[str, Any]) -> str:
    """What the API server says to a patch of a pod's status; empty where it takes it.

    Not by kubectl, which would read the pod first, and that needs one more right.
    """
    meta, kind = pod["metadata"], "Content-Type: application/strategic-merge-patch+json"
    path = f"{server}/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/status"
    words = ("--cacert", str(trust), "-H", f"Authorization: Bearer {token}", "-H", kind, "-X", "PATCH")
    said = json.loads(run("curl", "-sS", *words, "-d", json.dumps(patch), path).stdout)
    return str(said["message"]) if said["kind"] == "Status" else ""


def told(hydra: Installed, pod: Mapping[str, Any], patch: Mapping[str, Any], node: str) -> str:
    """The same to somebody with the token of Hydra's pod on that node."""
    bound = ("--bound-object-kind=Pod", f"--bound-object-name={hydra.pod('node', node)['metadata']['name']}")
    token = hydra.kubectl("create", "token", "hydra-node", *bound).strip()
    return patched(API, hydra.cluster.folder / "pki" / "ca.crt", token, pod, patch)


@pytest.fixture(scope="module")
def stage(hydra: Installed) -> Iterator[Scene]:
    """A service with one pod, which nothing here changes."""
    made = Scene(hydra, "rights")
    made.serve(replicas=1)
    yield made
    made.close()


@pytest.mark.parametrize("role", ["node", "planner"])
def test_role_may_do_nothing_that_it_does_not_need(stage: Scene, role: str) -> None:
    (pod,) = stage.ready_pods()
    here, there = ("-n", stage.namespace), ("-n", stage.hydra.namespace)
    forbidden: Sequence[tuple[str, ...]] = (
        ("delete", "pod", pod, *here),
        ("label", "pod", pod, "a=b", *here),
        ("exec", pod, *here, "--", "true"),
        ("run", "another", "--image=a", *here),
        ("get", "secret", "hydra-s3", *there),
        ("get", "secrets", *here),
        ("get", "configmaps", *here),
        ("scale", "deployment", stage.name, "--replicas=0", *here),
        ("annotate", "deployment", stage.name, "hydra.datasets/reload=none", "--overwrite", *here),
        ("label", "node", "n1", "a=b"),
        ("create", "token", "hydra-planner", *there),
    )

    said = {" ".join(words): answer(stage.hydra, role, *words) for words in forbidden}

    assert {words: text for words, text in said.items() if "orbidden" not in text} == {}
    assert stage.ready_pods() == [pod]


def test_roles_may_do_what_they_need_and_not_what_the_other_needs(stage: Scene) -> None:
    (pod,) = stage.ready_pods()

    assert pod in answer(stage.hydra, "node", "get", "pods", "-A")
    assert stage.name in answer(stage.hydra, "planner", "get", "deployments", "-A")
    assert "orbidden" in answer(stage.hydra, "planner", "get", "pods", "-A")
    assert "orbidden" in answer(stage.hydra, "node", "get", "deployments", "-A")


def test_node_pod_writes_the_data_ready_condition_of_pods_of_its_node_and_nothing_else(stage: Scene) -> None:
    (pod,) = stage.pods()
    here = pod["spec"]["nodeName"]
    (elsewhere,) = set(stage.cluster.nodes) - {here}

    said = [(told(stage.hydra, pod, patch, here), why) for patch, why in REFUSED]

    assert [(text, why) for text, why in said if why not in text] == []
    assert NODES in told(stage.hydra, pod, TELLING, elsewhere)
    assert told(stage.hydra, pod, TELLING, here) == ""
    (after,) = stage.pods()
    assert after["metadata"]["labels"] == pod["metadata"]["labels"]
    assert condition(after, DATA_READY) == condition(after, "Ready") == "True"
    assert TOLD["message"] in [row.get("message") for row in after["status"]["conditions"]]
