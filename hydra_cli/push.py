"""`hydra push`: upload a dataset, and say in a manifest object beside it what each byte must be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import click
from msgspec import Struct

from handlers.adapters.ports import ObjectInfo, Objects, Source, Uploads
from handlers.adapters.send import Job, Local, Sender, Sent, crc64nvme
from handlers.core import pushed
from handlers.core.errors import Conflict, SourceNotReady, Temporary, Usage
from handlers.core.model import Pushed, count
from handlers.core.version import PLACEHOLDER, Version
from hydra_cli import data_template
from hydra_cli.context import Context
from hydra_cli.options import WRITES, VersionType, command
from hydra_cli.output import Said, size
from hydra_cli.progress import progress
from hydra_cli.publish_checks import manifest_at
from hydra_cli.push_files import files_of
from hydra_cli.push_turn import Turn

STREAMS = 8


class Target(Struct, frozen=True):
    """Where a push goes: the source of one version, and its manifest object."""

    source: Source
    version: Version

    @property
    def manifest(self) -> Source:
        """The manifest object."""
        return self.source.beside(pushed.manifest_key(self.source.key))


@command("push", codes=(*WRITES, 7, 11), examples="""
hydra push build/words s3://data/words/{VERSION_PLACEHOLDER}/
hydra push build/words s3://data/words/{VERSION_PLACEHOLDER}/ --version 2026-01-31T00-00-00
hydra push weights.bin s3://data/model/{VERSION_PLACEHOLDER}/weights.bin -o json
""")  # fmt: skip
@click.argument("what", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("to", metavar="TARGET")
@click.option("--version", type=VersionType(), help="Push as this version (default: now).")
@click.option(
    "--streams", type=click.IntRange(1, 32), default=STREAMS, show_default=True, help="Requests at once."
)
@click.pass_obj
def push(context: Context, what: Path, to: str, version: Version | None, streams: int) -> None:
    """Upload a dataset to S3 with digests of all its bytes, and print its version.

    TARGET is s3://BUCKET/PREFIX/{VERSION_PLACEHOLDER}/, as in a data template. DIR may be one file where
    TARGET does not end in /. The digests go into a manifest object beside the data, after all else:
    `hydra publish` finds it, and until then the version counts as incomplete. What is on S3 already is not
    sent again, so an interrupted push goes on where it was when it is run again with the same --version. Of
    two pushes of one version at the same time the second is refused.
    """
    target = _target(to, version or Version.of(context.now()))
    files = files_of(what, target.source)
    try:
        sent = _Push(context, target, files, streams).run()
    except (Temporary, SourceNotReady, KeyboardInterrupt):
        context.screen.note(f"not complete: the same command with --version {target.version} goes on")
        raise
    total, fresh = sum(local.size for local in files), sum(one.bytes for one in sent)
    said = f"{count(len(files), 'file')}, {size(total)} at {target.source}; {size(fresh)} of it sent now"
    context.screen.note(said)
    fields = {
        "version": target.version,
        "source": str(target.source),
        "manifest": str(target.manifest),
        "files": len(files),
        "bytes": total,
        "sent_bytes": fresh,
    }
    context.screen.show(Said(target.version, fields))


class _Push(Struct, frozen=True, dict=True):
    """One push of `files` to `target`: announce that it goes on, send what is missing, describe it."""

    context: Context
    target: Target
    files: Sequence[Local]
    streams: int

    @cached_property
    def objects(self) -> Objects:
        return self.context.objects(self.context.env)

    @cached_property
    def uploads(self) -> Uploads:
        return self.context.uploads(self.context.env)

    def run(self) -> list[Sent]:
        """What is at the target now, and what of it was sent; one push of a version at a time."""
        if manifest_at(self.objects, self.target.manifest) is None:
            self._jobs(may_replace=False)  # refuses what is in the way before a write
        who, when = self.context.who, self.context.stamp()
        turn = Turn(self.objects, self.uploads, self.target.manifest, who, when)
        before = turn.take(self.context.screen.note)
        if before and before.complete:
            return self._again(before)
        with turn.held() as check:
            sent = self._send(self._jobs(may_replace=before is not None), check)
            turn.finish(self._described(sent))
        return sent

    def _again(self, before: Pushed) -> list[Sent]:
        """Push what was pushed to its end: only what was lost since is sent."""
        if {(f.path, f.size) for f in before.files} != {(f.path, f.size) for f in self.files}:
            raise _pushed_already(self.target)
        seen = self.objects.head(self.target.manifest)
        sent = self._send(self._jobs(may_replace=False), lambda: None)
        if [f.check for f in before.files] != [one.file.check for one in sent]:
            raise _pushed_already(self.target)
        if before.files != tuple(one.file for one in sent):
            raw = pushed.seal(self._described(sent))
            self.uploads.write(self.target.manifest, raw, crc64nvme(raw), over=seen.etag)
        return sent

    def _jobs(self, *, may_replace: bool) -> list[Job]:
        """What goes where; raises `Conflict` where something is in the way that this push does not have."""
        source = self.target.source
        there = _there(self.objects, source)
        wanted = {source.object_of(local.path): local for local in self.files}
        foreign = sorted(there.keys() - {to.key for to in wanted})
        if foreign:
            raise Conflict(
                f"{source} has {count(len(foreign), 'object')} that this push does not have: "
                f"{pushed.shown(foreign)}; delete them there, or push a new version"
            )
        return [Job(local, to, there.get(to.key), may_replace) for to, local in wanted.items()]

    def _send(self, jobs: Sequence[Job], check: Callable[[], None]) -> list[Sent]:
        """Send with a progress bar; `check` may end it whenever something has moved."""
        total = sum(job.local.size for job in jobs)
        with progress(self.context.screen, f"push {self.target.version}", total) as step:

            def moved(count: int) -> None:
                check()
                step(count)

            return Sender(self.uploads, streams=self.streams, moved=moved).send(jobs)

    def _described(self, sent: Sequence[Sent]) -> Pushed:
        who, when = self.context.who, self.context.stamp()
        return Pushed(files=tuple(one.file for one in sent), who=who, when=when)


def _pushed_already(target: Target) -> Conflict:
    return Conflict(
        f"{target.source} was pushed already with other content (see {target.manifest}): what was pushed "
        "never changes; push it as a new version"
    )


def _there(objects: Objects, source: Source) -> dict[str, ObjectInfo]:
    """The objects of the source; keys of folders and other manifest objects are no data."""
    if not source.is_prefix:
        try:
            return {source.key: objects.head(source)}
        except SourceNotReady:
            return {}
    return {o.key: o for o in objects.list(source) if not o.key.endswith(("/", pushed.SUFFIX))}


def _target(text: str, version: Version) -> Target:
    source = data_template.source_of("TARGET", text)
    if source.scheme != "s3":
        raise Usage(f"TARGET {text!r}: data is pushed to s3:// only")
    return Target(source.beside(source.key.replace(PLACEHOLDER, version)), version)
