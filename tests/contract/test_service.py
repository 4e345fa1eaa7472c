"""What reload asks of a service: one suite on the pretended processes of tests and on a real process."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from handlers.adapters.service import Health, Services
from handlers.adapters.views import Views
from handlers.core import codec, keys
from handlers.core.errors import HydraError
from handlers.core.model import Instance, InstanceState, Ready, States, Step
from handlers.core.names import InstanceKey
from handlers.core.policy import parse_confirm, parse_reload
from handlers.core.version import ReleaseId, Version
from hydra_cli.dev.ports import free_port
from tests import servers
from tests.handlers.reload_fleet import PLACES, V1, V2, FakeServices, Fleet, S
from tests.servers import wait_until

RELOAD, CONFIRM = parse_reload("http://:/reload"), parse_confirm("http://:/info#release")
TINY = Path(__file__).parent.parent / "tiny_service.py"
LIMIT_S = 20.0


@dataclass
class Desk:
    """One instance with its view, and the adapter that reload would see it through."""

    services: Services | FakeServices
    views: Views
    key: InstanceKey
    instance: Instance
    node: str
    refuse: Callable[[], None]

    def point(self, version: Version) -> dict[str, ReleaseId]:
        """Let the view point to a release."""
        releases = {"places": ReleaseId.of(PLACES, version)}
        self.views.flip(self.key, releases)
        return releases

    def tell(self, word: str) -> None:
        """What consul-template writes into the state file."""
        (self.views.path(self.key) / "state").write_text(word)

    def reload(self) -> None:
        self.services.reload(RELOAD, self.key, self.instance, LIMIT_S)

    def confirmed(self, new: dict[str, ReleaseId], old: dict[str, ReleaseId]) -> str:
        return self.services.confirmed(CONFIRM, self.key, self.instance, new, old)

    def rows(self, after: int = 0) -> tuple[list[Any], int]:
        return self.services.listing("api", after=after, wait_s=5)

    def health(self, instance: Instance | None = None) -> Health:
        return self.services.health(instance or self.instance, self.node, self.rows()[0], False)


@pytest.fixture(params=["fake", "real"])
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Desk]:
    fleet = Fleet(tmp_path)
    node = fleet.node("server", "a")
    (key,) = node.instances
    with contextlib.ExitStack() as stack:
        if request.param == "fake":
            state = InstanceState(service=S, id="a", incarnation="1", state=Ready.DRAINING, step=Step.RELOAD)
            fleet.put(keys.states("server"), codec.encode(States(node="server", instances={key: state})))
            desk = Desk(
                node.services, node.views, key, node.instances[key], "server", lambda: fleet.refused.add(V2)
            )
        else:
            desk = stack.enter_context(_real(request.getfixturevalue("consul"), node.views, key))
        desk.point(V1)
        desk.tell("draining")
        yield desk


@contextlib.contextmanager
def _real(consul: servers.Consul, views: Views, key: InstanceKey) -> Iterator[Desk]:
    """A process of its own behind a check of Consul's."""
    kv, port = consul.kv(), free_port()
    views.flip(key, {"places": ReleaseId.of(PLACES, V1)})
    process = [_started(views, key, port)]

    def refuse() -> None:
        process[0].kill()
        process[0].wait()
        process[0] = _started(views, key, port, "refuse")

    check = {"HTTP": f"http://127.0.0.1:{port}/health", "Interval": "1s", "Timeout": "5s"}
    kv.put_json("agent/service/register", {"ID": "a", "Name": "api", "Port": port, "Check": check})
    instance = Instance(service=S, id="a", incarnation="1", address="127.0.0.1", port=port, consul_name="api")
    try:
        yield Desk(Services(kv, views.root), views, key, instance, "server", refuse)
    finally:
        kv.put_json("agent/service/deregister/a")
        process[0].kill()
        process[0].wait()


def _started(views: Views, key: InstanceKey, port: int, *words: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "HYDRA_VIEW": str(views.path(key))}
    process = subprocess.Popen([sys.executable, str(TINY), str(port), *words], env=environment)
    wait_until(lambda: _listens(port), what="the service listens")
    return process


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    return False


def test_reload_lets_an_instance_load_what_its_view_points_to(desk: Desk) -> None:
    desk.reload()
    old = desk.point(V1)
    new = desk.point(V2)

    assert V1 in desk.confirmed(new, old), "what it has instead is said"
    desk.reload()
    assert desk.confirmed(new, old) == ""


def test_reload_that_fails_says_what_the_instance_said(desk: Desk) -> None:
    desk.refuse()
    desk.point(V2)

    with pytest.raises(HydraError, match=r"^HTTP 500: cannot load it$"):
        desk.reload()


def test_instance_is_in_service_while_its_state_and_its_own_health_allow(desk: Desk) -> None:
    desk.reload()
    wait_until(lambda: desk.health() is Health.OUT, what="it drains")

    desk.tell("ready")

    wait_until(lambda: desk.health() is Health.IN, what="it is in service")


def test_listing_waits_for_a_change(desk: Desk) -> None:
    desk.reload()
    wait_until(lambda: desk.health() is Health.OUT, what="it drains")
    _, index = desk.rows()

    desk.tell("ready")

    def changed() -> bool:
        rows, _ = desk.rows(index)
        return desk.services.health(desk.instance, desk.node, rows, False) is Health.IN

    wait_until(changed, what="the change is seen")


def test_instance_that_nobody_knows_is_gone(desk: Desk) -> None:
    assert desk.health(replace(desk.instance, id="nobody")) is Health.GONE
