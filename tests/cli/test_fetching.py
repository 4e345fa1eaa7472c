"""What each node really has to fetch, as `hydra publish` and `hydra status` say it."""

from __future__ import annotations

from pathlib import Path

import pytest

from handlers.core import keys, model
from handlers.core.model import State
from handlers.core.version import ReleaseId
from tests.cli.desk import PLACES, Desk, v
from tests.core.worlds import COMPLETE, Cluster, rid

MIB = 1024**2
TEMPLATE = """
DATA_TEMPLATE = {"index": {"SourcePath": f"s3://data/index/{VERSION_PLACEHOLDER}/", "Placement": DISK}}
"""


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """Three nodes with instances and one without; n1 holds the first release, n2 fails at it, n3 is new."""
    made = Desk(tmp_path)
    cluster = Cluster()
    cluster.subscribe()
    for name in ("n1", "n2", "n3"):
        cluster.node(name, COMPLETE)
    cluster.node("n4")
    states = {"n1": State.SUCCESS, "n2": State.FAILED}
    for name, state in states.items():
        statuses = {rid(1): model.ReleaseStatus(state=state)}
        cluster.put(keys.actual(name), model.Actual(node=name, generation=0, releases=statuses))
    made.put(cluster)
    return made


def upload(desk: Desk, day: int, **bodies: bytes) -> None:
    for path, body in bodies.items():
        desk.objects.write(f"s3://data/index/{v(day)}/{path}", body)


def publish(desk: Desk, *args: str) -> dict[str, int]:
    """What each node has to fetch."""
    answer = desk.ok("publish", desk.template(TEMPLATE), "--channel", PLACES, "-o", "json", *args)
    return {row["node"]: row["fetch_bytes"] for row in answer.json["nodes"]}


def test_unchanged_files_are_not_counted_where_they_are(desk: Desk) -> None:
    upload(desk, 1, same=b"x" * 5000, other=b"y" * 70)
    assert publish(desk) == {"n1": 0, "n2": 5070, "n3": 5070}
    upload(desk, 2, moved=b"x" * 5000, other=b"z" * 70)

    assert publish(desk, "--dry-run") == {"n1": 70, "n2": 5070, "n3": 5070}
    text = desk.ok("publish", desk.template(TEMPLATE), "--channel", PLACES).out
    assert (
        "What has to be fetched\nNODES     FETCH       OF\nn2, n3  5.0 KiB  5.0 KiB\nn1         70 B" in text
    )


def test_of_pushed_files_only_changed_chunks_are_counted(desk: Desk) -> None:
    folder = desk.folder / "data"
    folder.mkdir()
    body, found = bytearray(20 * MIB), dict[int, dict[str, int]]()
    desk.objects.buckets["data"] = {}
    for day in (1, 2):
        body[9 * MIB] = day
        (folder / "big").write_bytes(body)
        desk.ok("push", str(folder), "s3://data/index/{VERSION_PLACEHOLDER}/", "--version", v(day))
        found[day] = publish(desk, "--version", v(day))

    assert found[2] == {"n1": 8 * MIB, "n2": 20 * MIB, "n3": 20 * MIB}


def test_files_of_another_channels_release_count_as_well(desk: Desk) -> None:
    upload(desk, 1, same=b"x" * 5000)
    desk.ok("publish", desk.template(TEMPLATE), "--channel", "prod/search/other")
    held = {ReleaseId("prod/search/other@" + v(1)): model.ReleaseStatus(state=State.SUCCESS)}
    desk.put({keys.actual("n3"): b""})
    cluster = Cluster()
    cluster.put(keys.actual("n3"), model.Actual(node="n3", generation=0, releases=held))
    desk.kv.put(keys.actual("n3"), cluster[keys.actual("n3")])

    assert publish(desk)["n3"] == 0


def test_nobody_reads_a_new_channel(desk: Desk) -> None:
    upload(desk, 1, a=b"x")

    answer = desk.ok("publish", desk.template(TEMPLATE), "--channel", "prod/search/new")

    assert "no node has an instance of a service that reads this channel" in answer.out


def test_status_counts_what_is_desired_and_not_here(desk: Desk) -> None:
    upload(desk, 1, same=b"x" * 5000)
    publish(desk)
    upload(desk, 2, same=b"x" * 5000, new=b"y" * 70)
    publish(desk)
    cluster = Cluster(desk.everything())
    cluster.run()
    desk.put(cluster)

    answer = desk.ok("status", "-o", "json")

    wanted = {row["node"]: row["fetch_bytes"] for row in answer.json["nodes"]}
    assert wanted["n1"] == 70
    assert wanted["n3"] >= 5070
    assert wanted["n4"] == 0
    assert "TO FETCH" in desk.ok("status").out


def test_status_asks_no_object_store(desk: Desk) -> None:
    """A long list of files is an object; while S3 is away, all of the release counts."""
    for number in range(5_000):
        desk.objects.write(f"s3://data/index/{v(1)}/{number:06d}-{'x' * 30}", b"x")
    publish(desk)
    cluster = Cluster(desk.everything())
    cluster.run()
    desk.put(cluster)
    desk.objects.away = True

    found = {row["node"]: row["fetch_bytes"] for row in desk.ok("status", "-o", "json").json["nodes"]}

    assert found["n3"] == 5_000
