"""`hydra publish`: find the newest complete data on S3, announce it as a release, and see it taken over."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click
from msgspec.structs import replace

from handlers.adapters.ports import KV, Objects
from handlers.core.errors import EXIT_PENDING, Denied, HydraError, SourceNotReady, Usage
from handlers.core.fits import Fit
from handlers.core.names import Channel
from handlers.core.version import ReleaseId, Version
from hydra_cli import data_template, fetching, publish_needs, publish_space
from hydra_cli.change import require_environment
from hydra_cli.context import Context, channel_of
from hydra_cli.fetching import Fetch
from hydra_cli.options import WRITES, Duration, Labels, ReleaseType, VersionType, command
from hydra_cli.publish_prepare import Prepared, Wanted, announce, check_classes, prepare
from hydra_cli.publish_views import Published

EXAMPLES = """
hydra publish template.py --env prod -n search --release places
hydra publish template.yaml --channel prod/search/places --version 2026-01-31T00-00-00 --note "new ranking"
hydra publish template.py --channel prod/search/places --wait --timeout 30m
hydra publish template.py --channel prod/search/places --wait-source 2h --label build=4711
hydra publish template.py --channel prod/search/places --label format=5
hydra publish template.py --channel prod/search/places --needs prod/search/ranking@2026-01-30T00-00-00
hydra publish template.py --channel prod/search/places --digest
hydra publish template.py --channel prod/search/places --stage
hydra publish template.py --channel prod/search/places --dry-run --detailed-exitcode
hydra publish template.py --channel prod/search/places --dry-run -o json
"""
SOURCE_PAUSE_S = 5.0  # between two looks at S3, which tells nobody when something appears


@command("publish", examples=EXAMPLES, codes=(*WRITES, 3, 6, 7, 9, 11))
@click.argument("template", type=click.Path(path_type=Path))
@click.option(
    "--release", default="", metavar="R", help="Release name of the service: the channel is ENV/NS/R."
)
@click.option("--channel", "named", default="", metavar="E/NS/R", help="The channel, in place of the three.")
@click.option("--version", type=VersionType(), help="Publish this version, not the newest complete one.")
@click.option("--dry-run", is_flag=True, help="Show what would be published; write nothing.")
@click.option(
    "--detailed-exitcode", is_flag=True, help="With --dry-run: exit 3 if there is something to publish."
)
@click.option("--wait", is_flag=True, help="Wait until all live instances of all subscribed services run it.")
@click.option("--timeout", type=Duration(), default="30m", show_default=True, help="How long --wait waits.")
@click.option(
    "--wait-source", type=Duration(), default="0s", help="Wait this long for the data to appear on S3."
)
@click.option(
    "--stage", is_flag=True, help="Nodes get it, nobody moves to it before `hydra promote` announces it."
)
@click.option(
    "--digest", is_flag=True, help="Read data that was not pushed with `hydra push` once, for its digests."
)
@click.option("--ignore-space", is_flag=True, help="Publish also where it does not fit on every node.")
@click.option("--note", default="", help="A sentence for whoever looks at the release.")
@click.option(
    "--label",
    "labels",
    type=Labels(),
    multiple=True,
    help="key=value, which services may ask for (`hydra subscribe --reads`), beside those of the template; "
    "may be given several times.",
)
@click.option(
    "--needs",
    type=ReleaseType(),
    multiple=True,
    metavar="CHANNEL@VERSION",
    help="Run it only beside this release of another channel, or a newer one; may be given several times.",
)
@click.pass_obj
def publish(
    context: Context,
    template: Path,
    release: str,
    named: str,
    version: Version | None,
    dry_run: bool,
    detailed_exitcode: bool,
    wait: bool,
    timeout: float,
    wait_source: float,
    stage: bool,
    digest: bool,
    ignore_space: bool,
    note: str,
    labels: tuple[tuple[str, str], ...],
    needs: tuple[ReleaseId, ...],
) -> int:
    """Announce the newest complete data on S3 as a release.

    TEMPLATE names the datasets (DATA_TEMPLATE) and labels (LABELS): Python, YAML or JSON. Of each dataset the
    newest complete version is looked for; all must be equal, versions in the future do not count. Publishing
    what is published already changes nothing. With --dry-run -o json the output has the transaction as
    Consul's /v1/txn takes it.

    Data may lie on s3://, https:// and file://; gs:// and az:// are experimental.
    """
    refuse_contradictions(wait=wait, stage=stage, dry_run=dry_run, digest=digest)
    channel = channel_named(context, named, release)
    said = data_template.load(template)
    wanted = Wanted(
        channel,
        said.datasets,
        version,
        note,
        {**said.labels, **dict(labels)},
        digest,
        stage=stage,
        needs=publish_needs.of(channel, needs),
    )
    kv, objects = context.kv(channel.env), context.objects(channel.env)
    uploads = context.uploads(channel.env)
    require_environment(kv, channel.env)
    check_classes(kv, wanted.datasets)
    publish_needs.check(context, kv, channel, wanted.needs)
    prepared = until_ready(context, lambda: prepare(context, kv, objects, uploads, wanted), wait_source)
    fetches, fits = _costs(context, kv, objects, prepared)
    if dry_run:
        planned = prepared.draft is not None
        context.screen.show(_message(prepared, "planned" if planned else "unchanged", fetches, fits))
        return EXIT_PENDING if planned and detailed_exitcode else 0
    if not ignore_space:
        publish_space.refuse(fits)
    result, prepared = announce(kv, objects, wanted, prepared)
    done = _message(prepared, result, fetches, fits)
    note_other_head(context, done)
    if not wait:
        context.screen.show(done)
        return 0
    return see_taken_over(context, kv, done, timeout)


def refuse_contradictions(*, wait: bool, stage: bool, dry_run: bool, digest: bool) -> None:
    """Raise `Usage` for options that make no sense together."""
    if wait and stage:
        raise Usage("--stage lets nobody move to it, so there is nothing that --wait could wait for")
    if wait and dry_run:
        raise Usage("--dry-run publishes nothing that --wait could wait for")
    if digest and dry_run:
        raise Usage("--dry-run writes nothing, and --digest would write a manifest object beside the data")


def note_other_head(context: Context, done: Published) -> None:
    """What was published already may not be what the channel's head names now."""
    header = done.header
    if done.result == "unchanged" and done.before != header.version:
        again = f"`hydra channel set-head {header.channel} {header.version}` announces it again"
        context.screen.note(f"the head is {done.before or 'missing'}, not this release; {again}")


