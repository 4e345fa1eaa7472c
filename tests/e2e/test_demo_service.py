"""The demo's service and its traffic client by themselves: real data, a real Consul, views made by hand."""

from __future__ import annotations

import csv
import http.client
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hydra_cli.dev.demo import completion, gazetteer
from hydra_cli.dev.demo.editions import EDITIONS
from hydra_cli.dev.demo.figures import Request
from hydra_cli.dev.demo.traffic import QUERIES
from hydra_cli.dev.ports import free_port
from tests import servers
from tests.servers import wait_until

OLD, NEW, BROKEN, _ = EDITIONS
DATASETS = ("index", "ranking", "settings")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two editions of the gazetteer."""
    folder = tmp_path_factory.mktemp("gazetteer")
    for edition in (OLD, NEW):
        gazetteer.build(folder, edition)
    return folder


class View:
    """A view as design section 4 has it, made by hand."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.path = folder / "view"
        self._data = data
        self._count = 0
        self.path.mkdir(parents=True)

    def flip(self, sources: dict[str, str]) -> None:
        """Point the alias at a release with these versions by dataset, by one rename."""
        self._count += 1
        release = self.path.parent / f"release-{self._count}"
        release.mkdir()
        for dataset, version in sources.items():
            (release / dataset).symlink_to(self._data / dataset / version)
        numbered = self.path / f"..{self._count}"
        numbered.mkdir()
        (numbered / "places").symlink_to(release)
        fresh = self.path / "..fresh"
        fresh.symlink_to(numbered.name)
        fresh.rename(self.path / "..data")
        if not (self.path / "places").is_symlink():
            (self.path / "places").symlink_to("..data/places")

    def say(self, word: str) -> None:
        """Write the state file, by rename."""
        fresh = self.path / ".state"
        fresh.write_text(word)
        fresh.rename(self.path / "state")


@pytest.fixture
def view(tmp_path: Path, data: Path) -> View:
    return View(tmp_path, data)


@contextmanager
def replica(view: View) -> Iterator[int]:
    """The service as its own program, which cannot import this project; its port."""
    with program(view) as (port, _):
        yield port


