"""judge: looks at canaries over real HTTP, counts in the KV, and writes verdicts that are fenced."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from handlers import judge
from handlers.adapters.gauge import Gauge, Subject, Target
from handlers.adapters.local import LocalState
from handlers.adapters.ports import CheckIndex, CheckSession, Op
from handlers.context import Context
from handlers.core import codec, keys, model
from handlers.core.errors import Conflict, Temporary
from handlers.core.gate import Look, parse_check
from handlers.core.names import InstanceKey
from handlers.core.version import ReleaseId
from handlers.settings import Limits, Settings
from tests.core.worlds import COMPLETE, PLACES, Cluster, rid
from tests.fakes_kv import FakeKV

Answer = Callable[[str], tuple[int, object]]


@contextmanager
def server(answer: Answer) -> Iterator[int]:
    """An HTTP server on loopback that answers each path with a status and JSON; its port."""

    class Requests(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answer(self.path)
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (named by the base class)
            """Not a line per request."""

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Requests)
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    try:
        yield httpd.server_port
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()


@pytest.fixture
def kv() -> FakeKV:
    return FakeKV()


def context(kv: FakeKV, root: Path, **commands: tuple[str, ...]) -> Context:
    own = Settings(root=root, node="p", config=root / "none", limits=Limits(plan_ttl_s=1), commands=commands)
    return Context(settings=own, node="p", kv=kv, local=LocalState(root))


def waiting(kv: FakeKV, port: int, check: str, **texts: Any) -> None:
    """Two instances; the first has moved and waits for its check."""
    cluster = Cluster()
    cluster.publish(1)
    cluster.publish(2)
    times = {"check_interval_s": 0.1, "check_time_s": 0.3, "canaries": 1, **texts}
    cluster.put(
        keys.subscription(COMPLETE), model.Subscription(channels={"places": PLACES}, check=check, **times)
    )
    for name, number in (("n1", 2), ("n2", 1)):
        cluster.node(name, COMPLETE)
        instance = model.Instance(service=COMPLETE, id="i0", incarnation="1", address="127.0.0.1", port=port)
        cluster.put(
            keys.instances(name), model.Instances(instances={InstanceKey.of(COMPLETE, "i0"): instance})
        )
        cluster.runs(name, places=number)
    cluster.put(
        keys.rollout(COMPLETE), model.Rollout(stage="check", releases=(rid(2),), instances=("n1.i0",))
    )
    for key, value in cluster.items():
        kv.put(key, value)


def verdict(kv: FakeKV) -> model.Verdict:
    entry, _ = kv.get(keys.verdicts(COMPLETE))
    assert entry is not None
    return codec.decode(model.Verdicts, entry.value, "verdicts").releases[rid(2)]


def written(kv: FakeKV) -> dict[ReleaseId, str]:
    entry, _ = kv.get(keys.verdicts(COMPLETE))
    assert entry is not None
    found = codec.decode(model.Verdicts, entry.value, "verdicts").releases
    return {release: verdict.verdict for release, verdict in found.items()}


def tally(kv: FakeKV) -> model.Tally | None:
    entry, _ = kv.get(keys.gate(COMPLETE))
    return codec.decode(model.Tally, entry.value, "gate") if entry else None


def test_nothing_to_check_ends_without_the_lock(kv: FakeKV, tmp_path: Path) -> None:
    assert judge.run(context(kv, tmp_path)) == "no canary waits for a check"
    assert kv.txns == []


@pytest.mark.parametrize(("status", "word"), [(200, "good"), (500, "bad")])
def test_canary_that_answers_is_good_or_bad(kv: FakeKV, tmp_path: Path, status: int, word: str) -> None:
    with server(lambda _: (status, {})) as port:
        waiting(kv, port, "http://:/healthz")

        said = judge.run(context(kv, tmp_path))

    assert "wrote 1 verdict" in said
    found = verdict(kv)
    assert (found.verdict, found.node, found.instance) == (word, "p", "n1.i0")
    assert tally(kv) is None
    assert judge.run(context(kv, tmp_path)) == "no canary waits for a check"


def test_canary_that_cannot_be_reached_is_inconclusive(kv: FakeKV, tmp_path: Path) -> None:
    with server(lambda _: (200, {})) as port:
        pass
    waiting(kv, port, "http://:/healthz")

    judge.run(context(kv, tmp_path))

    assert verdict(kv).verdict == "inconclusive"
    assert "3 without evidence of 3 looks" in verdict(kv).reason


def test_verdict_is_fenced_by_the_lock_and_by_its_rollout(kv: FakeKV, tmp_path: Path) -> None:
    with server(lambda _: (200, {})) as port:
        waiting(kv, port, "http://:/healthz")

        judge.run(context(kv, tmp_path))

    (last,) = [txn for txn in kv.txns if any(getattr(op, "key", "") == keys.verdicts(COMPLETE) for op in txn)]
    assert isinstance(last[0], CheckSession)
    assert any(isinstance(op, CheckIndex) and op.key == keys.rollout(COMPLETE) for op in last)


def test_looks_are_counted_on_by_the_next_run(kv: FakeKV, tmp_path: Path) -> None:
    """The first run dies before its third look; the looks that it has counted are not asked for again."""
    asked = []

    def answer(path: str) -> tuple[int, object]:
        asked.append(path)
        return 200, {}

    class Killed(BaseException):
        pass

    def die(ops: Sequence[Op]) -> None:
        if len(asked) == 3:
            raise Killed

    with server(answer) as port:
        waiting(kv, port, "http://:/healthz", check_time_s=0.5)
        kv.before_txn = die
        with pytest.raises(Killed):
            judge.run(context(kv, tmp_path))
        kv.before_txn = lambda _: None
        assert (counted := tally(kv)) is not None
        assert counted.good == 2

        judge.run(context(kv, tmp_path))

    assert verdict(kv).verdict == "good"
    assert len(asked) == 6  # five that count, and the one whose count was lost


def test_looks_at_another_release_do_not_count(kv: FakeKV, tmp_path: Path) -> None:
    with server(lambda _: (200, {})) as port:
        waiting(kv, port, "http://:/healthz")
        kv.put(keys.gate(COMPLETE), codec.encode(model.Tally(releases=(rid(1),), bad=9)))

        judge.run(context(kv, tmp_path))

    assert verdict(kv).verdict == "good"


def test_verdict_is_only_about_what_the_canaries_are_checked_for(kv: FakeKV, tmp_path: Path) -> None:
    with server(lambda _: (500, {})) as port:
        waiting(kv, port, "http://:/healthz")
        both = model.Rollout(stage="check", releases=(rid(2), rid(3)), instances=("n1.i0",), checks=(rid(2),))
        kv.put(keys.rollout(COMPLETE), codec.encode(both))

        judge.run(context(kv, tmp_path))

    assert written(kv) == {rid(2): "bad"}


def test_release_that_was_good_keeps_its_verdict_while_the_other_is_looked_at(
    kv: FakeKV, tmp_path: Path
) -> None:
    """Also where an older planner does not say what the canaries are checked for."""
    with server(lambda _: (500, {})) as port:
        waiting(kv, port, "http://:/healthz")
        good = model.Verdict(id="a", verdict="good", reason="", node="p", instance="n1.i0")
        kv.put(keys.verdicts(COMPLETE), codec.encode(model.Verdicts(releases={rid(2): good})))
        both = model.Rollout(stage="check", releases=(rid(2), rid(3)), instances=("n1.i0",))
        kv.put(keys.rollout(COMPLETE), codec.encode(both))

        judge.run(context(kv, tmp_path))
        again = judge.run(context(kv, tmp_path))

    assert written(kv) == {rid(2): "good", rid(3): "bad"}
    assert again == "no canary waits for a check"


def test_rollout_that_ended_meanwhile_gets_no_verdict(kv: FakeKV, tmp_path: Path) -> None:
    with server(lambda _: (500, {})) as port:
        waiting(kv, port, "http://:/healthz")

        def superseded(ops: Sequence[Op]) -> None:
            if any(getattr(op, "key", "") == keys.verdicts(COMPLETE) for op in ops):
                kv.before_txn = lambda _: None
                kv.put(keys.rollout(COMPLETE), codec.encode(model.Rollout()))

        kv.before_txn = superseded
        with pytest.raises(Conflict):
            judge.run(context(kv, tmp_path))

    assert kv.get(keys.verdicts(COMPLETE))[0] is None
    assert judge.run(context(kv, tmp_path)) == "no canary waits for a check"


def test_retry_of_an_inconclusive_check_looks_anew(kv: FakeKV, tmp_path: Path) -> None:
    with server(lambda _: (200, {})) as port:
        waiting(kv, port, "http://:/stats#errors<=1")
        judge.run(context(kv, tmp_path))
        first = verdict(kv)
        assert first.verdict == "inconclusive"  # no such field: no traffic yet
        kv.put(keys.control(COMPLETE), codec.encode(model.Control(retry=(first.id,))))
        waiting_text = model.Subscription(
            channels={"places": PLACES}, check="http://:/healthz", check_interval_s=0.1, check_time_s=0.1
        )
        kv.put(keys.subscription(COMPLETE), codec.encode(waiting_text))

        judge.run(context(kv, tmp_path))

    assert verdict(kv).verdict == "good"


def test_command_that_the_planner_does_not_know_is_no_evidence(kv: FakeKV, tmp_path: Path) -> None:
    waiting(kv, 1, "command:compare")

    judge.run(context(kv, tmp_path))

    assert verdict(kv).verdict == "inconclusive"
    assert "'compare' is not in [commands]" in verdict(kv).reason


def subject(port: int, *others: Target, compare: float = 0.0) -> Subject:
    canary = Target("places.1", "127.0.0.1", port)
    return Subject(service=COMPLETE, releases=(rid(2),), canaries=(canary,), others=others, compare=compare)


@pytest.mark.parametrize(("code", "look"), [(0, Look.GOOD), (1, Look.BAD), (75, Look.NOTHING)])
def test_command_says_by_its_exit_code(code: int, look: Look) -> None:
    says = "print(os.environ['HYDRA_CANARIES'], os.environ['HYDRA_RELEASES'])"
    program = f"import os; {says}; raise SystemExit({code})"
    gauge = Gauge({"compare": (sys.executable, "-c", program)}, "")

    found, seen = gauge.look(parse_check("command:compare"), subject(7))

    assert found is look
    assert f"127.0.0.1:7 {rid(2)}" in seen


def test_number_of_canaries_is_compared_with_that_of_the_others() -> None:
    errors = {"/canary": 0.03, "/other": 0.02}
    check = parse_check("http://:/stats#errors<=0.05")
    with (
        server(lambda _: (200, {"errors": errors["/canary"]})) as mine,
        server(lambda _: (200, {"errors": errors["/other"]})) as theirs,
    ):
        other = Target("places.2", "127.0.0.1", theirs)
        assert Gauge({}, "").look(check, subject(mine, other))[0] is Look.GOOD
        assert Gauge({}, "").look(check, subject(mine, other, compare=1.2))[0] is Look.BAD
        assert Gauge({}, "").look(check, subject(mine, other, compare=2))[0] is Look.GOOD
        assert Gauge({}, "").look(check, subject(mine, compare=2))[0] is Look.NOTHING


def test_prometheus_that_is_away_or_not_configured_says_nothing() -> None:
    check = parse_check("prometheus:errors<=1")

    assert Gauge({}, "").look(check, subject(1)) == (
        Look.NOTHING,
        "no [prometheus] url in the planner's configuration",
    )
    with server(lambda _: (200, {})) as port:
        pass
    assert Gauge({}, f"http://127.0.0.1:{port}").look(check, subject(1))[0] is Look.NOTHING


def test_frozen_judge_whose_lock_went_on_writes_nothing(kv: FakeKV, tmp_path: Path) -> None:
    with server(lambda _: (500, {})) as port:
        waiting(kv, port, "http://:/healthz")

        def frozen(ops: Sequence[Op]) -> None:
            fence = next((op for op in ops if isinstance(op, CheckSession)), None)
            if fence is not None:
                kv.before_txn = lambda _: None
                kv.destroy_session(fence.session)

        kv.before_txn = frozen
        with pytest.raises((Conflict, Temporary)):
            judge.run(context(kv, tmp_path))

    assert kv.get(keys.verdicts(COMPLETE))[0] is None
