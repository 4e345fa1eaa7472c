"""Whether data can be read from here: buckets of published releases, and rows of the table of sources."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from handlers import settings
from handlers.adapters.objects import S3Objects
from handlers.adapters.ports import Source
from handlers.adapters.stores import Stores
from handlers.core import codec, keys
from handlers.core.errors import HydraError, SourceNotReady, Usage
from handlers.core.model import Release
from handlers.core.source import WEB
from handlers.core.source_table import SourceRow, SourceTable
from hydra_cli import doctor_checks as checks
from hydra_cli.context import Context
from hydra_cli.doctor_checks import Finding, Level

ADVICE = "look at this row of [sources], and at the variables and files that it names"


def table(context: Context, variables: Mapping[str, str]) -> SourceTable:
    """The rows of this machine as a node, and those of the person for the environment."""
    own = settings.load(variables).sources
    return SourceTable((*own.rows, *context.sources(context.env).rows))


def buckets(context: Context, variables: Mapping[str, str], wanted: Sequence[str]) -> Iterator[Finding]:
    """Whether S3 buckets can be read; one file of a release is not needed for that."""
    stores = Stores(table(context, variables), variables)
    if not wanted:
        wanted = [source.bucket for source in _published(context) if source.scheme == "s3"]
    names = sorted(set(wanted))
    if not names:
        text = "nothing is published from S3 yet, so no bucket is known"
        yield Finding("s3", Level.WARN, text, "try one: `hydra doctor --bucket NAME`")
    for bucket in names:
        before = context.now()
        try:
            objects = stores.of(Source(bucket, ""))
            assert isinstance(objects, S3Objects)
            date = objects.check(bucket)
        except HydraError as e:
            advice = "set AWS_ENDPOINT_URL and credentials, or choose a bucket with --bucket"
            yield Finding(f"s3 ({bucket})", Level.FAIL, str(e), advice)
            continue
        yield Finding(f"s3 ({bucket})", Level.OK, "can be listed from here")
        yield checks.clock(f"s3 {bucket}", date, before, context.now())


def rows(context: Context, variables: Mapping[str, str]) -> Iterator[Finding]:
    """Whether what is below each configured prefix can be reached with what its row says."""
    found = table(context, variables)
    stores = Stores(found, variables)
    for row in found.rows:
        name = f"source ({row.prefix})"
        try:
            yield Finding(name, Level.OK, _tried(stores, row))
        except HydraError as e:
            yield Finding(name, Level.FAIL, str(e), ADVICE)


def _tried(stores: Stores, row: SourceRow) -> str:
    """What was seen below a prefix; raises why it cannot be read."""
    scheme, _, rest = row.prefix.partition("://")
    bucket, _, key = rest.partition("/")
    if not rest:
        return "names no bucket or host that could be tried"
    source = Source(bucket, key, scheme)
    if scheme not in WEB:
        next(iter(stores.folders(source)), None)
        return "can be listed from here"
    try:
        stores.head(source)
    except (SourceNotReady, Usage):  # of a folder a server may say anything; that it answers is what counts
        return "answers, and its certificate is trusted" if scheme == "https" else "answers"
    return "can be read from here"


def _published(context: Context) -> list[Source]:
    found = context.kv().list(keys.RELEASES).entries.values()
    releases = [codec.decode(Release, entry.value, entry.key) for entry in found]
    return [Source.parse(d.source) for release in releases for d in release.datasets.values()]
