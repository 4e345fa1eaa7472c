"""No token and no key is ever in a log, on a command line, in the KV, or in a file that others may read."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from handlers.core import keys
from handlers.core.model import State
from hydra_cli.dev import processes
from hydra_cli.dev.cluster import Cluster
from hydra_cli.dev.node import MARK
from tests.e2e.scene import HYDRA, V1, V2, V3, Scene, until

pytestmark = pytest.mark.timeout(600)
GUARDED = ("env", "agent.json")  # hold tokens, and so may be read by their owner only


def secrets_of(cluster: Cluster) -> set[bytes]:
    """All tokens and keys of the cluster."""
    roles = ("management", "developer", "planner", "publisher", "operator", "reader", "services")
    environs = [cluster.env(role) for role in roles] + [cluster.env("node", node) for node in cluster.nodes]
    found = {env[name] for env in environs for name in ("CONSUL_HTTP_TOKEN", "AWS_SECRET_ACCESS_KEY")}
    return {text.encode() for text in found | {cluster.node(node).agent.token for node in cluster.nodes}}


def texts_of(cluster: Cluster) -> Iterator[tuple[str, bytes]]:
    """Whatever the cluster leaves for others to read: files, command lines, the KV."""
    for folder, folders, names in os.walk(cluster.folder):
        if Path(folder, "raft").is_dir() or Path(folder, "serf").is_dir():
            folders.clear()  # Consul's own store, which holds its tokens
            continue
        for path in (Path(folder, name) for name in names):
            if path.name not in GUARDED and path.is_file():
                with contextlib.suppress(FileNotFoundError):  # written, and renamed meanwhile
                    yield str(path), path.read_bytes()
    for process in processes.marked(MARK, cluster._backbone.mark):
        try:
            yield f"process {process.pid}", (processes.PROC / str(process.pid) / "cmdline").read_bytes()
        except OSError:
            continue  # it has ended
    for key, entry in cluster.kv().list("").entries.items():
        yield key, entry.value


def leaks(cluster: Cluster) -> list[str]:
    """Where a secret can be read."""
    secrets = secrets_of(cluster)
    return [name for name, text in texts_of(cluster) for secret in secrets if secret in text]


def test_no_secret_can_be_read_anywhere_also_after_failures(scene: Scene) -> None:
    scene.publish(V1)
    scene.subscribe()
    scene.start("n1", by_hand=False)
    scene.await_running(V1)
    scene.publish(V2, refuse="it cannot be loaded")
    until("a verdict is there", lambda: scene.verdicts().releases)
    scene.hydra("rollout", "pause", scene.service)  # so that what comes is not taken before it is gone
    scene.hydra("node", "cordon", "n1")
    scene.publish(V3)
    scene.s3.delete_object(Bucket=scene.space, Key=f"index/{V3}/value.json")
    scene.hydra("node", "uncordon", "n1")

    def failed() -> bool:
        actual = scene.actual("n1")
        status = actual.releases.get(scene.release(V3)) if actual else None
        return status is not None and status.state is State.FAILED

    until("the node fails to download it", failed)

    until("status says so", lambda: "node/n1" in scene.troubles())
    assert leaks(scene.cluster) == []
    assert scene.cluster.kv().list(keys.AUDIT).entries
    for folder, _, names in os.walk(scene.cluster.folder):
        for name in {*GUARDED} & {*names}:
            assert stat.S_IMODE(Path(folder, name).stat().st_mode) == 0o600, folder


@pytest.mark.parametrize(
    ("name", "code"), [("CONSUL_HTTP_TOKEN", 4), ("AWS_SECRET_ACCESS_KEY", 4), ("AWS_ENDPOINT_URL", 10)]
)
def test_command_that_fails_does_not_say_its_secrets(scene: Scene, name: str, code: int) -> None:
    scene.upload(V1)
    wrong = "http://127.0.0.1:9" if name == "AWS_ENDPOINT_URL" else "7b0c0f0e-0000-4000-8000-5ec2e75ec2e7"
    env = {**os.environ, **scene.cluster.env("developer"), name: wrong, "HYDRA_DEBUG": "1"}
    words = [*HYDRA, "publish", str(scene.template), "--channel", scene.channel]

    done = subprocess.run(words, env=env, capture_output=True, timeout=120)

    said = done.stdout + done.stderr
    assert done.returncode == code, said
    hidden = secrets_of(scene.cluster) | ({wrong.encode()} if "://" not in wrong else set())
    assert not [secret for secret in hidden if secret in said]
