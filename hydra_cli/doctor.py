"""`hydra doctor`: whether this machine can do what Hydra needs, and what to do where it cannot."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from msgspec import Struct

from handlers import settings
from handlers.adapters.consul_http import Address, Transport
from handlers.adapters.machine import in_memory
from handlers.core import codec, keys
from handlers.core.errors import Denied, HydraError
from handlers.core.model import Meta
from hydra_cli import doctor_checks as checks
from hydra_cli.context import Context
from hydra_cli.doctor_checks import Finding, Level
from hydra_cli.options import command
from hydra_cli.output import Block, Cell, Line, Table, Tone

TONES = {Level.OK: Tone.GOOD, Level.WARN: Tone.WARN, Level.FAIL: Tone.BAD}
AREAS = {
    "channels": keys.CHANNELS,
    "releases": keys.RELEASES,
    "services": keys.SERVICES,
    "nodes": keys.NODES,
    "desired": keys.DESIRED,
    "meta": keys.META,
}


class Diagnosis(Struct, frozen=True):
    """All findings."""

    findings: Sequence[Finding]

    @property
    def healthy(self) -> bool:
        """Whether nothing failed; warnings do not count."""
        return all(finding.level is not Level.FAIL for finding in self.findings)

    def data(self) -> Mapping[str, Any]:
        """One object per finding."""
        return {
            "healthy": self.healthy,
            "findings": [
                {"name": f.name, "level": f.level, "text": f.text, "advice": f.advice} for f in self.findings
            ],
        }

    def blocks(self) -> Iterator[Block]:
        """One line per finding; advice stands beside what it is for."""
        rows = [
            (Cell(f.level, TONES[f.level]), f.name, f.text, Cell(f.advice, Tone.HEAD)) for f in self.findings
        ]
        yield Table(("", "CHECK", "FOUND", "WHAT TO DO"), rows)
        failed = sum(f.level is Level.FAIL for f in self.findings)
        yield Line(f"{failed} failed" if failed else "all is well", Tone.BAD if failed else Tone.GOOD)


@command("doctor", examples="""
hydra doctor
hydra doctor --env prod --bucket places-data
hydra doctor --no-data
hydra doctor -o json
""")  # fmt: skip
@click.option(
    "--bucket", "buckets", multiple=True, help="S3 bucket to try (default: those of published releases)."
)
@click.option("--data/--no-data", default=True, help="Look whether the data of every release is still there.")
@click.pass_obj
def doctor(context: Context, buckets: tuple[str, ...], data: bool) -> int:
    """Check Consul, permissions, S3, space and clock from this machine, and the data of all releases.

    Data of a release that can no longer be fetched is also noted in its channel, so that `hydra status` shows
    an alarm until a later run finds it again: let a timer run `hydra doctor` where Consul and S3 are reached.
    """
    from hydra_cli import doctor_data, doctor_sources

    variables = context.variables(context.env)
    steps: Sequence[tuple[str, Callable[[], Iterator[Finding]]]] = (
        ("consul", lambda: _consul(context, variables)),
        ("consul agent", lambda: _agent(variables)),
        ("hydra", lambda: _meta(context)),
        ("permissions", lambda: _permissions(variables)),
        ("s3", lambda: doctor_sources.buckets(context, variables, buckets)),
        ("sources", lambda: doctor_sources.rows(context, variables)),
        ("space", lambda: _space(variables)),
        ("data", lambda: doctor_data.rows(context) if data else iter(())),
    )
    findings: list[Finding] = []
    for name, look in steps:
        if name in OF_CONSUL and findings and findings[0].level is Level.FAIL:
            continue  # the same failure once more would only hide the cause
        try:
            findings += look()
        except HydraError as e:
            # a token that may not see the agent's settings is no fault: a publisher's may not
            level = Level.WARN if name == "consul agent" and isinstance(e, Denied) else Level.FAIL
            findings.append(Finding(name, level, str(e), ADVICE[name]))
    diagnosis = Diagnosis(findings)
    context.screen.show(diagnosis)
    return 0 if diagnosis.healthy else 1


OF_CONSUL = ("consul agent", "hydra", "permissions", "data")
ADVICE = {
    "consul": "set CONSUL_HTTP_ADDR (and CONSUL_HTTP_TOKEN), or start the agent",
    "consul agent": "the token needs `agent:read` for the agent's settings",
    "hydra": "`hydra init --env ENV`, or a token that may read Hydra's keys (`hydra acl show reader`)",
    "permissions": "look at the token: `consul acl token read -self`",
    "s3": "set AWS_ENDPOINT_URL and credentials, or choose a bucket with --bucket",
    "sources": "look at [sources] in the configuration of this node, or in your own",
    "space": "look at HYDRA_ROOT and the node's configuration",
    "data": "a token that may read Hydra's keys, and credentials for S3",
}


def _consul(context: Context, variables: Mapping[str, str]) -> Iterator[Finding]:
    """Whether it answers and has a leader; its clock."""
    address = Address.from_env(variables)
    before = context.now()
    answer = Transport(address).request("GET", "status/leader", {})
    leader = json.loads(answer.body or b'""')
    if leader:
        yield Finding("consul", Level.OK, f"{address} answers, the leader is {leader}")
    else:
        yield Finding("consul", Level.FAIL, f"{address} has no leader", "start its servers")
    yield checks.clock("consul", answer.date, before, context.now())


def _agent(variables: Mapping[str, str]) -> Iterator[Finding]:
    from handlers.adapters.catalog import Catalog

    agent = Catalog.from_env(variables).agent()
    yield checks.consul_version(agent.version)
    if agent.settings:
        yield from checks.agent_settings(agent.settings, agent.server)
    else:
        text = "the agent does not show its settings to this token"
        yield Finding("agent settings", Level.WARN, text, ADVICE["consul agent"])


def _meta(context: Context) -> Iterator[Finding]:
    """The key that everybody can read who may read anything: without it, empty and denied look alike."""
    entry, _ = context.kv().get(keys.META)
    if entry is None:
        text = f"{keys.META} is missing: Hydra was never set up here, or the KV was wiped"
        yield Finding("hydra", Level.FAIL, text, ADVICE["hydra"])
        return
    meta = codec.decode(Meta, entry.value, keys.META)
    context.kv().list(keys.CHANNELS)
    yield Finding("hydra", Level.OK, f"serves {', '.join(meta.environments)}; all can be read")


def _permissions(variables: Mapping[str, str]) -> Iterator[Finding]:
    transport = Transport(Address.from_env(variables))
    wanted = [{"Resource": "key", "Access": "write", "Segment": prefix} for prefix in AREAS.values()]
    accepted = frozenset({200, 401, 404})
    answer = transport.request(
        "POST", "internal/acl/authorize", {}, json.dumps(wanted).encode(), accept=accepted
    )
    if answer.status != 200:
        return  # this Consul has no ACLs, which is a finding of its own
    allowed = [bool(row.get("Allow")) for row in json.loads(answer.body)]
    yield checks.may_write(zip(AREAS, allowed, strict=True))


def _space(variables: Mapping[str, str]) -> Iterator[Finding]:
    """Room on the volumes, where this machine is a node."""
    own = settings.load(variables)
    if not own.root.is_dir():
        yield Finding("space", Level.OK, f"this machine is no node ({own.root} does not exist)")
        return
    for name, info in sorted(own.volumes.items()):
        path = own.root / "volumes" / name
        place = path if path.is_dir() else own.root
        kind = "link" if path.is_symlink() else "memory" if in_memory(place.stat().st_dev) else "disk"
        total = shutil.disk_usage(place).total
        yield checks.volume_place(name, str(path), kind, info, total)
        yield checks.volume(name, str(place), _free(place), info.reserve_bytes)


def _free(path: Path) -> int:
    return shutil.disk_usage(path).free
