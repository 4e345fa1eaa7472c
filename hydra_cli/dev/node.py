"""One simulated node of a local cluster: its folder, its Consul agent, its supervisord, its services."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from handlers.core.errors import Temporary, Usage
from hydra_cli.dev import processes, servers
from hydra_cli.node_run import files_of
from hydra_cli.programs import program
from watches.registry import Scope

MARK = "HYDRA_DEV_CLUSTER"
NODE_MARK = "HYDRA_DEV_NODE"
END_S = 20.0
_LAST_WORDS = 600
_NOT_A_PROGRAM = ("[", "]", ":", "/", "\n")


def supervised(name: str, folder: Path, environ: Mapping[str, str], *options: str) -> servers.Running:
    """Start `hydra node run`, as on a real machine; SIGTERM ends it in order, also when we are killed."""
    command = ["setpriv", "--pdeathsig", "TERM", sys.executable, "-I", "-m", "hydra_cli.main", "node", "run"]
    return servers.start(name, [*command, *options], folder / "run.log", environ)


def path_of_programs() -> str:
    """PATH with the folders of Consul and consul-template in front."""
    folders = dict.fromkeys(str(program(name).parent) for name in ("consul", "consul-template"))
    return os.pathsep.join([*folders, os.environ.get("PATH", os.defpath)])


class Supervisor:
    """The XML-RPC interface `supervisor` of a supervisord: its methods are ours, one connection per call."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(*args: object) -> Any:
            from xmlrpc.client import ServerProxy

            from supervisor.xmlrpc import SupervisorTransport

            with ServerProxy("http://127.0.0.1", SupervisorTransport(None, None, self._url)) as proxy:
                return getattr(proxy.supervisor, method)(*args)

        return call


def supervisor_at(root: Path, scope: Scope, running: servers.Running | None) -> Supervisor:
    """The XML-RPC interface `supervisor` of the supervisord at `root`; `Temporary` before it is there."""
    socket = files_of(root, scope, os.environ).socket
    if not socket.exists():
        end = f"; the end of its log:\n{running.last_lines()}" if running else ""
        raise Temporary(f"supervisord at {root} is not there (yet){end}")
    return Supervisor(f"unix://{socket}")


