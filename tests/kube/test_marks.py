"""Startup taint and filled-labels on a real API server: written where asked for, and nothing else is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from handlers.adapters.local import LocalState
from handlers.adapters.pods import Api
from handlers.adapters.ports import Set
from handlers.core import codec, keys
from handlers.core.errors import Conflict, HydraError
from handlers.core.marks import Change
from handlers.core.model import AliasPlan, Desired, Hold, Meta, ServicePlan
from handlers.core.names import Service
from handlers.core.pods import FILLED, NOT_FILLED
from tests import servers
from tests.core.worlds import PLACES, rid, v
from tests.kube import documents
from tests.kube.control import ControlPlane
from tests.kube.programs import until
from tests.kube.test_manifests import EMBEDDED, rendered

READER = Service("prod/search/reader")
LABEL = f"{FILLED}reader"
TAINT = {"key": NOT_FILLED, "effect": "NoSchedule"}
OTHER = {"key": "gpu", "value": "yes", "effect": "NoSchedule"}
MARKS = {"startupTaint": True, "filledLabels": {"reader": "prod/search/reader", "other": "prod/search/other"}}


def node(name: str) -> dict[str, Any]:
    meta = {"name": name, "labels": {"pool": "search"}}
    return {"apiVersion": "v1", "kind": "Node", "metadata": meta, "spec": {"taints": [TAINT, OTHER]}}


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """The chart with both switched on, on two nodes."""
    made = ControlPlane(tmp_path_factory.mktemp("control"))
    try:
        made.start()
        made.kubectl("config", "set-context", "--current", "--namespace=hydra")
        made.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "hydra"}})
        made.apply(node("n1"), node("n2"))
        chart = rendered(made.folder, {**EMBEDDED, "node": MARKS})
        made.kubectl("apply", "--server-side", "-f", "-", given=chart)
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def token(control: ControlPlane) -> str:
    """As kubelet gives it to the node pod of n1."""
    meta = {"name": "hydra-node-x", "namespace": "hydra"}
    pod = {
        "serviceAccountName": "hydra-node",
        "nodeName": "n1",
        "containers": [{"name": "hydra", "image": "a"}],
    }
    control.apply({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": pod})
    bound = ("--bound-object-kind=Pod", "--bound-object-name=hydra-node-x")
    return control.kubectl("create", "token", "hydra-node", *bound).strip()


@pytest.fixture
def kubeconfig(control: ControlPlane, token: str, tmp_path: Path) -> Path:
    """Of somebody in that pod."""
    own = yaml.safe_load(control.kubeconfig.read_text())
    server = own["clusters"][0]["cluster"]["server"]
    file = tmp_path / "kubeconfig"
    file.write_text(documents.kubeconfig(server, control.folder / "pki", token))
    return file


@pytest.fixture
def api(kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> Api:
    """The adapter in that pod."""
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(kubeconfig))
    return Api({})


def of(control: ControlPlane, name: str) -> dict[str, Any]:
    return dict(control.get("node", name))


def test_taint_goes_labels_come_and_go_and_nothing_else_changes(control: ControlPlane, api: Api) -> None:
    before = of(control, "n1")
    others = tuple(taint for taint in before["spec"]["taints"] if taint != TAINT)
    api.mark("n1", before["metadata"]["resourceVersion"], Change({LABEL: "true"}, others))

    after = of(control, "n1")
    assert OTHER in others
    assert after["spec"]["taints"] == list(others)
    assert after["metadata"]["labels"] == {**before["metadata"]["labels"], LABEL: "true"}
    with pytest.raises(Conflict):
        api.mark("n1", before["metadata"]["resourceVersion"], Change({LABEL: None}))

    api.mark("n1", after["metadata"]["resourceVersion"], Change({LABEL: None}))
    assert of(control, "n1")["metadata"]["labels"] == before["metadata"]["labels"]


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("n2", Change({LABEL: "true"}), "the node of its pod alone"),
        ("n1", Change({"pool": "other"}), "no label of a node but"),
        ("n1", Change({"pool": None}), "no label of a node but"),
        ("n1", Change({"another": "true"}), "no label of a node but"),
        ("n1", Change({}, ()), "no taint off a node but"),
        ("n1", Change({}, (OTHER, {"key": "mine", "effect": "NoExecute"})), "puts none on"),
    ],
)
def test_whoever_takes_over_a_node_pod_can_do_nothing_else_to_nodes(
    control: ControlPlane, api: Api, name: str, change: Change, said: str
) -> None:
    def refusal() -> str:
        try:
            api.mark(name, of(control, name)["metadata"]["resourceVersion"], change)
        except HydraError as e:
            return str(e)
        return ""

    assert said in until("the policy is in force", refusal, 30)


def test_discover_marks_its_node_once_the_data_is_there(
    control: ControlPlane, kubeconfig: Path, consul: servers.Consul, tmp_path: Path
) -> None:
    control.kubectl("taint", "node", "n1", f"{NOT_FILLED}=:NoSchedule", "--overwrite")
    root, release = tmp_path / "root", rid(1)
    plan = ServicePlan(aliases={"places": AliasPlan(channel=PLACES, target=v(1), start=v(1))})
    holds = {release: Hold(digest="d", sequence=1)}
    desired = Desired(node="n1", generation=1, releases=holds, services={READER: plan})
    LocalState(root).write("desired", codec.encode(desired))
    environ = consul.environment() | {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "KUBECONFIG": str(kubeconfig),
        "HYDRA_ROOT": str(root),
        "HYDRA_NODE": "n1",
        "HYDRA_KUBERNETES": "1",
        "HYDRA_STARTUP_TAINT": "1",
        "HYDRA_FILLED_LABELS": f"reader={READER}",
    }

    def marks() -> tuple[bool, str]:
        found = of(control, "n1")
        tainted = any(taint["key"] == NOT_FILLED for taint in found["spec"]["taints"])
        return tainted, found["metadata"]["labels"].get(LABEL, "")

    with (tmp_path / "log").open("w") as log:
        words = [sys.executable, "-I", "-m", "handlers.main", "discover"]
        process = subprocess.Popen(words, env=environ, stderr=log)
    try:
        key = keys.info("n1")
        consul.kv().txn([Set(keys.META, codec.encode(Meta(environments=("prod",))))])
        until("its node is announced", lambda: consul.kv().get(key)[0])
        assert marks() == (True, "")

        (root / "releases" / release.channel / release.version).mkdir(parents=True)
        until("it says that its data is here", lambda: marks() == (False, "true"))
        (root / "releases" / release.channel / release.version).rmdir()
        until("it says that it is gone", lambda: marks() == (False, ""))
    finally:
        process.terminate()
        process.wait(60)


def test_without_them_hydra_may_only_look_at_nodes(tmp_path: Path) -> None:
    chart = yaml.safe_load_all(rendered(tmp_path, EMBEDDED))
    rules = [
        o["rules"]
        for o in chart
        if o and o["kind"] == "ClusterRole" and o["metadata"]["name"] == "hydra-node"
    ]
    verbs = {verb for rule in rules[0] if "nodes" in rule["resources"] for verb in rule["verbs"]}

    assert verbs == {"list", "watch"}
