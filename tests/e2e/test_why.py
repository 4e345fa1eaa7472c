"""`hydra why` on a real cluster: every reason of the closed list is provoked, and said in one sentence."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from msgspec.structs import replace

from handlers.adapters.ports import Delete, Set
from handlers.core import codec, keys
from handlers.core.model import Desired, Instances, Step, Subscription
from handlers.core.names import InstanceKey
from handlers.core.reasons import Reason
from handlers.core.version import Version
from hydra_cli.dev import processes
from hydra_cli.dev.access import PLANNER_NODE
from hydra_cli.dev.demo.sight import Replica
from hydra_cli.dev.ports import free_port
from tests import servers
from tests.e2e.scene import V1, V2, V3, V4, Scene, until
from tests.e2e.standing import frozen

pytestmark = pytest.mark.timeout(600)
RELOADERS = ("reload", "resync")  # what the command lines of all that runs reload end with


def why(scene: Scene, replica: Replica | str) -> str:
    """What `hydra why` says of one instance."""
    name = replica if isinstance(replica, str) else replica.id
    answer = json.loads(scene.hydra("why", scene.service, name, "-o", "json", role="reader"))
    (instance,) = answer["instances"]
    return str(instance["why"])


def is_known(scene: Scene, name: str, health: str = "") -> bool:
    """A node tells of the instance, and that its health is asked for in this way."""
    key = InstanceKey.of(scene.service, name)
    told = (scene.document(Instances, keys.instances(node)) for node in scene.cluster.nodes)
    found = [doc.instances[key] for doc in told if doc is not None and key in doc.instances]
    return any(health in ("", instance.health) for instance in found)


def await_why(scene: Scene, replica: Replica | str, *reasons: Reason) -> str:
    """Wait until `hydra why` gives exactly these reasons for the instance; the sentence."""
    name = replica if isinstance(replica, str) else replica.id
    seen: list[str] = []
    until(f"the node of {name} tells of it", partial(is_known, scene, name))  # before, `hydra why` refuses it

    def given() -> bool:
        answer = json.loads(scene.hydra("why", scene.service, name, "-o", "json", role="reader"))
        (instance,) = answer["instances"]
        seen[:] = [instance["why"], *instance["reasons"]]
        return seen[1:] == [reason.name for reason in reasons]

    try:
        until(f"{name} waits for {[reason.name for reason in reasons]}", given)
    except AssertionError as e:
        raise AssertionError(f"{e}; last it said {seen}") from None
    return seen[0]


class Recorder:
    """What nodes say of a scene's instances from now on, by their logs: what is short is not missed."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._read = {log: log.stat().st_size for log in self._logs()}

    def said(self, *reasons: Reason) -> None:
        """Wait until each of `reasons` was said."""
        for reason in reasons:
            until(f"{reason.name} is said", partial(self._has, reason))

    def _has(self, reason: Reason) -> bool:
        return any(reason.told_in(line) for line in self._lines())

    def _logs(self) -> list[Path]:
        roots = [self._scene.cluster.root(node) for node in self._scene.cluster.nodes]
        return [log for root in roots for log in (root / "state" / "log").rglob("*.log")]

    def _lines(self) -> Iterator[str]:
        for log in self._logs():
            with log.open(errors="replace") as text:
                text.seek(self._read.get(log, 0))
                yield from (line for line in text if " reload says " in line and self._scene.service in line)


def test_instance_that_begins_says_what_it_waits_for(scene: Scene) -> None:
    """From no subscription to the head, and what an operator may do to it."""
    (replica,) = scene.start("n1")
    await_why(scene, replica, Reason.NO_PLAN)
    scene.hydra("channel", "set", scene.channel, "--keep-releases", "5")
    scene.subscribe()
    assert scene.channel in await_why(scene, replica, Reason.NO_RELEASE)
    recorder = Recorder(scene)
    scene.publish(V1)
    await_why(scene, replica, Reason.SETTLED)
    recorder.said(Reason.FIRST)
    deaf = free_port()
    scene.hydra(
        "register", scene.service, "deaf", "--node", "n2", "--port", str(deaf), "--health", f"http://:{deaf}/"
    )
    assert str(deaf) in await_why(scene, "deaf", Reason.FIRST_FAILED)
    scene.hydra("deregister", scene.service, "deaf", "--node", "n2")

    scene.hydra("rollout", "pause", scene.service)
    scene.publish(V2)
    await_why(scene, replica, Reason.PAUSED)
    scene.hydra("rollout", "resume", scene.service)
    scene.hydra("pin", scene.channel, V1, "--reason", "looking at it")
    assert V1 in await_why(scene, replica, Reason.PINNED)
    scene.hydra("unpin", scene.channel)
    await_why(scene, replica, Reason.SETTLED)
    scene.hydra("rollback", scene.channel, "--reason", "trying it")
    assert V2 in await_why(scene, replica, Reason.BARRED)
    scene.hydra("accept", scene.channel, V2)
    scene.await_running(V2)

    scene.hydra("node", "cordon", "n1", "--reason", "a new disk")
    scene.publish(V3)
    assert "a new disk" in await_why(scene, replica, Reason.CORDONED)
    scene.hydra("node", "uncordon", "n1")
    scene.await_running(V3)
    assert scene.hydra("why", scene.service, role="reader").startswith(
        f"{replica.id} on n1 waits for nothing"
    )


