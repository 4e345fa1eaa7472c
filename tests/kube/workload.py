"""What a test's service is on Kubernetes: the objects that its owner would write."""

from __future__ import annotations

from typing import Any

from handlers.core.names import Channel, Service
from handlers.core.pods import CONSUMER, DATA_READY, PREFIX, Json
from tests.kube.images import HYDRA
from tests.kube.installed import ENVIRONMENT

# how a pod mounts the root; under Pod Security `baseline` and `restricted` it may not by its path
HOST_PATH: Json = {"hostPath": {"path": "/var/lib/hydra", "type": "Directory"}}
CLAIM: Json = {"persistentVolumeClaim": {"claimName": "hydra-data", "readOnly": True}}
CONFINED_POD: Json = {"runAsNonRoot": True, "runAsUser": 65534, "seccompProfile": {"type": "RuntimeDefault"}}
CONFINED_CONTAINER: Json = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


class Workload:
    """A service and its channel, in a namespace of their own."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.name, self.kind = "reader", "Deployment"
        self.service = Service(f"{ENVIRONMENT}/{self.namespace}/{self.name}")
        self.channel = Channel(f"{ENVIRONMENT}/{self.namespace}/data")
        self.words: list[str] = []  # more for the command of the service's pods
        self.notes: dict[str, str] = {}  # annotations of the pods' template
        self.place: dict[str, str] = {}  # labels of the nodes that its pods may be on
        self.gate = True  # whether pods have the readiness gate, or else a probe that reads the state file
        self.confined = False  # whether the namespace allows what is `restricted` only

    def object(self, api: str, kind: str, name: str, **more: Any) -> dict[str, Any]:
        meta = {"name": name, "namespace": self.namespace}
        return {"apiVersion": api, "kind": kind, "metadata": meta, **more}

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
        made = self.object(
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
