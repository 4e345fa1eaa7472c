"""Instances seen from outside: a real process that serves HTTP, a real supervisord, a real Consul."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from handlers.adapters import service
from handlers.adapters.ports import Consul
from handlers.adapters.service import Health, Services
from handlers.adapters.views import Views
from handlers.core.errors import HydraError, Timeout
from handlers.core.model import Instance
from handlers.core.names import Channel, InstanceKey, Service
from handlers.core.policy import parse_confirm, parse_reload, parse_warm_up
from handlers.core.version import ReleaseId, Version
from hydra_cli.dev.ports import free_port
from tests import servers
from tests.fakes_kv import FakeKV
from tests.servers import wait_until

S = Service("prod/search/api")
KEY = InstanceKey.of(S, "api-1")
TINY = Path(__file__).parent.parent / "tiny_service.py"
PLACES = Channel("prod/search/places")
V1, V2 = (ReleaseId.of(PLACES, Version(f"2026-01-0{n}T00-00-00")) for n in (1, 2))


class Tiny:
    """The process of one instance and its view."""

    def __init__(self, root: Path) -> None:
        self.root, self.views = root, Views(root)
        for release in (V1, V2):
            folder = root / "volumes" / "disk" / "data" / PLACES / release.version / "table"
            folder.mkdir(parents=True)
            (folder / "file").write_text(release)
            links = root / "releases" / PLACES / release.version
            links.mkdir(parents=True)
            (links / "table").symlink_to(folder)
        self.views.flip(KEY, {"places": V1})
        self.port = free_port()
        self.instance = Instance(
            service=S, id="api-1", incarnation="1", address="127.0.0.1", port=self.port, consul_name="api"
        )
        self.say("ready")

    def say(self, word: str) -> None:
        (self.views.path(KEY) / "state").write_text(word)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "HYDRA_VIEW": str(self.views.path(KEY))}

    def command(self, mode: str = "") -> list[str]:
        return [sys.executable, str(TINY), str(self.port), *filter(None, [mode])]

    def health(self) -> Health:
        url = replace(self.instance, health="http://:/health")
        return Services(FakeKV(), self.root).health(url, "n1", [], ready=False)

    def loaded(
        self, release: ReleaseId, how: str = "http://:/info#release", old: ReleaseId | None = None
    ) -> str:
        before = {"places": old} if old else {}
        return Services(FakeKV(), self.root).confirmed(
            parse_confirm(how), KEY, self.instance, {"places": release}, before
        )

    def reload(self, how: str, limit_s: float = 20.0, url: str = "") -> None:
        Services(FakeKV(), self.root, url).reload(parse_reload(how), KEY, self.instance, limit_s)


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    return Tiny(tmp_path)


@contextlib.contextmanager
def run(tiny: Tiny, mode: str = "") -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(tiny.command(mode), env=tiny.environment) as process:
        try:
            wait_until(lambda: tiny.health() is Health.IN, what="the service answers")
            yield process
        finally:
            process.kill()


@pytest.fixture
def running(tiny: Tiny) -> Iterator[subprocess.Popen[bytes]]:
    with run(tiny) as process:
        yield process


@pytest.fixture
def refusing(tiny: Tiny) -> Iterator[subprocess.Popen[bytes]]:
    with run(tiny, "refuse") as process:
        yield process


@pytest.mark.usefixtures("running")
def test_health_by_url_follows_the_state_file(tiny: Tiny) -> None:
    tiny.say("draining")

    assert tiny.health() is Health.OUT


def test_a_service_that_does_not_answer_is_not_in_service(tiny: Tiny) -> None:
    assert tiny.health() is Health.OUT


@pytest.mark.parametrize("shown", [True, False])
def test_without_health_its_state_counts(tiny: Tiny, shown: bool) -> None:
    silent = replace(tiny.instance, health="none")

    assert (Services(FakeKV(), tiny.root).health(silent, "n1", [], ready=shown) is Health.IN) == shown


@pytest.mark.usefixtures("running")
def test_reload_by_http_loads_the_view(tiny: Tiny) -> None:
    tiny.views.flip(KEY, {"places": V2})
    assert tiny.loaded(V1) == ""
    assert V1.version in tiny.loaded(V2)

    tiny.reload("http://:/reload")

    assert tiny.loaded(V2) == ""
    assert tiny.loaded(V2, "http://:/info#all.by") == ""
    assert "no field" in tiny.loaded(V2, "http://:/info#what.ever")


@pytest.mark.usefixtures("refusing")
def test_a_refused_reload_is_told_in_the_service_s_own_words(tiny: Tiny) -> None:
    with pytest.raises(HydraError, match=r"^HTTP 500: cannot load it$"):
        tiny.reload("http://:/reload")


def test_a_reload_that_is_not_answered_says_so(tiny: Tiny, running: subprocess.Popen[bytes]) -> None:
    running.send_signal(signal.SIGSTOP)
    with pytest.raises(HydraError, match=r"no answer within 0\.2 s"):
        tiny.reload("http://:/reload", limit_s=0.2)
    running.send_signal(signal.SIGCONT)
    running.kill()
    running.wait()
    with pytest.raises(HydraError, match="refused"):
        tiny.reload("http://:/reload")


def test_reload_by_signal_and_pid_file(tiny: Tiny, running: subprocess.Popen[bytes]) -> None:
    pidfile = tiny.root / "run-api-1.pid"
    pidfile.write_text(f"{running.pid}\n")
    tiny.views.flip(KEY, {"places": V2})

    tiny.reload(f"signal:HUP@pidfile:{tiny.root}/run-{{id}}.pid")

    wait_until(lambda: tiny.loaded(V2) == "", what="the signal was heeded")
    with pytest.raises(HydraError, match="No such file"):
        tiny.reload(f"signal:HUP@pidfile:{tiny.root}/other-{{id}}.pid")


@pytest.mark.usefixtures("running")
def test_maps_tell_what_the_process_really_has(tiny: Tiny) -> None:
    assert tiny.loaded(V1, "maps") == ""
    assert "no file" in tiny.loaded(V2, "maps")
    assert "still has files" in tiny.loaded(V2, "maps", old=V1)
    tiny.views.flip(KEY, {"places": V2})

    tiny.reload("http://:/reload")

    wait_until(lambda: tiny.loaded(V2, "maps", old=V1) == "", what="the old files are let go")


def test_maps_of_a_copy_in_ram_count_as_the_release(tiny: Tiny) -> None:
    ram = tiny.root / "volumes" / "ram" / "data" / PLACES / V1.version / "table"
    ram.mkdir(parents=True)
    (ram / "file").write_text("in RAM")
    link = tiny.root / "releases" / PLACES / V1.version / "table"
    link.unlink()
    link.symlink_to(ram)

    with run(tiny):
        assert tiny.loaded(V1, "maps") == ""


def test_maps_without_a_process_say_so(tiny: Tiny) -> None:
    assert "no process with HYDRA_VIEW" in tiny.loaded(V1, "maps")


@pytest.fixture
def supervisor(tiny: Tiny) -> Iterator[str]:
    """A supervisord that runs the service as `api-api-1`; its address."""
    socket = tiny.root / "s.sock"
    config = tiny.root / "supervisord.conf"
    config.write_text(
        f"[supervisord]\nnodaemon=true\nlogfile={tiny.root}/s.log\npidfile={tiny.root}/s.pid\n"
        f"[unix_http_server]\nfile={socket}\n"
        "[rpcinterface:supervisor]\n"
        "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n"
        f"[program:api-api-1]\ncommand={' '.join(tiny.command())}\nstartsecs=1\n"
        f'environment=HYDRA_VIEW="{tiny.views.path(KEY)}"\n'
    )
    command = [str(Path(sys.executable).with_name("supervisord")), "-c", str(config)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: tiny.health() is Health.IN, what="the service answers")
            yield f"unix://{socket}"
        finally:
            process.terminate()


def test_reload_by_supervisor(tiny: Tiny, supervisor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.views.flip(KEY, {"places": V2})
    tiny.reload("signal:HUP@supervisor:api-{id}", url=supervisor)
    wait_until(lambda: tiny.loaded(V2) == "", what="the signal was heeded")
    tiny.views.flip(KEY, {"places": V1})

    # supervisord tells its children where it listens
    monkeypatch.setenv("SUPERVISOR_SERVER_URL", supervisor)
    tiny.reload("restart:supervisor:api-{id}")

    wait_until(lambda: tiny.loaded(V1) == "", what="the restarted process has loaded its view")
    with pytest.raises(HydraError, match="BAD_NAME"):
        tiny.reload("restart:supervisor:other-{id}", url=supervisor)


def test_supervisor_that_is_not_known_or_not_there(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUPERVISOR_SERVER_URL", raising=False)
    with pytest.raises(HydraError, match="no supervisord is known"):
        tiny.reload("restart:supervisor:api")
    with pytest.raises(HydraError, match="No such file"):
        tiny.reload("restart:supervisor:api", url=f"unix://{tiny.root}/none.sock")


# --- Consul


def says(kv: Consul, instance: Instance, status: str) -> None:
    """The service's own check has this status from now on."""
    kv.put_json(f"agent/check/update/check-{instance.id}", {"Status": status})


