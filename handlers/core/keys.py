"""Every Consul key: built and parsed here; nobody else writes a "/".

A builder mirrors its key: `keys.desired(node)` is `<prefix>/v1/desired/<node>`. Node names and instance ids
are foreign and go through `names.segment`.
"""

from __future__ import annotations

import os

from handlers.core.names import Channel, InstanceKey, Service, segment
from handlers.core.version import Version

ROOT = f"{os.environ.get('HYDRA_KV_PREFIX', 'hydra').strip('/')}/v1/"

CHANNELS = f"{ROOT}channels/"
RELEASES = f"{ROOT}releases/"
MANIFESTS = f"{ROOT}manifests/"
SERVICES = f"{ROOT}services/"
VERDICTS = f"{ROOT}verdicts/"
SLOTS = f"{ROOT}slots/"
PROVEN = f"{ROOT}proven/"
ROLLOUTS = f"{ROOT}rollouts/"
GATES = f"{ROOT}gates/"
NODES = f"{ROOT}nodes/"
DESIRED = f"{ROOT}desired/"
ACTUAL = f"{ROOT}actual/"
PROGRESS = f"{ROOT}progress/"
STATES = f"{ROOT}states/"
SERVED = f"{ROOT}served/"
RECORDED = f"{ROOT}recorded/"
LOCKS = f"{ROOT}locks/"
AUDIT = f"{ROOT}audit/"
META = f"{ROOT}meta"
ALARMS = f"{ROOT}alarms"


def channel(name: Channel) -> str:
    """The folder of one channel, with its slash."""
    return f"{CHANNELS}{name}/"


def settings(name: Channel) -> str:
    """The channel's settings or tombstone."""
    return f"{CHANNELS}{name}/settings"


def head(name: Channel) -> str:
    """The channel's head: a bare version."""
    return f"{CHANNELS}{name}/head"


def channel_pin(name: Channel) -> str:
    """The operator's pin of the channel."""
    return f"{CHANNELS}{name}/pin"


def staged(name: Channel) -> str:
    """The release that nodes hold before anybody moves to it."""
    return f"{CHANNELS}{name}/staged"


def rejected(name: Channel, version: Version) -> str:
    """Who rejected a version of the channel, and why."""
    return f"{CHANNELS}{name}/rejected/{version}"


def unfetchable(name: Channel) -> str:
    """The releases of the channel whose data is not on S3 any more, as `hydra doctor` found."""
    return f"{CHANNELS}{name}/unfetchable"


def release(name: Channel, version: Version) -> str:
    """The header of one release."""
    return f"{RELEASES}{name}/{version}"


def releases(name: Channel) -> str:
    """The folder of all release headers of a channel."""
    return f"{RELEASES}{name}/"


def manifest(name: Channel, version: Version) -> str:
    """The list of files of one release."""
    return f"{MANIFESTS}{name}/{version}"


def service(name: Service) -> str:
    """The folder of one service, with its slash."""
    return f"{SERVICES}{name}/"


def subscription(name: Service) -> str:
    """The service's subscription or tombstone."""
    return f"{SERVICES}{name}/subscription"


def service_pin(name: Service, alias: str) -> str:
    """The operator's pin of one alias of a service."""
    return f"{SERVICES}{name}/pin/{alias}"


def control(name: Service) -> str:
    """Paused, retry, abort."""
    return f"{SERVICES}{name}/control"


def verdicts(name: Service) -> str:
    """Versions that nodes found halted or bad for a service."""
    return f"{VERDICTS}{name}"


def proven(name: Service) -> str:
    """Versions that every live instance of a service once confirmed."""
    return f"{PROVEN}{name}"


def rollout(name: Service) -> str:
    """How far releases are that not every instance of a service may move to yet."""
    return f"{ROLLOUTS}{name}"


def gate(name: Service) -> str:
    """The looks of the check of a service's canaries."""
    return f"{GATES}{name}"


def slots(name: Service) -> str:
    """Who of a service is out for a reload."""
    return f"{SLOTS}{name}"


def slot_id(node: str, instance: InstanceKey) -> str:
    """How an instance is called in `slots/<s>` and below it: `<node>.<id>`.

    An id with dots loses them, so that what is before the last dot is the node: `web` and `1.api` would
    otherwise share a slot with `web.1` and `api`.
    """
    last = instance.segment
    return f"{segment(node)}.{segment(last.replace('.', '/')) if '.' in last else last}"


def slot(node: str, instance: InstanceKey) -> str:
    """The session lock of one instance's slot."""
    return slot_lock(instance.service, slot_id(node, instance))


def slot_lock(name: Service, slot_id: str) -> str:
    """The session lock of the slot that `slots/<s>` calls `slot_id`."""
    return f"{SLOTS}{name}/{slot_id}"


def node_of_slot(lock: str) -> str:
    """The node in the key of a slot's lock, as it stands in keys."""
    return lock.rpartition("/")[2].rpartition(".")[0]


def node(name: str) -> str:
    """The folder of one node, with its slash."""
    return f"{NODES}{segment(name)}/"


def info(name: str) -> str:
    """Volumes, labels and program versions of a node."""
    return f"{node(name)}info"


def instances(name: str) -> str:
    """The node's instances as discovered."""
    return f"{node(name)}instances"


def alive(name: str) -> str:
    """Exists while the node's session lives."""
    return f"{node(name)}alive"


def registrations(name: str) -> str:
    """Instances that an operator registered by hand."""
    return f"{node(name)}registrations"


def cordon(name: str) -> str:
    """Exists while the node takes no new data and no reloads."""
    return f"{node(name)}cordon"


def forgotten(name: str) -> str:
    """Tombstone of a node that an operator gave up; retain removes it with the node's documents."""
    return f"{node(name)}forgotten"


def desired(name: str) -> str:
    """What plan wants of a node."""
    return f"{DESIRED}{segment(name)}"


def actual(name: str) -> str:
    """What sync measured on a node."""
    return f"{ACTUAL}{segment(name)}"


def progress(name: str) -> str:
    """Bytes and speed of a node's downloads."""
    return f"{PROGRESS}{segment(name)}"


def states(name: str) -> str:
    """What reload says of each instance of a node."""
    return f"{STATES}{segment(name)}"


def served(name: Service, stamp: str = "now") -> str:
    """Who of a service ran what: the record that goes on, or the one that began at `stamp`."""
    return f"{SERVED}{name}/{stamp}"


def recorded(what: str) -> str:
    """What `record` looked at last: `channels`, `services`, `nodes`, `told`."""
    return f"{RECORDED}{what}"


def lock(role: str) -> str:
    """The session lock of a cluster role: `plan`, `retain`, `record`."""
    return f"{LOCKS}{role}"


def audit(obj: str, stamp: str, entry_id: str) -> str:
    """One entry of the history of `obj`, for example `channel/prod/search/places`."""
    return f"{AUDIT}{obj}/{stamp}-{entry_id}"


def rest(prefix: str, key: str) -> list[str]:
    """The parts of `key` below `prefix`; raises ValueError when it is not below it."""
    if not key.startswith(prefix):
        raise ValueError(f"{key} is not below {prefix}")
    return key[len(prefix) :].split("/")


def is_order(key: str) -> bool:
    """Whether `key` holds an operator's order (a pin, a rejection, control), which nothing may delay."""
    parts = key.removeprefix(ROOT).split("/")
    return (
        parts[0] in ("channels", "services") and len(parts) > 4 and parts[4] in ("pin", "rejected", "control")
    )
