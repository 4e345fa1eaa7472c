"""Figure 4: the memory of all of a node's Hydra processes at rest.

A node of a local cluster with one replica and one release: the tree of its supervisord without the service.
The Consul agent is not in it. Pages that several processes share are divided among them (PSS); as the local
cluster runs more Consul agents from the same file than a node does, a second row counts everything as if
nobody else on the machine shared a page.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from hydra_cli.dev.cluster import Cluster
from tests.bench import proc, service
from tests.bench.proc import Process
from tests.bench.report import Findings, Row, amount, median
from tests.bench.rollouts import OLD, Stage

AIM_MIB = 200
LOOKS = 5
APART_S = 1.0
QUIET_S = 3.0
LIMIT_S = 90.0
MIB = 1024**2
_FOR_A_MOMENT = ("plan", "sync", "reload", "retain")


def measure() -> Findings:
    """Several looks at a node at rest."""
    with TemporaryDirectory(prefix="hydra-bench-") as name, Cluster(Path(name), nodes=1) as cluster:
        stage = Stage(cluster, told=True)
        stage.set()
        with stage.recorded() as recorder:
            stage.publish(recorder, OLD)
        (node,) = cluster.nodes
        supervisord = cluster.node(node).running[0].process.pid
        looks = [_look(_at_rest(supervisord)) for _ in range(LOOKS)]
    shared = [sum(pss for pss, _ in look.values()) / MIB for look, _ in looks]
    alone = [total / MIB for _, total in looks]
    rows = [
        Row(4, "all Hydra processes of a node at rest (PSS)", shared, "MiB", aim=AIM_MIB),
        Row(4, "the same, if nobody else shared a page with them", alone, "MiB"),
    ]
    return Findings(rows, [_by_process([look for look, _ in looks])])


def label(words: Sequence[str]) -> str:
    """What a process of the node's tree is, by its command line."""
    text = " ".join(words)
    if "supervisor.supervisord" in text:
        return "supervisord"
    if "watch" in words[:2]:
        return "consul watch"
    if words[:1] and Path(words[0]).name.startswith("consul-template"):
        return "consul-template"
    if "handlers.main" in words:
        return words[words.index("handlers.main") + 1]
    return text


def _at_rest(root: int) -> list[Process]:
    """The tree below `root` once no handler has run for a while; raises TimeoutError when it never rests."""
    end = time.monotonic() + LIMIT_S
    quiet_since = time.monotonic()
    while time.monotonic() - quiet_since < QUIET_S:
        tree = _own(root)
        if any(label(process.words) in _FOR_A_MOMENT for process in tree):
            quiet_since = time.monotonic()
        if time.monotonic() > end:
            raise TimeoutError(f"after {LIMIT_S:g} s handlers still run")
        time.sleep(0.05)
    return _own(root)


def _own(root: int) -> list[Process]:
    return [p for p in proc.tree(root, proc.processes()) if service.__file__ not in p.words]


def _look(tree: Sequence[Process]) -> tuple[dict[int, tuple[int, str]], int]:
    """PSS and label by process, and what all would take alone."""
    found = {process.pid: (proc.pss(process.pid), label(process.words)) for process in tree}
    pieces = [proc.mapped((proc.PROC / str(p.pid) / "smaps").read_text()) for p in tree]
    time.sleep(APART_S)  # looks are that far apart
    return found, proc.alone(pieces)


def _by_process(looks: Sequence[Mapping[int, tuple[int, str]]]) -> str:
    """How much each kind of process takes, as a sentence with the median of all looks."""
    sums: dict[str, list[int]] = {}
    counts: dict[str, int] = {}
    for look in looks:
        for name in {name for _, name in look.values()}:
            each = [pss for pss, of in look.values() if of == name]
            sums.setdefault(name, []).append(sum(each))
            counts[name] = len(each)
    parts = [f"{counts[name]} {name} {amount(median(values) / MIB, 'MiB')}" for name, values in sums.items()]
    return f"(4) {', '.join(parts)} (PSS, together for those of one kind)."
