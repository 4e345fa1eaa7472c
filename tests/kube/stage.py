"""One cluster with Hydra installed by Helm, and one test's own service, channel and traffic on it."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from handlers.core import codec, keys
from handlers.core.model import InstanceState, NodeInfo, States, Step, Subscription, Verdicts
from handlers.core.names import Channel, InstanceKey, Service
from handlers.core.pods import CONSUMER, DATA_READY, PREFIX, Json
from handlers.core.reasons import Reason
from handlers.core.version import Version
from hydra_cli.programs import program
from tests.kube.cluster import HOST, LIMIT_S, Cluster, Failed, run, until
from tests.kube.images import HYDRA, ROOT
from tests.kube.lookout import Lookout

V1, V2, V3 = (Version.parse(f"2026-01-0{day}T00-00-00") for day in (1, 2, 3))
SERVER = "10.79.0.53"  # the embedded Consul's ClusterIP: there is no DNS in the test cluster
S3_PORT = 7070
ENVIRONMENT = "prod"
RAM_MI, MEMORY_MI = 448, 300  # of each node: for datasets in RAM; the limit of what Hydra's programs take
# volumes and limits of nodes: RAM, and downloads that can be met half-way
NODE_CONFIG = f"""
[volumes.disk]
class = "DISK"
reserve_bytes = 0
[volumes.ram]
class = "RAM"
budget_bytes = {RAM_MI << 20}
[limits]
bandwidth_bytes_s = 40_000_000
"""
# how a pod mounts the root; under Pod Security `baseline` and `restricted` it may not by its path
HOST_PATH: Json = {"hostPath": {"path": "/var/lib/hydra", "type": "Directory"}}
CLAIM: Json = {"persistentVolumeClaim": {"claimName": "hydra-data", "readOnly": True}}
CONFINED_POD: Json = {"runAsNonRoot": True, "runAsUser": 65534, "seccompProfile": {"type": "RuntimeDefault"}}
CONFINED_CONTAINER: Json = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
HYDRA_COMMAND = (sys.executable, "-I", "-m", "hydra_cli.main")
HERE = Path(__file__).resolve().parent  # of the programs that run in pods and in a node's namespaces
NODES, PLANNERS = HYDRA_PODS = ("daemonset/hydra-node", "deployment/hydra-planner")
_numbers = itertools.count(1)


class Installed:
    """Hydra on a cluster: installed, looked at from outside, uninstalled."""

    def __init__(self, cluster: Cluster, namespace: str = "hydra") -> None:
        self.cluster, self.namespace = cluster, namespace
        self.key, self.secret = "hydra", secrets.token_hex(16)
        self.s3 = f"http://{HOST}:{S3_PORT}"
        self.image = HYDRA

    def helm(self, *words: str, check: bool = True) -> str:
        """The real helm, on this cluster."""
        command = (str(program("helm")), "--kubeconfig", str(self.cluster.kubeconfig), *words)
        return run(*command, check=check).stdout

    def values(self) -> dict[str, Any]:
        """What an administrator would write into a file."""
        repository, _, tag = self.image.rpartition(":")
        return {
            "image": {"repository": repository, "tag": tag, "pullPolicy": "Never"},
            "environment": ENVIRONMENT,
            "environments": [ENVIRONMENT],
            "secrets": {"node": "hydra-s3"},
            "env": {"AWS_ENDPOINT_URL": self.s3, "AWS_REGION": "us-east-1"},
            "consul": {"embedded": True, "embeddedClusterIP": SERVER},
            "nodeConfig": NODE_CONFIG,
            "ram": {"sizeMi": RAM_MI},
            "node": {
                "resources": {"requests": {"cpu": "10m"}},
                "memoryLimitMi": MEMORY_MI,
                "maxUnavailable": 1,
                "startupTaint": True,
            },
            "planner": {"resources": {"requests": {"cpu": "10m"}}},
        }

    def install(self) -> None:
        """The S3 server, its credentials, the chart; returns when all of it is there."""
        self._start_s3()
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}}
        self.cluster.apply(namespace, self.sealed("hydra-s3", self.keys_of_s3))
        self.upgrade()
        self.await_rollout()

    @property
    def keys_of_s3(self) -> dict[str, str]:
        """For whoever reads and writes there."""
        return {"AWS_ACCESS_KEY_ID": self.key, "AWS_SECRET_ACCESS_KEY": self.secret}

    def sealed(self, name: str, content: Json) -> dict[str, Any]:
        """A Secret beside Hydra."""
        meta = {"name": name, "namespace": self.namespace}
        return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": content}

    def await_rollout(self) -> None:
        """Wait until Hydra's own pods are all there, of their newest kind, and Ready."""
        for what in HYDRA_PODS:
            self.kubectl("rollout", "status", what, "--timeout=180s")

    def upgrade(self, **values: Any) -> None:
        """`helm upgrade --install` with further values."""
        file = self.cluster.folder / "values.json"
        file.write_text(json.dumps({**self.values(), **values}))
        chart = str(ROOT / "k8s" / "chart")
        self.helm("upgrade", "--install", "hydra", chart, "-n", self.namespace, "-f", str(file))

    def replace(self, what: str, image: str) -> None:
        """Let those of Hydra's pods run another image, as an upgrade does that has come so far."""
        self.kubectl("set", "image", what, f"*={image}")

    def versions(self) -> set[str]:
        """The versions of Hydra that nodes say they run."""
        kv = self.kv()
        entries = [kv.get(keys.info(node))[0] for node in self.cluster.nodes]
        infos = [codec.decode(NodeInfo, entry.value, entry.key) for entry in entries if entry]
        return {info.versions["hydra"] for info in infos}

    def kubectl(self, *words: str) -> str:
        return self.cluster.kubectl("-n", self.namespace, *words)

    def pod(self, component: str, node: str = "") -> dict[str, Any]:
        """One of Hydra's own pods: `node` on a node, `planner`, `consul`."""
        fields, label = f"spec.nodeName={node}" if node else "", f"app.kubernetes.io/component={component}"
        pods = self.cluster.items("pods", self.namespace, labels=label, fields=fields)
        return dict(next(pod for pod in pods if "deletionTimestamp" not in pod["metadata"]))

    def node_restarts(self) -> dict[str, int]:
        """How often Hydra's programs were started again, by the name of their pod on each node."""
        pods = [self.pod("node", node) for node in self.cluster.nodes]
        return {
            pod["metadata"]["name"]: row["restartCount"]
            for pod in pods
            for row in pod["status"]["containerStatuses"]
            if row["name"] == "hydra"
        }

    @contextlib.contextmanager
    def without_consul(self) -> Iterator[None]:
        """The server refuses everybody: as if its process had ended, but it has its KV afterwards."""
        inside = ["nsenter", f"--target={process_of(self.pod('consul'))}", "--net", "iptables", "--wait"]
        rules = [["-p", "udp", "-j", "DROP"], ["-p", "tcp", "-j", "REJECT", "--reject-with", "tcp-reset"]]
        for rule in rules:
            run(*inside, "-I", "INPUT", *rule)
        try:
            yield
        finally:
            for rule in rules:
                run(*inside, "-D", "INPUT", *rule)

    @contextlib.contextmanager
    def agents_of_nodes(self) -> Iterator[None]:
        """Each node runs an agent of Consul that is no pod, and Hydra's pods use that one; they also see all
        processes of their node.

        The agent goes on with what the sidecar knew of itself, so to Consul it is the same one.
        """
        values = self.values()
        self.upgrade(consul={**values["consul"], "agent": "host"}, node={**values["node"], "hostPID": True})
        self.await_rollout()
        for node in self.cluster.nodes.values():
            where = (f"-node={node.name}", f"-bind={node.address}", f"-client={node.address}")
            words = (f"-config-file={ROOT}/consul/agent.hcl", "-hcl=acl { enabled = false }", *where)
            known = ("-data-dir=/var/lib/hydra-consul", f"-retry-join={SERVER}")
            node.programs.start("consul", program("consul"), "agent", *words, *known)
        try:
            yield
        finally:
            for node in self.cluster.nodes.values():
                node.programs.stop("consul")
            self.upgrade()
            self.await_rollout()

    def consul(self) -> dict[str, str]:
        """How the embedded Consul is reached from this machine, which knows the way to pods."""
        (pod,) = self.cluster.items("pods", self.namespace, fields="metadata.name=hydra-consul-0")
        return {"CONSUL_HTTP_ADDR": f"http://{pod['status']['podIP']}:8500"}

    def environ(self) -> dict[str, str]:
        """For `hydra` on this machine: Consul, and S3 with credentials."""
        return {**self.consul(), **self.keys_of_s3, "AWS_ENDPOINT_URL": self.s3, "AWS_REGION": "us-east-1"}

    def hydra(self, *words: str, code: int = 0) -> str:
        """Run a command of a person; what it says on stdout."""
        environ = {**os.environ, **self.environ()}
        answer = subprocess.run([*HYDRA_COMMAND, *words], env=environ, capture_output=True, text=True)
        said = f"hydra {' '.join(words)} ended with {answer.returncode}:\n{answer.stdout}{answer.stderr}"
        assert answer.returncode == code, said
        return answer.stdout

    def kv(self) -> Any:
        """A client of the KV."""
        from handlers.adapters.kv import ConsulKV

        return ConsulKV.from_env(self.consul())

    def s3_client(self) -> Any:
        """A boto3 client."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.s3,
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
            region_name="us-east-1",
        )

    def _start_s3(self) -> None:
        folder = self.cluster.folder / "s3"
        for name in ("data", "meta"):
            (folder / name).mkdir(parents=True)
        words = ("--port", f"{HOST}:{S3_PORT}", "--health", "/health", "--keep-alive", "--quiet")
        posix = ("posix", "--sidecar", folder / "meta", folder / "data")
        environ = {"ROOT_ACCESS_KEY": self.key, "ROOT_SECRET_KEY": self.secret}
        self.cluster.programs.start("versitygw", program("versitygw"), *words, *posix, environ=environ)
        probe = ("curl", "-fsS", f"{self.s3}/health")
        until("S3 answers", lambda: run(*probe, check=False).returncode == 0)

    def last_words(self) -> str:
        """What Hydra's pods said last, and what Kubernetes says of them."""
        texts = [self.cluster.kubectl("get", "pods", "-A", "-o", "wide", check=False)]
        texts.append(self.cluster.kubectl("get", "events", "-A", check=False)[-6000:])
        for node in self.cluster.nodes.values():
            for log in sorted((node.root / "state" / "log").rglob("*.log")):
                lines = log.read_text(errors="replace").splitlines()[-15:]
                texts.append("\n".join([f"--- {node.name} {log.name}", *lines]))
        planner = ("logs", "-n", self.namespace, "-l", "app.kubernetes.io/component=planner", "--tail=20")
        texts.append(self.cluster.kubectl(*planner, "--all-containers", check=False))
        return "\n".join(texts)


