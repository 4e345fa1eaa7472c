"""Moves with everything real: Consul, consul-template, processes that serve HTTP behind Consul checks."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from msgspec.structs import replace

from handlers.adapters.local import LocalState
from handlers.adapters.ports import Set
from handlers.adapters.templates import CONFIG, PID
from handlers.adapters.views import Views
from handlers.context import Context
from handlers.core import codec, keys
from handlers.core.model import (
    AliasPlan,
    Desired,
    Instance,
    Instances,
    InstanceState,
    Meta,
    Proven,
    ServicePlan,
    States,
    Step,
    Verdicts,
)
from handlers.core.names import Channel, InstanceKey, Service
from handlers.core.version import ReleaseId, Version
from handlers.reload import run
from handlers.settings import Limits, Settings
from hydra_cli.dev.ports import free_port
from hydra_cli.programs import program
from tests import servers
from tests.servers import wait_until

S = Service("prod/search/api")
PLACES = Channel("prod/search/places")
V1, V2 = (Version(f"2026-01-0{n}T00-00-00") for n in (1, 2))
TINY = Path(__file__).parent.parent / "tiny_service.py"
DRAIN_S = 0.2
BASE = """
consul { retry { attempts = 0, max_backoff = "2s" } }
max_stale = "0s"
block_query_wait = "60s"
log_level = "warn"
"""


class Node:
    """A node whose agent is the server itself, with two replicas."""

    def __init__(self, root: Path, consul: servers.Consul) -> None:
        self.root, self.consul, self.kv = root, consul, consul.kv()
        self.local, self.views = LocalState(root), Views(root)
        self.ports = {InstanceKey.of(S, name): free_port() for name in ("a", "b")}
        self.plan = ServicePlan(
            aliases={"places": AliasPlan(channel=PLACES, target=V1, start=V1)},
            reload="http://:/reload",
            confirm="http://:/info#release",
            drain_s=DRAIN_S,
            deadline_s=30,
        )
        for version in (V1, V2):
            folder = root / "volumes" / "disk" / "data" / PLACES / version / "table"
            folder.mkdir(parents=True)
            (folder / "file").write_text(version)
            (root / "releases" / PLACES / version).mkdir(parents=True)
            link = f"../../../../../volumes/disk/data/{PLACES}/{version}/table"
            (root / "releases" / PLACES / version / "table").symlink_to(link)

    def want(self, target: Version) -> None:
        """What plan and sync do."""
        aliases = {"places": replace(self.plan.aliases["places"], target=target)}
        self.plan = replace(self.plan, aliases=aliases)
        desired = Desired(node="server", generation=1, services={S: self.plan})
        self.local.write("desired", codec.encode(desired))
        self.kv.txn([Set(keys.actual("server"), target.encode())])

    def discovered(self) -> None:
        instances = {
            key: Instance(
                service=S, id=key.segment, incarnation="1", address="127.0.0.1", port=port, consul_name="api"
            )
            for key, port in self.ports.items()
        }
        raw = codec.encode(Instances(instances=instances))
        self.local.write("instances", raw)
        meta = Set(keys.META, codec.encode(Meta(environments=("prod",))))
        proven = Set(keys.proven(S), codec.encode(Proven(nodes=("server",))))
        self.kv.txn([Set(keys.instances("server"), raw), meta, proven])

    def run(self) -> str:
        settings = Settings(root=self.root, node="server", config=self.root, limits=Limits(slot_ttl_s=10))
        return run(Context(settings=settings, node="server", kv=self.consul.kv(), local=self.local))

    def states(self) -> dict[InstanceKey, InstanceState]:
        entry, _ = self.kv.get(keys.states("server"))
        return dict(codec.decode(States, entry.value, "states").instances) if entry else {}

    def healthy(self) -> list[Any]:
        """Whom Consul would send traffic to."""
        rows, _ = self.kv.get_json("health/service/api", {"passing": "1"})
        return list(rows)

    @contextlib.contextmanager
    def replicas(self) -> Iterator[None]:
        """The processes, with a check of their health in Consul."""
        with contextlib.ExitStack() as stack:
            for key, port in self.ports.items():
                environment = {**os.environ, "HYDRA_VIEW": str(self.views.path(key))}
                command = [sys.executable, str(TINY), str(port)]
                process = stack.enter_context(subprocess.Popen(command, env=environment))
                stack.callback(process.kill)
                check = {"HTTP": f"http://127.0.0.1:{port}/health", "Interval": "1s", "Timeout": "5s"}
                self.kv.put_json(
                    "agent/service/register",
                    {"ID": key.segment, "Name": "api", "Port": port, "Check": check},
                )
                stack.callback(self.kv.put_json, f"agent/service/deregister/{key.segment}")
            yield

    @contextlib.contextmanager
    def rendering(self) -> Iterator[None]:
        """consul-template, as `hydra node run` starts it."""
        base = self.root / "base.hcl"
        base.write_text(f'{BASE}pid_file = "{self.local.path(PID)}"\n')
        if self.local.read(CONFIG) is None:
            self.local.write(CONFIG, b"")
        command = [str(program("consul-template")), f"-config={base}", f"-config={self.local.path(CONFIG)}"]
        environment = {**os.environ, **self.consul.environment()}
        with subprocess.Popen(command, env=environment) as process:
            wait_until(lambda: self.local.read(PID), what="consul-template has started")
            try:
                yield
            finally:
                process.send_signal(signal.SIGINT)


class Traffic:
    """Requests to whoever Consul calls healthy; what failed, and how many were healthy at least."""

    def __init__(self, node: Node) -> None:
        self._node, self._ended = node, threading.Event()
        self.failed: list[str] = []
        self.served = 0
        self.fewest = 99
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _work(self) -> None:
        kv = self._node.consul.kv()
        while not self._ended.is_set():
            rows, _ = kv.get_json("health/service/api", {"passing": "1"})
            self.fewest = min(self.fewest, len(rows))
            for row in rows:
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{row['Service']['Port']}/info") as answer:
                        self.served += answer.status == 200
                except OSError as e:
                    self.failed.append(str(e))
            time.sleep(0.002)


@pytest.fixture
def node(tmp_path: Path, consul: servers.Consul) -> Iterator[Node]:
    node = Node(tmp_path, consul)
    with node.replicas(), node.rendering():
        node.want(V1)
        node.discovered()
        node.run()
        yield node


def test_a_release_moves_through_a_real_service_one_by_one(node: Node) -> None:
    assert {s.releases["places"] for s in node.states().values()} == {V1}
    node.want(V2)

    with Traffic(node) as traffic:
        node.run()

    assert all((s.releases["places"], s.step) == (V2, Step.IDLE) for s in node.states().values())
    assert traffic.failed == []
    assert traffic.served > 0
    assert traffic.fewest == 1
    assert node.kv.list(keys.SLOTS).entries.keys() == {keys.slots(S)}


def test_a_broken_release_comes_back_and_says_why(node: Node) -> None:
    (node.root / "releases" / PLACES / V2 / "table").unlink()
    (node.root / "releases" / PLACES / V2 / "table").mkdir()
    node.want(V2)

    node.run()

    entry, _ = node.kv.get(keys.verdicts(S))
    assert entry is not None
    verdict = codec.decode(Verdicts, entry.value, "verdicts").releases[ReleaseId.of(PLACES, V2)]
    assert verdict.verdict == "halted"
    assert {s.releases["places"] for s in node.states().values()} == {V1}
    assert len(node.healthy()) == 2


def test_a_rollback_mends_a_service_that_is_down_altogether(node: Node) -> None:
    node.want(V2)
    node.run()
    for key in node.ports:
        (node.views.path(key) / "broken").write_text(V2)
    wait_until(lambda: not node.healthy(), what="all replicas are sick")
    node.want(V1)

    node.run()

    assert {s.releases["places"] for s in node.states().values()} == {V1}
    assert len(node.healthy()) == 2


def test_a_node_cut_off_from_consul_gives_a_new_instance_its_view(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handlers.reload.PATIENCE_S", 2.0)
    new = InstanceKey.of(S, "c")
    node.ports[new] = free_port()
    node.discovered()
    node.consul.kill()
    try:
        with contextlib.suppress(Exception):
            node.run()
        assert node.views.shown(new) == "ready"
        assert (node.views.path(new) / "places" / "table" / "file").read_text() == V1
    finally:
        node.consul.start()
    wait_until(lambda: node.kv.get_json("status/leader")[0], what="Consul is back")
    del node.ports[new]
    node.discovered()

    node.run()

    assert new not in node.states()
    assert new not in node.views.instances()
