"""A small fleet for tests of `reload`: real roots and views, KV and services of choice, files rendered as
consul-template renders them, and processes that are pretended but behave.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from handlers.adapters.local import LocalState
from handlers.adapters.ports import Consul
from handlers.adapters.service import Health, Services
from handlers.adapters.views import Views, readiness
from handlers.context import Context
from handlers.core import codec, keys
from handlers.core.errors import HydraError
from handlers.core.model import (
    DISK,
    RAM,
    AliasPlan,
    Desired,
    Instance,
    Instances,
    InstanceState,
    Meta,
    Proven,
    ServicePlan,
    Slots,
    States,
    Step,
    Verdicts,
    VolumeInfo,
)
from handlers.core.names import Channel, InstanceKey, Service
from handlers.core.policy import ByHealth, Confirm, Reload, WarmUp
from handlers.core.version import ReleaseId, Version
from handlers.reload import ReloadRun
from handlers.settings import Limits, Settings
from tests.fakes_kv import FakeKV

S = Service("prod/search/api")
PLACES = Channel("prod/search/places")
V1, V2, V3 = (Version(f"2026-01-0{n}T00-00-00") for n in (1, 2, 3))
LIMITS = Limits(slot_ttl_s=1, dead_after_s=0.2)
VOLUMES = {"disk": VolumeInfo(cls=DISK), "ram": VolumeInfo(cls=RAM)}
LIMIT_S = 120.0  # for a machine that is busy with other things


@dataclass
class Replica:
    """One process: what it loaded last, and whether it answers."""

    node: Node
    key: InstanceKey
    loaded: Version | None = None
    broken: bool = False
    reloads: list[Version | None] = field(default_factory=list)

    @property
    def serves(self) -> bool:
        word = self.node.views.shown(self.key)
        return word == "ready" and not self.broken and self.loaded not in (None, *self.node.fleet.bad)

    def load(self) -> None:
        view = self.node.views.current(self.key)
        self.loaded = view["places"].version if view else None
        self.reloads.append(self.loaded)


@dataclass
class Fleet:
    """All nodes of a test. `bad` versions load but do not serve; `refused` ones or releases fail to load."""

    folder: Path
    kv: Consul = field(default_factory=FakeKV)
    nodes: dict[str, Node] = field(default_factory=dict)
    bad: set[Version] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    cold: set[Version] = field(default_factory=set)
    plan: ServicePlan = field(
        default_factory=lambda: ServicePlan(
            aliases={"places": AliasPlan(channel=PLACES, target=V1, start=V1)},
            reload="http://:/reload",
            drain_s=0.02,
            deadline_s=30.0,
        )
    )
    errors: list[str] = field(default_factory=list)
    _most_out: int = 0
    _counting: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.put(keys.META, codec.encode(Meta(environments=("prod",))))

    @property
    def fake(self) -> FakeKV:
        assert isinstance(self.kv, FakeKV)
        return self.kv

    @property
    def replicas(self) -> dict[str, Replica]:
        nodes = list(self.nodes.items())  # at once: others come and go meanwhile
        return {f"{n}.{k.segment}": r for n, node in nodes for k, r in list(node.replicas.items())}

    @property
    def most_out(self) -> int:
        """How many replicas were out of service at the same time, since `count_anew`."""
        return self._most_out

    def count_anew(self) -> None:
        with self._counting:
            self._most_out = 0

    def put(self, key: str, raw: bytes) -> None:
        self.fake.put(key, raw)

    def node(self, name: str, *ids: str) -> Node:
        """A node with instances of the service, alive and discovered."""
        node = self.nodes[name] = Node(name, self)
        for instance_id in ids:
            node.register(instance_id)
        self.put(keys.alive(name), b"{}")
        self.want()
        return node

    def want(self, target: Version | None = None, **changes: Any) -> None:
        """Let plan want this of the service, on all nodes."""
        if target is not None:
            aliases = {"places": replace(self.plan.aliases["places"], target=target)}
            self.plan = replace(self.plan, aliases=aliases)
        self.plan = replace(self.plan, **changes)
        self.put(keys.proven(S), codec.encode(Proven(nodes=tuple(sorted(self.nodes)))))
        for node in self.nodes.values():
            node.apply()

    def run(self) -> None:
        """One run of reload on every node, at the same time."""
        threads = [threading.Thread(target=node.run, name=name) for name, node in self.nodes.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT_S)
            assert not thread.is_alive(), "reload does not come to an end"
        assert self.errors == [], self.errors

    def slots(self) -> Slots:
        entry, _ = self.kv.get(keys.slots(S))
        return codec.decode(Slots, entry.value, "slots") if entry else Slots()

    def verdicts(self) -> Verdicts:
        entry, _ = self.kv.get(keys.verdicts(S))
        return codec.decode(Verdicts, entry.value, "verdicts") if entry else Verdicts()

    @contextlib.contextmanager
    def rendering(self) -> Iterator[None]:
        """consul-template of all nodes; also counts who is out."""
        ended = threading.Event()

        def work() -> None:
            while not ended.wait(0.002):
                for node in list(self.nodes.values()):
                    # a view that ends meanwhile; a document that does not parse: files stay as they are
                    with contextlib.suppress(FileNotFoundError, HydraError):
                        node.render()
                with self._counting:
                    self._most_out = max(self._most_out, sum(not r.serves for r in self.replicas.values()))

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


@dataclass
class Node:
    """One node: its root, what it remembers, its processes."""

    name: str
    fleet: Fleet
    replicas: dict[InstanceKey, Replica] = field(default_factory=dict)
    generation: int = 0
    cordoned: bool = False
    ram: Mapping[str, Version] = field(default_factory=dict)
    volumes: Mapping[str, VolumeInfo] = field(default_factory=lambda: dict(VOLUMES))
    instances: dict[InstanceKey, Instance] = field(default_factory=dict)
    services: Any = None

    def __post_init__(self) -> None:
        self.root = self.fleet.folder / self.name
        self.local, self.views = LocalState(self.root), Views(self.root)
        self.services = FakeServices(self)
        for name in self.volumes:
            (self.root / "volumes" / name).mkdir(parents=True, exist_ok=True)
        for version in (V1, V2, V3):
            self.release(version)

    def release(self, version: Version, channel: Channel = PLACES) -> None:
        """Make a release complete on this node, as sync does."""
        data = self.root / "volumes" / "disk" / "data" / channel / version / "table"
        data.mkdir(parents=True)
        (data / "file").write_bytes(str(version).encode() * 100)
        links = self.root / "releases" / channel / version
        links.mkdir(parents=True)
        (links / "table").symlink_to(f"../../../../../volumes/disk/data/{channel}/{version}/table")

    def register(self, instance_id: str, incarnation: str = "1", health: str = "consul") -> InstanceKey:
        """A process starts, registers itself, and is discovered."""
        key = InstanceKey.of(S, instance_id)
        self.instances[key] = Instance(
            service=S, id=instance_id, incarnation=incarnation, consul_name="api", health=health
        )
        self.replicas[key] = Replica(self, key)
        self.discovered()
        return key

    def deregister(self, key: InstanceKey) -> None:
        del self.instances[key], self.replicas[key]
        self.discovered()

    def discovered(self) -> None:
        raw = codec.encode(Instances(instances=self.instances))
        self.local.write("instances", raw)
        self.fleet.put(keys.instances(self.name), raw)

    def apply(self) -> None:
        """What sync does with a new desired."""
        self.generation += 1
        desired = Desired(
            node=self.name,
            generation=self.generation,
            services={S: self.fleet.plan},
            cordoned=self.cordoned,
            ram=self.ram,
        )
        self.local.write("desired", codec.encode(desired))
        with contextlib.suppress(HydraError):
            self.fleet.put(keys.actual(self.name), str(self.generation).encode())

    def context(self) -> Context:
        settings = Settings(
            root=self.root, node=self.name, config=self.root, limits=LIMITS, volumes=self.volumes
        )
        return Context(settings=settings, node=self.name, kv=self.fleet.kv, local=self.local)

    def run(self) -> str:
        try:
            return ReloadRun(self.context(), self.services).converge()
        except HydraError as e:
            self.fleet.errors.append(f"{self.name}: {type(e).__name__} {e}")
            return ""

    def states(self) -> States:
        entry, _ = self.fleet.kv.get(keys.states(self.name))
        return codec.decode(States, entry.value, "states") if entry else States(node=self.name)

    def state(self, instance_id: str = "a") -> InstanceState:
        return self.states().instances[InstanceKey.of(S, instance_id)]

    def render(self) -> None:
        """consul-template: the files of all instances that have a template."""
        if not isinstance(self.fleet.kv, FakeKV) or self.fleet.kv.away:
            return
        for key, state in self.states().instances.items():
            view = self.views.path(key)
            if (view / "state").exists() and self.views.shown(key) != state.state:
                for name, body in (("readiness.json", readiness(state)), ("state", state.state.encode())):
                    (view / f".{name}").write_bytes(body)
                    (view / f".{name}").rename(view / name)


class FakeServices:
    """`adapters.service.Services` for pretended processes; health is asked of the real adapter."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._real = Services(node.fleet.kv, node.root)
        self.maintained: list[tuple[str, bool]] = []
        self.warmed: list[tuple[str, Version | None]] = []
        self.before_reload: Callable[[InstanceKey], None] = lambda _: None

    def listing(self, consul_name: str, *, after: int = 0, wait_s: float = 0) -> tuple[list[Any], int]:
        until = time.monotonic() + min(wait_s, 1.0)
        while True:
            rows = self._rows()
            index = hash(str(rows)) % 2**31 + 1
            if index != after or time.monotonic() >= until:
                return rows, index
            time.sleep(0.003)

    def _rows(self) -> list[Any]:
        if isinstance(self._node.fleet.kv, FakeKV) and self._node.fleet.kv.away:
            self._node.fleet.kv.get("any")  # raises as Consul does
        return [
            {
                "Node": {"Node": replica.node.name},
                "Service": {"ID": key.segment},
                "Checks": [{"Status": "passing" if replica.serves else "critical"}],
            }
            for node in self._node.fleet.nodes.values()
            for key, replica in list(node.replicas.items())
        ]

    def health(self, instance: Instance, node: str, rows: list[Any], ready: bool) -> Health:
        return self._real.health(instance, node, rows, ready)

    def maintenance(self, instance: Instance, on: bool) -> None:
        self.maintained.append((instance.id, on))

    def warm_up(self, how: WarmUp, key: InstanceKey, instance: Instance, limit_s: float) -> None:
        assert not self._node.replicas[key].serves, "warmed up under traffic"
        self.warmed.append((instance.id, self._node.replicas[key].loaded))
        if self._node.replicas[key].loaded in self._node.fleet.cold:
            raise HydraError("command warm ended with 1: still cold")

    def reload(self, how: Reload, key: InstanceKey, instance: Instance, limit_s: float) -> None:
        self.before_reload(key)
        replica = self._node.replicas[key]
        view = self._node.views.current(key)
        if {view["places"].version, view["places"]} & self._node.fleet.refused:
            raise HydraError("HTTP 500: cannot load it")
        if self._node.state(instance.id).step is not Step.FILL:
            assert not replica.serves, "reloaded under traffic"
        replica.load()

    def confirmed(
        self,
        how: Confirm,
        key: InstanceKey,
        instance: Instance,
        new: Mapping[str, ReleaseId],
        old: Mapping[str, ReleaseId],
    ) -> str:
        if isinstance(how, ByHealth) or self._node.replicas[key].loaded == new["places"].version:
            return ""
        return f"it has {self._node.replicas[key].loaded}"


def started(fleet: Fleet, **nodes: Sequence[str]) -> Fleet:
    """A fleet whose replicas all serve the first release."""
    for name, ids in nodes.items():
        fleet.node(name, *ids)
    fleet.run()
    assert all(r.serves for r in fleet.replicas.values())
    fleet.count_anew()
    return fleet


def serving(fleet: Fleet) -> set[object]:
    return {(r.loaded, r.serves) for r in fleet.replicas.values()}


class Run:
    """A run beside the test."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._thread = threading.Thread(target=node.run)
        self._thread.start()

    def join(self) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive(), "reload does not come to an end"
        assert self._node.fleet.errors == []


def wait(true: Callable[[], object]) -> None:
    until = time.monotonic() + 30
    while not true():
        assert time.monotonic() < until
        time.sleep(0.005)
