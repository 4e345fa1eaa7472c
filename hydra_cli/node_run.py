"""`hydra node run`: writes what `watches.render` says, then becomes supervisord, for a node or a planner."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import click
from msgspec import structs

from handlers import settings as node_settings
from handlers.adapters.kv import ConsulKV
from handlers.adapters.local import LocalState, write_atomic
from handlers.context import agent_name, node_name
from handlers.core.errors import HydraError, Temporary, Usage
from handlers.settings import Settings
from hydra_cli.context import Context
from hydra_cli.options import command
from hydra_cli.output import Said
from watches import render
from watches.registry import Scope

PLANNER_ROOT = f"{node_settings.DEFAULT_ROOT}-planner"
_NAMES = {"node": "planner", "cluster": "node"}  # of the other scope
EXAMPLES = """
hydra node run
hydra node run --planner
hydra node run --print-unit
"""


@command("run", examples=EXAMPLES)
@click.option("--planner", is_flag=True, help="Run a planner (plan and retain) instead of a node.")
@click.option("--print-unit", is_flag=True, help="Print a systemd unit for this command, and run nothing.")
@click.pass_obj
def node_run(context: Context, planner: bool, print_unit: bool) -> None:
    """Run Hydra on this machine, in the foreground, until SIGTERM or Ctrl-C.

    Runs under supervisord: the watches, consul-template, discover and resync of a node. Several machines may
    run a planner; one works and the others stand by. A machine that is both runs this command twice: each
    has a root (of a planner by default /var/lib/hydra-planner) and a token of its own.
    """
    scope: Scope = "cluster" if planner else "node"
    own = node_settings.load(context.environ)
    if planner and not context.environ.get("HYDRA_ROOT") and own.root == Path(node_settings.DEFAULT_ROOT):
        own = structs.replace(own, root=Path(PLANNER_ROOT))
    own = structs.replace(own, root=own.root.absolute())
    if print_unit:
        text = render.unit(own, context.environ, scope, installed())
        context.screen.show(Said(text.rstrip("\n"), {"unit": text}))
        return
    node, files = prepare(own, context.environ, scope)
    context.screen.note(f"{'planner on' if planner else 'node'} {node}: logs in {files.logs}")
    become(files, own, context.environ)


def prepare(own: Settings, environ: Mapping[str, str], scope: Scope) -> tuple[str, render.Files]:
    """Write the configuration of supervisord and consul-template; the node's name and where the files are.

    Raises `Usage` when a program is missing or the root is in other use, `Temporary` when the node's name is
    wanted of an agent that is away, `HydraError` when the root cannot be written.
    """
    programs = find_programs(environ, scope)
    node = name_of(own, environ)
    files = files_of(own.root, scope, environ)
    other = files_of(own.root, "node" if scope == "cluster" else "cluster", environ)
    if other.config.exists():  # they would wait for each other's turn, for ever
        raise Usage(f"{own.root} is the root of a {_NAMES[scope]} already; set another HYDRA_ROOT")
    try:
        files.logs.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise HydraError(f"HYDRA_ROOT {own.root}: {e.strerror}") from e
    if files.socket.parent != files.config.parent:
        _private(files.socket.parent)
    write_atomic(files.config, render.supervisord(own, node, files, programs, scope).encode())
    if scope == "node":
        write_atomic(files.template_base, render.consul_template(files, environ).encode())
        if not files.template_instances.exists():  # consul-template does not start without it
            write_atomic(files.template_instances, b"")
    return node, files


def files_of(root: Path, scope: Scope, environ: Mapping[str, str]) -> render.Files:
    """Where the files are of the supervisord that runs, or would run, with this root and environment."""
    return render.Files.of(root, scope, Path(environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()))


def name_of(own: Settings, environ: Mapping[str, str]) -> str:
    """The node's name: as set, else the agent's, else the one remembered from it; raises `Temporary`.

    The agent is asked anew at each start, so that a machine that got another name is not watched for the old.
    """
    agent, local = ConsulKV.from_env(environ), LocalState(own.root)
    try:
        return own.node or agent_name(agent, local)
    except Temporary:
        return node_name(own, agent, local)


def find_programs(environ: Mapping[str, str], scope: Scope) -> render.Programs:
    """Where the programs are on PATH; raises `Usage` that names all that are missing."""
    wanted = ["consul", *(["consul-template"] if scope == "node" else [])]
    if sys.platform == "linux":
        wanted.append("setpriv")  # without it a watch that is killed leaves its handler to overlap the next
    found = {name: shutil.which(name, path=environ.get("PATH", os.defpath)) for name in wanted}
    if missing := [name for name, path in found.items() if not path]:
        origin = "consul and consul-template are HashiCorp's, setpriv is in util-linux"
        raise Usage(f"not on PATH: {', '.join(missing)} ({origin})")
    paths = {name: str(Path(path).absolute()) for name, path in found.items() if path}
    return render.Programs(
        python=sys.executable,
        consul=paths["consul"],
        consul_template=paths.get("consul-template", ""),
        setpriv=paths.get("setpriv", ""),
    )


def become(files: render.Files, own: Settings, environ: Mapping[str, str]) -> None:
    """Replace this process by supervisord; its programs inherit the environment, secrets included."""
    named = {"HYDRA_ROOT": str(own.root)}
    if own.config.exists():
        named["HYDRA_CONFIG"] = str(own.config.absolute())
    command_line = [sys.executable, "-I", "-m", "supervisor.supervisord", "-c", str(files.config)]
    os.execve(sys.executable, command_line, {**environ, **named})  # noqa: S606 -- becomes supervisord


def installed() -> Path:
    """The installed command `hydra` that this process was started as."""
    return Path(shutil.which(sys.argv[0]) or sys.argv[0]).absolute()


def _private(folder: Path) -> None:
    """Make `folder`, where the socket goes; whoever can write to the socket can run programs.

    Raises `HydraError` when somebody else owns it: in a folder for all, anybody may have made it first.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.geteuid():
        raise HydraError(f"{folder} belongs to somebody else; remove it, or set XDG_RUNTIME_DIR")
