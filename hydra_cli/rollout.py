"""`hydra rollout`: watch and control how the instances of a service are moved."""

from __future__ import annotations

from collections.abc import Callable

import click
from msgspec.structs import replace

from handlers.adapters.snapshot import EVERYTHING, load
from handlers.core import codec, keys
from handlers.core.errors import EXIT_PENDING, Usage
from handlers.core.model import Control, Verdicts
from handlers.core.names import Service
from handlers.core.version import ReleaseId
from hydra_cli import one_service
from hydra_cli.change import Edit, document
from hydra_cli.context import Context
from hydra_cli.options import WRITES, command, group
from hydra_cli.output import Said
from hydra_cli.service_views import ServiceView


@group("rollout", examples="""
hydra rollout status prod/search/completion
hydra rollout pause prod/search/completion --reason "traffic peak"
hydra rollout resume prod/search/completion
""")  # fmt: skip
def rollout() -> None:
    """Watch and control how instances of a service are moved to their target."""


@command("status", codes=(3,), examples="""
hydra rollout status prod/search/completion
hydra rollout status prod/search/completion --detailed-exitcode
""")  # fmt: skip
@click.argument("name", metavar="SERVICE")
@click.option(
    "--detailed-exitcode", is_flag=True, help="Exit 3 while not all live instances are at the target."
)
@click.pass_obj
def status(context: Context, name: str, detailed_exitcode: bool) -> int:
    """Show how far a service's instances are: who is out, what each one does, why moves stop."""
    service = context.service(name)
    one = one_service.of(load(context.kv(service.env), *EVERYTHING), service, context.now())
    if one.facts.subscription is None:
        raise Usage(f"service {service} is not subscribed to any channel")
    context.screen.show(ServiceView(one, context.now()))
    return EXIT_PENDING if detailed_exitcode and one.at_target < len(one.live) else 0


@command("pause", codes=WRITES, examples="""
hydra rollout pause prod/search/completion --reason "traffic peak"
""")  # fmt: skip
@click.argument("name", metavar="SERVICE")
@click.option("--reason", default="", help="Why, for whoever asks later.")
@click.pass_obj
def pause(context: Context, name: str, reason: str) -> None:
    """Move no instance any more; those that are out come back. New data is still downloaded."""
    _change(context, name, "paused", reason, lambda control: replace(control, paused=True))


@command("resume", codes=WRITES, examples="""
hydra rollout resume prod/search/completion
""")  # fmt: skip
@click.argument("name", metavar="SERVICE")
@click.option("--reason", default="", help="Why, for whoever asks later.")
@click.pass_obj
def resume(context: Context, name: str, reason: str) -> None:
    """Let a paused rollout go on."""
    _change(context, name, "resumed", reason, lambda control: replace(control, paused=False))


@command("retry", codes=WRITES, examples="""
hydra rollout retry prod/search/completion --reason "the disk was full, not the data bad"
""")  # fmt: skip
@click.argument("name", metavar="SERVICE")
@click.option("--reason", default="", help="Why, for whoever asks later.")
@click.pass_obj
def retry(context: Context, name: str, reason: str) -> None:
    """Overrule what instances found (halted, bad) and what was aborted: try the target again."""
    service = context.service(name)
    kv = context.kv(service.env)
    entry, _ = kv.get(keys.verdicts(service))
    found = codec.decode(Verdicts, entry.value, entry.key).releases.values() if entry else ()
    ids = tuple(sorted(verdict.id for verdict in found if verdict.stands))
    _change(context, name, "retried", reason, lambda control: replace(control, retry=ids, abort=()))


@command("abort", codes=WRITES, examples="""
hydra rollout abort prod/search/completion --reason "answers are slow with it"
hydra rollout abort prod/search/completion prod/search/places@2026-01-31T00-00-00
""")  # fmt: skip
@click.argument("name", metavar="SERVICE")
@click.argument("release", metavar="[CHANNEL@VERSION]", required=False)
@click.option("--reason", default="", help="Why, for whoever asks later.")
@click.pass_obj
def abort(context: Context, name: str, release: str | None, reason: str) -> None:
    """Send this service back to what it had proven before, and never to the aborted release again.

    Without CHANNEL@VERSION: what its instances are being moved to now. Other services are not touched.
    """
    service = context.service(name)
    wanted = [ReleaseId.parse(release)] if release else _moving(context, service)
    _change(
        context, name, "aborted", reason,
        lambda control: replace(control, abort=tuple(sorted({*control.abort, *wanted}))),
        after=", ".join(wanted),
    )  # fmt: skip


@command("promote", codes=WRITES, examples="""
hydra rollout promote prod/search/completion --reason "looked at it by hand"
hydra rollout promote prod/search/completion prod/search/places@2026-01-31T00-00-00
""")  # fmt: skip
@click.argument("name", metavar="SERVICE")
@click.argument("release", metavar="[CHANNEL@VERSION]", required=False)
@click.option("--reason", default="", help="Why, for whoever asks later.")
@click.pass_obj
def promote(context: Context, name: str, release: str | None, reason: str) -> None:
    """Skip what a rollout waits for: the data on all nodes, the check of its canaries, and the pauses.

    The order of waves stays, and an instance moves only when its own node has the data.

    Without CHANNEL@VERSION: what its instances are being moved to now.
    """
    service = context.service(name)
    wanted = [ReleaseId.parse(release)] if release else _moving(context, service)
    _change(
        context, name, "promoted", reason,
        lambda control: replace(control, promote=tuple(sorted({*control.promote, *wanted}))),
        after=", ".join(wanted),
    )  # fmt: skip


def _moving(context: Context, service: Service) -> list[ReleaseId]:
    """The targets that not every live instance runs."""
    one = one_service.of(load(context.kv(service.env), *EVERYTHING), service, context.now())
    channels = one.facts.subscription.channels if one.facts.subscription else {}
    found = [
        ReleaseId.of(channels[alias], version)
        for alias, version in sorted(one.targets.items())
        if version and alias in channels
        and any(r.state is None or not r.state.runs(alias, channels[alias], version) for r in one.live)
    ]  # fmt: skip
    if not found:
        raise Usage(
            f"no rollout of {service} is going on: all live instances run their target. "
            "Name the release, as in CHANNEL@VERSION, or use `hydra rollback`"
        )
    return found


def _change(
    context: Context,
    name: str,
    action: str,
    reason: str,
    change: Callable[[Control], Control],
    after: str = "",
) -> None:
    """Change the control document of a service that is subscribed, and say so."""
    service = context.service(name)
    kv = context.kv(service.env)
    if kv.get(keys.subscription(service))[0] is None:
        raise Usage(f"service {service} is not subscribed to any channel")
    edit = Edit(context, kv)
    key = keys.control(service)
    before = document(edit, Control, key) or Control()
    wanted = change(before)
    changed = wanted != before
    if changed:
        wanted = replace(wanted, who=context.who, when=context.stamp(), why=reason)
        edit.write(key, codec.encode(wanted))
    edit.commit(
        f"service/{service}", action, before=before.title(), after=after or wanted.title(), why=reason
    )
    text = (
        f"rollouts of {service}: {action}"
        + (f" {after}" if after else "")
        + ("" if changed else " (unchanged)")
    )
    fields = {"paused": wanted.paused, "retry": list(wanted.retry), "abort": list(wanted.abort)}
    fields["promote"] = list(wanted.promote)
    context.screen.show(Said(text, {"service": service, "changed": changed, **fields}))


for _member in (status, pause, resume, retry, abort, promote):
    rollout.add_command(_member)