def test_move_says_each_step_that_it_waits_for(scene: Scene) -> None:
    scene.publish(V1)
    scene.subscribe("--drain-time", "3s", "--confirm", "http://:/version#confirmed")
    first, second = scene.start("n1", "n2")
    scene.await_running(V1)
    scene.hydra("channel", "set", scene.channel, "--keep-on-nodes", "3")
    scene.hydra("rollout", "pause", scene.service)
    scene.publish(V2)
    scene.publish(V3, slow_s=1, settle_s=2)
    for node in ("n1", "n2"):
        until("all is there", partial(_holds, scene, node, V2, V3))
    scene.hydra("pin", scene.channel, V2)
    recorder = Recorder(scene)
    with frozen(scene, "n1", "consul-template"), frozen(scene, "n2", "consul-template"):
        scene.hydra("rollout", "resume", scene.service)
        until("one is out", lambda: Step.DRAIN in (scene.step(first), scene.step(second)))
        out = first if scene.step(first) is Step.DRAIN else second
        other = second if out is first else first
        await_why(scene, out, Reason.NOT_SHOWN)
        assert out.id in await_why(scene, other, Reason.BUDGET)
        scene.hydra("unpin", scene.channel)
        recorder.said(Reason.SUPERSEDED)
        until("its node is stale", lambda: "consul-template does not render" in scene.troubles())
    recorder.said(Reason.DRAINING, Reason.RELOADING)
    recorder.said(Reason.CONFIRMING, Reason.RETURNING)
    scene.await_running(V3)
    scene.publish(V4)
    recorder.said(Reason.FILLING)
    scene.await_running(V4)


def _holds(scene: Scene, node: str, *versions: Version) -> bool:
    return all(scene.holds(node, version) for version in versions)


def test_release_that_fails_says_how_it_went_back(scene: Scene) -> None:
    """One release that refuses, one that makes sick, one that is never confirmed."""
    scene.publish(V1)
    scene.subscribe("--deadline", "5s")
    (replica,) = scene.start("n1")
    scene.await_running(V1)
    recorder = Recorder(scene)
    scene.publish(V2, refuse="damaged")
    assert "damaged" in await_why(scene, replica, Reason.HELD)
    recorder.said(Reason.WENT_BACK)
    scene.publish(V3, sick=True)
    recorder.said(Reason.NOT_BACK)
    assert "not in service" in await_why(scene, replica, Reason.HELD, Reason.NOT_BACK)
    scene.subscribe("--deadline", "5s", "--confirm", "maps", reload="none")
    scene.publish(V4)
    recorder.said(Reason.NOT_CONFIRMED)
    scene.await_running(V1)


def test_warm_up_is_waited_for_and_one_that_fails_sends_the_instance_back(scene: Scene) -> None:
    scene.publish(V1)
    scene.subscribe("--warm-up", "http://:/reload")  # this service does as much with any request
    (replica,) = scene.start("n1")
    scene.await_running(V1)
    recorder = Recorder(scene)
    scene.publish(V2)
    recorder.said(Reason.WARMING)
    scene.await_running(V2)
    scene.subscribe("--warm-up", f"http://:{free_port()}/nobody-listens")
    scene.publish(V3)
    recorder.said(Reason.NOT_WARM)
    scene.await_running(V2)
    await_why(scene, replica, Reason.HELD, Reason.NOT_WARM)


