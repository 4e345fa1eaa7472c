"""Kill a run of `sync` before every single thing that it writes, run it again, and look.

A program of its own (`python -m tests.handlers.crash_points FOLDER`), because it forks: a child is killed as
hard as by `kill -9`, with nothing cleaned up. Prints how many points there were; fails at the first at which
the next run does not bring the node to the end.
"""

from __future__ import annotations

import functools
import os
import shutil
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from handlers import sync
from handlers.adapters.survey import Survey
from handlers.core.model import State
from handlers.core.version import ReleaseId
from tests.handlers.sync_node import Node

WRITES = ("rename", "replace", "mkdir", "symlink", "fsync", "pwrite", "unlink", "rmdir", "fchmod")
KILLED = 9
FILES = {"index": {"a": b"a" * 3000, "sub/b": b"b", "empty": b""}, "table": {"t": b"t" * 10}}


def node_at(root: Path) -> tuple[Node, ReleaseId, ReleaseId, ReleaseId]:
    """A node whose three releases are published; always the same ones."""
    node = Node(root)
    old, kept, new = (
        node.publish(day, {n: {p: b + bytes([day]) for p, b in f.items()} for n, f in FILES.items()})
        for day in (1, 2, 3)
    )
    return node, old, kept, new


def settle(root: Path) -> None:
    """Hold two releases, the first of which is then no longer desired."""
    node, old, kept, _ = node_at(root)
    node.desire(1, old, kept)
    node.run()
    node.desire(2, kept)
    node.run()


def change(root: Path) -> Node:
    """One release to fetch, one to delete, and something half-fetched to sweep."""
    node, _, kept, new = node_at(root)
    node.now += 4000
    node.desire(3, kept, new)
    node.run()
    return node


def change_and_check(root: Path) -> None:
    """The next run must bring the node to the end, whatever the killed one left."""
    node = change(root)
    old, kept, new = sorted(node.bodies)
    assert node.complete(kept)
    assert node.complete(new)
    assert not node.folder(old).exists()
    assert not node.data(old).exists()
    assert not node.leftovers(), node.leftovers()
    assert {s.state for s in node.actual().releases.values()} == {State.SUCCESS}
    assert set(node.actual().releases) == {kept, new}


def readers_see_all_or_nothing(root: Path) -> None:
    """Right after the kill, every public name must lead to a whole release."""
    node, *releases = node_at(root)
    for release in releases:
        if node.folder(release).exists():
            assert node.complete(release), f"half of {release} is public"


def right_at_once_and_in_the_end(root: Path) -> None:
    """Both, in this order."""
    readers_see_all_or_nothing(root)
    change_and_check(root)


def alone(folder: Path) -> None:
    """Let `sync` see no other processes: it would look at all of this machine before it deletes anything."""
    folder.mkdir()
    (folder / "self").symlink_to("/proc/self")
    setattr(sync, Survey.__name__, functools.partial(Survey, proc=folder))


def die_before(write: int) -> None:
    """End this process right before the given write, counted from 1, without any clean-up."""
    lock, count = threading.Lock(), [0]

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with lock:
                count[0] += 1
                if count[0] == write:
                    os._exit(KILLED)
            return call(*args, **kwargs)

        return wrapper

    for name in WRITES:
        setattr(os, name, counted(getattr(os, name)))


def in_child(work: Callable[[], object]) -> int:
    """Run `work` in a fork; its exit code."""
    child = os.fork()
    if child == 0:
        _end(work)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _end(work: Callable[[], object]) -> NoReturn:
    try:
        work()
    except BaseException:  # noqa: BLE001 - a child must end here, whatever happened
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def main(folder: Path) -> int:
    """Try all points; the number of them."""
    ready = folder / "ready"
    alone(folder / "proc")
    assert in_child(lambda: settle(ready)) == 0
    for write in range(1, 10_000):
        root = folder / f"at-{write}"
        shutil.copytree(ready, root, symlinks=True)

        def killed(root: Path = root, write: int = write) -> None:
            die_before(write)
            change(root)

        code = in_child(killed)
        assert code in (0, KILLED), f"write {write}: the run itself failed"
        check = functools.partial(right_at_once_and_in_the_end, root)
        assert in_child(check) == 0, f"killed before write {write}"
        shutil.rmtree(root)
        if code == 0:
            return write - 1
    raise AssertionError("the run never came to its end")


if __name__ == "__main__":
    print(main(Path(sys.argv[1])))