@pytest.fixture
def registered(tiny: Tiny, consul: servers.Consul) -> Iterator[tuple[Consul, Services]]:
    kv = consul.kv()
    check = {"CheckID": f"check-{tiny.instance.id}", "TTL": "10m", "Status": "passing"}
    kv.put_json("agent/service/register", {"ID": tiny.instance.id, "Name": "api", "Check": check})
    services = Services(kv, tiny.root)
    wait_until(lambda: services.listing("api")[0], what="Consul lists the service")
    yield kv, services
    kv.put_json(f"agent/service/deregister/{tiny.instance.id}")


def test_health_by_consul(tiny: Tiny, registered: tuple[Consul, Services]) -> None:
    kv, services = registered

    def seen(instance: Instance = tiny.instance, node: str = "server") -> Health:
        return services.health(instance, node, services.listing(instance.consul_name)[0], ready=False)

    assert seen() is Health.IN
    assert seen(node="the same machine by another name") is Health.IN
    assert seen(replace(tiny.instance, id="api-2")) is Health.GONE
    assert seen(replace(tiny.instance, consul_name="other")) is Health.GONE
    says(kv, tiny.instance, "warning")
    wait_until(lambda: services.listing("api")[0][0]["Checks"][-1]["Status"] == "warning")
    assert seen() is Health.IN
    says(kv, tiny.instance, "critical")
    wait_until(lambda: seen() is Health.OUT, what="the check is critical")


