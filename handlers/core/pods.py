"""Pods as instances: which pods read data, of which service they are, and whether they are in service.

Pure: takes objects as the Kubernetes API has them (parsed JSON). `handlers.podwatch` observes and acts.

    pod  --controller-->  ReplicaSet  --controller-->  Deployment        the top is the service
    label hydra.datasets/consumer=true on the pod                        it is one of ours
    readinessGates: hydra.datasets/data-ready                            the node says in it when data is
    there
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from msgspec import Struct, field

from handlers.core.errors import Usage
from handlers.core.model import Instance, Ready, Step
from handlers.core.names import Service, check_word
from handlers.core.reading import Reads
from handlers.core.reasons import Reason

PREFIX = "hydra.datasets/"  # of every label, annotation and condition that Hydra reads or writes
CONSUMER = f"{PREFIX}consumer"
DATA_READY = f"{PREFIX}data-ready"
ENVIRONMENT, NAMESPACE, SERVICE, PORT, READS = (
    f"{PREFIX}{word}" for word in ("environment", "namespace", "service", "port", "reads")
)
FILLED, NOT_FILLED = f"{PREFIX}filled-", f"{PREFIX}not-filled"  # labels and a taint of nodes (`core.marks`)
HEALTH = "kubernetes"  # of an instance whose node's discover tells whether it is in service

# Labels of a Kubernetes node that tell where it is; with those of PREFIX they are labels of Hydra's node.
PLACES = (
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "node.kubernetes.io/instance-type",
)

# Kinds whose objects have a controller above them; climbing ends at every other kind.
BETWEEN = {"ReplicaSet": ("apps/v1", "replicasets"), "Job": ("batch/v1", "jobs")}
Json = Mapping[str, Any]


class Owner(Struct, frozen=True):
    """The controller of an object."""

    kind: str
    name: str
    uid: str


class Pod(Struct, frozen=True, kw_only=True):
    """What of a pod matters here. `gate` is the status of its data-ready condition, empty while it has none.

    `gated`: its readiness waits for that condition. `leaving`: it is being deleted. `ended`: it will not run
    (again) under this UID.
    """

    namespace: str
    name: str
    uid: str
    address: str
    port: int
    ready: bool
    gated: bool
    gate: str
    leaving: bool
    ended: bool
    owner: Owner | None
    annotations: Mapping[str, str] = field(default_factory=dict)


def pod_of(value: Json) -> Pod:
    """The pod in an object of the API."""
    meta, spec, status = value["metadata"], value.get("spec", {}), value.get("status", {})
    conditions = {row["type"]: row["status"] for row in status.get("conditions") or ()}
    gates = {row["conditionType"] for row in spec.get("readinessGates") or ()}
    notes = meta.get("annotations") or {}
    return Pod(
        namespace=meta["namespace"],
        name=meta["name"],
        uid=meta["uid"],
        address=status.get("podIP", ""),
        port=_port(notes.get(PORT, ""), spec),
        ready=conditions.get("Ready") == "True" and "deletionTimestamp" not in meta,
        gated=DATA_READY in gates,
        gate=conditions.get(DATA_READY, ""),
        leaving="deletionTimestamp" in meta,
        ended=status.get("phase") in ("Succeeded", "Failed"),
        owner=owner_of(value),
        annotations=notes,
    )


class Container(Struct, frozen=True):
    """A container that runs: its id, and when it began in seconds of the epoch, cut to whole ones."""

    id: str
    started: float


def container_of(value: Json, name: str) -> Container | None:
    """The pod's container called `name`; None while it does not run."""
    for row in (value.get("status") or {}).get("containerStatuses") or ():
        running = (row.get("state") or {}).get("running")
        if row["name"] == name and running is not None:
            began = running.get("startedAt")
            started = datetime.fromisoformat(began).timestamp() if began else 0.0
            return Container(str(row.get("containerID", "")), started)
    return None


def owner_of(value: Json) -> Owner | None:
    """The controller of an object of the API."""
    for row in value["metadata"].get("ownerReferences") or ():
        if row.get("controller"):
            return Owner(row["kind"], row["name"], row["uid"])
    return None


def stem(owner: Owner) -> str:
    """What a controller that cannot be asked any more was made for: its name without the last part."""
    return owner.name.rpartition("-")[0] or owner.name


def _port(text: str, spec: Json) -> int:
    """The port by annotation, else the first that a container names."""
    if text.isdecimal() and int(text) < 65536:
        return int(text)
    ports = [row["containerPort"] for c in spec.get("containers") or () for row in c.get("ports") or ()]
    return int(ports[0]) if ports else 0


