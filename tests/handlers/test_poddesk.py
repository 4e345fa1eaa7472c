"""Errands to pods: done once, to the container that was there, and told as done only when they are."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from handlers.adapters.errands import Errands, Kind
from handlers.adapters.local import LocalState
from handlers.adapters.mirror import Picture
from handlers.adapters.pods import Json
from handlers.core.errors import Denied, HydraError, Temporary
from handlers.poddesk import PodDesk
from tests.servers import wait_until

LIMIT_S = 20.0


@dataclass
class Server:
    """An API server that notes what it is told, after it has refused as often as it should."""

    done: list[str] = field(default_factory=list)
    refusals: list[HydraError] = field(default_factory=list)

    def delete(self, namespace: str, pod: str, uid: str) -> None:
        self._do(f"delete {pod}")

    def signal(self, namespace: str, pod: str, container: str, name: str) -> None:
        self._do(f"{name} {pod}.{container}")

    def _do(self, what: str) -> None:
        if self.refusals:
            raise self.refusals.pop(0)
        self.done.append(what)


class Machine:
    """A node with pods; reload gives its errands in threads of their own, and waits."""

    def __init__(self, root: Path) -> None:
        self.server, self.pods, self.known = Server(), dict[str, Json](), True
        self._errands = Errands(LocalState(root))
        self.desk = PodDesk(self.server, self, self._errands)

    def picture(self) -> Picture:
        return Picture(self.known, dict(self.pods))

    def pod(self, uid: str = "u1", container: str = "c1", ago_s: float = 60) -> None:
        """A pod, whose container began so long ago; without a `container` it does not run."""
        began = datetime.fromtimestamp(int(time.time() - ago_s), UTC).isoformat()
        state: dict[str, Any] = {"running": {"startedAt": began}} if container else {"waiting": {}}
        row = {"name": "reader", "containerID": container, "state": state}
        meta = {"namespace": "search", "name": f"reader-{uid}", "uid": uid}
        self.pods[uid] = {"metadata": meta, "status": {"containerStatuses": [row]}}

    def give(self, kind: Kind, uid: str = "u1") -> Future[None]:
        signal = {Kind.SIGNAL: "HUP", Kind.RESTART: "TERM", Kind.DELETE: ""}[kind]
        waits: Future[None] = Future()

        def run() -> None:
            try:
                self._errands.give(uid, kind, LIMIT_S, "reader", signal)
                waits.set_result(None)
            except HydraError as e:
                waits.set_exception(e)

        threading.Thread(target=run, daemon=True).start()  # nobody answers a deletion
        wait_until(lambda: any(errand.uid == uid for errand in self._errands.given()))
        return waits

    def waits(self, uid: str = "u1") -> bool:
        """Whether nobody has answered yet."""
        return any(errand.uid == uid for errand in self._errands.given())


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_signal_is_sent_once_and_is_done_then(machine: Machine) -> None:
    machine.pod()
    waits = machine.give(Kind.SIGNAL)
    machine.desk.look()
    machine.desk.look()

    waits.result(LIMIT_S)
    assert machine.server.done == ["HUP reader-u1.reader"]


def test_restart_is_done_when_another_container_runs(machine: Machine) -> None:
    machine.pod()
    waits = machine.give(Kind.RESTART)
    for container in ("c1", ""):
        machine.pod(container=container)
        machine.desk.look()
        assert machine.waits()
    machine.pod(container="c2", ago_s=0)
    machine.desk.look()

    waits.result(LIMIT_S)
    assert machine.server.done == ["TERM reader-u1.reader"]


def test_container_that_ended_before_its_shell_answered_is_not_ended_again(machine: Machine) -> None:
    machine.pod()
    waits = machine.give(Kind.RESTART)
    machine.server.refusals = [Temporary("no answer")]
    with pytest.raises(Temporary):
        machine.desk.look()
    machine.pod(container="c2", ago_s=60)  # as far as whole seconds tell, it may have been there before
    machine.desk.look()

    waits.result(LIMIT_S)
    assert machine.server.done == []


@pytest.mark.parametrize("kind", [Kind.SIGNAL, Kind.RESTART])
def test_container_that_began_after_the_errand_is_left_alone(machine: Machine, kind: Kind) -> None:
    machine.pod(container="")
    waits = machine.give(kind)
    machine.desk.look()
    assert machine.waits()
    machine.pod(container="c1", ago_s=-2)
    machine.desk.look()

    waits.result(LIMIT_S)
    assert machine.server.done == []


def test_deletion_is_asked_for_once_and_over_when_the_pod_is_gone(machine: Machine) -> None:
    machine.pod()
    machine.give(Kind.DELETE)
    machine.desk.look()
    machine.desk.look()
    assert machine.server.done == ["delete reader-u1"]
    machine.known = False
    machine.pods.clear()
    machine.desk.look()
    assert machine.waits()  # nothing can be seen, which says nothing
    machine.known = True
    machine.desk.look()
    assert not machine.waits()


def test_what_is_refused_is_told_and_what_may_pass_holds_up_nobody_else(machine: Machine) -> None:
    machine.pod()
    machine.pod(uid="u2")
    one, other = machine.give(Kind.SIGNAL), machine.give(Kind.SIGNAL, "u2")
    machine.server.refusals = [Temporary("away"), Denied("pods/exec is forbidden")]
    with pytest.raises(Temporary, match="away"):
        machine.desk.look()
    machine.desk.look()

    answers = {str(error): type(error) for error in (waits.exception(LIMIT_S) for waits in (one, other))}
    assert answers == {"None": type(None), "signal of its pod: pods/exec is forbidden": Denied}