def channel_named(context: Context, named: str, release: str) -> Channel:
    """The channel, by its whole name or by environment, namespace and release name."""
    if named and release:
        raise Usage("give --release (with --env and -n) or --channel, not both")
    return context.channel(named) if named else channel_of(context.env, context.namespace, release)


def until_ready(context: Context, attempt: Callable[[], Prepared], wait_s: float) -> Prepared:
    """Try until the data is there, for at most `wait_s`; S3 tells nobody when something appears."""
    until = time.monotonic() + wait_s
    said = ""
    while True:
        try:
            return attempt()
        except SourceNotReady as e:
            left = until - time.monotonic()
            if left <= 0:
                raise
            if str(e) != said:
                said = str(e)
                context.screen.note(f"waiting for the data: {said}")
            time.sleep(min(SOURCE_PAUSE_S, left))


def see_taken_over(context: Context, kv: KV, done: Published, timeout_s: float) -> int:
    """Wait, say how it ended, raise what the exit code stands for; the release is published in any case."""
    from hydra_cli.publish_wait import wait_for

    screen = context.screen
    if screen.form != "json":
        screen.show(done)
    try:
        takeover = wait_for(context, kv, done.header.channel, done.header.version, timeout_s)
    except (HydraError, KeyboardInterrupt):
        screen.note(f"{done.header.version} of {done.header.channel} is published; only the wait has ended")
        if screen.form == "json":
            screen.show(done)
        raise
    screen.show(replace(done, takeover=takeover.data()) if screen.form == "json" else takeover)
    takeover.judge()
    return 0


def _costs(
    context: Context, kv: KV, objects: Objects, prepared: Prepared
) -> tuple[Sequence[Fetch], Sequence[Fit]]:
    """What the release costs each node; who may not look at nodes may publish nevertheless."""
    try:
        return _fetches(kv, objects, prepared), _fits(context, kv, objects, prepared)
    except Denied as e:
        context.screen.note(f"what nodes have to fetch, and whether it fits there, is not known: {e}")
        return [], []


def _fetches(kv: KV, objects: Objects, prepared: Prepared) -> list[Fetch]:
    """What nodes will have to fetch of a release that is about to be announced."""
    if prepared.draft is None:
        return []
    release = ReleaseId.of(prepared.header.channel, prepared.header.version)
    return fetching.of_release(kv, objects, release, prepared.manifest.files)


def _fits(context: Context, kv: KV, objects: Objects, prepared: Prepared) -> list[Fit]:
    """Whether the release fits on the nodes that will get it."""
    if prepared.draft is None:
        return []
    return publish_space.look(kv, objects, prepared.header, prepared.manifest.files, context.now())


def _message(prepared: Prepared, result: str, fetches: Sequence[Fetch], fits: Sequence[Fit]) -> Published:
    return Published(prepared.header, result, prepared.before.head, prepared.draft, fetches, fits)
