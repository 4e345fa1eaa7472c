"""retain as it runs: what goes together, under which locks, and what a crash or a late pin leaves."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from handlers import plan, retain
from handlers.adapters.kv import ConsulKV
from handlers.adapters.ports import KV, CheckSession, Op
from handlers.core import codec, keys, model
from handlers.core.errors import Conflict
from handlers.core.version import Version
from tests.core.worlds import COMPLETE, PLACES, Cluster, v
from tests.fakes_kv import FakeKV
from tests.handlers.test_plan import Crash, context, read, write


def planned(kv: KV, root: Path, releases: int = 5) -> Cluster:
    """A cluster in KV that keeps 2 releases, planned; manifests included."""
    cluster = Cluster()
    for number in range(1, releases + 1):
        cluster.publish(number)
        cluster[keys.manifest(PLACES, v(number))] = b"{}"
    cluster.settings(keep_releases=2)
    cluster.subscribe()
    cluster.node("n1", COMPLETE)
    cluster.runs("n1", places=releases)
    write(kv, cluster)  # type: ignore[arg-type]
    plan.run(context(kv, root))  # type: ignore[arg-type]
    return cluster


def left(kv: KV, prefix: str) -> list[str]:
    return sorted(key.rpartition("/")[2] for key in kv.list(prefix).entries)


@pytest.fixture
def fake() -> FakeKV:
    return FakeKV()


def test_releases_go_with_their_manifests_and_leave_a_trace(fake: FakeKV, tmp_path: Path) -> None:
    planned(fake, tmp_path)
    ctx = context(fake, tmp_path)

    assert retain.run(ctx) == f"removed 6 keys of channel/{PLACES}"

    assert left(fake, keys.RELEASES) == left(fake, keys.MANIFESTS) == [v(4), v(5)]
    (entry,) = fake.list(f"{keys.AUDIT}channel/{PLACES}/").entries.values()
    said = codec.decode(model.Audit, entry.value, entry.key)
    assert f"release {v(1)}: beyond the newest 2" in said.before
    assert retain.run(ctx) == "nothing to remove"
    assert fake.list(keys.LOCKS).entries == {}


def test_every_removal_is_fenced_by_both_locks(fake: FakeKV, tmp_path: Path) -> None:
    planned(fake, tmp_path)
    count = len(fake.txns)

    retain.run(context(fake, tmp_path))

    for txn in fake.txns[count:]:
        if any(op.key.startswith((keys.RELEASES, keys.AUDIT)) for op in txn):
            fences = {op.key for op in txn if isinstance(op, CheckSession)}
            assert fences == {keys.lock("plan"), keys.lock("retain")}


def test_many_releases_stay_whole_in_transactions_that_fit(fake: FakeKV, tmp_path: Path) -> None:
    planned(fake, tmp_path, releases=28)
    for number in range(40, 60):
        fake.put(keys.rejected(PLACES, Version(f"2026-02-01T00-00-{number}")), b"")
    count = len(fake.txns)

    retain.run(context(fake, tmp_path))

    assert left(fake, keys.RELEASES) == left(fake, keys.MANIFESTS) == [v(27), v(28)]
    for txn in fake.txns[count:]:
        names = [op.key for op in txn if op.key.startswith((keys.RELEASES, keys.MANIFESTS))]
        assert {n.removeprefix(keys.RELEASES) for n in names if n.startswith(keys.RELEASES)} == {
            n.removeprefix(keys.MANIFESTS) for n in names if n.startswith(keys.MANIFESTS)
        }


def test_crash_after_any_transaction_is_completed_by_the_next_run(tmp_path: Path) -> None:
    for cut in range(6):
        for when in ("before_txn", "after_txn"):
            kv = FakeKV()
            planned(kv, tmp_path / f"{when}{cut}")
            ctx = context(kv, tmp_path / f"{when}{cut}")
            remaining = [cut]

            def die(_: Sequence[Op], remaining: list[int] = remaining) -> None:
                remaining[0] -= 1
                if remaining[0] < 0:
                    raise Crash

            setattr(kv, when, die)
            with contextlib.suppress(Crash):
                retain.run(ctx)
            setattr(kv, when, lambda _: None)

            retain.run(ctx)

            assert left(kv, keys.RELEASES) == left(kv, keys.MANIFESTS) == [v(4), v(5)], (when, cut)
            assert "nothing to change" in plan.run(ctx)


def test_release_that_became_desired_meanwhile_stays(fake: FakeKV, tmp_path: Path) -> None:
    cluster = planned(fake, tmp_path)

    def pin(ops: Sequence[Op]) -> None:
        if any(op.key == keys.lock("plan") for op in ops):
            fake.before_txn = lambda _: None
            cluster[keys.channel_pin(PLACES)] = v(2).encode()
            write(fake, cluster)
            plan.run(context(fake, tmp_path / "planner"))

    fake.before_txn = pin
    retain.run(context(fake, tmp_path))

    assert left(fake, keys.RELEASES) == [v(2), v(4), v(5)]


def test_lock_that_was_lost_ends_the_run(fake: FakeKV, tmp_path: Path) -> None:
    planned(fake, tmp_path)

    def steal(ops: Sequence[Op]) -> None:
        if any(op.key.startswith(keys.RELEASES) for op in ops):
            fake.before_txn = lambda _: None
            fake.destroy_session(fake.list(keys.LOCKS).entries[keys.lock("plan")].session)

    fake.before_txn = steal
    with pytest.raises(Conflict):
        retain.run(context(fake, tmp_path))

    assert len(left(fake, keys.RELEASES)) == 5


def test_older_kv_is_held(fake: FakeKV, tmp_path: Path) -> None:
    cluster = planned(fake, tmp_path)
    cluster.applied("n1", 9)
    write(fake, cluster)

    assert retain.run(context(fake, tmp_path)).startswith("held: node n1 has applied generation 9")
    assert len(left(fake, keys.RELEASES)) == 5


def test_node_goes_only_when_it_was_forgotten(fake: FakeKV, tmp_path: Path) -> None:
    cluster = planned(fake, tmp_path)
    cluster.put(keys.progress("old"), model.Progress(node="old"))
    write(fake, cluster)
    ctx = context(fake, tmp_path)

    retain.run(ctx)
    assert keys.progress("old") in read(fake)

    fake.put(keys.forgotten("old"), b"yes")
    assert retain.run(ctx) == "removed 2 keys of node/old"
    assert not {keys.progress("old"), keys.forgotten("old")} & read(fake).keys()


def test_history_is_looked_at_once_in_a_while(fake: FakeKV, tmp_path: Path) -> None:
    planned(fake, tmp_path, releases=1)
    old = datetime.now(UTC) - timedelta(days=90)
    for number in range(130):
        key = keys.audit(f"channel/{PLACES}", Version.of(old + timedelta(minutes=number)), "aa")
        fake.put(key, b"{}")
    ctx = context(fake, tmp_path)

    assert retain.run(ctx) == f"removed 80 keys of audit/channel/{PLACES}"

    assert len(fake.list(keys.AUDIT).entries) == 50
    for number in range(60):
        fake.put(keys.audit(f"channel/{PLACES}", Version.of(old + timedelta(seconds=number)), "aa"), b"{}")
    assert retain.run(ctx) == "nothing to remove"


def test_memory_that_does_not_parse_is_begun_anew(fake: FakeKV, tmp_path: Path) -> None:
    planned(fake, tmp_path)
    ctx = context(fake, tmp_path)
    ctx.local.write(retain.AUDITED, b"noon")

    assert retain.run(ctx).startswith("removed 6 keys")


def test_deleted_channel_and_service_leave_nothing_on_consul(kv: ConsulKV, tmp_path: Path) -> None:
    cluster = planned(kv, tmp_path)
    ctx = context(kv, tmp_path)
    assert retain.run(ctx) == f"removed 6 keys of channel/{PLACES}"
    cluster = read(kv)
    cluster.unsubscribe()
    cluster.delete_channel()
    cluster.node("n1")
    cluster.put(keys.states("n1"), model.States(node="n1"))
    write(kv, cluster)
    plan.run(ctx)

    while retain.run(ctx) != "nothing to remove":
        plan.run(ctx)

    rest = [key for key in kv.list(keys.ROOT).entries if not key.startswith(keys.AUDIT)]
    assert not [key for key in rest if PLACES in key or COMPLETE in key]
    assert keys.desired("n1") in rest
    assert plan.run(ctx).startswith("nothing to change for 1 node")
