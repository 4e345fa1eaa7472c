"""`hydra doctor` looks whether the data of every kept release is still there; plan makes an alarm of it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from handlers.adapters.objects import S3Objects
from handlers.adapters.snapshot import load
from handlers.core import keys
from handlers.core.desired import plan
from hydra_cli import acl
from tests.cli.desk import PLACES, TWO_DATASETS, Desk, v
from tests.servers import S3, Consul

NAME = f"data ({PLACES})"


class Fleet:
    """Two published releases on real servers."""

    def __init__(self, folder: Path, consul: Consul, s3: S3, bucket: str) -> None:
        self.bucket, self.client = bucket, s3.client()
        environ = consul.environment() | s3.environment()
        self.desk = Desk(folder, consul=consul.kv(), store=S3Objects(environ=environ), environ=environ)
        self.desk.now = datetime.now(UTC)
        self.desk.ok("init", "--env", "prod")
        template = self.desk.template(TWO_DATASETS.replace("//data/", f"//{bucket}/"))
        for day in (1, 2):
            for key in (f"index/{v(day)}/a", f"index/{v(day)}/b", f"ranks/{v(day)}/ranks.bin"):
                self.client.put_object(Bucket=bucket, Key=key, Body=key.encode())
            self.desk.ok("publish", template, "--channel", PLACES, "--version", v(day))

    def doctor(self, *args: str) -> tuple[int, list[tuple[str, str]]]:
        answer = self.desk.run("doctor", "-o", "json", *args)
        rows = [(f["level"], f["text"]) for f in answer.json["findings"] if f["name"] == NAME]
        return answer.code, rows

    def alarms(self) -> list[str]:
        assert self.desk.consul is not None
        made = plan(load(self.desk.consul), now=datetime.now(UTC))
        return [alarm.text for alarm in made.alarms.alarms if alarm.object == f"channel/{PLACES}"]


@pytest.fixture
def fleet(tmp_path: Path, consul: Consul, s3: S3) -> Fleet:
    return Fleet(tmp_path, consul, s3, s3.bucket())


def test_data_that_is_there_is_well(fleet: Fleet) -> None:
    assert fleet.doctor() == (0, [("ok", "all of 2 releases is there")])
    assert fleet.alarms() == []
    assert fleet.doctor("--no-data") == (0, [])


@pytest.mark.parametrize("change", ["deleted", "replaced", "one object", "all of it"])
def test_data_that_is_gone_fails_and_is_an_alarm_until_it_is_back(fleet: Fleet, change: str) -> None:
    key = f"ranks/{v(1)}/ranks.bin" if change == "one object" else f"index/{v(1)}/a"
    if change == "replaced":
        fleet.client.put_object(Bucket=fleet.bucket, Key=key, Body=b"other")
    else:
        for gone in [key, *([f"index/{v(1)}/b"] if change == "all of it" else [])]:
            fleet.client.delete_object(Bucket=fleet.bucket, Key=gone)

    code, [(level, text)] = fleet.doctor()

    assert (code, level) == (1, "fail")
    assert text.startswith(f"{v(1)}: ")
    assert key in text
    [alarm] = fleet.alarms()
    assert alarm.startswith(f"{v(1)} cannot be fetched any more (hydra doctor): ")
    before = fleet.desk.ok("history", f"channel/{PLACES}").out
    fleet.doctor()
    assert fleet.desk.ok("history", f"channel/{PLACES}").out == before
    for name in (f"index/{v(1)}/a", f"index/{v(1)}/b", f"ranks/{v(1)}/ranks.bin"):
        fleet.client.put_object(Bucket=fleet.bucket, Key=name, Body=name.encode())
    assert fleet.doctor()[0] == 0
    assert fleet.alarms() == []


def test_a_replaced_object_whose_version_is_kept_is_well_until_that_is_gone(
    tmp_path: Path, consul: Consul, s3_versions: S3
) -> None:
    fleet = Fleet(tmp_path, consul, s3_versions, s3_versions.versioned_bucket())
    key = f"index/{v(1)}/a"
    version = fleet.client.head_object(Bucket=fleet.bucket, Key=key)["VersionId"]
    fleet.client.put_object(Bucket=fleet.bucket, Key=key, Body=b"other")
    assert fleet.doctor()[0] == 0

    fleet.client.delete_object(Bucket=fleet.bucket, Key=key, VersionId=version)

    code, rows = fleet.doctor()
    assert (code, rows[0][0]) == (1, "fail")
    assert len(fleet.alarms()) == 1


def test_an_object_store_that_is_away_says_nothing_about_the_data(fleet: Fleet) -> None:
    real = fleet.desk.store
    fleet.client.delete_object(Bucket=fleet.bucket, Key=f"index/{v(1)}/a")
    fleet.doctor()
    nowhere: dict[str, Any] = fleet.desk.environ | {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}
    fleet.desk.store = S3Objects(stall_s=1, environ=nowhere)

    code, rows = fleet.doctor()

    assert (code, {level for level, _ in rows}) == (1, {"fail"})
    assert len(fleet.alarms()) == 1, "what was known stays known"
    fleet.desk.store = real


def test_whoever_may_not_note_it_is_told(fleet: Fleet, consul_acl: Consul, s3: S3, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    guarded = Fleet(folder, consul_acl, s3, s3.bucket())
    token = consul_acl.token_for(acl.render("reader"))
    guarded.client.delete_object(Bucket=guarded.bucket, Key=f"index/{v(1)}/a")
    guarded.desk.consul = consul_acl.kv(token)
    guarded.desk.environ |= consul_acl.environment(token)

    _, rows = guarded.doctor()

    assert [level for level, _ in rows] == ["fail", "warn"]
    assert consul_acl.kv().get(keys.unfetchable(PLACES))[0] is None
