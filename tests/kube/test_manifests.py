"""What the chart renders, and the document's example, on a real API server: taken, or refused as promised."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from handlers.core.pods import CONSUMER, PREFIX
from tests.kube.control import ControlPlane
from tests.kube.images import ROOT
from tests.kube.programs import Failed, until
from tests.kube.test_chart import BASE, helm, template

EMBEDDED: dict[str, Any] = {"consul": {"embedded": True}}
SERVERS: dict[str, Any] = {"consul": {"address": "http://consul:8500", "join": ["consul"]}}


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    made = ControlPlane(tmp_path_factory.mktemp("control"))
    try:
        made.start()
        # as helm does it: what names no namespace is in that of the release
        made.kubectl("config", "set-context", "--current", "--namespace=hydra")
        for name, level in (("hydra", "privileged"), ("search", "baseline"), ("open", "privileged")):
            labels = {"pod-security.kubernetes.io/enforce": level}
            made.apply(
                {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}},
                # what a controller makes in each namespace
                {
                    "apiVersion": "v1",
                    "kind": "ServiceAccount",
                    "metadata": {"name": "default", "namespace": name},
                },
            )
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def installed(control: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> ControlPlane:
    """The objects of the chart, with a claim for `search`; no controller makes pods of them."""
    values = {**EMBEDDED, "claims": {"namespaces": ["search"]}}
    control.kubectl(
        "apply", "--server-side", "-f", "-", given=rendered(tmp_path_factory.mktemp("values"), values)
    )
    return control


def rendered(folder: Path, values: Mapping[str, Any]) -> str:
    file = folder / "values.json"
    file.write_text(json.dumps(values))
    return template("-f", file)


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(EMBEDDED, id="embedded"),
        pytest.param(SERVERS, id="sidecar"),
        pytest.param({"consul": {"address": "http://consul:8500", "agent": "host"}}, id="agent-of-the-node"),
        pytest.param(
            {
                "consul": {**SERVERS["consul"], "configSecret": "agent"},
                "secrets": {"node": "node", "planner": "planner"},
                "imagePullSecrets": [{"name": "registry"}],
                "env": {"AWS_REGION": "eu-central-1"},
                "nodeConfig": "[limits]\nstreams = 4\n",
            },
            id="secrets",
        ),
        pytest.param({**EMBEDDED, "ram": {"sizeMi": 512}, "node": {"memoryLimitMi": 512}}, id="ram"),
        pytest.param(
            {**EMBEDDED, "ram": {"sizeMi": 512, "mount": "host"}, "node": {"hostPID": True}}, id="host"
        ),
        pytest.param({**EMBEDDED, "claims": {"namespaces": ["search", "open"]}}, id="claims"),
        pytest.param({**EMBEDDED, "readOnlyMounts": False}, id="without-admission"),
    ],
)
def test_api_server_takes_every_object(
    control: ControlPlane, values: Mapping[str, Any], tmp_path: Path
) -> None:
    words = ("apply", "--server-side", "--dry-run=server", "-f", "-")

    said = control.kubectl(*words, given=rendered(tmp_path, values))

    assert "daemonset.apps/hydra-node serverside-applied (server dry run)" in said


def test_api_server_takes_the_base_for_kustomize(control: ControlPlane) -> None:
    said = control.kubectl("apply", "--server-side", "--dry-run=server", "-k", str(BASE))

    assert "daemonset.apps/hydra-node serverside-applied (server dry run)" in said


def test_memory_is_that_of_the_programs_and_of_ram(tmp_path: Path) -> None:
    made = rendered(
        tmp_path, {**EMBEDDED, "ram": {"sizeMi": 512}, "node": {"memoryMi": 200, "memoryLimitMi": 300}}
    )
    pod = next(o for o in yaml.safe_load_all(made) if o and o["kind"] == "DaemonSet")["spec"]["template"][
        "spec"
    ]

    resources = pod["containers"][0]["resources"]
    assert (resources["requests"]["memory"], resources["limits"]) == ("712Mi", {"memory": "812Mi"})
    assert [c["name"] for c in pod["initContainers"]] == ["ram"]


@pytest.mark.parametrize(("mount", "privileged"), [("init", True), ("host", None)])
def test_ram_is_written_by_hydra_where_pods_see_it_read_only(
    tmp_path: Path, mount: str, privileged: bool | None
) -> None:
    made = rendered(tmp_path, {**EMBEDDED, "ram": {"sizeMi": 512, "mount": mount}})
    pod = next(o for o in yaml.safe_load_all(made) if o and o["kind"] == "DaemonSet")["spec"]["template"][
        "spec"
    ]

    (first,), (hydra, *others) = pod["initContainers"], pod["containers"]
    places = {m["name"]: m["mountPath"] for m in hydra["volumeMounts"]}
    assert (places["root"], places["ram"]) == ("/var/lib/hydra", "/var/lib/hydra/volumes/ram")
    assert [v["hostPath"]["path"] for v in pod["volumes"] if v["name"] == "ram"] == ["/var/lib/hydra-ram"]
    assert not [m for c in others for m in c["volumeMounts"] if m["name"] in ("root", "ram")]
    assert first["securityContext"].get("privileged") is privileged
    assert all(privileged or m["readOnly"] for m in first["volumeMounts"])


# --- the example of the document


def blocks(language: str) -> list[str]:
    """The blocks of code in k8s/README.md."""
    parts = (ROOT / "k8s" / "README.md").read_text().split("```")
    return [text.partition("\n")[2] for text in parts[1::2] if text.startswith(f"{language}\n")]


def example(**changes: Any) -> dict[str, Any]:
    """A pod of the Deployment in the document; `changes` are those of its spec."""
    made = next(o for text in blocks("yaml") if isinstance(o := yaml.safe_load(text), dict))
    template_of_pods = copy.deepcopy(made["spec"]["template"])
    meta = {"name": "reader-1", "namespace": "search", "labels": template_of_pods["metadata"]["labels"]}
    spec = {**template_of_pods["spec"], **changes}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


def claimed(**changes: Any) -> dict[str, Any]:
    """The same with the volume that the document names for such namespaces."""
    volumes = next(o for text in blocks("yaml") if isinstance(o := yaml.safe_load(text), list))
    return example(volumes=volumes, **changes)


def refusal(control: ControlPlane, pod: Mapping[str, Any]) -> str:
    """Why the API server does not take a pod; empty where it does."""
    try:
        control.kubectl("create", "--dry-run=server", "-f", "-", given=json.dumps(pod))
    except Failed as e:
        return str(e)
    return ""


def test_example_is_refused_with_the_hostpath_under_baseline_and_taken_with_the_claim(
    installed: ControlPlane,
) -> None:
    said = refusal(installed, example())
    assert 'violates PodSecurity "baseline:latest": hostPath volumes' in said

    assert refusal(installed, claimed()) == ""
    volume = installed.get("pv", "hydra-search")["spec"]
    assert volume["hostPath"]["path"] == "/var/lib/hydra"
    assert (volume["claimRef"]["namespace"], volume["claimRef"]["name"]) == ("search", "hydra-data")


def test_example_is_taken_with_the_hostpath_elsewhere(installed: ControlPlane) -> None:
    pod = example()
    pod["metadata"]["namespace"] = "open"

    assert refusal(installed, pod) == ""


@pytest.mark.parametrize("kind", ["containers", "initContainers"])
@pytest.mark.parametrize("make", [example, claimed])
def test_pod_that_would_write_to_the_data_of_all_is_refused(
    installed: ControlPlane, make: Any, kind: str
) -> None:
    pod = make()
    pod["metadata"]["namespace"] = "open"
    mounts = copy.deepcopy(pod["spec"][kind][0]["volumeMounts"])
    pod["spec"][kind][0]["volumeMounts"] = [{**mount, "readOnly": False} for mount in mounts]

    said = until("the policy is in force", lambda: refusal(installed, pod), 30)

    assert "the data of Hydra (/var/lib/hydra, claim hydra-data) is for reading" in said


def test_pod_that_would_write_to_ram_beside_the_root_is_refused(installed: ControlPlane) -> None:
    pod = example(volumes=[{"name": "data", "hostPath": {"path": "/var/lib/hydra-ram/data"}}])
    pod["metadata"]["namespace"] = "open"
    assert refusal(installed, pod) == ""
    pod["spec"]["containers"][0]["volumeMounts"][0]["readOnly"] = False

    said = until("the policy is in force", lambda: refusal(installed, pod), 30)

    assert "the data of Hydra (/var/lib/hydra, claim hydra-data) is for reading" in said


def test_pods_that_mount_something_else_are_not_judged(installed: ControlPlane) -> None:
    other = {"name": "data", "emptyDir": {}}
    pod = example(volumes=[other])
    for container in (*pod["spec"]["containers"], *pod["spec"]["initContainers"]):
        container["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]

    assert refusal(installed, pod) == ""


def test_example_has_what_makes_its_pods_known() -> None:
    made = next(o for text in blocks("yaml") if isinstance(o := yaml.safe_load(text), dict))

    assert made["metadata"]["labels"][CONSUMER] == "true"
    assert made["spec"]["template"]["metadata"]["labels"][CONSUMER] == "true"
    assert f"{PREFIX}channels" in made["metadata"]["annotations"]


def test_uninstalling_leaves_claims_that_pods_mount() -> None:
    made = helm(
        "template", "hydra", ROOT / "k8s" / "chart", "--set", "consul.embedded=true,claims.namespaces={a}"
    )
    kept = [o["kind"] for o in yaml.safe_load_all(made) if o and "annotations" in o["metadata"]]

    assert sorted(kept) == ["PersistentVolume", "PersistentVolumeClaim"]
