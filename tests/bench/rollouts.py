"""Rollbacks and the way forward again on a real local cluster: what figures 3 and 5 are taken from.

Three nodes with a replica each, two releases that all nodes hold. In each cycle the newer one is rejected
and accepted again, by the `hydra` command; each replica is reloaded twice. The rollback comes to a cluster
at rest, when nobody writes any more what the rollout before it has changed. Moments are those at which a
client of Consul read them, and those that the service noted itself.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from handlers.core import codec, keys
from handlers.core.model import Desired, InstanceState, Ready, States, Step
from handlers.core.names import Channel, InstanceKey, Service
from handlers.core.version import Version
from handlers.settings import Limits
from hydra_cli.dev.cluster import Cluster
from hydra_cli.dev.ports import free_port
from tests.bench import fleet, service
from tests.bench.recorder import Event, Recorder

CHANNEL = Channel.parse("prod/geo/places")
SERVICE = Service.parse("prod/geo/lookup")
ALIAS = "places"
BUCKET = "bench"
OLD, NEW = fleet.version(1), fleet.version(2)
NODES = 3
DRAIN_S = 0.2
FILE_BYTES = 1 << 20
REST_S = Limits().plan_pause_s + 1.0  # plan comes back to what it has just planned after that pause
LIMIT_S = 120.0
TEMPLATE = f"""
DATA_TEMPLATE = {{
    "index": {{"SourcePath": f"s3://{BUCKET}/index/{{VERSION_PLACEHOLDER}}/", "Placement": DISK}},
    "rank": {{"SourcePath": f"s3://{BUCKET}/rank/{{VERSION_PLACEHOLDER}}/rank.bin", "Placement": DISK}},
}}
"""


@dataclass(frozen=True)
class Move:
    """One reload of one replica. `steps`: how long each lasted; `load_s`: the service's own part. Seconds."""

    began: float
    out_s: float
    load_s: float
    steps: dict[str, float]

    @property
    def beyond_s(self) -> float:
        """What the reload took beyond drain time and the service's own loading."""
        return self.out_s - DRAIN_S - self.load_s


@dataclass(frozen=True)
class Rollback:
    """One rollback: when the command began, was committed, and what followed first on any node."""

    asked: float
    committed: float
    planned: float
    taken_over: float
    decided: float
    draining: float


@dataclass
class Cycles:
    """All that was measured."""

    rollbacks: list[Rollback] = field(default_factory=list)
    moves: list[Move] = field(default_factory=list)


@cache
def cycles(count: int, told: bool) -> Cycles:
    """`count` rollbacks; `told` = the service tells Consul of its health, else Consul asks once a second."""
    with TemporaryDirectory(prefix="hydra-bench-") as name, Cluster(Path(name), nodes=NODES) as cluster:
        stage = Stage(cluster, told)
        stage.set()
        with stage.recorded() as recorder:
            stage.publish(recorder, OLD)
            stage.publish(recorder, NEW)
            found = Cycles()
            for _ in range(count):
                recorder.rest(REST_S, LIMIT_S)
                found.rollbacks.append(stage.rollback(recorder, found.moves))
                stage.forward(recorder, found.moves)
    return found


