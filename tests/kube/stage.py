"""One test's own service, channel and traffic on the cluster on which Hydra is installed."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from handlers.core import codec, keys
from handlers.core.model import InstanceState, States, Step, Subscription, Verdicts
from handlers.core.names import InstanceKey
from handlers.core.reasons import Reason
from handlers.core.version import Version
from tests.kube.audience import Audience, ask
from tests.kube.images import ROOT
from tests.kube.installed import Installed
from tests.kube.lookout import Lookout
from tests.kube.programs import LIMIT_S, Failed, until
from tests.kube.workload import Workload

V1, V2, V3 = (Version.parse(f"2026-01-0{day}T00-00-00") for day in (1, 2, 3))
PROGRAM = ROOT / "tests" / "kube" / "service.py"  # of the service's pods
_numbers = itertools.count(1)


class Scene(Workload):
    """One test's service and channel."""

    def __init__(self, hydra: Installed, name: str) -> None:
        super().__init__(f"{name}-{next(_numbers)}")
        self.hydra, self.cluster = hydra, hydra.cluster
        hydra.s3_client().create_bucket(Bucket=self.namespace)
        self.cluster.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}},
            self.object("v1", "ConfigMap", "code", data={"service.py": PROGRAM.read_text()}),
        )

    # --- data

    def upload(
        self, version: Version, *, value: str = "", right: str = "DISK", ballast: bytes = b""
    ) -> dict[str, dict[str, str]]:
        """Upload a version; the template of its two datasets. `right` is the placement of one of them,
        `ballast` a file more in that one.
        """
        files = {f"{name}/{version}/value": (value or version).encode() for name in ("left", "right")}
        files |= {f"right/{version}/ballast": ballast} if ballast else {}
        for key, body in files.items():
            self.hydra.s3_client().put_object(Bucket=self.namespace, Key=key, Body=body)
        source = f"s3://{self.namespace}/%s/{{VERSION_PLACEHOLDER}}/"
        placements = {"left": "DISK", "right": right}
        return {n: {"SourcePath": source % n, "Placement": where} for n, where in placements.items()}

    def publish(
        self, version: Version, *options: str, value: str = "", right: str = "DISK", ballast: bytes = b""
    ) -> str:
        """Upload a version and publish it."""
        template = self.cluster.folder / f"{self.namespace}.json"
        template.write_text(json.dumps(self.upload(version, value=value, right=right, ballast=ballast)))
        words = ("publish", str(template), "--channel", self.channel, "--version", version)
        return self.hydra.hydra(*words, *options)

    # --- the service

    def said_by(self, job: str) -> str:
        """What the pod of a job has printed."""
        return self.cluster.kubectl(
            "-n", self.namespace, "logs", f"job/{job}", "-c", "reader", check=False
        ).strip()

    def confine(self) -> None:
        """Let the namespace take nothing but what Pod Security calls `restricted`, and have a claim."""
        meta = {"name": self.namespace, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}
        self.cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": meta})
        self.hydra.upgrade(claims={"namespaces": [self.namespace]})
        self.confined = True

    def disruption(self, **spec: int) -> None:
        """The only PodDisruptionBudget of the service's pods."""
        spec_of = {"selector": {"matchLabels": {"app": self.name}}, **spec}
        self.cluster.apply(self.object("policy/v1", "PodDisruptionBudget", self.name, spec=spec_of))

    def trust(self) -> None:
        """Give Hydra the rights for all ways to reload, in this namespace and no other."""
        self.hydra.upgrade(reload={"delete": [self.namespace], "exec": [self.namespace]})

    def deploy(self, replicas: int = 2, **settings: str) -> None:
        """The workload and its Service; `settings` beside `reload` over HTTP."""
        notes = {"reload": "http://:/reload", "drain_time": "1s", "deadline": "60s", **settings}
        ports = [{"port": 80, "targetPort": 8080}]
        spec = {"selector": {"app": self.name}, "ports": ports}
        self.cluster.apply(
            self.workload(replicas, **notes), self.object("v1", "Service", self.name, spec=spec)
        )

    def serve(self, replicas: int = 3, **settings: str) -> None:
        """Publish the first version, deploy, and wait until all pods run it and get traffic."""
        self.publish(V1)
        self.deploy(replicas, **settings)
        self.await_running(V1, replicas)
        until("all pods get traffic", lambda: len(self.endpoints()) == replicas)

    def reload_by(self, reload: str, replicas: int, **settings: str) -> None:
        """Let the same pods be reloaded in another way from here on."""
        self.deploy(replicas, reload=reload, **settings)
        until(f"reload is {reload}", lambda: (s := self.subscription()) and s.reload == reload)

    def scale(self, replicas: int) -> None:
        self.kubectl("scale", f"deployment/{self.name}", f"--replicas={replicas}")

    def kubectl(self, *words: str) -> str:
        return self.cluster.kubectl("-n", self.namespace, *words)

    def await_ready(self, replicas: int) -> None:
        """Wait until so many pods are Ready, and no other is there."""
        until(f"{replicas} pods are Ready", lambda: len(self.pods()) == replicas == len(self.ready_pods()))

    def pods(self) -> list[dict[str, Any]]:
        """The pods of the service."""
        return self.cluster.items("pods", self.namespace, labels=f"app={self.name}")

    def ready_pods(self) -> list[str]:
        """Names of those that are Ready."""
        return [p["metadata"]["name"] for p in self.pods() if condition(p, "Ready") == "True"]

    def waited(self, *older: str) -> float:
        """Seconds for which the pod that waited longest waited for its view, once it could run; `older` pods
        do not count.
        """
        pods = [pod for pod in self.pods() if pod["metadata"]["name"] not in older]
        rows = [row for pod in pods for row in pod["status"]["initContainerStatuses"]]
        return max(_seconds(row["state"]["terminated"]) for row in rows)

    def restarts(self) -> list[int]:
        """How often the container of each pod was started again."""
        return sorted(row["restartCount"] for p in self.pods() for row in p["status"]["containerStatuses"])

    def endpoints(self) -> list[str]:
        """Names of the pods that get traffic."""
        rows = self.cluster.items("endpointslices", self.namespace)
        found = [e for row in rows for e in row.get("endpoints") or () if e["conditions"]["ready"]]
        return sorted(e["targetRef"]["name"] for e in found)

    # --- what there is to see

    def subscription(self) -> Subscription | None:
        """What the service subscribes to."""
        key = keys.subscription(self.service)
        entry, _ = self.hydra.kv().get(key)
        return codec.decode(Subscription, entry.value, key) if entry else None

    def states(self) -> dict[str, InstanceState]:
        """What nodes say of the service's pods, by pod."""
        found = {}
        for entry in self.hydra.kv().list(keys.STATES).entries.values():
            states = codec.decode(States, entry.value, entry.key)
            found.update({s.id: s for k, s in states.instances.items() if k.service == self.service})
        return found

    def running(self, version: Version) -> list[str]:
        """The pods that are Ready and run a release, as their nodes say."""
        ready, states = self.ready_pods(), self.states()
        return [pod for pod in ready if pod in states and states[pod].releases == {"data": version}]

    def await_running(self, version: Version, replicas: int, limit_s: float = LIMIT_S) -> None:
        """Wait until so many pods are Ready and run a release, and no other is there."""

        def done() -> bool:
            return len(self.running(version)) == replicas == len(self.pods())

        try:
            until(f"{replicas} pods run {version}", done, limit_s)
        except Failed as e:
            raise Failed(f"{e}; {self.states()}") from None

    def moving(self) -> str:
        """Wait until a pod is out of service for its reload; its name."""
        resting = (Step.IDLE, Step.ADMIT, Step.FILL)
        found = until("a pod moves", lambda: [k for k, s in self.states().items() if s.step not in resting])
        return str(found[0])

    def await_rest(self) -> None:
        """Wait until no pod is on its way to another release any more."""
        until("no pod moves", lambda: all(s.step == Step.IDLE for s in self.states().values()))

    def halted(self) -> list[str]:
        """The releases on which there is a verdict, and what it says."""
        key = keys.verdicts(self.service)
        entry, _ = self.hydra.kv().get(key)
        found = codec.decode(Verdicts, entry.value, key).releases if entry else {}
        return [f"{release}: {verdict.reason}" for release, verdict in sorted(found.items())]

    def events(self, pod: Mapping[str, Any]) -> list[str]:
        """The reasons of the Events on a pod, and what they say, oldest first."""
        about = f"involvedObject.uid={pod['metadata']['uid']}"
        rows = self.cluster.items("events", self.namespace, fields=about)
        rows = sorted(rows, key=lambda row: str(row["metadata"]["creationTimestamp"]))
        return [f"{row['reason']}: {row['message']}" for row in rows]

    def why(self, pod: str) -> str:
        """What Hydra says that a pod waits for."""
        return self.hydra.hydra("why", self.service, pod)

    def await_why(self, pod: str, text: str) -> None:
        """Wait until that is what Hydra says."""
        said = ""

        def told() -> bool:
            nonlocal said
            said = self.why(pod)
            return text in said

        try:
            until(f"Hydra says of {pod}: {text}", told)
        except Failed as e:
            raise Failed(f"{e}; it says: {said}") from None

    def await_event(self, pods: Iterable[Mapping[str, Any]], text: str) -> list[str]:
        """Wait until there is an Event with that text on one or more of the pods; their names."""
        pods, seen = list(pods), dict[str, list[str]]()

        def told() -> list[str]:
            seen.update((str(pod["metadata"]["name"]), self.events(pod)) for pod in pods)
            return [name for name, rows in seen.items() if any(text in row for row in rows)]

        try:
            return list(until(f"an Event tells: {text}", told))
        except Failed as e:
            raise Failed(f"{e}; there are: {seen}") from None

    def await_told(self, *reasons: Reason) -> None:
        """Wait until nodes have given each of these reasons; what is short is in their logs."""
        folders = [node.root / "state" / "log" for node in self.cluster.nodes.values()]

        def untold() -> list[str]:
            texts = [log.read_text(errors="replace") for folder in folders for log in folder.rglob("*.log*")]
            own = [line for text in texts for line in text.splitlines() if self.service in line]
            return [reason.name for reason in reasons if not any(map(reason.told_in, own))]

        until(f"{' and '.join(reason.name for reason in reasons)} are told", lambda: not untold())

    def lookout(self) -> Lookout:
        """Watches the service's pods during a block."""
        return Lookout(self.cluster, self.namespace, f"app={self.name}")

    def view(self, node: str, pod: str) -> Path:
        """A pod's view on its node."""
        return self.cluster.nodes[node].root / "views" / InstanceKey.of(self.service, pod)

    def audience(self, rate: float = 60) -> contextlib.AbstractContextManager[Audience]:
        """Steady traffic to the service during a block."""
        return ask(self.cluster, self.namespace, self.name, rate)

    def close(self) -> None:
        """End what was started here."""
        self.cluster.kubectl("delete", "namespace", self.namespace, "--wait=false")


def _seconds(ended: Mapping[str, str]) -> float:
    began, finished = (datetime.fromisoformat(ended[name]) for name in ("startedAt", "finishedAt"))
    return (finished - began).total_seconds()


def condition(pod: Mapping[str, Any], kind: str) -> str:
    """The status of a condition of a pod, empty where it has none."""
    rows = pod["status"].get("conditions") or ()
    return next((row["status"] for row in rows if row["type"] == kind), "")
