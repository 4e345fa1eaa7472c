"""What the processes of an instance have open or mapped: whether they really left the old release.

A process belongs to an instance when its environment has the instance's view as `HYDRA_VIEW`. In a container
the root may have another name: there, the end of the path decides. Used by `adapters.service`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from handlers.core.names import InstanceKey
from handlers.core.version import ReleaseId

_NAME = b"HYDRA_VIEW="


def of_instance(key: InstanceKey, root: Path, proc: Path = Path("/proc")) -> list[Path]:
    """The processes whose view is that of `key`; those that cannot be looked into are left out."""
    here = {os.fsencode(f"{where}/views/{key}") for where in (root, root.resolve())}
    own = _namespace(proc / "self")
    found = []
    for process in proc.iterdir():
        if not process.name.isdecimal() or int(process.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):  # it ended meanwhile, or is somebody else's
            for word in (process / "environ").read_bytes().split(b"\0"):
                view = word.removeprefix(_NAME).rstrip(b"/")
                if word.startswith(_NAME) and (
                    # several nodes may be simulated on one machine, with instances of the same names
                    view in here or (view.endswith(f"/views/{key}".encode()) and _namespace(process) != own)
                ):
                    found.append(process)
    return found


def _namespace(process: Path) -> str:
    return str((process / "ns" / "mnt").readlink())


def moved(
    key: InstanceKey,
    root: Path,
    new: Collection[ReleaseId],
    old: Collection[ReleaseId],
    proc: Path = Path("/proc"),
) -> str:
    """Empty when the instance has files of each of `new` open or mapped, and none of `old`; else why not."""
    processes = of_instance(key, root, proc)
    if not processes:
        return f"no process with HYDRA_VIEW={key} can be seen"
    held: set[ReleaseId] = set()
    for process in processes:
        try:
            for path in _paths(process):
                held.update(
                    release for release in (*new, *old) if f"/{release.channel}/{release.version}/" in path
                )
        except FileNotFoundError:
            continue  # it ended meanwhile
        except OSError as e:
            return f"process {process.name} cannot be looked into ({e.strerror})"
    if late := sorted(held & set(old)):
        return f"still has files of {', '.join(late)}"
    if missing := sorted(set(new) - held):
        return f"has no file of {', '.join(missing)} open or mapped"
    return ""


def _paths(process: Path) -> Iterator[str]:
    with (process / "maps").open(errors="surrogateescape") as maps:
        for line in maps:
            yield line.rstrip("\n")
    for entry in (process / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            yield str(entry.readlink())
