"""plan as it runs: locks, fences, order of writes, crashes after each write, pauses, an older or wiped KV."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from handlers import plan
from handlers.adapters import snapshot
from handlers.adapters.kv import ConsulKV
from handlers.adapters.local import LocalState
from handlers.adapters.ports import Consul, Delete, Lock, Op, Set
from handlers.adapters.txn import split
from handlers.context import Context
from handlers.core import codec, keys, model
from handlers.core.errors import Conflict, Temporary
from handlers.settings import Limits, Settings
from tests.core.worlds import COMPLETE, PLACES, Cluster, order_of, rid, v
from tests.fakes_kv import FakeKV
from tests.servers import wait_until

Planner = Callable[..., Context]


class Crash(BaseException):
    """Kills a run where no handler of errors can stop it, as a signal would."""


def context(kv: Consul, root: Path, **limits: float) -> Context:
    settings = Settings(
        root=root,
        node=root.name,
        config=root / "none",
        limits=Limits(**{"plan_pause_s": 0.0, **limits}),  # type: ignore[arg-type]
    )
    return Context(settings=settings, node=root.name, kv=kv, local=LocalState(root))


def write(kv: Consul, cluster: Cluster) -> None:
    """Make KV what the cluster is, own documents of plan aside."""
    own = (keys.DESIRED, keys.PROVEN, keys.ALARMS, keys.LOCKS)
    there = {k: e.value for k, e in kv.list(keys.ROOT).entries.items() if not k.startswith(own)}
    ops: list[Op] = [Set(k, value) for k, value in cluster.items() if there.get(k) != value]
    ops += [Delete(k) for k in there if k not in cluster]
    for batch in split(ops):
        kv.txn(batch)


def read(kv: Consul) -> Cluster:
    return Cluster(
        {k: e.value for k, e in kv.list(keys.ROOT).entries.items() if not k.startswith(keys.LOCKS)}
    )


def three_nodes() -> Cluster:
    cluster = Cluster()
    cluster.publish(1)
    cluster.subscribe()
    for name in ("n1", "n2", "n3"):
        cluster.node(name, COMPLETE)
        cluster.runs(name, places=1)
    return cluster


@pytest.fixture
def fake() -> FakeKV:
    return FakeKV()


class TestWrites:
    def test_new_head_reaches_every_node_and_the_second_run_writes_nothing(
        self, fake: FakeKV, tmp_path: Path
    ) -> None:
        write(fake, three_nodes())
        ctx = context(fake, tmp_path)

        assert plan.run(ctx) == "planned generation 1: 3 of 3 nodes changed"

        count = len(fake.txns)
        assert plan.run(ctx) == "nothing to change for 3 nodes at generation 1"
        written = [op.key for txn in fake.txns[count:] for op in txn]
        assert set(written) == {keys.lock("plan")}
        assert keys.lock("plan") not in fake.list(keys.ROOT).entries

    def test_what_is_announced_is_written_before_the_nodes_are_told(
        self, fake: FakeKV, tmp_path: Path
    ) -> None:
        write(fake, three_nodes())
        count = len(fake.txns)

        plan.run(context(fake, tmp_path))

        order = [op.key for txn in fake.txns[count:] for op in txn]
        assert order.index(keys.ALARMS) < order.index(keys.desired("n1"))
        assert order.index(keys.proven(COMPLETE)) < order.index(keys.desired("n1"))

    def test_staged_release_whose_time_has_come_becomes_the_head(self, fake: FakeKV, tmp_path: Path) -> None:
        cluster = three_nodes()
        cluster.publish(2)
        cluster[keys.head(PLACES)] = v(1).encode()
        cluster.put(keys.staged(PLACES), model.Staged(version=v(2), at="2020-01-01T00:00:00Z"))
        write(fake, cluster)
        ctx = context(fake, tmp_path)

        plan.run(ctx)

        head, _ = fake.get(keys.head(PLACES))
        assert head is not None
        assert head.value == v(2).encode()
        assert fake.get(keys.staged(PLACES))[0] is None
        (trace,) = fake.list(keys.AUDIT).entries.values()
        assert codec.decode(model.Audit, trace.value, "audit").action == "promoted"
        plan.run(ctx)
        assert read(fake).alias("n1").target == v(2)

    def test_only_changed_documents_are_written(self, fake: FakeKV, tmp_path: Path) -> None:
        cluster = three_nodes()
        write(fake, cluster)
        ctx = context(fake, tmp_path)
        plan.run(ctx)
        cluster.cordon("n2")
        write(fake, cluster)
        count = len(fake.txns)

        assert plan.run(ctx) == "planned generation 2: 1 of 3 nodes changed"

        written = {op.key for txn in fake.txns[count:] for op in txn}
        assert written == {keys.lock("plan"), keys.ALARMS, keys.desired("n2")}

    def test_alarm_is_written_once_and_taken_back(self, fake: FakeKV, tmp_path: Path) -> None:
        cluster = three_nodes()
        write(fake, cluster)
        ctx = context(fake, tmp_path)
        plan.run(ctx)
        cluster[keys.channel_pin(PLACES)] = b"tomorrow"
        write(fake, cluster)

        assert plan.run(ctx).endswith("; 1 alarm")
        index = fake.list(keys.ALARMS).entries[keys.ALARMS].index
        assert plan.run(ctx).endswith("; 1 alarm")
        assert fake.list(keys.ALARMS).entries[keys.ALARMS].index == index

        cluster.drop(keys.channel_pin(PLACES))
        write(fake, cluster)
        plan.run(ctx)
        assert snapshot.load(fake).published.alarms == ()

    def test_two_hundred_nodes_are_written_in_transactions_that_fit(
        self, fake: FakeKV, tmp_path: Path
    ) -> None:
        cluster = Cluster()
        cluster.publish(1)
        cluster.subscribe()
        for number in range(200):
            cluster.node(f"node-{number}", COMPLETE)
        write(fake, cluster)

        assert plan.run(context(fake, tmp_path)) == "planned generation 1: 200 of 200 nodes changed"

        assert len(fake.list(keys.DESIRED).entries) == 200


class TestCrashes:
    def test_crash_after_any_transaction_is_completed_by_the_next_run(self, tmp_path: Path) -> None:
        cluster = Cluster()
        cluster.publish(1)
        cluster.subscribe()
        for number in range(130):
            cluster.node(f"node-{number}", COMPLETE)
        whole = FakeKV()
        write(whole, cluster)
        plan.run(context(whole, tmp_path / "whole"))
        count = sum(any(op.key.startswith(keys.DESIRED) for op in txn) for txn in whole.txns)
        assert count > 2, "the world is large enough to be cut"

        for cut in range(count + 2):
            for when in ("before", "after"):
                kv = FakeKV()
                write(kv, cluster)
                ctx = context(kv, tmp_path / f"{when}{cut}")
                self._die(kv, ctx, cut, when)

                plan.run(ctx)

                assert self._content(kv) == self._content(whole), (when, cut)
                assert "nothing to change" in plan.run(ctx)

    def _die(self, kv: FakeKV, ctx: Context, cut: int, when: str) -> None:
        left = [cut]

        def die(_: Sequence[Op]) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise Crash

        setattr(kv, f"{when}_txn", die)
        with pytest.raises(Crash):
            plan.run(ctx)
        setattr(kv, f"{when}_txn", lambda _: None)

    def _content(self, kv: FakeKV) -> dict[str, model.Desired]:
        found = read(kv)
        return {
            k: order_of(codec.decode(model.Desired, raw, k))
            for k, raw in found.items()
            if k.startswith(keys.DESIRED)
        }

    def test_answer_that_is_lost_is_no_setback(self, fake: FakeKV, tmp_path: Path) -> None:
        write(fake, three_nodes())
        ctx = context(fake, tmp_path)

        def lose(ops: Sequence[Op]) -> None:
            if any(op.key.startswith(keys.DESIRED) for op in ops):
                raise Temporary("no answer")

        fake.after_txn = lose
        with pytest.raises(Temporary):
            plan.run(ctx)
        fake.after_txn = lambda _: None

        assert plan.run(ctx) == "nothing to change for 3 nodes at generation 1"

    def test_planner_that_was_frozen_writes_nothing(self, fake: FakeKV, tmp_path: Path) -> None:
        write(fake, three_nodes())
        frozen, standby = context(fake, tmp_path / "frozen"), context(fake, tmp_path / "standby")

        def freeze(ops: Sequence[Op]) -> None:
            if any(op.key.startswith(keys.DESIRED) for op in ops):
                fake.before_txn = lambda _: None
                holder = fake.list(keys.LOCKS).entries[keys.lock("plan")]
                fake.destroy_session(holder.session)
                plan.run(standby)

        fake.before_txn = freeze
        with pytest.raises(Conflict):
            plan.run(frozen)

        desired = read(fake).desired("n1")
        assert desired.generation == 2, "the standby announced above what the frozen one had announced"

    def test_document_that_changed_since_it_was_read_is_not_overwritten(
        self, fake: FakeKV, tmp_path: Path
    ) -> None:
        cluster = three_nodes()
        write(fake, cluster)
        ctx = context(fake, tmp_path)
        plan.run(ctx)
        cluster.publish(2)
        write(fake, cluster)

        def forget(ops: Sequence[Op]) -> None:
            if any(op.key == keys.desired("n1") for op in ops):
                fake.before_txn = lambda _: None
                fake.txn([Delete(key) for key in fake.list(keys.node("n1")).entries])
                fake.txn([Delete(keys.desired("n1")), Delete(keys.states("n1"))])

        fake.before_txn = forget
        with pytest.raises(Conflict):
            plan.run(ctx)
        plan.run(ctx)

        assert keys.desired("n1") not in fake.list(keys.ROOT).entries


class TestPauses:
    def test_burst_is_planned_at_once_and_then_after_the_pause(self, fake: FakeKV, tmp_path: Path) -> None:
        cluster = three_nodes()
        write(fake, cluster)
        ctx = context(fake, tmp_path, plan_pause_s=1.0)
        plan.run(ctx)
        cluster.publish(2)
        write(fake, cluster)

        due = plan.Memory.read(ctx.local).due
        assert plan.run(ctx) == "planned generation 2: 3 of 3 nodes changed"
        assert time.monotonic() >= due

    def test_pauses_grow_while_heads_keep_coming_and_shrink_again(
        self, fake: FakeKV, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A hundred heads in ten seconds are planned three times: at once, after 4 s, and 8 s later."""
        # stands still, however long a run takes; whole, so that no pause is rounded to more than the longest
        now = float(int(time.monotonic()))
        monkeypatch.setattr(plan, "time", SimpleNamespace(monotonic=lambda: now))
        cluster = three_nodes()
        write(fake, cluster)
        ctx = context(fake, tmp_path, plan_pause_s=0.25)
        pauses = []
        for number in range(2, 7):
            cluster.publish(number)
            write(fake, cluster)
            assert "3 of 3 nodes changed" in plan.run(ctx)
            memory = plan.Memory.read(ctx.local)
            assert memory.due <= now + 0.25 * memory.burst
            pauses.append(memory.burst)

        assert pauses == [1, 2, 4, 4, 4]
        plan.run(ctx)  # nothing came
        assert plan.Memory.read(ctx.local).burst == 1.0

    @pytest.mark.parametrize("early", [True, False], ids=["before-the-run", "while-it-waits"])
    @pytest.mark.parametrize(
        "key",
        [keys.channel_pin(PLACES), keys.service_pin(COMPLETE, "places"), keys.rejected(PLACES, v(2))],
        ids=["pin", "service-pin", "rejected"],
    )
    def test_orders_do_not_wait(self, fake: FakeKV, tmp_path: Path, key: str, early: bool) -> None:
        cluster = three_nodes()
        write(fake, cluster)
        ctx = context(fake, tmp_path, plan_pause_s=60.0)
        plan.run(ctx)
        cluster.publish(2)
        write(fake, cluster)
        order = Set(key, v(1).encode())
        if early:
            fake.txn([order])
            sayings = [plan.run(ctx)]
        else:
            sayings = []
            thread = threading.Thread(target=lambda: sayings.append(plan.run(ctx)))
            thread.start()
            fake.txn([order])
            thread.join(30)

        assert len(sayings) == 1
        assert read(fake).alias().target == v(1)

    def test_run_that_changed_nothing_is_followed_by_a_short_pause_only(
        self, fake: FakeKV, tmp_path: Path
    ) -> None:
        write(fake, three_nodes())
        ctx = context(fake, tmp_path, plan_pause_s=60.0)
        plan.run(context(fake, tmp_path / "other"))

        plan.run(ctx)

        assert plan.Memory.read(ctx.local).due - time.monotonic() < 10

    def test_memory_that_does_not_parse_is_begun_anew(self, fake: FakeKV, tmp_path: Path) -> None:
        write(fake, three_nodes())
        ctx = context(fake, tmp_path)
        ctx.local.write(plan.MEMORY, b"[oops")

        assert "3 of 3 nodes changed" in plan.run(ctx)


