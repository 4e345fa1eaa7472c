"""`hydra doctor`: what it finds, and what it advises."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hydra_cli import acl
from hydra_cli.doctor_checks import Level, agent_settings, clock, consul_version, may_write, volume
from tests.cli.desk import Desk
from tests.servers import S3, Consul

GIB = 1024**3
NOW = datetime(2026, 6, 1, 12, 0, 30, tzinfo=UTC)
GOOD = {
    "HTTPWriteTimeout": "15m0s",
    "HTTPReadTimeout": "15m0s",
    "ACLsEnabled": True,
    "ACLEnableKeyListPolicy": True,
    "HTTPMaxConnsPerClient": 5000,
    "LeaveOnTerm": False,
    "SkipLeaveOnInt": True,
}


@pytest.mark.parametrize(
    ("version", "level"),
    [
        ("1.22.6", Level.OK),
        ("1.22.4", Level.FAIL),
        ("1.22.4+ent", Level.FAIL),
        ("1.22.5", Level.OK),
        ("1.14.0", Level.OK),
        ("1.13.9", Level.FAIL),
        ("2.0.0", Level.OK),
    ],
)
def test_versions_that_break_watches_or_transactions_fail(version: str, level: Level) -> None:
    assert consul_version(version).level is level


@pytest.mark.parametrize(
    ("changed", "name", "level"),
    [
        ({}, "", Level.OK),
        ({"HTTPWriteTimeout": "30s"}, "http time-outs", Level.FAIL),
        ({"HTTPReadTimeout": "5m30s"}, "http time-outs", Level.FAIL),
        ({"HTTPWriteTimeout": "0s"}, "", Level.OK),
        ({"ACLEnableKeyListPolicy": False}, "key list policy", Level.FAIL),
        ({"ACLsEnabled": False, "ACLEnableKeyListPolicy": False}, "acl", Level.WARN),
        ({"HTTPMaxConnsPerClient": 200}, "connections", Level.WARN),
        ({"LeaveOnTerm": True}, "agent restarts", Level.WARN),
        ({"SkipLeaveOnInt": False}, "agent restarts", Level.WARN),
    ],
)
def test_settings_that_break_hydra_are_named(changed: dict[str, object], name: str, level: Level) -> None:
    found = {f.name: f for f in agent_settings(GOOD | changed, is_server=False) if f.level is not Level.OK}

    assert set(found) == ({name} if name else set())
    assert all(f.level is level and f.advice for f in found.values())


@pytest.mark.parametrize(
    ("seconds", "level"),
    [(0, Level.OK), (4, Level.OK), (-4, Level.OK), (60, Level.WARN), (-60, Level.WARN), (400, Level.FAIL)],
)
def test_clocks_that_are_apart_are_told(seconds: int, level: Level) -> None:
    date = (NOW + timedelta(seconds=seconds)).strftime("%a, %d %b %Y %H:%M:%S GMT")

    assert clock("s3", date, NOW, NOW + timedelta(milliseconds=5)).level is level


def test_server_without_a_clock_is_told() -> None:
    assert clock("s3", "", NOW, NOW).level is Level.WARN


@pytest.mark.parametrize(
    ("free", "level"), [(0, Level.FAIL), (1, Level.FAIL), (1.5, Level.WARN), (9, Level.OK)]
)
def test_room_is_measured_above_the_reserve(free: float, level: Level) -> None:
    assert volume("disk", "/data", int(free * GIB), GIB).level is level


def test_permissions_are_listed() -> None:
    assert may_write([("channels", True), ("meta", False)]).text == "may write channels"


def run(desk: Desk, *args: str) -> tuple[int, dict[str, tuple[str, str]]]:
    answer = desk.run("doctor", "-o", "json", *args)
    return answer.code, {f["name"]: (f["level"], f["text"]) for f in answer.json["findings"]}


def test_all_is_well_on_real_servers(
    tmp_path: Path, consul: Consul, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = s3.bucket()
    desk = Desk(tmp_path, consul=consul.kv(), environ=consul.environment() | s3.environment())
    desk.environ["HYDRA_ROOT"] = str(tmp_path)
    monkeypatch.setattr(Desk, "now", property(lambda _: datetime.now(UTC)))  # it goes on meanwhile
    desk.ok("init", "--env", "prod")

    code, found = run(desk, "--bucket", bucket)

    assert code == 0, found
    assert found["consul version"] == ("ok", consul.kv().get_json("agent/self")[0]["Config"]["Version"])
    assert found["hydra"] == ("ok", "serves prod; all can be read")
    assert (
        found[f"s3 ({bucket})"][0] == found[f"clock (s3 {bucket})"][0] == found["clock (consul)"][0] == "ok"
    )
    assert "space (disk)" in found


def test_what_is_wrong_fails_with_advice(tmp_path: Path, consul: Consul, s3: S3) -> None:
    desk = Desk(tmp_path, consul=consul.kv(), environ=consul.environment() | s3.environment())

    code, found = run(desk, "--bucket", "no-such-bucket-here")

    assert code == 1
    assert found["hydra"][0] == found["s3 (no-such-bucket-here)"][0] == "fail"
    text = desk.run("doctor", "--bucket", "no-such-bucket-here").out
    assert "`hydra init --env ENV`" in text


def test_no_consul_is_one_failure_and_not_six(tmp_path: Path, s3: S3) -> None:
    desk = Desk(
        tmp_path, environ={"CONSUL_HTTP_ADDR": "127.0.0.1:1"} | s3.environment(), now=datetime.now(UTC)
    )

    code, found = run(desk, "--bucket", s3.bucket())

    assert code == 1
    assert [name for name, (level, _) in found.items() if level == "fail"] == ["consul"]


def test_token_of_a_publisher_learns_what_it_may(tmp_path: Path, consul_acl: Consul) -> None:
    Desk(tmp_path, consul=consul_acl.kv()).ok("init", "--env", "prod")
    token = consul_acl.token_for(acl.render("publisher", channel="prod/"))
    desk = Desk(tmp_path, consul=consul_acl.kv(token), environ=consul_acl.environment(token))

    _, found = run(desk)

    assert found["permissions"] == ("ok", "may write nothing")
    assert found["consul agent"][0] == "warn"
    assert found["hydra"][0] == "ok"


def test_token_that_may_nothing_fails(tmp_path: Path, consul_acl: Consul) -> None:
    desk = Desk(tmp_path, consul=consul_acl.kv(""), environ=consul_acl.environment(""))

    code, found = run(desk)

    assert (code, found["hydra"][0]) == (1, "fail")
