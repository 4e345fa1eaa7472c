"""C6 and N6 of the fault catalogue: watches that ring for nothing, and two that ring at the same time."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from handlers.core import keys
from tests.faults import rules
from tests.faults.field import MIB, Field
from tests.handlers.sync_node import NODE
from tests.servers import wait_until

pytestmark = pytest.mark.timeout(300)
Programs = Callable[[str], Path]
QUICK_S = 0.12
RINGS, MOST_RINGS = 10, 50
# what a watch hands over is passed on; how the handler ended, and how long it took, is noted
NOTED = """
began=$(date +%s.%N)
"$@"
code=$?
echo "$code $began $(date +%s.%N)" >> "$ENDED"
exit $code
"""


@contextlib.contextmanager
def watch(field: Field, consul: Path, ended: Path) -> Iterator[subprocess.Popen[str]]:
    """The watch on `desired/<node>` as it runs on a node, with a note of each end of its handler."""
    noted = (str(consul), "watch", "-shell=false", "-type=key", f"-key={keys.desired(NODE)}")
    environ = {**field.environment, "ENDED": str(ended)}
    command = [*noted, "sh", "-c", NOTED, "noted", sys.executable, "-I", "-m", "handlers.main", "sync"]
    process = subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def has_ended(noted: Path, times: int) -> bool:
    """The handler has ended so often."""
    return len(ends(noted)) == times


def ends(noted: Path) -> list[tuple[int, float]]:
    """Exit code and seconds of each run that has ended."""
    rows = (line.split() for line in noted.read_text().splitlines()) if noted.exists() else ()
    return [(int(code), float(end) - float(began)) for code, began, end in rows]


def test_c6_watch_that_rings_with_unchanged_data_costs_next_to_nothing(
    field: Field, programs: Programs, tmp_path: Path
) -> None:
    """At each start of the watch, as after an outage: no request to S3, no write, exit 0, and at once."""
    field.desire(1, field.put_files(1, {"a": b"all of it"}))
    noted = tmp_path / "ended"
    with watch(field, programs("consul"), noted):
        wait_until(lambda: ends(noted), what="the first ring is answered")
    field.server.forget()
    written = field.kv.list(keys.ROOT).index

    codes: tuple[int, ...] = ()
    took_s: list[float] = []
    while len(took_s) < RINGS or (min(took_s) > QUICK_S and len(took_s) < MOST_RINGS):
        with watch(field, programs("consul"), noted) as process:
            wait_until(partial(has_ended, noted, len(took_s) + 2), what="the ring is answered")
            assert process.poll() is None
        codes, (_, *took_s) = zip(*ends(noted), strict=True)

    assert set(codes[1:]) == {0}
    assert not field.server.seen
    assert field.kv.list(keys.ROOT).index == written
    assert min(took_s) <= QUICK_S, took_s  # the quickest: what else the machine does is not counted


def waits_for_its_turn(field: Field) -> bool:
    """Somebody stands in the queue behind the run that works."""
    return bool(holders(field, "sync.queue"))


def test_n6_of_two_watches_on_a_node_one_works_and_the_other_waits_and_then_reads(
    field: Field, programs: Programs, tmp_path: Path
) -> None:
    """The one that waits has read nothing: it does what is desired when its turn has come."""
    field.limits_set["stall_s"] = 120  # the one that works stands still for as long as this takes
    old, new = field.put_files(1, {"big": b"o" * MIB}), field.put_files(2, {"a": b"new"})
    field.desire(1, old)
    field.server.rule(rules.stall(MIB // 2), field.key(old, "big"), times=None)
    first, second = tmp_path / "first", tmp_path / "second"
    with watch(field, programs("consul"), first):
        wait_until(lambda: field.server.seen, what="one works")
        worker = one_that_works(field)
        with watch(field, programs("consul"), second):
            wait_until(lambda: waits_for_its_turn(field), what="the other waits")
            third = field.sync(CONSUL_INDEX="1")
            assert (third.code, "queued already" in third.said) == (0, True)
            os.kill(worker, signal.SIGSTOP)  # it can do nothing about what comes now
            field.server.forget()
            field.desire(2, new)
            assert not ends(second)
            os.kill(worker, signal.SIGKILL)

            wait_until(lambda: ends(second), what="it has done what there is to do")

    assert ends(second)[0][0] == 0
    assert field.complete(new)
    assert not field.folder(old).exists()
    assert {seen.key for seen in field.server.seen} == {field.key(new, "a")}


def one_that_works(field: Field) -> int:
    """The process that holds the handler's lock."""
    (pid,) = holders(field, "sync.run")
    return pid


def holders(field: Field, lock: str) -> set[int]:
    """The processes that hold a lock, by what the kernel says: trying it would be in their way."""
    path = field.root / "state" / "locks" / lock
    inode = path.stat().st_ino if path.exists() else 0
    rows = (line.split() for line in Path("/proc/locks").read_text().splitlines())
    return {int(row[4]) for row in rows if row[1] == "FLOCK" and row[5].endswith(f":{inode}")}
