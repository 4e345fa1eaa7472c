"""What Hydra's service accounts may not do: tried with their own tokens, on things that are there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from hydra_cli.programs import program
from tests.kube.cluster import API
from tests.kube.installed import Installed
from tests.kube.programs import run
from tests.kube.stage import Scene


def answer(hydra: Installed, role: str, *words: str) -> str:
    """What kubectl says to somebody who has nothing but the token of one of Hydra's roles."""
    token = hydra.kubectl("create", "token", f"hydra-{role}").strip()
    trust = hydra.cluster.folder / "pki" / "ca.crt"
    who = (f"--server={API}", f"--certificate-authority={trust}", f"--token={token}")
    said = run(str(program("kubectl")), "--kubeconfig=/dev/null", *who, *words, check=False)
    return said.stdout + said.stderr


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
