"""What commands show: wrong things first, the same facts as text and as JSON."""

from __future__ import annotations

import threading

import pytest

from handlers.core import keys, model
from handlers.core.model import State
from handlers.core.names import Service
from hydra_cli.feed import Feed
from tests.cli.desk import PLACES, Desk, v
from tests.core.worlds import COMPLETE, Cluster, rid
from tests.servers import wait_until


@pytest.fixture
def cluster() -> Cluster:
    """One channel with two releases, one service in two replicas; the first is moved, one node loads."""
    made = Cluster()
    made.publish(1)
    made.publish(2)
    made.subscribe()
    for node in ("n1", "n2"):
        made.node(node, COMPLETE)
        made.runs(node, places=1)
        volumes = {"disk": model.VolumeInfo(cls="DISK")}
        made.put(keys.info(node), model.NodeInfo(node=node, volumes=volumes))
    made.runs("n1", places=2)
    made.run()
    loads = {
        rid(1): model.ReleaseStatus(state=State.SUCCESS),
        rid(2): model.ReleaseStatus(state=State.DOWNLOADING),
    }
    made.put(keys.actual("n2"), model.Actual(node="n2", generation=1, releases=loads))
    downloads = {rid(2): model.Download(done=512 * 1024, total=2 * 1024**2, speed=1024**2)}
    made.put(keys.progress("n2"), model.Progress(node="n2", downloads=downloads, free={"disk": 3 * 1024**3}))
    return made


def test_status_at_rest_says_that_nothing_is_wrong(desk: Desk, cluster: Cluster) -> None:
    desk.put(cluster)

    lines = desk.ok("status").out.splitlines()

    assert lines[0] == "nothing is wrong"
    assert lines.index("Channels") < lines.index("Services") < lines.index("Nodes")
    assert f"{COMPLETE}  2/2    1/2             going on  places {v(2)}" in lines
    assert "n2    alive      1/2           10 B  25 % of 2.0 MiB, 1.0 MiB/s          1  disk 3.0 GiB" in lines


@pytest.mark.parametrize("command", [("status",), ("node", "show", "n1"), ("node", "list")])
def test_what_discover_cannot_understand_is_shown(
    desk: Desk, cluster: Cluster, command: tuple[str, ...]
) -> None:
    cluster.put(keys.instances("n1"), model.Instances(alarms=("Consul service 'api': no such name",)))
    desk.put(cluster)

    said = desk.ok(*command).out

    assert ("alarm" if command == ("node", "list") else "Consul service 'api': no such name") in said


def test_status_begins_with_what_is_wrong(desk: Desk, cluster: Cluster) -> None:
    cluster.runs("n1", places=1)
    cluster.judge(2)
    del cluster[keys.alive("n2")]
    cluster[keys.channel_pin(PLACES)] = b"oops"
    failed = {rid(2): model.ReleaseStatus(state=State.FAILED, reason="no space on volume disk")}
    cluster.put(
        keys.actual("n1"), model.Actual(node="n1", generation=1, releases=failed, alarms=("clock is off",))
    )
    cluster.put(keys.ALARMS, model.Alarms(alarms=(model.Alarm(object="meta", text="planning is held"),)))
    desk.put(cluster)

    answer = desk.ok("status", "-o", "json")

    wrong = {row["object"]: row["text"] for row in answer.json["troubles"]}
    assert wrong["meta"] == "planning is held"
    assert f"{rid(2)} halted on n1 (x): does not load" in [row["text"] for row in answer.json["troubles"]]
    assert wrong["node/n2"].startswith("is dead")
    assert {"clock is off", f"{rid(2)} failed: no space on volume disk"} <= {
        row["text"] for row in answer.json["troubles"]
    }
    assert "pin: version 'oops' is not a date and time" in wrong[f"channel/{PLACES}"]
    assert answer.json["services"][0]["rollout"] == "halted"
    assert desk.ok("status").out.startswith(f"Look at this ({len(answer.json['troubles'])})")


def test_status_of_a_consul_without_hydra_says_so(desk: Desk) -> None:
    desk.kv = type(desk.kv)()

    assert "`hydra init` was not run" in desk.ok("status").out


def test_detailed_exit_code_tells_of_what_is_on_its_way(desk: Desk, cluster: Cluster) -> None:
    desk.put(cluster)
    assert desk.run("status", "--detailed-exitcode").code == 3
    assert desk.run("rollout", "status", COMPLETE, "--detailed-exitcode").code == 3

    cluster.runs("n2", places=2)
    cluster.put(keys.actual("n2"), model.Actual(node="n2", generation=1))
    desk.put(cluster)

    assert desk.run("status", "--detailed-exitcode").code == 0
    assert desk.run("rollout", "status", COMPLETE, "--detailed-exitcode").code == 0


@pytest.mark.parametrize(
    "name", [PLACES, f"channel/{PLACES}", COMPLETE, f"service/{COMPLETE}", "n1", "node/n1"]
)
def test_status_of_one_object(desk: Desk, cluster: Cluster, name: str) -> None:
    desk.put(cluster)
    desk.environ |= {"HYDRA_ENV": "prod", "HYDRA_NAMESPACE": "search"}

    assert name.rpartition("/")[2] in desk.ok("status", name).out


