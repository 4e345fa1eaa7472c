"""D6: `kill -9` of the real command at random points of each phase, and what the next run makes of it."""

from __future__ import annotations

import os
import random
import shutil
import subprocess

import pytest

from handlers.core.version import ReleaseId
from handlers.settings import Limits
from tests.faults import rules
from tests.faults.field import MIB, Field, right_bytes
from tests.faults.killed import PHASES
from tests.faults.scenes import UNIT, Change
from tests.servers import wait_until

KILLS = 6  # in each phase
SEED = 20260206
SLACK = 2 * MIB  # per stream: what the server has sent and nobody has read


@pytest.mark.timeout(240)
@pytest.mark.parametrize("phase", PHASES)
def test_d6_killed_in_any_phase_the_next_run_ends_the_work(
    field: Field, phase: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed at random points of a phase: all or nothing is visible, and the next run finishes."""
    change = Change.on(field)
    ready = field.root.with_name("ready")
    subprocess.run(["cp", "-a", str(field.root), str(ready)], check=True)
    change.want()
    field.server.forget()
    lived = change.killed(phase, 0)
    assert lived.returncode == 0, lived.stderr
    needed, calls = field.server.bytes_sent(), int(lived.stdout)
    assert calls, f"nothing of the phase {phase} happens in a whole run"
    chosen = random.Random(f"{SEED} {phase}").choices(range(1, calls + 1), k=KILLS)
    with capsys.disabled():
        print(f"\nD6 {phase}: seed {SEED}, killed at {chosen} of {calls}")
    for nth in chosen:
        shutil.rmtree(field.root)
        subprocess.run(["cp", "-a", str(ready), str(field.root)], check=True)
        change.as_before()

        dead = change.killed(phase, nth)

        assert dead.returncode in (-9, 0), dead.stderr  # 0: the calls of threads come in another order
        change.all_or_nothing()
        change.ends_well()
        sent = field.server.bytes_sent()
        assert sent <= needed + Limits().streams * (UNIT + SLACK), f"{nth}: {sent} for {needed} bytes"


@pytest.mark.parametrize("kind", ["digest", "crc64nvme", "parts"])
def test_d6_the_next_run_fetches_what_was_not_verified_and_no_more(field: Field, kind: str) -> None:
    """Killed with half of a big file there: at most the missing chunks and one per stream come again."""
    body = os.urandom(80 * MIB)
    release = field.put_files(1, {"big": body}, kind=kind, unit=8 * MIB)
    field.desire(1, release)
    field.server.rule(rules.stall(20 * MIB), times=None)
    with field.running() as process:
        wait_until(lambda: field.server.bytes_sent() >= 40 * MIB, what="the half is sent")
        wait_until(lambda: staged(field, body) >= 16 * MIB, what="some of it is here")
        process.kill()
    right = staged(field, body)
    assert right >= 16 * MIB
    field.server.forget()

    field.synced(release)

    allowed = len(body) - right + (0 if kind == "digest" else Limits().streams * 8 * MIB)
    assert field.server.bytes_sent() <= allowed, f"{field.server.bytes_sent()} for {len(body) - right} bytes"


def staged(field: Field, body: bytes) -> int:
    """How many bytes of a file are here, in chunks that are right."""
    return max((right_bytes(path, body, 8 * MIB) for path in field.staged()), default=0)


def test_d6_leftovers_of_dead_runs_are_swept_and_nothing_accumulates(field: Field) -> None:
    """Releases that are no longer wanted leave no trace of the runs that died while they fetched them."""
    releases: list[ReleaseId] = []
    for day in range(1, 6):
        release = field.put_files(day, {"big": os.urandom(20 * MIB), "small": b"%d" % day})
        releases.append(release)
        field.desire(day, release)
        field.server.forget()
        field.server.rule(rules.stall(2 * MIB), times=None)
        with field.running() as process:
            wait_until(lambda: field.server.bytes_sent() >= 2 * MIB, what="it has begun")
            process.kill()
    field.server.forget()
    last = releases[-1]

    field.synced(last)

    files = [path for path in (field.root / "volumes").rglob("*") if path.is_file()]
    assert len(files) == 2, files
