"""discover on a real Consul: what is registered becomes instances, and nothing is dropped in haste."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from handlers.adapters.local import LocalState
from handlers.adapters.ports import Delete, Op, Set
from handlers.context import Context
from handlers.core import codec, keys
from handlers.core.errors import Temporary
from handlers.core.model import Instance, Instances, Meta, NodeInfo
from handlers.core.names import InstanceKey, Service
from handlers.discover import Discoverer
from handlers.podwatch import PodReading
from handlers.resync import Eye, watched_keys
from handlers.runner import Runner
from handlers.settings import Limits, Settings
from hydra_cli.acl import render
from tests.fakes_kv import FakeKV
from tests.servers import Consul, wait_until

PLACES = Service("prod/search/places")
NODE = "server"  # the name of the only agent
ONE = InstanceKey.of(PLACES, "places-1")
TWO = InstanceKey.of(PLACES, "places-2")


@dataclass
class Machine:
    """One machine with Hydra on it, and a clock that the test moves."""

    consul: Consul
    root: Path
    node: str = NODE
    token: str | None = None
    now: float = 0.0
    discoverer: Discoverer = field(init=False)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        settings = Settings(
            root=self.root, node=self.node, config=Path("none"), limits=Limits(alive_ttl_s=60)
        )
        kv, local = self.consul.kv(self.token), LocalState(self.root)
        context = Context(settings=settings, node=self.node, kv=kv, local=local)
        self.discoverer = Discoverer(context, lambda: self.now)

    def register(self, service_id: str, meta: str | None = PLACES, **more: Any) -> None:
        service = {"ID": service_id, "Name": "places", "Port": 81, **more}
        service["Meta"] = {"hydra_service": meta} if meta else {}
        self.consul.kv().put_json("agent/service/register", service)
        wait_until(lambda: service_id in self._catalog())

    def deregister(self, service_id: str) -> None:
        self.consul.kv().put_json(f"agent/service/deregister/{service_id}")
        wait_until(lambda: service_id not in self._catalog())

    def _catalog(self) -> list[str]:
        rows, _ = self.consul.kv().get_json("catalog/node-services/server", {"consistent": ""})
        return [row["ID"] for row in rows["Services"]]

    def read(self, key: str) -> bytes | None:
        entry, _ = self.consul.kv().get(key)
        return entry.value if entry else None

    def in_kv(self) -> dict[InstanceKey, Instance]:
        """The instances that everybody sees."""
        raw = self.read(keys.instances(self.node))
        return dict(codec.decode(Instances, raw, "instances").instances) if raw else {}

    def instances(self) -> dict[InstanceKey, Instance]:
        """The instances that everybody sees; between two rounds the local copy is the same."""
        raw = self.read(keys.instances(self.node))
        assert raw is not None
        assert LocalState(self.root).read("instances") == raw
        return self.in_kv()


@pytest.fixture
def machine(consul: Consul, tmp_path: Path) -> Machine:
    consul.kv().txn([Set(keys.META, codec.encode(Meta(environments=("prod",))))])
    return Machine(consul, tmp_path)


def alive(machine: Machine) -> str:
    """The session that holds `alive`, or nothing."""
    entry, _ = machine.consul.kv().get(keys.alive(machine.node))
    return entry.session if entry else ""


def test_registered_service_is_written_with_info_and_alive(machine: Machine) -> None:
    machine.register("places-1", Address="10.0.0.7")

    said = machine.discoverer.converge()

    instance = machine.instances()[ONE]
    assert (instance.id, instance.address, instance.port) == ("places-1", "10.0.0.7", 81)
    assert (instance.health, instance.consul_name) == ("consul", "places")
    assert int(instance.incarnation) > 0
    info = codec.decode(NodeInfo, machine.read(keys.info(NODE)) or b"", "info")
    assert (info.node, info.consul_node, set(info.versions)) == (NODE, NODE, {"consul", "hydra"})
    assert alive(machine)
    assert "knows 1 instance" in said


def test_address_of_the_node_counts_where_the_service_has_none(machine: Machine) -> None:
    machine.register("places-1")
    machine.discoverer.converge()

    assert machine.instances()[ONE].address == "127.0.0.1"


def test_second_round_writes_nothing(machine: Machine) -> None:
    machine.register("places-1")
    machine.discoverer.converge()
    before = machine.consul.kv().list(keys.node(NODE))
    machine.discoverer.converge()

    assert machine.consul.kv().list(keys.node(NODE)).entries == before.entries


def test_removed_service_goes_after_two_reads_far_enough_apart(machine: Machine) -> None:
    machine.register("places-1")
    machine.register("places-2")
    machine.discoverer.converge()
    machine.deregister("places-1")
    machine.now = 10
    machine.discoverer.converge()
    assert machine.instances().keys() == {ONE, TWO}
    machine.now = 69.9
    assert machine.discoverer.attempt()[1] <= 0.2
    assert machine.instances().keys() == {ONE, TWO}
    machine.now = 70
    machine.discoverer.converge()

    assert machine.instances().keys() == {TWO}


def test_restart_begins_the_time_of_a_missing_instance_anew(machine: Machine) -> None:
    machine.register("places-1")
    machine.discoverer.converge()
    machine.deregister("places-1")
    machine.discoverer.converge()
    machine.restart()
    machine.now = 1_000
    machine.discoverer.converge()

    assert machine.instances().keys() == {ONE}


def test_sidecar_proxy_with_the_inherited_meta_is_no_instance(machine: Machine) -> None:
    machine.register("places-1", Connect={"SidecarService": {}})
    wait_until(lambda: "places-1-sidecar-proxy" in machine._catalog())
    machine.discoverer.converge()

    assert machine.instances().keys() == {ONE}


def test_bad_meta_is_an_alarm_in_the_document(machine: Machine) -> None:
    machine.register("places-1", "prod/Search")
    machine.discoverer.converge()

    raw = machine.read(keys.instances(NODE))
    assert raw is not None
    (alarm,) = codec.decode(Instances, raw, "instances").alarms
    assert "places-1" in alarm


def test_registrations_by_hand_are_merged(machine: Machine) -> None:
    job = Instance(service=PLACES, id="job 1", incarnation="1", health="none")
    key = InstanceKey.of(PLACES, job.id)
    document = codec.encode(Instances(instances={key: job}))
    machine.consul.kv().txn([Set(keys.registrations(NODE), document)])
    machine.register("places-1")
    machine.discoverer.converge()

    assert machine.instances() | {ONE: job} == {key: job, ONE: job}


def test_unreadable_registrations_drop_nobody_and_are_an_alarm(machine: Machine) -> None:
    machine.register("places-1")
    machine.discoverer.converge()
    machine.consul.kv().txn([Set(keys.registrations(NODE), b"{ oops")])
    machine.deregister("places-1")
    for machine.now in (100.0, 200.0, 300.0):
        machine.discoverer.converge()

    assert machine.instances().keys() == {ONE}
    assert b"registrations" in (machine.read(keys.instances(NODE)) or b"")


def test_without_meta_nothing_is_written(machine: Machine) -> None:
    machine.register("places-1")
    machine.consul.kv().txn([Delete(keys.META)])

    said = machine.discoverer.converge()

    assert "hydra init" in said
    assert dict(machine.consul.kv().list("hydra/").entries) == {}
    assert LocalState(machine.root).read("instances") is None
    assert not machine.consul.kv().get_json("session/list")[0]


def test_wiped_kv_gets_its_instances_back_only_with_meta(machine: Machine) -> None:
    machine.register("places-1")
    machine.discoverer.converge()
    before = machine.instances()
    machine.consul.wipe()
    machine.discoverer.converge()
    assert dict(machine.consul.kv().list("hydra/").entries) == {}
    machine.consul.kv().txn([Set(keys.META, codec.encode(Meta(environments=("prod",))))])
    machine.discoverer.converge()

    assert machine.instances() == before
    assert alive(machine)


def test_ended_session_is_replaced_and_alive_comes_back(machine: Machine) -> None:
    machine.discoverer.converge()
    first = alive(machine)
    machine.consul.kv().destroy_session(first)
    assert not alive(machine)
    machine.discoverer.converge()

    assert alive(machine) not in ("", first)


def test_restarted_process_goes_on_with_its_session(machine: Machine) -> None:
    machine.discoverer.converge()
    first = alive(machine)
    machine.restart()
    machine.discoverer.converge()

    assert alive(machine) == first


def test_emptied_disk_takes_over_its_own_alive_and_keeps_instances_that_are_missing(machine: Machine) -> None:
    machine.register("places-1")
    machine.discoverer.converge()
    first = alive(machine)
    machine.deregister("places-1")
    shutil.rmtree(machine.root)
    machine.restart()
    machine.discoverer.converge()

    assert alive(machine) not in ("", first)
    assert machine.instances().keys() == {ONE}


def test_renamed_node_leaves_the_documents_of_its_old_name_alone(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    machine.register("places-1")
    machine.discoverer.converge()
    old = {k: e.value for k, e in machine.consul.kv().list(keys.node(NODE)).entries.items()}
    machine.node = "New Name"
    machine.restart()
    machine.discoverer.converge()

    assert machine.instances().keys() == {ONE}
    assert alive(machine)
    left = {k: e.value for k, e in machine.consul.kv().list(keys.node(NODE)).entries.items()}
    assert left == {k: v for k, v in old.items() if k != keys.alive(NODE)}
    assert f"hydra node forget {NODE}" in caplog.text
    info = codec.decode(NodeInfo, machine.read(keys.info("New Name")) or b"", "info")
    assert (info.node, info.consul_node) == ("New Name", NODE)


def test_second_machine_of_the_same_name_writes_nothing(machine: Machine, tmp_path: Path) -> None:
    machine.discoverer.converge()
    with machine.consul.join("other-agent", tmp_path / "agent") as agent:
        twin = Machine(agent, tmp_path / "root")
        before = machine.consul.kv().list(keys.node(NODE))
        said = twin.discoverer.converge()

        assert f"Consul agent {NODE}" in said
        assert machine.consul.kv().list(keys.node(NODE)).entries == before.entries


def test_outage_changes_nothing_and_ends_by_itself(machine: Machine) -> None:
    machine.register("places-1")
    machine.discoverer.converge()
    machine.consul.stop()
    machine.now = 500
    said, wait_s = machine.discoverer.attempt()
    machine.consul.start()

    assert "nothing is dropped" in said
    assert wait_s <= 5
    wait_until(lambda: "knows 1" in machine.discoverer.attempt()[0])
    assert machine.instances().keys() == {ONE}


def test_service_that_its_agent_registers_while_all_servers_are_away_is_known_on_the_node(
    machine: Machine, tmp_path: Path
) -> None:
    """Also that reload is told; what is known goes on being so once Consul is back."""
    told = tmp_path / "told"
    with machine.consul.join("n2", tmp_path / "agent") as agent:
        there = Machine(agent, tmp_path / "root", node="n2")
        there.discoverer._reloader = Runner(("reload",), lambda _: ["touch", str(told)])
        register = partial(agent.kv().put_json, "agent/service/register")
        register({"ID": "places-1", "Name": "places", "Port": 81, "Meta": {"hydra_service": PLACES}})
        wait_until(lambda: "knows 1" in there.discoverer.attempt()[0])
        machine.consul.stop()
        register({"ID": "places-2", "Name": "places", "Port": 82, "Meta": {"hydra_service": PLACES}})

        said, _ = there.discoverer.attempt()

        assert "cannot go on" in said
        raw = LocalState(there.root).read("instances")
        assert raw
        known = codec.decode(Instances, raw, "instances").instances
        assert known.keys() == {ONE, TWO}
        assert known[TWO].port == 82
        wait_until(told.exists)
        machine.consul.start()
        wait_until(lambda: "knows 2" in there.discoverer.attempt()[0])
        assert there.instances().keys() == {ONE, TWO}


RULES = """
key_prefix "hydra/" { policy = "write" }
session_prefix "" { policy = "write" }
agent_prefix "" { policy = "read" }
node_prefix "" { policy = "read" }
"""


def test_service_list_that_acls_cut_short_drops_nobody(consul_acl: Consul, tmp_path: Path) -> None:
    consul_acl.kv().txn([Set(keys.META, codec.encode(Meta(environments=("prod",))))])
    full = consul_acl.token_for(RULES + 'service_prefix "" { policy = "read" }')
    machine = Machine(consul_acl, tmp_path, token=full)
    machine.register("places-1")
    machine.discoverer.converge()
    before = machine.instances()
    machine.token = consul_acl.token_for(RULES)
    machine.restart()
    for machine.now in (100.0, 200.0, 300.0):
        assert "nothing is dropped" in machine.discoverer.attempt()[0]

    assert machine.instances() == before


def test_policy_of_the_role_node_is_enough(consul_acl: Consul, tmp_path: Path) -> None:
    consul_acl.kv().txn([Set(keys.META, codec.encode(Meta(environments=("prod",))))])
    token = consul_acl.token_for(render("node", node=NODE))
    machine = Machine(consul_acl, tmp_path, token=token)
    machine.register("places-1")

    assert "knows 1 instance" in machine.discoverer.converge()
    assert alive(machine)
    for block in (machine.discoverer.registers.block_on_catalog, machine.discoverer.registers.block_on_node):
        assert block(0) > 0
    planner = consul_acl.token_for(render("planner", node=NODE))
    for secret, scope in ((token, "node"), (planner, "cluster")):
        eye = Eye(consul_acl.kv(secret), watched_keys(scope, NODE))
        assert (eye.look(0), eye.away) == ("", False)


class Crash(BaseException):
    """The process dies here."""


def fake_kv() -> FakeKV:
    """A cluster with one service on our node."""
    kv = FakeKV()
    kv.put(keys.META, codec.encode(Meta(environments=("prod",))))
    service = {"ID": "places-1", "Service": "places", "CreateIndex": 5, "Meta": {"hydra_service": PLACES}}
    kv.answers = {
        "agent/self": {"Config": {"NodeName": NODE, "Version": "1.22.6"}},
        "agent/services": {"places-1": {"ID": "places-1", "Service": "places", "Meta": service["Meta"]}},
        f"catalog/node-services/{NODE}": {"Node": {"Address": "10.0.0.1"}, "Services": [service]},
    }
    return kv


def discoverer_on(kv: FakeKV, root: Path) -> Discoverer:
    settings = Settings(root=root, node=NODE, config=Path("none"))
    return Discoverer(Context(settings=settings, node=NODE, kv=kv, local=LocalState(root)))


@pytest.mark.parametrize("at", range(3))
@pytest.mark.parametrize("hook", ["before_txn", "after_txn"])
@pytest.mark.parametrize("how", [Crash, Temporary])
def test_crash_or_lost_answer_around_each_write_is_mended_by_the_next_run(
    tmp_path: Path, at: int, hook: str, how: type[BaseException]
) -> None:
    kv, struck = fake_kv(), []

    def strike(_: Sequence[Op]) -> None:
        struck.append(True)
        if len(struck) == at + 1:
            raise how("now")

    setattr(kv, hook, strike)
    with contextlib.suppress(Crash):
        assert "now" in discoverer_on(kv, tmp_path).attempt()[0]
    assert len(struck) == at + 1

    assert "knows 1" in discoverer_on(kv, tmp_path).converge()
    instances, _ = kv.get(keys.instances(NODE))
    alive_entry, _ = kv.get(keys.alive(NODE))
    assert instances is not None
    assert codec.decode(Instances, instances.value, "").instances.keys() == {ONE}
    assert alive_entry is not None
    assert kv.renew_session(alive_entry.session)


def test_process_follows_catalog_registrations_and_alive(machine: Machine, tmp_path: Path) -> None:
    environment = machine.consul.environment() | {
        "HYDRA_ROOT": str(tmp_path / "root"),
        "PATH": os.environ["PATH"],
    }
    command = [sys.executable, "-I", "-m", "handlers.main", "discover"]
    with (tmp_path / "log").open("w") as output:
        process = subprocess.Popen(command, env=environment, stderr=output)
    try:
        machine.root = tmp_path / "root"
        wait_until(lambda: alive(machine))
        machine.register("places-1")
        wait_until(lambda: ONE in machine.in_kv())
        job = Instance(service=PLACES, id="job", incarnation="1")
        document = codec.encode(Instances(instances={InstanceKey.of(PLACES, "job"): job}))
        machine.consul.kv().txn([Set(keys.registrations(NODE), document)])
        wait_until(lambda: len(machine.in_kv()) == 2)
        first = alive(machine)
        machine.consul.kv().destroy_session(first)
        wait_until(lambda: alive(machine) not in ("", first))
    finally:
        process.terminate()
    assert process.wait(60) == -signal.SIGTERM


@dataclass
class Pods:
    """What the watch of pods sees of the Kubernetes node."""

    labels: dict[str, str] | None

    def reading(self) -> PodReading:
        return PodReading(instances={}, labels=self.labels)


def test_node_is_announced_with_its_labels_before_anything_else_and_not_without_them(
    machine: Machine,
) -> None:
    """Planned without them it would be one that needs no data, and its startup taint would go."""
    pods = machine.discoverer.registers.pods = Pods(None)
    with pytest.raises(Temporary, match="cannot be seen yet"):
        machine.discoverer.converge()
    assert not machine.consul.kv().list(keys.node(NODE)).entries

    pods.labels = {"topology.kubernetes.io/zone": "b"}
    machine.discoverer.converge()
    entries = machine.consul.kv().list(keys.node(NODE)).entries
    indexes = [entries[key(NODE)].index for key in (keys.info, keys.alive, keys.instances)]
    assert indexes == sorted(indexes)


def test_labels_of_the_kubernetes_node_stay_while_it_cannot_be_seen(machine: Machine) -> None:
    def labels() -> dict[str, str]:
        machine.discoverer.converge()
        return dict(codec.decode(NodeInfo, machine.read(keys.info(NODE)) or b"", "info").labels)

    pods = machine.discoverer.registers.pods = Pods({"topology.kubernetes.io/zone": "b"})
    assert labels() == {"topology.kubernetes.io/zone": "b"}
    pods.labels = None
    assert labels() == {"topology.kubernetes.io/zone": "b"}
    pods.labels = {"topology.kubernetes.io/zone": "c"}
    assert labels() == {"topology.kubernetes.io/zone": "c"}
