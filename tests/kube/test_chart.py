"""The chart, the base for kustomize and the document say the same, and refuse what makes no sense."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from handlers.core.enrolment import ANNOTATIONS
from hydra_cli.programs import program
from tests.kube.images import ROOT
from tests.kube.programs import Failed, run

CHART, BASE = ROOT / "k8s" / "chart", ROOT / "k8s" / "base"


def helm(*words: object) -> str:
    return run(str(program("helm")), *map(str, words)).stdout


def template(*words: object) -> str:
    return helm("template", "hydra", CHART, "-n", "hydra", *words)


def test_chart_passes_lint() -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", CHART, "--set", "consul.embedded=true")


def test_base_for_kustomize_is_the_chart_as_rendered() -> None:
    assert (BASE / "hydra.yaml").read_text() == template("-f", BASE / "values.yaml")
    assert run(str(program("kubectl")), "kustomize", str(BASE)).stdout


def test_who_may_see_all_processes_may_look_into_them_and_nobody_else_may() -> None:
    watchful, values = "add: [SYS_PTRACE, DAC_READ_SEARCH]", ("--set", "consul.embedded=true")

    assert template(*values, "--set", "node.hostPID=true").count(watchful) == 1
    assert watchful not in template(*values)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"consul": {"embeded": True}}, "embeded"),
        ({"environment": "Prod"}, "environment"),
        ({"consul": {"agent": "nomad"}}, "agent"),
        ({"planner": {"replicas": 0}}, "replicas"),
        ({"root": "data"}, "root"),
        ({"ram": {"sizeMi": "1Gi"}}, "sizeMi"),
        ({"ram": {"mount": "node"}}, "mount"),
        ({"node": {"resources": {"limits": {"memory": "1Gi"}}}}, "memory"),
        ({"node": {"memoryLimitMi": -1}}, "memoryLimitMi"),
        ({"node": {"startupTaint": "yes"}}, "startupTaint"),
        ({"node": {"filledLabels": {"reader": "reader"}}}, "filledLabels"),
        ({"node": {"filledLabels": {f"a{n}": "a/b/c" for n in range(17)}}}, "filledLabels"),
        ({"claims": {"namespaces": ["Search"]}}, "namespaces"),
        ({"claims": {"namespaces": ["a", "a"]}}, "namespaces"),
        ({"readOnlyMounts": "yes"}, "readOnlyMounts"),
        ({"consul": {"address": "http://a:8500"}}, "consul.join"),
        ({"consul": {"join": ["a"]}}, "consul.address"),
        ({"consul": {"embedded": True}, "environments": ["dev"]}, "environment: must be one of environments"),
    ],
)
def test_wrong_values_are_refused_by_name(values: dict[str, object], said: str, tmp_path: Path) -> None:
    file = tmp_path / "values.json"
    file.write_text(json.dumps(values))

    with pytest.raises(Failed, match=said):
        template("-f", file)


def test_readme_has_a_row_for_every_annotation() -> None:
    rows = [
        line.split("|")[3] for line in (ROOT / "k8s" / "README.md").read_text().splitlines() if "| `" in line
    ]

    assert [name for name in ANNOTATIONS if not any(f"`{name}`" in row for row in rows)] == []
