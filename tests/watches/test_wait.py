"""`watches.wait`: nothing starts before Consul has a leader, and then the same process becomes it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from handlers import resources
from hydra_cli.dev.servers import ConsulAgent, start, start_consul
from hydra_cli.programs import program
from tests.servers import wait_until

WAIT = [sys.executable, "-I", "-m", "watches.wait"]


def test_program_starts_once_consul_has_a_leader(tmp_path: Path) -> None:
    agent = ConsulAgent("server", tmp_path / "consul")
    proof = tmp_path / "proof"
    command = ["sh", "-c", f"echo $$ > {proof}.new && mv {proof}.new {proof}"]
    log = tmp_path / "wait.log"
    waiting = start("waiting", [*WAIT, *command], log, {"CONSUL_HTTP_ADDR": agent.address})
    wait_until(lambda: "waiting for Consul" in log.read_text(), what="it says why it waits")
    assert not proof.exists()

    _, consul = start_consul(agent, program("consul"), tries=1)

    wait_until(proof.exists, what="the program has started")
    assert int(proof.read_text()) == waiting.process.pid
    assert waiting.process.wait() == 0
    consul.stop()


def test_nonsense_in_the_environment_ends_it_with_a_reason() -> None:
    environ = os.environ | {"CONSUL_HTTP_ADDR": "gopher://consul"}

    answer = subprocess.run([*WAIT, "true"], env=environ, capture_output=True, text=True)

    assert answer.returncode == 1
    assert "gopher" in answer.stderr


def test_consul_accepts_the_settings_of_server_and_agent(tmp_path: Path) -> None:
    own = tmp_path / "own.hcl"
    own.write_text(f'data_dir = "{tmp_path}"\nbind_addr = "127.0.0.1"\n')
    for name in ("server", "agent"):
        files = [str(resources.path("consul", f"{name}.hcl")), str(own)]

        answer = subprocess.run([program("consul"), "validate", *files], capture_output=True, text=True)

        assert answer.returncode == 0, answer.stdout + answer.stderr
