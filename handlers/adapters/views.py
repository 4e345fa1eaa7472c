"""The folders that instances read: what each should use now, and whether it should take traffic.

    views/<service>/<id>/<alias> -> ..data/<alias>
    views/<service>/<id>/..data -> ..<n>                       flipped by one rename for all channels together
    views/<service>/<id>/..<n>/<alias> -> ../../../../../../releases/<c>/<version>
    views/<service>/<id>/state, readiness.json                 by consul-template; the first ones from here

Links are relative, so that one mount of the root serves wherever it is mounted. The folder to which `..data`
pointed before stays until the next flip: its releases are what the instance used just before. For `reload`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path

from handlers.adapters.folder import Folder, disk_errors, each
from handlers.adapters.local import write_atomic
from handlers.core.errors import Temporary, Usage
from handlers.core.model import FORMAT, InstanceState
from handlers.core.names import READINESS_FILE, STATE_FILE, InstanceKey, check_alias
from handlers.core.version import ReleaseId, Version

DATA = "..data"
_DEPTH = 4  # env, namespace, name, id
_UP = "../" * (_DEPTH + 2)  # from ..<n>/ to the root
_NUMBERED = re.compile(r"\.\.(\d+)")
_TARGET = re.compile(r"(?:\.\./)+releases/([^/]+/[^/]+/[^/]+)/([^/]+)")


class Views:
    """All views below one root."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, key: InstanceKey) -> Path:
        """The folder that `HYDRA_VIEW` of the instance names."""
        return self.root / "views" / key

    def instances(self) -> frozenset[InstanceKey]:
        """The instances that have a folder, also one without releases."""
        with disk_errors("views"), self._root() as root:
            top = root.find(["views"])
            if top is None:
                return frozenset()
            with top:
                return frozenset(_legal("/".join(parts) for parts in each(top, _DEPTH)))

    def current(self, key: InstanceKey) -> dict[str, ReleaseId]:
        """Where the view points, by alias; empty when there is no view."""
        with disk_errors(f"view {key}"), self._root() as root:
            view = root.find(["views", *key.split("/")])
            if view is None:
                return {}
            with view:
                number = _link(view, DATA)
                data = view.find([number]) if _NUMBERED.fullmatch(number) else None
                if data is None:
                    return {}
                with data:
                    found = {alias: _release(_link(data, alias)) for alias in data.names()}
        return {alias: release for alias, release in found.items() if release is not None}

    def flip(self, key: InstanceKey, releases: Mapping[str, ReleaseId], *, again: bool = False) -> None:
        """Let all aliases point to `releases` in one rename; makes the view when there is none.

        Does nothing when the view points there already, unless `again`, which tells those who watch `..data`.
        Raises `Temporary` when a release is not on this node, `Usage` for an alias that would hide a file.
        """
        for alias in releases:
            check_alias(alias)
        if not again and self.current(key) == releases:
            return
        self._check(key, releases)
        path = ["views", *key.split("/")]
        with disk_errors(f"view {key}"), self._root() as root, root.open(path, make=True) as view:
            before = _link(view, DATA)
            fresh = _fresh(view, releases)
            for alias in releases:
                _relink(view, alias, f"{DATA}/{alias}")
            _relink(view, DATA, fresh)
            _tidy(view, releases, {fresh, before})
        # sync takes the name of a release away and then looks at the views; so one of the two sees the other
        self._check(key, releases)

    def _check(self, key: InstanceKey, releases: Mapping[str, ReleaseId]) -> None:
        for release in releases.values():
            if not (self.root / "releases" / release.channel / release.version).is_dir():
                raise Temporary(f"view {key}: {release} is not on this node")

    def shown(self, key: InstanceKey) -> str:
        """The word in the state file, empty when there is none."""
        try:
            return (self.path(key) / STATE_FILE).read_text().strip()
        except (FileNotFoundError, NotADirectoryError):
            return ""
        except OSError as e:
            raise Temporary(f"view {key}: {STATE_FILE}: {e.strerror}") from e

    def write_first(self, key: InstanceKey, state: InstanceState, *, anew: bool = False) -> None:
        """Write the readiness files that are missing: a new instance must not wait for consul-template.

        `anew`: also those that are there, for a new instance while consul-template cannot reach Consul.
        """
        view = self.path(key)
        if anew or not (view / READINESS_FILE).exists():
            write_atomic(view / READINESS_FILE, readiness(state))
        if anew or not (view / STATE_FILE).exists():
            write_atomic(view / STATE_FILE, state.state.encode())

    def remove(self, key: InstanceKey) -> None:
        """Readiness files first, then the view; fine when there is none."""
        *above, last = ["views", *key.split("/")]
        with disk_errors(f"view {key}"), self._root() as root:
            folder = root.find(above)
            if folder is None:
                return
            with folder:
                view = folder.find([last])
                if view is not None:
                    with view:
                        view.remove(STATE_FILE)
                        view.remove(READINESS_FILE)
                folder.remove(last)
            root.prune(above)

    def _root(self) -> Folder:
        return Folder.of(self.root.resolve())


def readiness(state: InstanceState) -> bytes:
    """`readiness.json` as templates/readiness.json.ctmpl renders it."""
    fields = {
        "format": FORMAT,
        "service": state.service,
        "id": state.id,
        "state": state.state,
        "step": state.step,
        "reason": state.reason,
        "releases": dict(state.releases),
        "target": dict(state.target),
        "since": state.since,
    }
    return (json.dumps(fields, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _fresh(view: Folder, releases: Mapping[str, ReleaseId]) -> str:
    """A new numbered folder with one link per alias; its name."""
    numbers = [int(found[1]) for name in view.names() if (found := _NUMBERED.fullmatch(name))]
    name = f"..{max(numbers, default=0) + 1}"
    with view.open([name], make=True) as folder:
        for alias, release in releases.items():
            os.symlink(f"{_UP}releases/{release.channel}/{release.version}", alias, dir_fd=folder.fd)
        folder.sync()
    return name


def _relink(view: Folder, name: str, target: str) -> None:
    """Let the link `name` point to `target`, by rename and durably."""
    if _link(view, name) == target:
        return
    aside = f".{secrets.token_hex(8)}"
    os.symlink(target, aside, dir_fd=view.fd)
    os.rename(aside, name, src_dir_fd=view.fd, dst_dir_fd=view.fd)
    view.sync()


def _tidy(view: Folder, releases: Mapping[str, ReleaseId], kept: set[str]) -> None:
    """Remove links of aliases that are no more, older folders, and what a crash left."""
    for name in view.names():
        target = _link(view, name)
        leftover = bool(target) and name != DATA and name not in releases
        if leftover or (_NUMBERED.fullmatch(name) and name not in kept):
            view.remove(name)


def _link(folder: Folder, name: str) -> str:
    """Where the link `name` points; empty when it is none."""
    try:
        return os.readlink(name, dir_fd=folder.fd)
    except OSError:
        return ""


def _release(target: str) -> ReleaseId | None:
    found = _TARGET.fullmatch(target)
    with contextlib.suppress(Usage):
        return ReleaseId.parse(f"{found[1]}@{found[2]}") if found else None
    return None


def _legal(names: Iterator[str]) -> Iterator[InstanceKey]:
    for name in names:
        with contextlib.suppress(Usage):  # what somebody else put there is not ours to touch
            yield InstanceKey.parse(name)


def versions(view: Mapping[str, ReleaseId], channels: Mapping[str, str]) -> dict[str, Version]:
    """The view as versions by alias, without aliases that point to another channel than `channels` says."""
    return {a: r.version for a, r in view.items() if channels.get(a, r.channel) == r.channel}
