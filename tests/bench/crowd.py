"""Figure 7: what 1,000 pods on 200 nodes cost the planner and one node's discover.

A real API server with its controllers and scheduler; nodes and pods are pretended by kwok, and all that Hydra
reads of them is real. Requests are counted by the API server's own audit log. At rest nothing happens
for a minute; then a tenth of the workloads replace all their pods. Besides, one plan of the whole fleet.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from handlers.adapters.local import LocalState, write_atomic
from handlers.adapters.ports import KV, Op, Set
from handlers.core import codec, keys
from handlers.core.model import Instance, Instances, Meta, NodeInfo, States
from handlers.core.names import InstanceKey
from handlers.core.pods import CONSUMER, DATA_READY, PREFIX, instance_of, pod_of
from hydra_cli.programs import program
from tests import servers
from tests.bench import fleet, proc, usage
from tests.bench.report import Findings, Row, amount
from tests.kube.control import ControlPlane
from tests.kube.programs import until

NODES, WORKLOADS, REPLICAS = 200, 50, 20
REPLACED = 5  # workloads
PERIOD_S = 60.0
NAMESPACE = "geo"
NODE = "kwok-000"
ROLES = ("discover", "enroll")
MIB = 1024**2
_HERTZ = os.sysconf("SC_CLK_TCK")


@dataclass
class Period:
    """What one process did in some time."""

    cpu_s: float
    requests: Counter[str]

    @property
    def said(self) -> str:
        """The requests, most frequent first."""
        return ", ".join(f"{count} {what}" for what, count in self.requests.most_common()) or "none"


@dataclass
class Handler:
    """`hydra-handler ROLE`, running."""

    role: str
    process: subprocess.Popen[bytes]
    control: ControlPlane
    periods: dict[str, Period] = field(default_factory=dict)

    def measure(self, name: str) -> Callable[[], None]:
        """Begin a period; call what is returned to end it."""
        cpu, requests = self._cpu_s(), self.control.requests_of(self.role)

        def end() -> None:
            made = self.control.requests_of(self.role) - requests
            self.periods[name] = Period(self._cpu_s() - cpu, made)

        return end

    def _cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _HERTZ


def measure() -> Findings:
    """Both processes at rest and while pods are replaced, and one plan."""
    if shutil.which("etcd") is None:
        return Findings(notes=["(7) is left out: it needs etcd, which tools/kubernetes/setup.sh installs."])
    with (
        TemporaryDirectory(prefix="hydra-bench-") as name,
        servers.consul_server(Path(name) / "consul") as consul,
    ):
        control = ControlPlane(Path(name) / "control", crowd=True, users=ROLES)
        handlers: list[Handler] = []
        try:
            control.start()
            _crowd(control)
            _prepare(consul.kv(), control)
            handlers += [_handler(role, Path(name), control, consul) for role in ROLES]
            with _always_ready(Path(name) / "discover"):
                _watched(handlers, consul.kv(), control)
            memory = {handler.role: proc.pss(handler.process.pid) / MIB for handler in handlers}
            plan = _plan(Path(name), control, consul)
        finally:
            for handler in handlers:
                handler.process.kill()
                handler.process.wait()
            control.stop()
    return Findings(_rows(handlers, memory, plan), _notes(handlers))


def _crowd(control: ControlPlane) -> None:
    """The nodes, the workloads, and kwok, which says that all of them are well."""
    stages = Path(__file__).with_name("kwok.yaml")
    words = (f"--kubeconfig={control.kubeconfig}", f"--config={stages}", "--manage-all-nodes=true")
    control.programs.start("kwok", program("kwok"), *words)
    control.apply(*(_node(number) for number in range(NODES)))
    control.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    control.apply(*(_deployment(number) for number in range(WORKLOADS)))
    until("all pods are Ready", lambda: _all_ready(control), 400)


def _all_ready(control: ControlPlane) -> bool:
    rows = control.get("deployments", "-n", NAMESPACE)["items"]
    return bool(sum(row["status"].get("readyReplicas", 0) for row in rows) == WORKLOADS * REPLICAS)


def _node(number: int) -> dict[str, Any]:
    name = f"kwok-{number:03}"
    room = {"cpu": "64", "memory": "256Gi", "pods": "110"}
    labels = {"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": "abc"[number % 3]}
    meta = {"name": name, "labels": labels, "annotations": {"kwok.x-k8s.io/node": "fake"}}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": meta,
        "status": {"allocatable": room, "capacity": room},
    }


def _deployment(number: int) -> dict[str, Any]:
    name = f"service-{number:03}"
    labels = {"app": name, CONSUMER: "true"}
    notes = {f"{PREFIX}channels": fleet.CHANNEL, f"{PREFIX}reload": "http://:/reload"}
    container = {"name": "main", "image": "none", "ports": [{"containerPort": 8080}]}
    spec = {"containers": [container], "readinessGates": [{"conditionType": DATA_READY}]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels, "annotations": notes},
        "spec": {
            "replicas": REPLICAS,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }


def _prepare(kv: KV, control: ControlPlane) -> None:
    """A channel with a release, and what the discover of each node would write of its pods."""
    fleet.write(kv, [Set(keys.META, codec.encode(Meta(environments=("prod",))))])
    fleet.publish(kv, 1)
    by_node: dict[str, dict[InstanceKey, Instance]] = {f"kwok-{number:03}": {} for number in range(NODES)}
    for value in control.get("pods", "-n", NAMESPACE)["items"]:
        service = value["metadata"]["labels"]["app"]
        instance = instance_of(pod_of(value), service, "prod", True)
        by_node[value["spec"]["nodeName"]][InstanceKey.of(instance.service, instance.id)] = instance
    fleet.write(kv, [op for node, found in by_node.items() for op in _documents(node, found)])


def _documents(node: str, found: Mapping[InstanceKey, Instance]) -> Iterator[Op]:
    yield Set(keys.info(node), codec.encode(NodeInfo(node=node)))
    yield Set(keys.instances(node), codec.encode(Instances(instances=found)))
    yield Set(keys.states(node), codec.encode(States(node=node)))
    if node != NODE:  # whose discover runs, and holds its own
        yield Set(keys.alive(node), b"")


def _environment(role: str, folder: Path, control: ControlPlane, consul: servers.Consul) -> dict[str, str]:
    return {
        **consul.environment(),
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        "HYDRA_ROOT": str(folder / role),
        "HYDRA_NODE": NODE if role == "discover" else "planner",
        "HYDRA_KUBERNETES": "1",
        "HYDRA_ENV": "prod",
        "KUBECONFIG": str(control.kubeconfig_of(role)) if role in ROLES else "",
    }


def _handler(role: str, folder: Path, control: ControlPlane, consul: servers.Consul) -> Handler:
    words = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "handlers.main", role]
    environ = _environment(role, folder, control, consul)
    with (folder / f"{role}.log").open("ab") as log:
        process = subprocess.Popen(words, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    return Handler(role, process, control)


@contextlib.contextmanager
def _always_ready(root: Path) -> Iterator[None]:
    """What reload and consul-template do for pods that come: their state files say `ready` at once."""
    over = threading.Event()

    def show() -> None:
        while not over.wait(0.1):
            raw = LocalState(root).read("instances")
            known = codec.decode(Instances, raw, "instances").instances if raw else {}
            for key in known:
                file = root / "views" / key / "state"
                if not file.exists():
                    write_atomic(file, b"ready\n")

    thread = threading.Thread(target=show)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _watched(handlers: Sequence[Handler], kv: KV, control: ControlPlane) -> None:
    """At rest, then while pods are replaced."""
    until("all are subscribed", lambda: len(kv.list(keys.SERVICES).entries) == WORKLOADS)
    until("discover is at work", lambda: kv.get(keys.alive(NODE))[0])
    with _period(handlers, "at rest"):
        time.sleep(PERIOD_S)
    replaced = [f"deployment/service-{number:03}" for number in range(REPLACED)]
    with _period(handlers, "pods replaced"):
        control.kubectl("rollout", "restart", "-n", NAMESPACE, *replaced)
        time.sleep(PERIOD_S)


@contextlib.contextmanager
def _period(handlers: Sequence[Handler], name: str) -> Iterator[None]:
    ends = [handler.measure(name) for handler in handlers]
    yield
    for end in ends:
        end()


def _plan(folder: Path, control: ControlPlane, consul: servers.Consul) -> usage.Usage:
    words = [sys.executable, "-m", "handlers.main", "plan"]
    made = usage.measured(words, _environment("plan", folder, control, consul))
    if made.code != 0:
        raise RuntimeError(f"plan ended with {made.code}: {made.said}")
    planned = len(consul.kv().list(keys.DESIRED).entries)
    if planned != NODES:
        raise RuntimeError(f"plan wrote for {planned} of {NODES} nodes: {made.said}")
    return made


def _rows(handlers: Sequence[Handler], memory: Mapping[str, float], plan: usage.Usage) -> list[Row]:
    pods = f"{WORKLOADS * REPLICAS:,} pods on {NODES} nodes"
    rows = []
    for handler in handlers:
        who = "one node's discover" if handler.role == "discover" else "the planner's enroll"
        rows.append(Row(7, f"{pods}: memory of {who} (PSS)", [memory[handler.role]], "MiB"))
        for name, period in handler.periods.items():
            rows.append(Row(7, f"   processor in a minute, {name}", [period.cpu_s * 1000]))
            rows.append(Row(7, f"   API requests in a minute, {name}", [period.requests.total()], "requests"))
    rows.append(Row(7, f"{pods}: one plan of all", [plan.wall_s * 1000]))
    rows.append(Row(7, "   its processor", [plan.cpu_s * 1000]))
    rows.append(Row(7, "   its memory (peak)", [plan.peak_bytes / MIB], "MiB"))
    return rows


def _notes(handlers: Sequence[Handler]) -> list[str]:
    """Which requests were made, and how many pods were replaced."""
    replaced = f"{REPLACED * REPLICAS} of {WORKLOADS * REPLICAS:,} pods"
    notes = [f"(7) replaced were {replaced}, in {amount(PERIOD_S, 's')}; a watch is one request."]
    for handler in handlers:
        notes += [f"(7) {handler.role}, {name}: {period.said}" for name, period in handler.periods.items()]
    return notes