def test_instance_that_is_not_drained_and_one_that_cannot_return_say_so(scene: Scene) -> None:
    """A check that never fails, and an old release that needs longer than the deadline to be back."""
    fit, tried = scene.gate("fit"), scene.gate("tried")
    fit.touch()
    scene.publish(V1, settles_by=str(fit))
    scene.subscribe("--deadline", "3s")
    (slow,) = scene.start("n1")
    until("it serves", partial(scene.serves, slow, V1))
    recorder = Recorder(scene)
    scene.publish(V2, refuse="damaged", loads_by=str(tried))
    until("it loads", lambda: scene.step(slow) is Step.RELOAD)
    fit.unlink()
    tried.touch()
    recorder.said(Reason.GAVE_UP)
    fit.touch()
    until("it serves", partial(scene.serves, slow, V1))
    scene.hydra(
        "register",
        scene.service,
        slow.id,
        "--node",
        "n1",
        "--port",
        str(slow.port),
        "--health",
        "http://:/version",
    )
    until("its node knows", partial(is_known, scene, slow.id, "http://:/version"))
    scene.publish(V3)
    recorder.said(Reason.NOT_DRAINED)


def test_health_that_cannot_be_seen_is_named(scene: Scene) -> None:
    scene.publish(V1)
    scene.subscribe("--drain-time", "1s")
    (replica,) = scene.start("n1")
    check = {"HTTP": f"http://127.0.0.1:{replica.port}/healthz", "Interval": "1s"}
    about = {"ID": replica.id, "Name": scene.space, "Port": replica.port, "Check": check}
    scene.cluster.register("n1", about)
    place = ("--node", "n1", "--port", str(replica.port), "--health", f"consul:{scene.space}")
    scene.hydra("register", scene.service, replica.id, *place)
    until("its node knows", partial(is_known, scene, replica.id, "consul"))
    scene.await_running(V1)
    recorder = Recorder(scene)
    loaded = scene.gate("loaded")
    scene.publish(V2, loads_by=str(loaded))
    until("it loads", lambda: scene.step(replica) is Step.RELOAD)
    scene.cluster.deregister("n1", replica.id)
    loaded.touch()
    recorder.said(Reason.CANNOT_SEE)
    scene.cluster.register("n1", about)
    scene.await_running(V2)
    scene.cluster.deregister("n1", replica.id)
    scene.hydra("register", scene.service, "ghost", "--node", "n2", "--health", "consul:nobody")
    until("it has its view", lambda: scene.wanted("n2", V2) and scene.holds("n2", V2))
    scene.subscribe("--max-unavailable", "2", reload="none")
    scene.publish(V3)
    assert "ghost" in await_why(scene, "ghost", Reason.UNSEEN)
    scene.hydra("deregister", scene.service, "ghost", "--node", "n2")


def test_service_that_is_set_up_wrongly_or_frozen_says_so(scene: Scene) -> None:
    scene.publish(V1)
    scene.subscribe(reload="frozen")
    (replica,) = scene.start("n1")
    scene.await_running(V1)
    scene.publish(V2)
    await_why(scene, replica, Reason.FROZEN)
    subscription = scene.document(Subscription, keys.subscription(scene.service))
    assert subscription

    wrong = codec.encode(replace(subscription, reload="by magic"))
    scene.cluster.kv("developer").txn([Set(keys.subscription(scene.service), wrong)])

    assert "by magic" in await_why(scene, replica, Reason.POLICY)


def test_instance_whose_turn_has_not_come_says_whose_it_is(scene: Scene) -> None:
    """Each node of `hydra dev` is in a zone of its own."""
    scene.publish(V1, errors=0.0)
    scene.subscribe("--drain-time", "3s", "--data-first", "--wave-by", "zone", "--wave-pause", "2s")
    check = ("--canaries", "1", "--check", "http://:/stats#errors<=0.05", "--check-time", "4s")
    scene.subscribe(*check, "--check-interval", "0.5s")
    first, *_, last = scene.start("n1", "n2", "n3")
    scene.await_running(V1)
    recorder = Recorder(scene)
    with frozen(scene, "n3", "sync"):  # whose data is waited for; it stays alive
        scene.publish(V2, errors=0.0)
        recorder.said(Reason.TURN, Reason.TURN_DATA)
    recorder.said(Reason.TURN_CANARY, Reason.TURN_CHECK, Reason.TURN_PAUSE)
    scene.await_running(V2)
    scene.subscribe("--canaries", "0", "--check", "", "--wave-pause", "0s")
    scene.publish(V3, errors=0.0)
    recorder.said(Reason.TURN_WAVE)
    scene.await_running(V3)
    scene.hydra("rollout", "pause", scene.service)
    scene.publish(V4, errors=0.0)
    until("all is there", partial(_holds, scene, "n3", V4))
    scene.cluster.kv().txn([Set(keys.rollout(scene.service), b"nonsense")])
    until("status tells of it", lambda: "rollouts" in scene.troubles())
    scene.hydra("rollout", "resume", scene.service)
    await_why(scene, last, Reason.TURN, Reason.TURN_UNKNOWN)
    assert scene.runs(first, V3)
    scene.cluster.kv().txn([Delete(keys.rollout(scene.service))])
    scene.await_running(V4)


