"""The files of a folder that `hydra push` uploads: only what S3, `publish` and nodes can all take."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from handlers.adapters.ports import Source
from handlers.adapters.send import Local
from handlers.core import pushed
from handlers.core.errors import Usage
from handlers.core.names import check_path
from handlers.core.version import PLACEHOLDER
from hydra_cli.publish_source import MAX_FILES


def files_of(what: Path, source: Source) -> list[Local]:
    """The files to push, checked as `publish` and nodes will check them; raises `Usage`."""
    if what.is_dir() and not source.is_prefix:
        raise Usage(f"{what} is a folder: TARGET must end in / (s3://BUCKET/PREFIX/{PLACEHOLDER}/)")
    if not what.is_dir():
        if source.is_prefix:
            raise Usage(f"{what} is one file: TARGET must name an object, without a / at its end")
        return [_some([Local.of(source.key.rpartition("/")[2], what)], what)[0]]
    files = []
    for path in _walk(what, ""):
        check_path(path, f"{what}: file")
        check_path(source.key + path, "key")
        if path.endswith(pushed.SUFFIX):
            raise Usage(
                f"{what}: file {path!r}: only manifest objects have names that end in {pushed.SUFFIX}"
            )
        files.append(Local.of(path, what / path))
    return _some(sorted(files, key=lambda local: local.path), what)


def _some(files: list[Local], what: Path) -> list[Local]:
    if len(files) > MAX_FILES:
        raise Usage(
            f"{what}: {len(files)} files; at most {MAX_FILES} are possible: pack small files together"
        )
    if not sum(local.size for local in files):
        raise Usage(f"{what} has 0 bytes in all; nothing to push")
    return files


def _walk(root: Path, below: str) -> Iterator[str]:
    """The paths of everything below `root` that is no folder."""
    try:
        entries = sorted(os.scandir(root / below), key=lambda entry: entry.name)
    except OSError as e:
        raise Usage(f"{root / below}: cannot be listed ({e.strerror})") from None
    if not entries and below:
        raise Usage(
            f"{root / below} is an empty folder, which S3 cannot hold: remove it, or put a file there"
        )
    for entry in entries:
        path = f"{below}{entry.name}"
        try:
            path.encode()
        except UnicodeEncodeError:
            raise Usage(f"{root}: the name {path!r} is not UTF-8, which keys on S3 must be") from None
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(root, f"{path}/")
        else:
            yield path
