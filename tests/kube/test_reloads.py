"""The ways in which pods take over a release, but for `http`, which `test_rollout` has."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from handlers.core.reasons import Reason
from tests.kube.programs import until
from tests.kube.stage import V1, V2, V3, Scene


@contextlib.contextmanager
def budget_of_one(stage: Scene, replicas: int) -> Iterator[None]:
    """No request fails or sees two releases, Hydra has one pod out at a time at most, and all others of the
    service's replicas are Ready, in this block.
    """
    with stage.audience() as audience, stage.lookout() as lookout:
        yield
    assert audience.failed == []
    assert audience.mixed == []
    assert lookout.most_out == 1
    assert lookout.least_ready(replicas) == replicas - 1


def test_none_service_that_watches_its_view_is_moved_like_any_other(scene: Callable[[str], Scene]) -> None:
    stage = scene("none")
    stage.words = ["watch"]
    stage.serve(replicas=2, reload="none", confirm="http://:/#left")

    with budget_of_one(stage, 2):
        stage.publish(V2)
        stage.await_running(V2, 2)


def test_frozen_job_keeps_its_release_while_it_lives_and_the_next_has_the_newest(
    scene: Callable[[str], Scene],
) -> None:
    stage = scene("frozen")
    stage.publish(V1)
    stage.cluster.apply(stage.cron_job(reload="frozen"))
    until("it is subscribed", stage.subscription)

    def begin(job: str, version: str) -> None:
        stage.kubectl("create", "job", f"--from=cronjob/{stage.name}", job)
        until(f"{job} runs {version}", lambda: stage.said_by(job) == version)

    begin("first", V1)
    stage.publish(V2)
    roots = [node.root for node in stage.cluster.nodes.values()]
    until("a node has it", lambda: any((r / "releases" / stage.channel / V2).exists() for r in roots))
    begin("second", V2)

    assert stage.said_by("first") == V1
    assert sorted(state.releases["data"] for state in stage.states().values()) == [V1, V2]
    (old,) = (pod for pod, state in stage.states().items() if state.releases["data"] == V1)
    stage.await_why(old, "keep what they started with")


def test_delete_lets_the_deployment_make_new_pods_one_by_one(scene: Callable[[str], Scene]) -> None:
    stage = scene("delete")
    stage.trust()
    stage.serve(replicas=3, reload="delete")
    first = set(stage.ready_pods())

    with budget_of_one(stage, 3):
        stage.publish(V2)
        stage.await_running(V2, 3)
        second = set(stage.ready_pods())
        stage.hydra.hydra("rollback", stage.channel, "--reason", "try it")
        stage.await_running(V1, 3)

    assert first & second == set()
    assert second & set(stage.ready_pods()) == set()
    stage.kubectl("delete", "pod", stage.ready_pods()[0])
    stage.await_told(Reason.REPLACING, Reason.LEAVING)


def test_delete_halts_after_one_new_pod_that_does_not_become_ready(scene: Callable[[str], Scene]) -> None:
    stage = scene("delete-bad")
    stage.trust()
    stage.serve(replicas=3, reload="delete", deadline="15s")
    first = set(stage.ready_pods())

    with stage.audience() as audience, stage.lookout() as lookout:
        stage.publish(V3, value="refuse")
        until("the rollout halts", stage.halted)
        stage.await_running(V1, 3)

    assert audience.failed == []
    assert audience.seen == {V1}
    assert lookout.least_ready(3) == 2
    assert len(first & set(stage.ready_pods())) == 2


def test_container_is_reloaded_in_place_by_a_signal_or_a_restart(scene: Callable[[str], Scene]) -> None:
    stage, confirm = scene("in-place"), "http://:/#left"
    stage.trust()
    stage.serve(replicas=2, reload="signal:HUP@container:reader", confirm=confirm)
    first = set(stage.ready_pods())

    with budget_of_one(stage, 2):
        stage.publish(V2)
        stage.await_running(V2, 2)
    assert set(stage.ready_pods()) == first
    assert stage.restarts() == [0, 0]

    stage.reload_by("restart:container:reader", replicas=2, confirm=confirm)
    with budget_of_one(stage, 2):
        stage.publish(V3)
        stage.await_running(V3, 2)
    assert set(stage.ready_pods()) == first
    assert stage.restarts() == [1, 1]


def test_reload_that_takes_more_rights_halts_where_the_chart_does_not_give_them(
    scene: Callable[[str], Scene],
) -> None:
    stage = scene("unable")
    stage.serve(replicas=1, reload="delete")

    stage.publish(V2)
    (halted,) = until("the rollout halts", stage.halted)
    assert "orbidden" in halted
    stage.await_running(V1, 1)

    stage.reload_by("signal:HUP@container:reader", replicas=1)
    stage.publish(V3)
    until("the next one halts", lambda: len(stage.halted()) == 2)
    assert all("orbidden" in halted for halted in stage.halted())
    stage.await_running(V1, 1)
