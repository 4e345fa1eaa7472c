"""The image on Docker, read-only, beside a Consul and an S3 server: it publishes, syncs, ends in order."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network

from hydra_cli.programs import program
from tests.kube.conftest import FAILED
from tests.kube.images import HYDRA, Images, cache
from tests.kube.programs import Programs, run, until

CHANNEL, SERVICE, VERSION = "prod/search/places", "prod/search/reader", "2026-01-01T00-00-00"
NODE = "server"  # the name of the only Consul agent
KEY, SECRET = "hydra", "a-secret-of-this-test"
ENVIRONMENT = {
    "CONSUL_HTTP_ADDR": "http://consul:8500",
    "AWS_ENDPOINT_URL": "http://s3:7070",
    "AWS_REGION": "us-east-1",
    "AWS_ACCESS_KEY_ID": KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET,
}
TEMPLATE = {"words": {"SourcePath": "s3://data/words/{VERSION_PLACEHOLDER}/", "Placement": "DISK"}}
FOLDERS = dict.fromkeys(
    ("/tmp", "/var/lib/hydra", "/var/lib/hydra-planner", "/data"), ""
)  # the writable ones


@pytest.fixture(scope="module")
def daemon() -> Iterator[None]:
    """A Docker daemon of our own with the image, which testcontainers finds."""
    image = Images(cache()).hydra()
    with (
        TemporaryDirectory(prefix="hydra-docker-", dir="/tmp") as name,
        pytest.MonkeyPatch.context() as patch,
    ):
        folder = Path(name)
        patch.setenv("DOCKER_HOST", f"unix://{folder}/docker.sock")
        patch.setattr(testcontainers_config, "ryuk_disabled", True)  # an image that would have to be pulled
        programs = Programs(folder / "log")
        folders = ("--data-root", folder / "data", "--exec-root", folder / "run", "--pidfile", folder / "pid")
        networks = ("--bip", "10.75.0.1/24", "--default-address-pool", "base=10.76.0.0/16,size=24")
        programs.start("dockerd", "dockerd", "--host", os.environ["DOCKER_HOST"], *folders, *networks)
        try:
            until("dockerd answers", lambda: run("docker", "version", check=False).returncode == 0, 60)
            run("docker", "load", "--input", str(image))
            yield
        except BaseException:
            print(programs.last_words())
            raise
        finally:
            programs.stop_all()


@dataclass
class Stage:
    """Containers of the image on one network, by name."""

    network: Network
    running: dict[str, DockerContainer] = field(default_factory=dict)

    def start(self, name: str, *command: str, **more: Any) -> DockerContainer:
        made = DockerContainer(HYDRA, env=dict(ENVIRONMENT), volumes=more.pop("volumes", None))
        made.with_network(self.network).with_network_aliases(name).with_command(list(command))
        made.with_envs(**more).with_kwargs(
            read_only=True, cap_drop=["ALL"], security_opt=["no-new-privileges"]
        )
        made.tmpfs = FOLDERS
        self.running[name] = made.start()
        return made

    def run(self, name: str, *words: str) -> str:
        """A command in a container, to its end."""
        answer = self.running[name].exec(list(words))
        said = answer.output.decode()
        assert answer.exit_code == 0, f"{words} ended with {answer.exit_code}:\n{said}"
        return said

    def kv(self, key: str) -> Any:
        """A document of Consul's KV, or nothing."""
        answer = self.running["consul"].exec(["consul", "kv", "get", f"hydra/v1/{key}"])
        return json.loads(answer.output) if answer.exit_code == 0 else {}


@pytest.fixture
def stage(daemon: None, request: pytest.FixtureRequest) -> Iterator[Stage]:
    with Network() as network:
        made = Stage(network)
        yield made
        for name, container in made.running.items():
            if request.node.stash.get(FAILED, False):
                print(f"--- {name}\n{b''.join(container.get_logs()).decode()[-3000:]}")
            container.stop()


def test_image_publishes_syncs_and_ends_in_order(stage: Stage) -> None:
    bootstrap = ("-bootstrap-expect=1", "-data-dir=/data", "-client=0.0.0.0", "-hcl=acl { enabled = false }")
    stage.start("consul", "server", f"-node={NODE}", "-bind={{ GetPrivateIP }}", *bootstrap)
    s3 = str(program("versitygw"))
    posix = ("--port", ":7070", "posix", "--sidecar", "/tmp", "/data")
    credentials = {"ROOT_ACCESS_KEY": KEY, "ROOT_SECRET_KEY": SECRET}
    stage.start("s3", "/versitygw", *posix, volumes=[(s3, "/versitygw", "ro")], **credentials)
    stage.start("planner", "sh", "-c", "hydra-container init --env prod && exec hydra-container planner")
    node = stage.start("node", "node", HYDRA_NODE=NODE)

    make = "import boto3; s3 = boto3.client('s3'); s3.create_bucket(Bucket='data'); "
    put = f"s3.put_object(Bucket='data', Key='words/{VERSION}/list.txt', Body=b'one two')"
    stage.run("planner", "python3", "-c", make + put)
    write = f"import json; open('/tmp/template.json', 'w').write(json.dumps({TEMPLATE!r}))"
    stage.run("planner", "python3", "-c", write)
    until("the KV is set up", lambda: stage.kv("meta"), 60)
    stage.run("planner", "hydra", "publish", "/tmp/template.json", "--channel", CHANNEL, "--version", VERSION)
    stage.run("planner", "hydra", "subscribe", SERVICE, "--channel", CHANNEL, "--reload", "none")
    stage.run("planner", "hydra", "register", SERVICE, "one", "--node", NODE, "--health", "none")

    view = f"/var/lib/hydra/views/{SERVICE}/one"
    until("the instance is ready", lambda: "ready" in str(node.exec(["cat", f"{view}/state"]).output), 60)
    assert stage.run("node", "cat", f"{view}/places/words/list.txt") == "one two"

    # what k8s/slim.py left of the client is what is used of it
    stage.run("node", "python3", "-c", "from kubernetes import client, config; client.ApiClient()")
    written = node.exec(["sh", "-c", "touch /opt/hydra/x || touch /etc/x || touch /x"])
    assert written.output.count(b"Read-only file system") == 3

    inner = node.get_wrapped_container()
    inner.stop(timeout=30)
    assert inner.wait()["StatusCode"] == 0  # supervisord has ended its programs; not killed after 30 s
    inner.start()
    until(
        "it goes on after a restart",
        lambda: node.exec(["cat", f"{view}/state"]).output.strip() == b"ready",
        60,
    )