class TestKvThatIsNotToBeTrusted:
    def test_before_hydra_is_set_up_nothing_is_written(self, fake: FakeKV, tmp_path: Path) -> None:
        assert plan.run(context(fake, tmp_path)).startswith("nothing to plan")
        assert fake.list(keys.ROOT).entries == {}

    def test_older_kv_is_held_with_an_alarm_until_the_floor_is_raised(
        self, fake: FakeKV, tmp_path: Path
    ) -> None:
        cluster = three_nodes()
        write(fake, cluster)
        ctx = context(fake, tmp_path)
        plan.run(ctx)
        older = fake.snapshot()
        cluster.publish(2)
        write(fake, cluster)
        plan.run(ctx)
        fake.restore(older)
        before = read(fake)

        assert plan.run(ctx).startswith("held: this planner has written generation 2, KV knows only 1")

        after = read(fake)
        assert {k for k in after if after[k] != before.get(k)} == {keys.ALARMS}
        assert "restored from an older state" in after[keys.ALARMS].decode()
        assert plan.run(ctx).startswith("held: ")

        after.put(keys.META, model.Meta(environments=("prod",), generation_floor=2))
        after.publish(3)
        write(fake, after)
        assert plan.run(ctx) == "planned generation 3: 3 of 3 nodes changed"

    def test_wiped_kv_is_held(self, fake: FakeKV, tmp_path: Path) -> None:
        write(fake, three_nodes())
        ctx = context(fake, tmp_path)
        plan.run(ctx)
        fake.txn([Delete(key) for key in fake.list("").entries])

        assert plan.run(ctx).startswith("held: meta is missing")

        assert set(read(fake)) == {keys.ALARMS}

    def test_standby_without_memory_holds_by_what_nodes_applied(self, fake: FakeKV, tmp_path: Path) -> None:
        cluster = three_nodes()
        cluster.applied("n2", 7)
        write(fake, cluster)

        assert plan.run(context(fake, tmp_path)).startswith("held: node n2 has applied generation 7")
        assert keys.desired("n1") not in read(fake)


