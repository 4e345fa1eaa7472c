"""One test's own channel, service and data, on a cluster that other tests may use as well.

Everything is done as people and platforms do it: by `hydra` commands, by programs under the node's
supervisord, by registering with the node's Consul agent. Looking is done with a token that may read all.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from handlers.core import codec, keys
from handlers.core.model import Actual, Desired, Doc, InstanceState, Ready, Slots, States, Step, Verdicts
from handlers.core.names import Channel, InstanceKey, Service
from handlers.core.version import ReleaseId, Version
from hydra_cli.dev import processes
from hydra_cli.dev.access import PLANNER_NODE
from hydra_cli.dev.cluster import Cluster
from hydra_cli.dev.demo.crowd import Crowd
from hydra_cli.dev.demo.figures import Request, late, outages
from hydra_cli.dev.demo.sight import Replica
from hydra_cli.dev.demo.world import World
from hydra_cli.dev.node import MARK
from hydra_cli.dev.ports import free_port
from hydra_cli.dev.processes import Process
from tests.e2e import reader

HYDRA = (sys.executable, "-I", "-m", "hydra_cli.main")
LIMIT_S = 120.0  # for a machine that is busy with other things
LOOK_S = 0.05
REQUEST_S = 20.0  # that a machine pauses for a second or two is not what makes a request fail
V1, V2, V3, V4 = (Version.parse(f"2026-01-0{day}T00-00-00") for day in (1, 2, 3, 4))
_numbers = itertools.count(1)
_Document = TypeVar("_Document", bound=Doc)


def until(what: str, true: Callable[[], object], limit_s: float = LIMIT_S) -> Any:
    """Look again and again until the answer is true, and return it; fails after `limit_s`."""
    end = time.monotonic() + limit_s
    while True:
        if answer := true():
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"after {limit_s:g} s still not so: {what}")
        time.sleep(LOOK_S)


def _part_of(process: Process, name: str) -> list[bytes]:
    try:
        return (processes.PROC / str(process.pid) / name).read_bytes().split(b"\0")
    except OSError:  # it has ended
        return []


@dataclass
class Audience:
    """What a client and a spectator saw of a service: see `Scene.audience`."""

    world: World
    crowd: Crowd
    requests: list[Request] = field(default_factory=list)

    def end(self) -> None:
        """Let the client finish, and look no more."""
        self.requests = self.crowd.end()
        self.world.stop()

    @property
    def failed(self) -> list[Request]:
        """Requests without a good answer."""
        return [request for request in self.requests if request.trouble]

    @property
    def mixed(self) -> list[Request]:
        """Answers that were made of more than one release."""
        return [request for request in self.requests if request.mixed]

    @property
    def late(self) -> list[Request]:
        """Requests that a replica had in hand between the end of its drain and its return."""
        return late(self.requests, outages(self.world.seen.marks))

    @property
    def most_out(self) -> int:
        """The most instances that were out at a time because of Hydra."""
        return self.world.seen.most_out


class Scene:
    """`name` is short; names of channel and service are made unique from it."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        self.space = f"{name}-{next(_numbers)}"
        self.channel = Channel(f"dev/{self.space}/data")
        self.service = Service(f"dev/{self.space}/reader")
        self.replicas: list[Replica] = []
        self._replica_numbers = itertools.count(1)  # no name is given twice
        self._by_hand: set[str] = set()
        self._s3: Any = None

    # --- people

    def hydra(self, *words: str, code: int = 0, role: str = "developer") -> str:
        """Run a command; what it says on stdout. Fails with all that it said if it ends with another code."""
        answer = subprocess.run(
            [*HYDRA, *words],
            env={**os.environ, **self.cluster.env(role)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        said = f"hydra {' '.join(words)} ended with {answer.returncode}, not {code}:\n"
        assert answer.returncode == code, said + answer.stdout + answer.stderr
        return answer.stdout

    def status(self) -> dict[str, Any]:
        """`hydra status`, as programs read it."""
        return dict(json.loads(self.hydra("status", "-o", "json", role="reader")))

    def troubles(self) -> str:
        """What `hydra status` says is wrong with anything of this scene, of nodes, or in general."""
        own = (str(self.channel), str(self.service), "node/", "meta", "brake")
        rows = [f"{t['object']}: {t['text']}" for t in self.status()["troubles"]]
        return "\n".join(row for row in rows if any(word in row for word in own))

    # --- data

    @property
    def s3(self) -> Any:
        """A boto3 client with this scene's own bucket."""
        if self._s3 is None:
            import boto3

            env = self.cluster.env("publisher")
            self._s3 = boto3.client(
                "s3",
                endpoint_url=env["AWS_ENDPOINT_URL"],
                aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
                aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
                region_name=env["AWS_REGION"],
            )
            self._s3.create_bucket(Bucket=self.space)
        return self._s3

    def upload(self, version: Version, **fares: Any) -> None:
        """Put a version's data on S3; `fares` as in `tests.e2e.reader`."""
        for name in reader.DATASETS:
            # no two scenes have the same bytes: nodes would link what a test takes away from S3
            value = {"version": version, "of": self.space, **(fares if name == "settings" else {})}
            body = json.dumps(value).encode()
            self.s3.put_object(Bucket=self.space, Key=f"{name}/{version}/value.json", Body=body)

    @property
    def template(self) -> Path:
        """The data template of this scene's releases."""
        path = self.cluster.folder / f"{self.space}.json"
        source = f"s3://{self.space}/%s/{{VERSION_PLACEHOLDER}}/"
        placements = zip(reader.DATASETS, ("DISK", "RAM", "DISK"), strict=True)
        template = {name: {"SourcePath": source % name, "Placement": place} for name, place in placements}
        path.write_text(json.dumps(template))
        return path

    def publish(self, version: Version, *options: str, code: int = 0, **fares: Any) -> str:
        """Upload a version and publish it."""
        self.upload(version, **fares)
        words = ("publish", str(self.template), "--channel", self.channel, "--version", version)
        return self.hydra(*words, *options, code=code, role="publisher")

    def gate(self, name: str) -> Path:
        """A file that is not there yet, for `fares` that wait for one."""
        return self.cluster.folder / f"{self.space}-{name}"

    # --- the service

    def subscribe(self, *options: str, reload: str = "http://:/reload") -> None:
        """Subscribe the service; by default it drains for no longer than its check takes to notice."""
        words = ("subscribe", self.service, "--channel", self.channel, "--reload", reload)
        self.hydra(*words, "--drain-time", "0s", "--deadline", "60s", *options)

    def start(
        self, *nodes: str, by_hand: bool = True, options: tuple[str, ...] = (), reads: str = ""
    ) -> list[Replica]:
        """Start one replica on each of `nodes` and tell Hydra of it: by hand, or through Consul's catalog."""
        made = [self._start(node, options) for node in nodes]
        for replica in made:
            self.register(replica, by_hand=by_hand, reads=reads)
        return made

    def _start(self, node: str, options: tuple[str, ...]) -> Replica:
        name = f"{self.space}-{next(self._replica_numbers)}"
        view = self.cluster.root(node) / "views" / InstanceKey.of(self.service, name)
        replica = Replica(name, node, view, free_port())
        self.run(replica, options)
        self.replicas.append(replica)
        return replica

    def run(self, replica: Replica, options: tuple[str, ...] = ()) -> None:
        """Run the replica's program under the supervisord of its node."""
        words = ("-I", reader.__file__, "--port", str(replica.port), "--alias", "data")
        own = [word.format(id=replica.id, node=self.cluster.node(replica.node).folder) for word in options]
        command = [sys.executable, *words, *own]
        self.cluster.add_service(replica.node, replica.id, command, {"HYDRA_VIEW": str(replica.view)})

    def register(self, replica: Replica, *, by_hand: bool = True, reads: str = "") -> None:
        """Tell Hydra of the replica and what it reads: by `hydra register`, or through Consul's catalog."""
        url = f"http://127.0.0.1:{replica.port}/healthz"
        if by_hand:
            place = ("--node", replica.node, "--port", str(replica.port))
            self.hydra("register", self.service, replica.id, *place, "--health", url, "--reads", reads)
            self._by_hand.add(replica.id)
            return
        about = {
            "ID": replica.id,
            "Name": self.space,
            "Address": "127.0.0.1",
            "Port": replica.port,
            "Meta": {"hydra_service": self.service, "hydra_reads": reads},
            "Check": {"HTTP": url, "Interval": "1s", "Timeout": "10s"},
        }
        self.cluster.register(replica.node, about)

    def deregister(self, replica: Replica) -> None:
        """Tell Hydra that the replica is gone."""
        if replica.id in self._by_hand:
            self.hydra("deregister", self.service, replica.id, "--node", replica.node)
        else:
            self.cluster.deregister(replica.node, replica.id)

    def remove(self, replica: Replica) -> None:
        """End the replica."""
        self.deregister(replica)
        self.cluster.node(replica.node).remove_service(replica.id)
        self.replicas.remove(replica)

    def close(self) -> None:
        """End what was started here, so that other tests have the machine for themselves."""
        self.hydra(
            "unsubscribe", self.service, code=0 if self._exists(keys.subscription(self.service)) else 2
        )
        for replica in list(self.replicas):
            with contextlib.suppress(AssertionError):  # a test may have deregistered it already
                self.remove(replica)

    # --- what there is to see

    def _exists(self, key: str) -> bool:
        return self.cluster.kv().get(key)[0] is not None

    def document(self, kind: type[_Document], key: str) -> _Document | None:
        """A document as it is in the KV now."""
        entry, _ = self.cluster.kv().get(key)
        return codec.decode(kind, entry.value, key) if entry else None

    def state(self, replica: Replica) -> InstanceState | None:
        """What its node says of a replica."""
        states = self.document(States, keys.states(replica.node))
        return states.instances.get(InstanceKey.of(self.service, replica.id)) if states else None

    def step(self, replica: Replica) -> Step | None:
        """How far its move is."""
        state = self.state(replica)
        return state.step if state else None

    def reason(self, replica: Replica) -> str:
        """Why a replica is where it is."""
        state = self.state(replica)
        return state.reason if state else ""

    def releases(self, replica: Replica) -> dict[str, Version]:
        """What a replica at rest runs, by alias; empty while it moves."""
        state = self.state(replica)
        return dict(state.releases) if state and state.step is Step.IDLE else {}

    def healthy(self) -> list[dict[str, Any]]:
        """The replicas that Consul sends traffic to."""
        return list(self.cluster.kv().get_json(f"health/service/{self.space}", {"passing": ""})[0])

    def sibling(self, name: str) -> Scene:
        """Another channel on the same cluster."""
        return Scene(self.cluster, name)

    def slots(self) -> Slots:
        """Who is out of service for a reload."""
        return self.document(Slots, keys.slots(self.service)) or Slots()

    def verdicts(self) -> Verdicts:
        """What replicas found of releases."""
        return self.document(Verdicts, keys.verdicts(self.service)) or Verdicts()

    def release(self, version: Version) -> ReleaseId:
        """A release of this scene's channel."""
        return ReleaseId.of(self.channel, version)

    def folder(self, node: str, version: Version) -> Path:
        """Where a node has a release."""
        return self.cluster.root(node) / "releases" / self.channel / version

    def holds(self, node: str, version: Version) -> bool:
        """Whether a node has all of a release."""
        files = [self.folder(node, version) / name / "value.json" for name in reader.DATASETS]
        return all(file.exists() for file in files)

    def wanted(self, node: str, version: Version) -> bool:
        """Whether plan wants a node to hold a release."""
        desired = self.document(Desired, keys.desired(node))
        return desired is not None and self.release(version) in desired.releases

    def planned(self, node: str) -> bool:
        """Whether plan knows of replicas of the service on a node."""
        desired = self.document(Desired, keys.desired(node))
        plan = desired.services.get(self.service) if desired else None
        return plan is not None and not plan.idle

    def actual(self, node: str) -> Actual | None:
        """What a node's sync says."""
        return self.document(Actual, keys.actual(node))

    def answer(self, replica: Replica, path: str = "/version") -> tuple[int, dict[str, Any]]:
        """What a replica answers: status and body; 0 when there is no answer."""
        connection = http.client.HTTPConnection("127.0.0.1", replica.port, timeout=REQUEST_S)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, dict(json.loads(response.read()))
        except (OSError, http.client.HTTPException, ValueError):
            return 0, {}
        finally:
            connection.close()

    def fall_sick(self, replica: Replica) -> None:
        """Let a replica's health check fail until it loads something else."""
        os.kill(self.answer(replica)[1]["pid"], signal.SIGUSR1)

    def serves(self, replica: Replica, version: Version) -> bool:
        """The replica is healthy and answers from this release."""
        return (
            self.answer(replica, "/healthz")[0] == 200 and self.answer(replica)[1].get("version") == version
        )

    def runs(self, replica: Replica, version: Version) -> bool:
        """Its node says that the replica is ready on the release and at rest, and so does the replica."""
        state = self.state(replica)
        return (
            state is not None
            and (state.state, state.step) == (Ready.READY, Step.IDLE)
            and set(state.releases.values()) == {version}
            and self.serves(replica, version)
        )

    def await_running(self, version: Version, *replicas: Replica, limit_s: float = LIMIT_S) -> None:
        """Wait until these replicas (default: all) run a release."""
        for replica in replicas or self.replicas:
            until(f"{replica.id} runs {version}", partial(self.runs, replica, version), limit_s)

    def snapshot(self) -> bytes:
        """A snapshot of Consul with all replicas in service: agents tell a restored one of what has changed
        since, but not for a minute or two of what they believe to have told it before.
        """
        until("Consul has all in service", lambda: len(self.healthy()) == len(self.replicas))
        return self.cluster.snapshot()

    def programs(self, node: str) -> list[Process]:
        """All processes of Hydra that run now on a node, or on the planner."""
        found = processes.marked(MARK, self.cluster._backbone.mark)
        return [p for p in found if f"HYDRA_NODE={node}".encode() in _part_of(p, "environ")]

    def command(self, process: Process) -> str:
        """The command line of a process; empty when it has ended."""
        return b" ".join(_part_of(process, "cmdline")).decode()

    def running(self, node: str, handler: str) -> list[Process]:
        """The processes of one handler that run now on a node, or on the planner."""
        ending = [b"handlers.main", handler.encode(), b""]
        return [
            p
            for p in self.programs(node)
            if _part_of(p, "cmdline")[-3:] == ending and b"watch" not in _part_of(p, "cmdline")
        ]

    def run_handlers(self) -> None:
        """Run every handler once, one after the other, as the timers do; how they end is theirs to say."""
        own = {"HYDRA_ROOT": self.cluster.planner_root, "HYDRA_CONFIG": self.cluster.planner_config}
        planner = {name: str(path) for name, path in own.items()} | {"HYDRA_NODE": PLANNER_NODE}
        environs = {"plan": [{**self.cluster.env("planner"), **planner}]}
        environs["retain"] = environs["plan"]
        environs["sync"] = [self.cluster.env("node", node) for node in self.cluster.nodes]
        environs["reload"] = environs["sync"]
        for handler, places in environs.items():
            for environ in places:
                command = [sys.executable, "-I", "-m", "handlers.main", handler]
                subprocess.run(command, env={**os.environ, **environ}, capture_output=True)

    def reader_log(self, replica: Replica) -> str:
        """What a replica's program wrote, over all its lives."""
        return (self.cluster.node(replica.node).folder / f"{replica.id}.log").read_text()

    def log(self, node: str, part: str = "") -> str:
        """All that the programs of a node wrote so far, or those whose log's name has `part`."""
        logs = sorted((self.cluster.root(node) / "state" / "log").rglob("*.log"))
        return "".join(log.read_text(errors="replace") for log in logs if part in log.name)

    @contextlib.contextmanager
    def audience(self, rate: float = 100) -> Iterator[Audience]:
        """A client that asks the service through Consul's health view, and a spectator, for the whole block.

        The service must be registered in Consul's catalog; the client begins when all replicas are in
        service there, and the block when it has its first answer.
        """
        until("all replicas are in service", lambda: len(self.healthy()) >= len(self.replicas))
        roots = {node: self.cluster.root(node) for node in self.cluster.nodes}
        world = World(self.cluster.kv("reader"), self.channel, self.service, tuple(self.replicas), roots)
        log, environ = self.cluster.folder / f"{self.space}.csv", self.cluster.env("reader")
        crowd = Crowd(self.space, rate, log, environ, world.take_traffic, REQUEST_S)
        try:
            world.start()
            world.wait("the client is answered", lambda: world.seen.traffic.get("answered"), LIMIT_S)
            audience = Audience(world, crowd)
            yield audience
            audience.end()
        finally:
            crowd.kill()
            world.stop()