@dataclass(frozen=True)
class Request:
    """One request of the client, and what came of it."""

    at: float
    took: float
    body: Mapping[str, str]
    trouble: str

    @property
    def mixed(self) -> bool:
        """Whether the answer was made of two releases."""
        return not self.trouble and self.body["left"] != self.body["right"]


@dataclass
class Audience:
    """A client's requests during a block."""

    requests: list[Request] = field(default_factory=list)

    @property
    def failed(self) -> list[Request]:
        return [request for request in self.requests if request.trouble]

    @property
    def mixed(self) -> list[Request]:
        return [request for request in self.requests if request.mixed]

    @property
    def seen(self) -> set[str]:
        """All versions that were answered with."""
        return {request.body["left"] for request in self.requests if not request.trouble}


class Scene:
    """One test's service and channel."""

    def __init__(self, hydra: Installed, name: str) -> None:
        self.hydra, self.cluster = hydra, hydra.cluster
        self.namespace = f"{name}-{next(_numbers)}"
        self.name, self.kind = "reader", "Deployment"
        self.service = Service(f"{ENVIRONMENT}/{self.namespace}/{self.name}")
        self.channel = Channel(f"{ENVIRONMENT}/{self.namespace}/data")
        self.words: list[str] = []  # more for the command of the service's pods
        self.notes: dict[str, str] = {}  # annotations of the pods' template
        self.place: dict[str, str] = {}  # labels of the nodes that its pods may be on
        self.gate = True  # whether pods have the readiness gate, or else a probe that reads the state file
        self.confined = False  # whether the namespace allows what is `restricted` only
        hydra.s3_client().create_bucket(Bucket=self.namespace)
        self.cluster.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}},
            self._object("v1", "ConfigMap", "code", data={"service.py": (HERE / "service.py").read_text()}),
        )

    def _object(self, api: str, kind: str, name: str, **more: Any) -> dict[str, Any]:
        meta = {"name": name, "namespace": self.namespace}
        return {"apiVersion": api, "kind": kind, "metadata": meta, **more}

    # --- data

    def publish(
        self, version: Version, *options: str, value: str = "", right: str = "DISK", ballast: bytes = b""
    ) -> str:
        """Upload a version and publish it; `right` is the placement of one of its two datasets, `ballast` a
        file more in that one.
        """
        files = {f"{name}/{version}/value": (value or version).encode() for name in ("left", "right")}
        files |= {f"right/{version}/ballast": ballast} if ballast else {}
        for key, body in files.items():
            self.hydra.s3_client().put_object(Bucket=self.namespace, Key=key, Body=body)
        template = self.cluster.folder / f"{self.namespace}.json"
        source = f"s3://{self.namespace}/%s/{{VERSION_PLACEHOLDER}}/"
        placements = {"left": "DISK", "right": right}
        content = {n: {"SourcePath": source % n, "Placement": where} for n, where in placements.items()}
        template.write_text(json.dumps(content))
        words = ("publish", str(template), "--channel", self.channel, "--version", version)
        return self.hydra.hydra(*words, *options)

    # --- the service

    def workload(self, replicas: int, **settings: str) -> dict[str, Any]:
        """The Deployment of the documents' example, or one of the other kinds, with this test's program;
        `settings` are annotations. A DaemonSet has as many replicas as there are nodes.
        """
        notes = {PREFIX + name.replace("_", "-"): text for name, text in settings.items()}
        notes.setdefault(f"{PREFIX}channels", self.channel)
        labels = {"app": self.name, CONSUMER: "true"}
        kinds: dict[str, dict[str, Any]] = {
            "Deployment": {"replicas": replicas},
            "StatefulSet": {
                "replicas": replicas,
                "serviceName": self.name,
                "podManagementPolicy": "Parallel",
            },
            "DaemonSet": {},
        }
        made = self._object(
            "apps/v1",
            self.kind,
            self.name,
            spec={
                **kinds[self.kind],
                "selector": {"matchLabels": {"app": self.name}},
                "template": {"metadata": {"labels": labels, "annotations": self.notes}, "spec": self._pod()},
            },
        )
        made["metadata"] |= {"labels": labels, "annotations": notes}
        return made

    def _pod(self) -> dict[str, Any]:
        view = f"/data/views/{self.service}/$(POD_NAME)"
        environ = [
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "HYDRA_VIEW", "value": view},
        ]
        data = {"name": "data", "mountPath": "/data", "readOnly": True, "mountPropagation": "HostToContainer"}
        common: dict[str, Any] = {"image": HYDRA, "imagePullPolicy": "Never", "env": environ}
        common |= {"securityContext": CONFINED_CONTAINER} if self.confined else {}
        probe: dict[str, Any] = {"httpGet": {"path": "/healthz", "port": 8080}}
        if not self.gate:
            probe = {"exec": {"command": ["sh", "-c", 'grep -qx ready "$HYDRA_VIEW/state"']}}
        return {
            "terminationGracePeriodSeconds": 15,
            "nodeSelector": self.place,
            **({"securityContext": CONFINED_POD} if self.confined else {}),
            "readinessGates": [{"conditionType": DATA_READY}] if self.gate else [],
            "initContainers": [{**common, "name": "hydra-wait", "args": ["wait"], "volumeMounts": [data]}],
            "containers": [
                {
                    **common,
                    "name": "reader",
                    "command": ["python3", "-I", "/code/service.py", "8080", *self.words],
                    "ports": [{"containerPort": 8080}],
                    "readinessProbe": {**probe, "periodSeconds": 1},
                    # EndpointSlices first: whoever still sends requests meanwhile gets answers
                    "lifecycle": {"preStop": {"sleep": {"seconds": 5}}},
                    "volumeMounts": [data, {"name": "code", "mountPath": "/code"}],
                }
            ],
            "volumes": [
                {"name": "data", **(CLAIM if self.confined else HOST_PATH)},
                {"name": "code", "configMap": {"name": "code"}},
            ],
        }

    def cron_job(self, **settings: str) -> dict[str, Any]:
        """A CronJob that is never due; its pods say which release they read, and live on."""
        pod = self._pod()
        reader = pod["containers"][0]
        script = 'cat "$HYDRA_VIEW/data/left/value" && echo && exec sleep 3600'
        job = {name: reader[name] for name in ("image", "imagePullPolicy", "env", "volumeMounts")}
        job |= {"name": "reader", "command": ["sh", "-c", script]}
        del pod["readinessGates"]
        pod |= {"containers": [job], "restartPolicy": "Never"}
        made = self.workload(0, **settings)
        template = {"metadata": made["spec"]["template"]["metadata"], "spec": pod}
        made |= {"apiVersion": "batch/v1", "kind": "CronJob"}
        made["spec"] = {"schedule": "0 0 31 2 *", "jobTemplate": {"spec": {"template": template}}}
        return made

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
        self.cluster.apply(self._object("policy/v1", "PodDisruptionBudget", self.name, spec=spec_of))

    def trust(self) -> None:
        """Give Hydra the rights for all ways to reload, in this namespace and no other."""
        self.hydra.upgrade(reload={"delete": [self.namespace], "exec": [self.namespace]})

    def deploy(self, replicas: int = 2, **settings: str) -> None:
        """The workload and its Service; `settings` beside `reload` over HTTP."""
        notes = {"reload": "http://:/reload", "drain_time": "1s", "deadline": "60s", **settings}
        ports = [{"port": 80, "targetPort": 8080}]
        spec = {"selector": {"app": self.name}, "ports": ports}
        self.cluster.apply(
            self.workload(replicas, **notes), self._object("v1", "Service", self.name, spec=spec)
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

    def waited(self) -> float:
        """Seconds for which the pod that waited longest waited for its view, once it could run."""
        rows = [row for p in self.pods() for row in p["status"]["initContainerStatuses"]]
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

    @contextlib.contextmanager
    def audience(self, rate: float = 60) -> Iterator[Audience]:
        """A client on node n1 that asks the Service's ClusterIP for the whole block."""
        address = self.cluster.get("service", self.name, "-n", self.namespace)["spec"]["clusterIP"]
        node, log = self.cluster.nodes["n1"], self.cluster.folder / f"{self.namespace}.requests"
        # its kube-proxy learns of the pods later than the EndpointSlices, and refuses all requests until then
        ask = node.enter("curl", "-fsS", "--max-time", "2", f"http://{address}:80", mounts=False)
        until("the client's node leads to the Service", lambda: run(*ask, check=False).returncode == 0)
        own = (str(HERE / "traffic.py"), f"http://{address}:80", str(rate), str(log))
        client = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *node.enter(sys.executable, "-I", *own, mounts=False)]
        )
        audience = Audience()
        try:
            yield audience
        finally:
            client.send_signal(signal.SIGTERM)
            client.wait(30)
        rows = map(json.loads, log.read_text().splitlines())
        audience.requests = [Request(**row) for row in rows]

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


def process_of(pod: Mapping[str, Any]) -> int:
    """A process of the pod's first container, as this machine numbers them."""
    container = pod["status"]["containerStatuses"][0]["containerID"].rpartition("/")[2]
    for group in Path("/proc").glob("[0-9]*/cgroup"):
        with contextlib.suppress(OSError):  # it has ended
            if any(line.endswith(f"/{container}") for line in group.read_text().splitlines()):
                return int(group.parent.name)
    raise Failed(f"{pod['metadata']['name']} has no process here")
