"""What runs on a node, as text: supervisord.conf, consul-template's base configuration, the systemd unit.

Pure: `hydra node run` writes what these functions return. Secrets are in none of the texts and on no command
line: every process inherits the environment of `hydra node run`.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from msgspec import Struct
from msgspec.structs import asdict

from handlers import resources
from handlers.adapters.consul_http import Address
from handlers.core.errors import Usage
from handlers.settings import Settings
from watches import registry
from watches.registry import Scope, Watch

# SIGTERM ends the highest first. Who acts ends before who tells others of it: no handler takes out an
# instance whose state file, or whose pod's condition, nobody writes any more. First ends who wakes handlers.
_WAKES, _ACTS, _FINDS, _TELLS = 40, 30, 20, 10
_LONGEST_SOCKET = 90  # the kernel takes 107 bytes, and supervisord binds to a longer temporary name first


class Programs(Struct, frozen=True):
    """Absolute paths of what is started; `setpriv` is empty where there is none."""

    python: str
    consul: str
    consul_template: str
    setpriv: str = ""


class Files(Struct, frozen=True):
    """Where the files of one supervisord lie; those of a node and a planner have different names."""

    config: Path
    pid: Path
    socket: Path
    log: Path
    logs: Path
    template_base: Path
    template_instances: Path
    template_pid: Path

    @classmethod
    def of(cls, root: Path, scope: Scope, runtime: Path) -> Files:
        """The files below `<root>/state/`; the socket below `runtime` where its path would be too long."""
        state, name = root / "state", "supervisord" if scope == "node" else "planner"
        logs = state / "log" if scope == "node" else state / "log" / name
        socket = state / f"{name}.sock"
        if len(bytes(socket)) > _LONGEST_SOCKET:
            socket = runtime / f"hydra-{sha256(bytes(socket)).hexdigest()[:12]}" / f"{name}.sock"
        return cls(
            config=state / f"{name}.conf",
            pid=state / f"{name}.pid",
            socket=socket,
            log=logs / f"{name}.log",
            logs=logs,
            template_base=state / "consul-template" / "base.hcl",
            template_instances=state / "consul-template" / "instances.hcl",
            template_pid=state / "consul-template.pid",
        )


class Program(Struct, frozen=True):
    """One `[program:…]` of supervisord. `signal` ends it, the highest `order` first (0: its group's)."""

    name: str
    command: str
    signal: str = "TERM"
    order: int = 0


def supervisord(settings: Settings, node: str, files: Files, programs: Programs, scope: Scope) -> str:
    """supervisord.conf of the node `node` (its real name) or of a planner; raises `Usage` on unfit paths."""
    watches = [Program(f"watch-{w.name}", _watch(w, node, programs)) for w in registry.of(scope)]
    return _render(
        "supervisord.conf.j2",
        files={name: _fit(str(path)) for name, path in asdict(files).items()},
        scope=scope,
        watches=watches,
        order=_ACTS,
        others=_others(files, programs, scope, settings.kubernetes),
        include=_fit(settings.supervisor_include) if scope == "node" else "",
    )


def _watch(row: Watch, node: str, programs: Programs) -> str:
    """Waits for Consul, then watches; its handler dies with it, so that two of one row never overlap."""
    where = {"key": "-key", "keyprefix": "-prefix"}[row.type]
    watch = [programs.consul, "watch", "-shell=false", f"-type={row.type}", f"{where}={row.path(node)}"]
    handler = [*_tied("KILL", programs), *_handler(row.handler, programs)]
    return _command(*_tied("TERM", programs), programs.python, "-I", "-m", "watches.wait", *watch, *handler)


def _others(files: Files, programs: Programs, scope: Scope, kubernetes: bool) -> list[Program]:
    """What is not woken by a watch. None of these waits for Consul: they are made to go on without it."""
    tied = _tied("TERM", programs)
    resync = Program("resync", _command(*tied, *_handler("resync", programs)), order=_WAKES)
    if scope == "cluster":
        enroll = Program("enroll", _command(*tied, *_handler("enroll", programs)), order=_FINDS)
        record = Program("record", _command(*tied, *_handler("record", programs)), order=_TELLS)
        return [record, resync, *([enroll] if kubernetes else [])]
    configs = (f"-config={file}" for file in (files.template_base, files.template_instances))
    template = _command(*_tied("INT", programs), programs.consul_template, *configs)
    return [
        Program("consul-template", template, signal="INT", order=_TELLS),  # it ignores TERM
        Program("discover", _command(*tied, *_handler("discover", programs)), order=_FINDS),
        resync,
    ]


def _handler(name: str, programs: Programs) -> list[str]:
    """The module, not the command: isolated mode starts without a look at the user's own packages."""
    return [programs.python, "-I", "-m", "handlers.main", name]


def _tied(signal: str, programs: Programs) -> list[str]:
    """Send `signal` when the parent dies: nothing outlives a supervisord or a watch that was killed."""
    return [programs.setpriv, "--pdeathsig", signal] if programs.setpriv else []


def consul_template(files: Files, environ: Mapping[str, str]) -> str:
    """consul-template's base configuration; its templates are in the file beside it, written by reload."""
    return _render(
        "consul-template.hcl.j2",
        address=Address.from_env(environ),
        pid_file=str(files.template_pid),
    )


def unit(settings: Settings, environ: Mapping[str, str], scope: Scope, command: Path) -> str:
    """The systemd unit that runs `command` (the installed `hydra`) with these settings; raises `Usage`."""
    words = [str(command), "node", "run", *(["--planner"] if scope == "cluster" else [])]
    names = ("HYDRA_NODE", "HYDRA_CONFIG", "HYDRA_KV_PREFIX")
    variables = {"HYDRA_ROOT": str(settings.root)} | {n: environ[n] for n in names if environ.get(n)}
    return _render(
        "hydra-node.service.j2",
        scope=scope,
        command=" ".join(_quoted(word).replace("$", "$$") for word in words),
        variables=[_quoted(f"{name}={value}") for name, value in variables.items()],
    )


def _command(*words: str) -> str:
    return _fit(shlex.join(words))


def _fit(text: str) -> str:
    """`text` as a value for supervisord, whose format has comments but no way to quote them."""
    if any(bad in text for bad in ("\n", "\r", " ;", " #", "\t;", "\t#")):
        raise Usage(f"{text!r} cannot stand in supervisord.conf: it has a line break or begins a comment")
    return text.replace("%", "%%")


def _quoted(word: str) -> str:
    """`word` as systemd reads it back from a unit."""
    if "\n" in word or "\r" in word:
        raise Usage(f"{word!r} cannot stand in a unit: it has a line break")
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"' if escaped != word or any(c in word for c in " \t;'") else word


def _render(name: str, **values: object) -> str:
    import jinja2

    loader = jinja2.FileSystemLoader(resources.path("templates"))
    environment = jinja2.Environment(
        loader=loader,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 -- none of these texts is HTML; values are checked and quoted above
    )
    environment.filters["hcl"] = json.dumps
    return environment.get_template(name).render(values)