class TestOnConsul:
    def test_plans_and_lets_the_lock_go(self, kv: ConsulKV, tmp_path: Path) -> None:
        write(kv, three_nodes())

        assert plan.run(context(kv, tmp_path)) == "planned generation 1: 3 of 3 nodes changed"

        assert read(kv).held("n1") == {rid(1)}
        assert kv.list(keys.LOCKS).entries == {}

    def test_two_planners_at_once_write_each_generation_once(self, kv: ConsulKV, tmp_path: Path) -> None:
        cluster = three_nodes()
        write(kv, cluster)
        planners = [context(kv, tmp_path / name) for name in ("a", "b")]
        for number in range(2, 6):
            cluster.publish(number)
            write(kv, cluster)
            with ThreadPoolExecutor(2) as pool:
                sayings = list(pool.map(plan.run, planners))

            assert sorted(sayings) == [
                f"nothing to change for 3 nodes at generation {number - 1}",
                f"planned generation {number - 1}: 3 of 3 nodes changed",
            ]
            assert read(kv).alias().target == v(number)

    def test_standby_takes_over_when_the_planner_dies(self, kv: ConsulKV, tmp_path: Path) -> None:
        write(kv, three_nodes())
        session = kv.create_session("hydra plan", ttl_s=1, behavior="delete")
        kv.txn([Lock(keys.lock("plan"), b"{}", session)])

        assert plan.run(context(kv, tmp_path, plan_ttl_s=10)) == "planned generation 1: 3 of 3 nodes changed"

    def test_run_goes_on_with_the_lock_of_a_run_that_was_killed(self, kv: ConsulKV, tmp_path: Path) -> None:
        write(kv, three_nodes())
        ctx = context(kv, tmp_path, plan_ttl_s=60)
        session = kv.create_session("hydra plan", ttl_s=60, behavior="delete")
        ctx.local.write("sessions/plan", session.encode())
        kv.txn([Lock(keys.lock("plan"), b"{}", session)])

        began = time.monotonic()
        assert plan.run(ctx) == "planned generation 1: 3 of 3 nodes changed"
        assert time.monotonic() - began < 30

    def test_order_wakes_a_planner_that_lets_a_burst_pass(self, kv: ConsulKV, tmp_path: Path) -> None:
        cluster = three_nodes()
        write(kv, cluster)
        ctx = context(kv, tmp_path, plan_pause_s=60.0)
        plan.run(ctx)
        cluster.publish(2)
        write(kv, cluster)
        sayings: list[str] = []
        thread = threading.Thread(target=lambda: sayings.append(plan.run(ctx)))
        thread.start()
        wait_until(lambda: any(t.name.startswith("orders") for t in threading.enumerate()))

        kv.txn([Set(keys.rejected(PLACES, v(2)), b"")])

        thread.join(30)
        assert len(sayings) == 1
        assert read(kv).alias().target == v(1)