def service_of(namespace: str, name: str, notes: Mapping[str, str], environment: str) -> Service:
    """The service of a workload called `name`; annotations overrule each part. Raises `Usage`."""
    env = notes.get(ENVIRONMENT) or environment
    if not env:
        raise Usage(f"no environment: set the annotation {ENVIRONMENT}, or HYDRA_ENV for the whole cluster")
    parts = (env, notes.get(NAMESPACE) or namespace, notes.get(SERVICE) or name)
    for part, what in zip(parts, ("environment", "namespace", "service name"), strict=True):
        check_word(part, what)
    return Service("/".join(parts))


def instance_of(pod: Pod, top: str, environment: str, serving: bool | None) -> Instance:
    """The pod as an instance; `top` is the name of its highest owner. Raises `Usage`."""
    try:
        reads = Reads.parse(pod.annotations.get(READS, ""))
    except Usage as e:
        raise Usage(f"annotation {READS}: {e}") from None
    return Instance(
        service=service_of(pod.namespace, top, pod.annotations, environment),
        id=pod.name,
        incarnation=pod.uid,
        address=pod.address,
        port=pod.port,
        health=HEALTH,
        serving=serving,
        leaving=pod.leaving,
        reads=reads,
    )


class Shown(Struct, frozen=True):
    """What the readiness files of a pod say; `releases` and `target` as people read them."""

    word: str = ""
    step: str = ""
    reason: str = ""
    releases: str = ""
    target: str = ""


class News(Struct, frozen=True):
    """An Event on a pod; `kind` is Normal or Warning."""

    kind: str
    reason: str
    text: str


def news(before: Shown, now: Shown, out: str | None) -> News | None:
    """What there is to tell of a pod; `out`: it was taken out with these releases, and it is not told yet how
    that ended.
    """
    if now.word == Ready.DRAINING and out is None:
        text = f"taken out of service to load {now.target}; it has {now.releases}"
        return News("Normal", "DataReload", text)
    if now.word != Ready.READY:
        return None
    if out is None:
        text = f"its data is here: {now.releases}"
        return News("Normal", "DataReady", text) if before.word != Ready.READY else None
    # the reason why it is not where it should be comes a moment after it is back
    if now.step not in ("", Step.IDLE, Step.ADMIT) or (now.releases != now.target and not now.reason):
        return None
    if Reason.GAVE_UP.told_in(now.reason) or out == now.releases != now.target:
        return News("Warning", "DataHalted", f"has {now.releases} again: {now.reason}")
    return News("Normal", "DataReloaded", f"in service again with {now.releases}")


def waits_for(shown: Shown) -> str:
    """Why a pod has no data that it could be ready with; empty for one that has, or is taken out."""
    return "" if shown.word in (Ready.READY, Ready.DRAINING) else shown.reason


def gate_wanted(shown: str, gate: str) -> str:
    """The status that the data-ready condition should have, by the word in the instance's state file.

    `gate` is what it has: where no word can be seen, as below another root, a pod that is ready stays so.
    """
    return "True" if shown == Ready.READY or (not shown and gate == "True") else "False"


def ready_endpoints(slices: Iterable[Json]) -> dict[str, tuple[bool, ...]]:
    """By UID of a pod: whether it is ready, in each of the EndpointSlices that list it.

    A Service with `publishNotReadyAddresses` says `ready` of all; `serving` is of the pod itself there, too.
    """
    found: dict[str, list[bool]] = {}
    for value in slices:
        for row in value.get("endpoints") or ():
            uid = (row.get("targetRef") or {}).get("uid", "")
            said = row.get("conditions") or {}
            # absent means unknown, and the API says that unknown is to be taken for true
            found.setdefault(uid, []).append(all(said.get(w) is not False for w in ("ready", "serving")))
    return {uid: tuple(flags) for uid, flags in found.items()}


def in_service(pod: Pod, endpoints: Sequence[bool], shown: str) -> bool:
    """Whether the pod may get traffic.

    While it drains, it is out only when nothing says any more that it is in; else it is in only when
    everything says so. A pod that no Service selects is judged by its readiness alone.
    """
    said = (pod.ready, *endpoints)
    return any(said) if shown == Ready.DRAINING else all(said)


def node_is_ready(value: Json) -> bool:
    """Whether the control plane hears from the kubelet of this node."""
    conditions = (value.get("status") or {}).get("conditions") or ()
    return any(row["type"] == "Ready" and row["status"] == "True" for row in conditions)


def labels_of(nodes: Iterable[Json]) -> dict[str, str] | None:
    """The labels of a Kubernetes node that subscriptions may name; None where it is not there.

    The others may be hundreds, which every plan would have to read for every node; and what Hydra wrote there
    itself follows from what was planned.
    """
    labels = next(((value.get("metadata") or {}).get("labels") or {} for value in nodes), None)
    if labels is None:
        return None
    ours = {name for name in labels if name.startswith(PREFIX) and not name.startswith(FILLED)}
    return {name: text for name, text in labels.items() if name in PLACES or name in ours}