@contextmanager
def program(view: View) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """The same, with its process."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-I", completion.__file__, "--port", str(port)],
        env={**os.environ, "HYDRA_VIEW": str(view.path)},
        stderr=subprocess.DEVNULL,
        cwd="/",
    )
    try:
        wait_until(lambda: _listens(port), what="the service listens")
        yield port, process
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    try:
        ask(port, "/healthz")
    except OSError:
        return False
    return True


def ask(port: int, path: str, method: str = "GET") -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def all_of(version: str) -> dict[str, str]:
    return dict.fromkeys(DATASETS, version)


def test_instance_without_a_view_is_alive_but_not_in_service(view: View) -> None:
    with replica(view) as port:
        assert ask(port, "/healthz")[0] == 503
        assert ask(port, "/complete?q=mun")[0] == 503
        view.flip(all_of(OLD.version))
        view.say("ready")
        wait_until(lambda: ask(port, "/healthz")[0] == 200, what="the service took its first data over")


def test_answer_has_the_largest_places_and_the_version_of_each_file(view: View) -> None:
    view.flip(all_of(OLD.version))
    with replica(view) as port:
        wait_until(lambda: ask(port, "/version")[0] == 200)
        status, answer = ask(port, "/complete?q=m%C3%BCn")
        assert status == 200
        assert answer["places"][0]["name"] == "Munich"
        assert {place["name"] for place in answer["places"]} >= {"Münster", "Muntinlupa"}
        assert answer["versions"] == all_of(OLD.version)
        assert ask(port, "/version")[1]["version"] == OLD.version


def test_stats_tell_of_the_data_in_use_once_there_was_an_answer(view: View) -> None:
    view.flip(all_of(OLD.version))
    with replica(view) as port:
        wait_until(lambda: ask(port, "/version")[0] == 200)
        assert ask(port, "/stats") == (200, {"answers": 0})
        shown = [len(ask(port, f"/complete?q={query}")[1]["places"]) for query in ("ber", "qqq")]
        assert ask(port, "/stats") == (200, {"answers": 2, "places_per_answer": sum(shown) / 2})
        assert ask(port, "/reload", "POST")[0] == 200
        assert ask(port, "/stats") == (200, {"answers": 0})


def test_broken_edition_has_a_place_for_each_query_but_far_fewer() -> None:
    broken = gazetteer.places(BROKEN.smallest)

    assert all(place.population >= BROKEN.smallest for place in broken)
    assert all(any(place.key.startswith(query) for place in broken) for query in QUERIES)
    assert len(broken) * 10 < len(gazetteer.places(OLD.smallest))


def test_flip_changes_answers_only_with_the_reload(view: View) -> None:
    view.flip(all_of(OLD.version))
    with replica(view) as port:
        wait_until(lambda: ask(port, "/version")[0] == 200)
        view.flip(all_of(NEW.version))
        assert ask(port, "/complete?q=ber")[1]["versions"] == all_of(OLD.version)
        assert ask(port, "/reload", "POST")[0] == 200
        assert ask(port, "/complete?q=ber")[1]["versions"] == all_of(NEW.version)


def test_answers_name_each_version_of_a_mixture(view: View) -> None:
    view.flip({**all_of(OLD.version), "ranking": NEW.version})
    with replica(view) as port:
        wait_until(lambda: ask(port, "/version")[0] == 200)
        assert ask(port, "/version")[1] == {
            "version": f"{OLD.version}/{NEW.version}",
            "index": OLD.version,
            "ranking": NEW.version,
            "settings": OLD.version,
        }


def test_only_ready_is_in_service_and_draining_still_answers(view: View) -> None:
    view.flip(all_of(OLD.version))
    view.say("ready")
    with replica(view) as port:
        wait_until(lambda: ask(port, "/healthz")[0] == 200)
        view.say("draining")
        assert ask(port, "/healthz") == (503, {"trouble": "state is draining"})
        assert ask(port, "/complete?q=ber")[0] == 200


def test_reload_of_broken_data_keeps_the_old(view: View, data: Path) -> None:
    view.flip(all_of(OLD.version))
    with replica(view) as port:
        wait_until(lambda: ask(port, "/version")[0] == 200)
        broken = data / "ranking" / "broken"
        broken.mkdir()
        (broken / "ranking.bin").write_bytes(b"x" * 100)
        view.flip({**all_of(NEW.version), "ranking": "broken"})
        assert ask(port, "/reload", "POST")[0] == 500
        assert ask(port, "/complete?q=ber")[1]["versions"] == all_of(OLD.version)


def test_data_that_is_taken_away_stays_in_use(view: View, tmp_path: Path, data: Path) -> None:
    own = tmp_path / "own"
    shutil.copytree(data, own)
    local = View(tmp_path / "local", own)
    local.flip(all_of(OLD.version))
    with replica(local) as port:
        wait_until(lambda: ask(port, "/version")[0] == 200)
        shutil.rmtree(own)
        assert ask(port, "/complete?q=ber")[1]["places"][0]["name"] == "Berlin"


@contextmanager
def traffic(consul: servers.Consul, log: Path) -> Iterator[subprocess.Popen[str]]:
    command = [
        sys.executable,
        "-m",
        "hydra_cli.dev.demo.traffic",
        "--service",
        "completion",
        "--log",
        str(log),
        "--limit",
        "30",  # a machine that pauses for a second does not make a request fail
    ]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **consul.environment()},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe
            pipe.close()


def reports_until(process: subprocess.Popen[str], true: Any) -> dict[str, Any]:
    assert process.stdout
    for line in process.stdout:
        report: dict[str, Any] = json.loads(line)
        if true(report):
            return report
    raise AssertionError("the traffic client ended")


def register(consul: servers.Consul, name: str, port: int) -> None:
    check = {"HTTP": f"http://127.0.0.1:{port}/healthz", "Interval": "1s", "Timeout": "10s"}
    body = {"ID": name, "Name": "completion", "Address": "127.0.0.1", "Port": port, "Check": check}
    consul.kv().put_json("agent/service/register", body)


def rows(log: Path) -> list[Request]:
    with log.open(newline="") as file:
        return [Request.from_row(row) for row in csv.DictReader(file)]


def test_traffic_client_keeps_its_rate_and_sees_replicas_come_and_go(
    consul: servers.Consul, view: View, tmp_path: Path
) -> None:
    view.flip(all_of(OLD.version))
    view.say("ready")
    log = tmp_path / "log.csv"
    with replica(view) as port:
        register(consul, "r1", port)
        wait_until(lambda: consul.kv().get_json("health/service/completion", {"passing": ""})[0])
        with traffic(consul, log) as process:
            reports_until(process, lambda report: report["answered"] >= 300)
            view.say("draining")
            report = reports_until(process, lambda report: not report["passing"] and report["failed"])
            assert set(report["reasons"]) == {"no replica in service"}
            assert process.stdin
            process.stdin.close()
            last = reports_until(process, lambda report: process.poll() is not None or report)
            process.wait(30)
    found = rows(log)
    # from its first request to its last: how long programs take to start and to report is not its rate
    sent = [request.sent for request in found]
    assert len(found) >= 200 * (max(sent) - min(sent)) * 0.9
    assert last["mixed"] == 0
    assert {request.versions for request in found if not request.trouble} == {(OLD.version,) * 3}
    gone = [request for request in found if request.trouble]
    assert gone
    assert {request.replica for request in gone} == {""}


def test_traffic_client_counts_mixtures_and_dead_replicas(
    consul: servers.Consul, view: View, tmp_path: Path
) -> None:
    view.flip({**all_of(OLD.version), "settings": NEW.version})
    view.say("ready")
    log = tmp_path / "log.csv"
    with program(view) as (port, service):
        register(consul, "r1", port)
        wait_until(lambda: consul.kv().get_json("health/service/completion", {"passing": ""})[0])
        with traffic(consul, log) as process:
            reports_until(process, lambda report: report["mixed"] >= 10)
            # a check that cannot be met any more is not a check: Consul goes on to call the dead one passing
            consul.kv().put_json("agent/check/deregister/service:r1")
            reports_until(process, lambda report: report["passing"] == ["r1"])
            service.kill()
            report = reports_until(process, lambda report: report["failed"] >= 10)
    assert not any("no replica" in reason for reason in report["reasons"])