def test_two_nodes_with_the_same_id_are_told_apart(tiny: Tiny) -> None:
    rows = [
        {"Node": {"Node": n}, "Service": {"ID": "api-1"}, "Checks": [{"Status": status}]}
        for n, status in (("n1", "passing"), ("n2", "critical"))
    ]
    services = Services(FakeKV(), tiny.root)

    assert [services.health(tiny.instance, n, rows, False) for n in ("n1", "n2", "n3")] == [
        Health.IN,
        Health.OUT,
        Health.UNSEEN,
    ]


def test_a_change_of_health_ends_the_wait(tiny: Tiny, registered: tuple[Consul, Services]) -> None:
    kv, services = registered
    rows, index = services.listing("api")
    says(kv, tiny.instance, "critical")

    fresh, later = services.listing("api", after=index, wait_s=20)

    assert fresh != rows
    assert later != index


def test_maintenance_is_set_once_and_ended(tiny: Tiny, registered: tuple[Consul, Services]) -> None:
    _, services = registered

    def health() -> Health:
        return services.health(tiny.instance, "server", services.listing("api")[0], ready=False)

    for _ in range(2):
        services.maintenance(tiny.instance, on=True)
        wait_until(lambda: health() is Health.OUT, what="in maintenance")
    for _ in range(2):
        services.maintenance(tiny.instance, on=False)
        wait_until(lambda: health() is Health.IN, what="in service again")


def test_maintenance_of_an_operator_is_left_alone(tiny: Tiny, registered: tuple[Consul, Services]) -> None:
    kv, services = registered
    kv.put_json(
        f"agent/service/maintenance/{tiny.instance.id}", params={"enable": "true", "reason": "disk broken"}
    )

    def notes() -> list[str]:
        rows, _ = kv.get_json("health/checks/api")
        return [row["Notes"] for row in rows if row["CheckID"].startswith("_service_maintenance")]

    wait_until(notes, what="in maintenance")
    for on in (True, False):
        services.maintenance(tiny.instance, on)

    assert notes() == ["disk broken"]


