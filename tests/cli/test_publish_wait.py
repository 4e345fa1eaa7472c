"""`hydra publish --wait`: how it ends, and what it shows on the way."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from handlers.core import keys, model
from handlers.core.names import Service
from handlers.core.takeover import Takeover
from hydra_cli import publish_wait
from tests.cli.desk import PLACES, Desk, v
from tests.core.worlds import Cluster, rid
from tests.servers import wait_until

SERVICE = Service("prod/search/complete")


class Scene:
    """A cluster in the desk's KV; `then` changes it while a command waits."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.cluster = Cluster()
        self.threads: list[threading.Thread] = []

    def show(self) -> None:
        """Write what the cluster says now; the publisher's own keys are not touched."""
        mine = (keys.CHANNELS, keys.RELEASES, keys.MANIFESTS, keys.META)
        self.desk.put({key: value for key, value in self.cluster.items() if not key.startswith(mine)})

    def then(self, change: Callable[[], object]) -> None:
        """Change the cluster once the release is published."""

        def work() -> None:
            wait_until(lambda: self.desk.value(keys.head(PLACES)) == v(2).encode())
            change()
            self.show()

        thread = threading.Thread(target=work)
        thread.start()
        self.threads.append(thread)


@pytest.fixture
def scene(desk: Desk) -> Iterator[Scene]:
    """Release 1 is published and runs on two nodes; the data of release 2 is on S3."""
    desk.data(1)
    desk.publish()
    desk.data(2)
    made = Scene(desk)
    made.cluster.subscribe(SERVICE)
    for node in ("n1", "n2"):
        made.cluster.node(node, SERVICE)
        made.cluster.runs(node, SERVICE, places=1)
    made.show()
    yield made
    for thread in made.threads:
        thread.join()


def status(scene: Scene, node: str, state: model.State, reason: str = "") -> None:
    releases = {rid(2): model.ReleaseStatus(state=state, reason=reason)}
    scene.cluster.put(keys.actual(node), model.Actual(node=node, generation=1, releases=releases))


def test_waits_to_the_last_instance_and_says_each_step(
    desk: Desk, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = threading.Event()
    show = publish_wait._Lines.show

    def show_and_tell(lines: publish_wait._Lines, take: Takeover) -> None:
        show(lines, take)
        shown.set()

    monkeypatch.setattr(publish_wait._Lines, "show", show_and_tell)

    def finish() -> None:
        assert shown.wait(30)
        for node in ("n1", "n2"):
            scene.cluster.runs(node, SERVICE, places=2)

    status(scene, "n1", model.State.DOWNLOADING)
    scene.show()
    scene.then(finish)

    answer = desk.publish("--wait", "--timeout", "30s")

    assert answer.code == 0, answer
    assert f"[0/2] {SERVICE} i0 on n1: downloading" in answer.err
    assert f"[2/2] {SERVICE} i0 on n2: runs it" in answer.err
    assert answer.out.splitlines()[-1].startswith(f"all 2 live instances of {SERVICE} run {v(2)} after ")


def test_waiting_again_for_what_is_published_still_judges(desk: Desk, scene: Scene) -> None:
    scene.cluster.judge(2, service=SERVICE)
    scene.show()
    desk.publish()

    answer = desk.publish("--wait", "--timeout", "30s", "-o", "json")

    assert (answer.code, answer.json["result"], answer.json["takeover"]["complete"]) == (
        9,
        "unchanged",
        False,
    )
    assert "halted by x on n1: does not load" in answer.err


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c.judge(2, service=SERVICE), "halted by x on n1: does not load"),
        (lambda c: c.control(SERVICE, paused=True, who="ann", why="peak"), "paused by ann: peak"),
        (lambda c: c.update({keys.service_pin(SERVICE, "places"): v(1).encode()}), f"pinned to {v(1)}"),
    ],
    ids=["halted", "paused", "pinned"],
)
def test_release_that_is_not_taken_over_ends_the_wait_with_the_reason(
    desk: Desk, scene: Scene, change: Callable[[Cluster], object], reason: str
) -> None:
    scene.then(lambda: change(scene.cluster))

    answer = desk.publish("--wait", "--timeout", "30s")

    assert (answer.code, reason in answer.err) == (9, True), answer
    assert desk.value(keys.head(PLACES)) == v(2).encode()


def test_rejection_while_waiting_ends_the_wait(desk: Desk, scene: Scene) -> None:
    scene.then(
        lambda: desk.kv.put(keys.rejected(PLACES, v(2)), b'{"format": 1, "who": "ann", "why": "wrong"}')
    )

    answer = desk.publish("--wait", "--timeout", "30s")

    assert (answer.code, "rejected by ann: wrong" in answer.err) == (9, True)


def test_time_out_names_who_is_late_and_why(desk: Desk, scene: Scene) -> None:
    status(scene, "n1", model.State.FAILED, "no space on volume disk")
    scene.show()

    answer = desk.publish("--wait", "--timeout", "3s", "-o", "json")

    assert answer.code == 6
    assert "i0 on n1: failed (no space on volume disk)" in answer.err
    assert (answer.json["result"], answer.json["takeover"]["complete"]) == ("published", False)


def test_nobody_subscribed_is_said_and_fine(desk: Desk) -> None:
    desk.data(1)

    answer = desk.publish("--wait", "--timeout", "30s")

    assert (answer.code, answer.out.splitlines()[-1]) == (
        0,
        f"no service is subscribed to {PLACES}: nobody to wait for",
    )


def test_no_permission_to_look_on_is_denied_but_the_release_is_published(desk: Desk, scene: Scene) -> None:
    desk.kv.denied.add(keys.STATES)

    answer = desk.publish("--wait", "-o", "json")

    assert (answer.code, answer.json["result"]) == (4, "published")
    assert f"{v(2)} of {PLACES} is published; only the wait has ended" in answer.err
