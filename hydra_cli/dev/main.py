"""`hydra dev`: a real cluster on this machine, in the foreground or detached."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, ClassVar, NoReturn

import click

from hydra_cli.context import Context
from hydra_cli.options import Group, Lazy, add, command, group
from hydra_cli.output import Said

if TYPE_CHECKING:
    from hydra_cli.dev.cluster import Cluster

DEFAULT_FOLDER = ".hydra-dev"
READY_FD = "HYDRA_DEV_READY_FD"  # where a detached cluster tells its progress, until it is ready
READY = "."
LOOK_S = 1.0
UP_EXAMPLES = """
hydra dev up
hydra dev up --nodes 5 --detach
. .hydra-dev/env
"""
DOWN_EXAMPLES = """
hydra dev down
hydra dev down --dir /tmp/other
"""

folder_option = click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_FOLDER,
    show_default=True,
    help="Folder of the cluster: data, logs, and `env` for your shell.",
)


class Dev(Group):
    """The group, with the demo, which needs libraries of its own."""

    lazy: ClassVar[Lazy] = {
        "demo": ("hydra_cli.dev.demo.command", "demo", "Watch a release take over a running service.")
    }


@group("dev", examples=UP_EXAMPLES, cls=Dev)
def dev() -> None:
    """Run a real local cluster, and the demo."""


@command("up", examples=UP_EXAMPLES, codes=(5,))
@click.pass_obj
@click.option("--nodes", type=click.IntRange(1, 50), default=3, show_default=True, help="Simulated nodes.")
@folder_option
@click.option("--detach", is_flag=True, help="Return when the cluster is ready, and leave it running.")
def up(context: Context, nodes: int, folder: Path, detach: bool) -> int:
    """Start a real cluster on this machine; Ctrl-C ends it.

    One Consul server with ACLs, a planner, an S3 server (unless AWS_ENDPOINT_URL names one), and for each
    node a Consul agent and a supervisord. DIR/env has what your shell needs; DIR/nodes/NODE/root is a node's
    HYDRA_ROOT. Nodes have the label zone, which is a, b, c in turn. Programs of services go into
    DIR/nodes/NODE/services/*.conf, followed by `supervisorctl -c DIR/nodes/NODE/root/state/supervisord.conf
    update`. What an earlier cluster left in DIR is removed. Times that are minutes on real machines are
    seconds here.
    """
    if detach:
        return _detached(context, nodes, folder)
    from hydra_cli.dev.cluster import Cluster

    cluster = Cluster(folder, nodes=nodes)
    with _sigterm_interrupts():
        with _progress(context) as say:
            cluster.up(say)
        try:
            text = f"In your shell: . {folder}/env   (the Consul UI asks for CONSUL_HTTP_TOKEN of it)"
            fields = {"folder": str(folder), "nodes": list(cluster.nodes), "ui": cluster.ui}
            context.screen.show(Said(text, fields))
            _report_ended(context, cluster)
        except KeyboardInterrupt:
            return 0  # that is how it ends
        finally:
            context.screen.note("ending the cluster")
            cluster.down()


@command("down", examples=DOWN_EXAMPLES)
@click.pass_obj
@folder_option
def down(context: Context, folder: Path) -> None:
    """End the cluster in DIR, whatever state it is in; logs and data stay."""
    from hydra_cli.dev.folder import Folder

    ended = Folder(folder.absolute()).end()
    text = f"the cluster in {folder} is ended" if ended else f"no cluster in {folder}: nothing to end"
    context.screen.show(Said(text, {"folder": str(folder), "ended": ended}))


@contextlib.contextmanager
def _progress(context: Context) -> Iterator[Callable[[str], None]]:
    """Say how far `up` is: on stderr, and to the command that detached us, which waits for the end of it."""
    number = os.environ.pop(READY_FD, "")
    with contextlib.ExitStack() as stack:
        pipe = stack.enter_context(os.fdopen(int(number), "w")) if number else None

        def say(text: str) -> None:
            context.screen.note(text)
            if pipe:
                print(text, file=pipe, flush=True)

        yield say
        if pipe:
            print(READY, file=pipe, flush=True)


def _detached(context: Context, nodes: int, folder: Path) -> int:
    """Start ourselves again without a terminal, and relay the progress until the cluster is ready."""
    reader, writer = os.pipe()
    command_line = [sys.executable, "-I", "-m", "hydra_cli.main", "dev", "up"]
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "up.log"
    with log.open("wb") as output:
        child = subprocess.Popen(
            [*command_line, "--nodes", str(nodes), "--dir", str(folder.absolute())],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, READY_FD: str(writer)},
            pass_fds=[writer],
            start_new_session=True,
        )
    os.close(writer)
    said = ""
    with os.fdopen(reader) as pipe:
        for line in pipe:
            said = line.strip()
            if said != READY:
                context.screen.note(said)
    if said == READY:
        context.screen.show(Said(f"In your shell: . {folder}/env", {"folder": str(folder), "detached": True}))
        return 0
    code = child.wait()
    context.screen.note(log.read_text(errors="replace").strip().rpartition("\n")[2])
    return code or 1


@contextlib.contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """SIGTERM ends us as Ctrl-C does: everything that was started is ended in order."""

    def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _report_ended(context: Context, cluster: Cluster) -> NoReturn:
    """Say when a program of the cluster has ended, until we are interrupted."""
    told: set[str] = set()
    while True:
        time.sleep(LOOK_S)
        for running in cluster.ended():
            if running.name not in told:
                context.screen.warn(f"{running.name} has ended; its log is {running.log}")
                told.add(running.name)


add(dev, up, down)