def test_channel_shows_releases_newest_first_with_their_marks(desk: Desk, cluster: Cluster) -> None:
    cluster.reject(2)
    cluster.put(keys.channel_pin(PLACES), model.Pin(version=v(1), who="ann", why="event"))
    desk.put(cluster)

    shown = desk.ok("channel", "show", PLACES, "-o", "json").json

    assert [(r["version"], r["marks"]) for r in shown["releases"]] == [
        (v(2), ["head", "rejected"]),
        (v(1), ["pinned"]),
    ]
    assert shown["readers"] == {COMPLETE: ["places"]}
    assert f"pin   {v(1)} by ann: event" in desk.ok("channel", "show", PLACES).out


def test_channel_list_keeps_to_an_environment(desk: Desk, cluster: Cluster) -> None:
    desk.put(cluster)

    assert [c["channel"] for c in desk.ok("channel", "list", "-o", "json").json["channels"]] == [PLACES]
    assert desk.ok("channel", "list", "--env", "stage", "-o", "json").json["channels"] == []
    assert desk.ok("channel", "list", "-n", "maps").out == "no channels; `hydra publish` makes one\n"


def test_view_shows_where_each_instance_reads(desk: Desk, cluster: Cluster) -> None:
    desk.put(cluster)

    one = desk.ok("view", COMPLETE, "i0", "-o", "json").json["instances"]

    assert [(i["node"], i["releases"]["places"], i["view"]) for i in one] == [
        ("n1", v(2), f"views/{COMPLETE}/i0"),
        ("n2", v(1), f"views/{COMPLETE}/i0"),
    ]
    assert desk.run("view", COMPLETE, "none").code == 2


def test_node_list_and_show(desk: Desk, cluster: Cluster) -> None:
    cluster.cordon("n1")
    desk.put(cluster)

    rows = {n["node"]: n for n in desk.ok("node", "list", "-o", "json").json["nodes"]}
    shown = desk.ok("node", "show", "n2", "-o", "json").json

    assert (rows["n1"]["cordoned"], rows["n2"]["cordoned"]) == (True, False)
    assert shown["releases"][rid(2)] == {
        "state": "DOWNLOADING", "reason": "", "done": 512 * 1024, "total": 2 * 1024**2, "speed": 1024**2,
    }  # fmt: skip
    assert shown["volumes"] == {"disk": {"class": "DISK", "free": 3 * 1024**3}}
    assert "cordoned by me" in desk.ok("node", "show", "n1").out


def test_history_is_newest_first_and_of_one_object_where_asked(desk: Desk) -> None:
    desk.data(1)
    desk.publish()
    desk.now = desk.now.replace(hour=13)
    desk.ok("subscribe", COMPLETE, "--channel", PLACES)
    desk.now = desk.now.replace(hour=14)
    desk.ok("reject", PLACES, v(1), "--reason", "wrong")

    everything = desk.ok("history", "-o", "json").json["history"]

    assert [entry["action"] for entry in everything] == ["rejected", "subscribed", "published"]
    assert [e["why"] for e in desk.ok("history", f"channel/{PLACES}", "-o", "json").json["history"]] == [
        "wrong",
        "",
    ]
    assert len(desk.ok("history", "--limit", "1", "-o", "json").json["history"]) == 1
    assert [e["object"] for e in desk.ok("history", COMPLETE, "-o", "json").json["history"]] == [
        f"service/{COMPLETE}"
    ]


def test_unreadable_history_is_shown_as_it_is(desk: Desk) -> None:
    desk.kv.put(keys.audit("meta", "2026-01-01T00-00-00", "x"), b"oops")

    assert desk.ok("history", "-o", "json").json["history"][0]["action"] == "unreadable"


def test_control_characters_from_consul_never_reach_the_terminal(desk: Desk, cluster: Cluster) -> None:
    cluster.put(keys.channel_pin(PLACES), model.Pin(version=v(1), why="\x1b]0;owned\x07\x1b[2J"))
    desk.put(cluster)

    assert "\x1b" not in desk.ok("channel", "show", PLACES).out


def test_feed_tells_of_every_change_and_outlives_an_outage(desk: Desk, cluster: Cluster) -> None:
    desk.put(cluster)
    with Feed(desk.kv, keys.CHANNELS, keys.SERVICES) as feed:
        first = feed.next(10)
        assert first is not None
        assert first.channels[PLACES].head == v(2)
        assert feed.next(0.05) is None
        desk.kv.put(keys.head(PLACES), v(1).encode())
        changed = feed.next(10)
        assert changed is not None
        assert changed.channels[PLACES].head == v(1)

        desk.kv.away = True
        desk.kv.put(keys.subscription(Service("prod/a/b")), b"{}")  # wakes the waiting reads, which then fail
        wait_until(lambda: feed.trouble)
        desk.kv.away = False
        desk.kv.put(keys.head(PLACES), v(2).encode())

        seen = wait_until(lambda: (world := feed.next(1)) and world.channels[PLACES].head == v(2))
        assert seen


def test_status_watch_prints_each_picture_once(
    desk: Desk, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.put(cluster)
    pictures: list[str] = []
    monkeypatch.setattr("hydra_cli.output.Screen.write", lambda _, text: pictures.append(text))

    def change() -> None:
        wait_until(lambda: pictures)
        desk.kv.put(keys.control(COMPLETE), b'{"format": 1, "paused": true, "who": "ann", "why": "peak"}')
        wait_until(lambda: len(pictures) > 1)
        desk.kv.denied.add(keys.CHANNELS)
        desk.kv.put(keys.head(PLACES), v(1).encode())

    thread = threading.Thread(target=change)
    thread.start()

    answer = desk.run("status", "--watch")

    thread.join()
    assert answer.code == 4
    assert "rollouts are paused by ann: peak" in pictures[1]
    assert "paused by ann" not in pictures[0]