@dataclass
class Node:
    """`folder` holds `root/`, `services/*.conf` for programs of services, `node.toml`, `agent/`, and logs.

    `variables` are what its processes have in their environment beyond what they inherit; they carry the
    marks by which all its processes are found again, services included.
    """

    name: str
    folder: Path
    agent: servers.ConsulAgent
    mark: str
    variables: Mapping[str, str]
    _agent_runs: servers.Running | None = field(default=None, init=False)
    _runs: servers.Running | None = field(default=None, init=False)

    @property
    def root(self) -> Path:
        """Its HYDRA_ROOT."""
        return self.folder / "root"

    @property
    def ram(self) -> Path:
        """Its RAM volume: memory where the cluster may mount it, else a plain folder."""
        return self.root / "volumes" / "ram"

    @property
    def config(self) -> Path:
        """Its HYDRA_CONFIG."""
        return self.folder / "node.toml"

    @property
    def running(self) -> Sequence[servers.Running]:
        """Its two processes, as far as they were started: the supervisord first."""
        return [running for running in (self._runs, self._agent_runs) if running]

    @property
    def supervisor(self) -> Supervisor:
        """The XML-RPC interface of its supervisord; raises `Temporary` when that is not there."""
        return supervisor_at(self.root, "node", self._runs)

    def last_words(self) -> str:
        """The end of its logs, for error texts."""
        logs = [self.folder / "run.log", *sorted((self.root / "state" / "log").glob("*.log"))]
        ends = {log.name: log.read_text(errors="replace")[-_LAST_WORDS:] for log in logs if log.exists()}
        return "\n".join(f"{name}: {text.strip()}" for name, text in ends.items() if text)

    def prepare(self, limits: str, zone: str) -> None:
        """Make the folders, and a configuration with the table `limits`; the node has the label `zone`."""
        for folder in (self.ram, self.folder / "services"):
            folder.mkdir(parents=True, exist_ok=True)
        include = self.folder / "services" / "*.conf"
        volumes = '[volumes.disk]\nclass = "DISK"\n\n[volumes.ram]\nclass = "RAM"\n'
        labels = f'[labels]\nzone = "{zone}"\n'
        self.config.write_text(f'{limits}\n{volumes}\n{labels}\n[supervisor]\ninclude = "{include}"\n')

    def environ(self) -> dict[str, str]:
        """The environment of its Hydra."""
        return {
            **self.variables,
            "PATH": path_of_programs(),
            "CONSUL_HTTP_ADDR": self.agent.address,
            "HYDRA_ROOT": str(self.root),
            "HYDRA_NODE": self.name,
            "HYDRA_CONFIG": str(self.config),
            NODE_MARK: self.mark,
        }

    def start(self) -> None:
        """Start the agent, wait for it, start the supervisord."""
        self.start_agent()
        self.start_hydra()

    def start_hydra(self) -> None:
        """Start the supervisord alone, whether or not there is a Consul."""
        self._runs = supervised(f"node {self.name}", self.folder, self.environ())

    def start_agent(self) -> None:
        """Start the Consul agent alone, and wait for it; the first time its ports may change."""
        consul = program("consul")
        if self._agent_runs:
            self._agent_runs = self.agent.start(consul)
        else:
            self.agent, self._agent_runs = servers.start_consul(self.agent, consul)

    def kill(self) -> None:
        """Let the machine be lost: everything on it dies at once, services and memory included."""
        processes.kill_marked(NODE_MARK, self.mark)
        for running in self.running:
            running.kill()
        for left in self.ram.iterdir():
            for folder, _, _ in os.walk(left):
                Path(folder).chmod(0o755)  # complete data is read-only
            shutil.rmtree(left)

    def stop_agent(self) -> None:
        """End the Consul agent alone, as for an upgrade."""
        if self._agent_runs:
            self._agent_runs.stop()

    def add_service(self, name: str, command: Sequence[str], environ: Mapping[str, str]) -> None:
        """Run `command` as the program `name` under the node's supervisord; replaces one of the same name."""
        if not name or any(c in name for c in _NOT_A_PROGRAM):
            raise Usage(f"{name!r} cannot be the name of a program")
        values = ",".join(f'{key}="{_value(value)}"' for key, value in environ.items())
        lines = {
            "command": shlex.join(["setpriv", "--pdeathsig", "KILL", *command]).replace("%", "%%"),
            "environment": values,
            "autorestart": "true",
            "startretries": "1000000",
            "redirect_stderr": "true",
            "stdout_logfile": str(self.folder / f"{name}.log").replace("%", "%%"),
        }
        text = "".join(f"{key}={value}\n" for key, value in lines.items() if value)
        (self.folder / "services" / f"{name}.conf").write_text(f"[program:{name}]\n{text}")
        self.update_services()

    def remove_service(self, name: str) -> None:
        """End the program `name` and forget it."""
        (self.folder / "services" / f"{name}.conf").unlink(missing_ok=True)
        self.update_services()

    def update_services(self) -> None:
        """Let the supervisord do what changed in `services/`, as `supervisorctl update` does."""
        supervisor = self.supervisor
        ((added, changed, removed),) = supervisor.reloadConfig()
        for name in [*changed, *removed]:
            supervisor.stopProcessGroup(name)
            supervisor.removeProcessGroup(name)
        for name in [*added, *changed]:
            supervisor.addProcessGroup(name)


def _value(text: str) -> str:
    if '"' in text or "\n" in text:
        raise Usage(f"{text!r} cannot be a value in supervisord's environment=")
    return text.replace("%", "%%")