def test_download_that_is_waited_for_says_how_far_it_is(scene: Scene, shared_s3: servers.S3) -> None:
    scene.publish(V1)
    scene.subscribe()
    (first,) = scene.start("n1")
    scene.await_running(V1)
    shared_s3.stop()
    try:
        (second,) = scene.start("n2")
        await_why(scene, second, Reason.LOADING)
        until("its node says so", lambda: Reason.INCOMPLETE.told_in(scene.reason(second)))
    finally:
        shared_s3.start()
    scene.await_running(V1)

    scene.s3.delete_object(Bucket=scene.space, Key=f"index/{V1}/value.json")
    (third,) = scene.start("n3")
    await_why(scene, third, Reason.NOT_LOADED)
    scene.remove(third)
    assert scene.runs(first, V1)


def test_planner_or_node_that_does_not_work_is_named(harm: Scene) -> None:
    harm.publish(V1)
    harm.subscribe()
    replica, other = harm.start("n1", "n2")
    harm.await_running(V1)
    with frozen(harm, PLANNER_NODE, "supervisord"):
        stop_planning(harm)
        harm.publish(V2, refuse="damaged")
        assert V2 in await_why(harm, replica, Reason.NOT_PLANNED)
    until("a verdict is there", lambda: harm.verdicts().releases)
    with frozen(harm, PLANNER_NODE, "supervisord"):
        stop_planning(harm)
        # an old verdict that is not planned yet
        desired = harm.document(Desired, keys.desired("n1"))
        assert desired
        plan = desired.services[harm.service]
        freed = replace(plan, aliases={a: replace(p, held="") for a, p in plan.aliases.items()})
        fresh = replace(desired, generation=desired.generation + 1, services={harm.service: freed})
        harm.cluster.kv().txn([Set(keys.desired("n1"), codec.encode(fresh))])
        await_why(harm, replica, Reason.HALTED)
    harm.await_running(V1)

    key = keys.META
    meta, _ = harm.cluster.kv().get(key)
    assert meta
    harm.cluster.kv().txn([Delete(key)])
    await_why(harm, replica, Reason.NO_META)
    harm.cluster.kv().txn([Set(key, meta.value)])

    harm.cluster.kill_node("n2")
    await_why(harm, other, Reason.NODE_DEAD)


def stop_planning(scene: Scene) -> None:
    """Kill what would plan; nobody starts it again while its supervisord stands still."""
    kill_all(scene, PLANNER_NODE, lambda command: "handlers.main" in command or "consul watch" in command)


def kill_all(scene: Scene, node: str, chosen: Callable[[str], bool]) -> None:
    """Kill the processes of a node with such a command line, and those that they have started meanwhile."""
    while found := [process for process in scene.programs(node) if chosen(scene.command(process))]:
        for process in found:
            process.send(signal.SIGKILL)
        processes.await_end(found, 10)


def test_node_whose_reload_is_dead_is_named(harm: Scene) -> None:
    harm.publish(V1)
    harm.subscribe()
    (replica,) = harm.start("n1")
    harm.await_running(V1)
    older = harm.cluster.snapshot()
    with frozen(harm, "n1", "supervisord"):
        kill_all(harm, "n1", lambda command: command.strip().endswith(RELOADERS))
        harm.publish(V2)
        await_why(harm, replica, Reason.NOT_BEGUN)
        harm.hydra("register", harm.service, "nightly", "--node", "n1")
        await_why(harm, "nightly", Reason.NOT_TAKEN_UP)
        harm.hydra("deregister", harm.service, "nightly", "--node", "n1")
        until("it is forgotten", lambda: "nightly" not in str(harm.document(Instances, keys.instances("n1"))))
    harm.await_running(V2)

    harm.cluster.restore(older)

    await_why(harm, replica, Reason.HOLDS_OFF)