@dataclass
class Stage:
    """The cluster with its replicas, and the commands of an operator."""

    cluster: Cluster
    told: bool
    since: float = 0.0

    def set(self) -> None:
        """Data on S3, the subscription, and a replica on each node."""
        self._upload()
        (self.cluster.folder / "template.py").write_text(TEMPLATE)
        self._subscribe()
        for node in self.cluster.nodes:
            self._place(node)

    @contextmanager
    def recorded(self) -> Iterator[Recorder]:
        """Follow what the handlers write, and what an operator rejects."""
        each = (keys.desired, keys.actual, keys.states)
        followed = [key(node) for node in self.cluster.nodes for key in each]
        environ = self.cluster.env("management")
        with Recorder(
            environ["CONSUL_HTTP_ADDR"],
            environ["CONSUL_HTTP_TOKEN"],
            [*followed, keys.rejected(CHANNEL, NEW)],
        ) as recorder:
            yield recorder

    def publish(self, recorder: Recorder, version: Version) -> None:
        """Publish, and wait until all replicas serve it."""
        template = self.cluster.folder / "template.py"
        self._hydra("publish", str(template), "--channel", CHANNEL, "--version", version)
        self._settled(recorder, version)

    def rollback(self, recorder: Recorder, moves: list[Move]) -> Rollback:
        """Reject NEW, and wait until all replicas serve OLD again."""
        asked = time.time()
        self._hydra("rollback", CHANNEL, "--reason", "benchmark")
        self._settled(recorder, OLD)
        events = recorder.since(asked)
        moves += self._moves(events, asked)
        drains = [when for node in self.cluster.nodes for when, _ in self._noted(node, "draining", asked)]
        return Rollback(
            asked=asked,
            committed=next(e.at for e in events if e.key == keys.rejected(CHANNEL, NEW)),
            planned=next(e.at for e in events if _targets(e, OLD)),
            taken_over=next(e.at for e in events if e.key.startswith(keys.ACTUAL)),
            decided=next(e.at for e in events if any(s.state is Ready.DRAINING for s in _states(e))),
            draining=min(drains),
        )

    def forward(self, recorder: Recorder, moves: list[Move]) -> None:
        """Take the rejection back, and wait until all replicas serve NEW."""
        asked = time.time()
        self._hydra("accept", CHANNEL, NEW)
        self._settled(recorder, NEW)
        moves += self._moves(recorder.since(asked), asked)

    def _settled(self, recorder: Recorder, version: Version) -> None:
        """Every replica is in service with `version`, and idle."""

        def idle(node: str) -> bool:
            states = _parsed(recorder.last.get(keys.states(node), b""))
            return any(
                s.releases.get(ALIAS) == version
                and s.step is Step.IDLE
                and s.state is Ready.READY
                and s.served
                for s in states
            )

        what = f"all replicas serve {version}"
        recorder.wait(what, lambda: all(idle(node) for node in self.cluster.nodes), LIMIT_S)

    def _moves(self, events: Sequence[Event], asked: float) -> list[Move]:
        """The reload of each replica since `asked`."""
        found = []
        for node in self.cluster.nodes:
            seen = [(e.at, s) for e in events if e.key == keys.states(node) for s in _states(e)]
            out = next(i for i, (_, s) in enumerate(seen) if s.state is Ready.DRAINING)
            back = next(i for i, (_, s) in enumerate(seen) if i > out and s.step is Step.IDLE)
            steps: dict[str, float] = {}
            for (at, state), (then, _) in zip(seen[out:back], seen[out + 1 : back + 1], strict=True):
                steps[state.step] = steps.get(state.step, 0.0) + then - at
            loads = [took for _, took in self._noted(node, "load", asked)]
            began = seen[out][0]
            found.append(Move(began, seen[back][0] - began, sum(loads), steps))
        return found

    def _noted(self, node: str, event: str, since: float) -> list[tuple[float, float]]:
        rows = (line.split() for line in self._log(node).read_text().splitlines())
        return [
            (float(when), float(took)) for name, when, took in rows if name == event and float(when) >= since
        ]

    def _log(self, node: str) -> Path:
        return self.cluster.folder / f"service-{node}.log"

    def _upload(self) -> None:
        import boto3

        environ = self.cluster.env("developer")
        client = boto3.client(
            "s3",
            endpoint_url=environ["AWS_ENDPOINT_URL"],
            aws_access_key_id=environ["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=environ["AWS_SECRET_ACCESS_KEY"],
            region_name=environ["AWS_REGION"],
        )
        client.create_bucket(Bucket=BUCKET)
        for version in (OLD, NEW):
            for key in (f"index/{version}/a.bin", f"index/{version}/b.bin", f"rank/{version}/rank.bin"):
                client.put_object(Bucket=BUCKET, Key=key, Body=os.urandom(FILE_BYTES))

    def _subscribe(self) -> None:
        self._hydra("channel", "set", CHANNEL, "--keep-releases", "10")
        how = ["--reload", "http://:/reload", "--confirm", "health", "--drain-time", f"{DRAIN_S}s"]
        self._hydra("subscribe", SERVICE, "--channel", f"{ALIAS}={CHANNEL}", *how)

    def _place(self, node: str) -> None:
        """Start a replica under the node's supervisord, and tell its Consul agent of it."""
        name, port = f"{SERVICE.name}-{node}", free_port()
        check_id = f"service:{name}"
        asked = {"HTTP": f"http://127.0.0.1:{port}/healthz", "Interval": "1s", "Timeout": "1s"}
        check = {"CheckID": check_id, "Status": "critical"} | ({"TTL": "30s"} if self.told else asked)
        view = self.cluster.root(node) / "views" / InstanceKey.of(SERVICE, name)
        self._log(node).touch()
        words = [sys.executable, "-I", service.__file__, str(port), str(view), str(self._log(node))]
        agent = self.cluster.env("services", node)
        environ = {name: agent[name] for name in ("CONSUL_HTTP_ADDR", "CONSUL_HTTP_TOKEN")}
        registration = {"ID": name, "Name": SERVICE.name, "Address": "127.0.0.1", "Port": port}
        meta = {"Meta": {"hydra_service": SERVICE}, "Check": check}
        self.cluster.register(node, registration | meta)
        self.cluster.add_service(node, name, [*words, *([check_id] if self.told else [])], environ)

    def _hydra(self, *words: str) -> None:
        """Run a command; raises RuntimeError with what it said when it fails."""
        command = [sys.executable, "-I", "-m", "hydra_cli.main", *words]
        environ = {**os.environ, **self.cluster.env("developer")}
        said = subprocess.run(command, env=environ, capture_output=True, text=True)
        if said.returncode != 0:
            raise RuntimeError(f"hydra {' '.join(words)}: {said.returncode}\n{said.stdout}{said.stderr}")


def _states(event: Event) -> list[InstanceState]:
    return _parsed(event.value) if event.key.startswith(keys.STATES) else []


def _parsed(value: bytes) -> list[InstanceState]:
    if not value:
        return []
    states = codec.decode(States, value, "states")
    return [state for state in states.instances.values() if state.service == SERVICE]


def _targets(event: Event, version: Version) -> bool:
    if not event.key.startswith(keys.DESIRED):
        return False
    plan = codec.decode(Desired, event.value, event.key).services.get(SERVICE)
    return plan is not None and plan.aliases[ALIAS].target == version