def test_a_listing_that_may_not_be_seen_is_an_error(consul_acl: servers.Consul, tmp_path: Path) -> None:
    """An empty list would look like a service that is drained."""
    kv = consul_acl.kv()
    kv.put_json("agent/service/register", {"ID": "hidden-1", "Name": "hidden"})
    wait_until(lambda: Services(kv, tmp_path).listing("hidden")[0], what="Consul lists the service")
    blind = consul_acl.kv(consul_acl.token_for('key "x" { policy = "read" }'))

    with pytest.raises(HydraError):
        Services(blind, tmp_path).listing("hidden")


def test_warm_up_by_a_command_knows_its_instance_and_fails_with_what_it_said(tmp_path: Path) -> None:
    program = "import os; open(os.environ['HYDRA_VIEW'], 'w').write(os.environ['HYDRA_ADDRESS'])"
    commands = {
        "warm": (sys.executable, "-c", program),
        "cold": (sys.executable, "-c", "raise SystemExit('still cold')"),
    }
    services = Services(FakeKV(), tmp_path, commands=commands)
    instance = Instance(service=S, id="api-1", incarnation="1", address="127.0.0.1", port=8080)
    view = tmp_path / "views" / KEY
    view.parent.mkdir(parents=True)

    services.warm_up(parse_warm_up("command:warm"), KEY, instance, 30.0)

    assert view.read_text() == "127.0.0.1:8080"
    with pytest.raises(HydraError, match="command cold ended with 1: still cold"):
        services.warm_up(parse_warm_up("command:cold"), KEY, instance, 30.0)
    with pytest.raises(HydraError, match="unknown"):
        services.warm_up(parse_warm_up("command:unknown"), KEY, instance, 30.0)


@pytest.mark.parametrize("health", ["kubernetes", "consul"])
def test_instance_that_gives_no_answer_is_asked_once_more_as_its_end_may_not_be_known_yet(
    monkeypatch: pytest.MonkeyPatch, health: str
) -> None:
    monkeypatch.setattr(service, "DELETION_KNOWN_S", 0.01)
    asked: list[str] = []

    def refuse(method: str, url: str, limit_s: float) -> tuple[int, bytes]:
        asked.append(url)
        if len(asked) == 1:
            raise HydraError("Connection refused")
        return 200, b""

    monkeypatch.setattr(service, "_request", refuse)
    pod = Instance(
        service=Service("prod/search/reader"), id="reader-1", incarnation="u1", address="10.0.0.7", port=80,
        health=health,
    )  # fmt: skip
    key = InstanceKey.of(pod.service, pod.id)
    services = Services(FakeKV(), Path("none"))
    services.reload(parse_reload("http://:/reload"), key, pod, 1.0)
    assert asked == ["http://10.0.0.7:80/reload"] * 2
    asked.clear()
    with pytest.raises(HydraError):
        services.reload(parse_reload("http://:/reload"), key, replace(pod, health="none"), 1.0)
    assert len(asked) == 1


def test_instance_that_takes_too_long_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its deadline is over: a second answer may take as long as the first."""
    asked: list[str] = []

    def late(method: str, url: str, limit_s: float) -> tuple[int, bytes]:
        asked.append(url)
        raise Timeout("no answer within 1 s")

    monkeypatch.setattr(service, "_request", late)
    instance = Instance(service=Service("prod/search/reader"), id="r", incarnation="1", port=80)
    key = InstanceKey.of(instance.service, instance.id)
    with pytest.raises(Timeout):
        Services(FakeKV(), Path("none")).reload(parse_reload("http://:/reload"), key, instance, 1.0)
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("serving", "seen"),
    [(True, Health.IN), (False, Health.OUT), (None, Health.UNSEEN)],
)
def test_health_of_a_pod_is_what_its_node_saw(serving: bool | None, seen: Health) -> None:
    pod = Instance(
        service=Service("prod/search/reader"), id="r", incarnation="u", health="kubernetes", serving=serving
    )

    assert Services(FakeKV(), Path("none")).health(pod, "n1", [], True) is seen
