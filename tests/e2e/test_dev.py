"""`hydra dev`: a real cluster comes up, is like real machines, and leaves nothing behind however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from handlers.adapters.ports import Set
from handlers.core import codec, keys
from handlers.core.errors import Denied, Temporary
from handlers.core.model import Meta
from hydra_cli.dev import processes
from hydra_cli.dev.cluster import Cluster
from hydra_cli.dev.folder import Folder
from hydra_cli.dev.node import MARK
from tests.servers import wait_until

HYDRA = [sys.executable, "-I", "-m", "hydra_cli.main"]
WATCHES = {"watch-desired", "watch-actual", "watch-node"}
OTHERS = {"consul-template", "discover", "resync"}

pytestmark = pytest.mark.timeout(300)


def hydra(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*HYDRA, *words], capture_output=True, text=True)


def recorded(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "pids").read_text()))


def memory(record: Mapping[str, Any]) -> list[Path]:
    return [Path(path) for path in record["mounts"]]


def nothing_left(record: Mapping[str, Any]) -> bool:
    return not processes.marked(MARK, record["mark"]) and not any(map(Path.is_mount, memory(record)))


def states(supervisor: Any) -> dict[str, str]:
    return {row["name"]: row["statename"] for row in supervisor.getAllProcessInfo()}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster"), nodes=2) as running:
        yield running


@pytest.fixture
def detached(tmp_path: Path) -> Iterator[Path]:
    """The folder of a cluster that `hydra dev up --detach` left running."""
    folder = tmp_path / "c"
    try:
        answer = hydra("dev", "up", "--detach", "--nodes", "1", "--dir", str(folder))
        assert answer.returncode == 0, answer.stderr
        yield folder
    finally:
        Folder(folder).end()


def test_detached_cluster_can_be_used_from_a_shell_until_down_ends_it(detached: Path) -> None:
    record = recorded(detached)
    assert processes.marked(MARK, record["mark"])
    script = f'. {detached}/env; "$0" -I -m hydra_cli.main status >&2 && env'
    shell = subprocess.run(["sh", "-c", script, sys.executable], capture_output=True, text=True)
    assert shell.returncode == 0, shell.stderr
    environ = dict(line.partition("=")[::2] for line in shell.stdout.splitlines())
    assert environ["HYDRA_DEV_NODES"] == "n1"
    assert {"AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} <= environ.keys()

    answer = hydra("dev", "down", "--dir", str(detached))

    assert answer.returncode == 0, answer.stderr
    assert nothing_left(record)
    assert not (detached / "env").exists()


def test_second_up_in_the_same_folder_is_a_conflict_and_harms_nobody(detached: Path) -> None:
    before = processes.marked(MARK, recorded(detached)["mark"])

    answer = hydra("dev", "up", "--detach", "--nodes", "1", "--dir", str(detached))

    assert (answer.returncode, "already" in answer.stderr) == (5, True), answer.stderr
    assert {p.pid for p in before if p.alive} >= {p[0] for p in recorded(detached)["processes"].values()}


def test_crash_of_the_maker_leaves_no_process_and_no_memory_taken(detached: Path) -> None:
    record = recorded(detached)

    os.kill(record["maker"][0], signal.SIGKILL)

    wait_until(lambda: nothing_left(record), what="all processes have ended and the memory is free")
    assert hydra("dev", "down", "--dir", str(detached)).returncode == 0


def test_ctrl_c_in_the_foreground_ends_all(tmp_path: Path) -> None:
    command = [*HYDRA, "dev", "up", "--nodes", "1", "--dir", str(tmp_path / "c")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout
            assert "In your shell" in running.stdout.readline()
            record = recorded(tmp_path / "c")

            running.send_signal(signal.SIGINT)

            assert running.wait() == 0
        finally:
            running.terminate()  # after a failure it would be waited for, for ever
    assert nothing_left(record)


def test_down_without_a_cluster_says_so_and_is_fine(tmp_path: Path) -> None:
    for _ in range(2):
        answer = hydra("dev", "down", "--dir", str(tmp_path))

        assert (answer.returncode, "nothing to end" in answer.stdout) == (0, True)


def test_down_never_kills_a_process_that_only_has_an_old_number(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "100"]) as foreign:
        found = processes.find(foreign.pid)
        assert found
        Folder(tmp_path).record("no-such-mark", [], [])
        record = recorded(tmp_path)
        record["maker"] = record["processes"]["consul"] = [foreign.pid, found.start - 1]
        (tmp_path / "pids").write_text(json.dumps(record))

        assert Folder(tmp_path).end()

        assert foreign.poll() is None
        foreign.kill()


def test_folder_of_somebody_else_is_not_emptied(tmp_path: Path) -> None:
    (tmp_path / "nodes").mkdir()

    answer = hydra("dev", "up", "--dir", str(tmp_path))

    assert answer.returncode == 2
    assert (tmp_path / "nodes").exists()


def test_two_clusters_side_by_side_do_not_disturb_each_other(cluster: Cluster, tmp_path: Path) -> None:
    other = Cluster(tmp_path / "other", nodes=1, environments=("test",))
    with other:
        mine, theirs = (c.kv().get(keys.META)[0] for c in (cluster, other))
        assert mine
        assert theirs
        assert codec.decode(Meta, theirs.value, keys.META).environments == ("test",)
        assert codec.decode(Meta, mine.value, keys.META).environments != ("test",)
        before = cluster.kv().get(keys.alive("n1"))[0]

    assert cluster.ended() == []
    assert cluster.kv().get(keys.alive("n1"))[0] == before


def test_node_runs_all_its_programs(cluster: Cluster) -> None:
    wait_until(lambda: set(states(cluster.supervisor("n1")).values()) == {"RUNNING"}, what="all programs run")

    assert set(states(cluster.supervisor("n1"))) == WATCHES | OTHERS


def test_watches_that_are_woken_come_back(cluster: Cluster) -> None:
    supervisor = cluster.supervisor("n1")
    pids = {row["name"]: row["pid"] for row in supervisor.getAllProcessInfo() if row["group"] == "watch"}

    supervisor.signalProcessGroup("watch", "TERM")

    def renewed() -> bool:
        rows = [row for row in supervisor.getAllProcessInfo() if row["group"] == "watch"]
        return all(row["statename"] == "RUNNING" and row["pid"] != pids[row["name"]] for row in rows)

    assert set(pids) == WATCHES
    wait_until(renewed, what="all watches run anew")


def test_killed_supervisord_leaves_nothing_behind(cluster: Cluster) -> None:
    """Else its successor would run a second set of watches beside the first one."""
    node = cluster.add_node()
    wait_until(lambda: set(states(node.supervisor).values()) == {"RUNNING"}, what="all programs run")
    children = [
        p for p in processes.marked("HYDRA_DEV_NODE", node.mark) if p.pid != node.running[1].process.pid
    ]
    assert len(children) >= 1 + len(WATCHES | OTHERS)

    node.running[0].kill()

    assert wait_until(lambda: not any(p.alive for p in children), what="everything below it has ended")
    node.kill()


def test_no_secret_is_on_a_command_line_or_in_a_rendered_file(cluster: Cluster) -> None:
    env = cluster.env("node", "n1")
    secrets = [
        env["CONSUL_HTTP_TOKEN"],
        env["AWS_SECRET_ACCESS_KEY"],
        cluster.env("management")["CONSUL_HTTP_TOKEN"],
    ]
    lines = [
        content(processes.PROC / str(p.pid) / "cmdline")
        for p in processes.marked(MARK, recorded(cluster.folder)["mark"])
    ]
    state = cluster.root("n1") / "state"
    texts = [content(path) for path in (state / "supervisord.conf", *state.glob("consul-template/*"))]

    assert len(lines) > len(WATCHES)
    assert not [text for text in (*lines, *texts) for secret in secrets if secret.encode() in text]


def content(path: Path) -> bytes:
    """What can be read there; nothing where a program has ended, or a file was renamed, meanwhile."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_default_deny_holds(cluster: Cluster) -> None:
    for role, node in (("node", "n1"), ("reader", ""), ("planner", ""), ("services", "")):
        with pytest.raises(Denied):
            cluster.kv(role, node).txn([Set(keys.META, b"{}")])
    with pytest.raises(Denied):
        cluster.kv("node", "n1").txn([Set(keys.states("n2"), b"{}")])


def test_ram_volume_is_memory_where_that_may_be_mounted(cluster: Cluster) -> None:
    mounted = {path: path.is_mount() for path in memory(recorded(cluster.folder))}

    assert all(mounted.values())
    assert set(mounted) in ({cluster.node(name).ram for name in cluster.nodes}, set())


def test_service_runs_under_the_supervisord_of_its_node(cluster: Cluster, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    program = f"import os,time;open({str(proof)!r},'w').write(os.environ['HYDRA_VIEW']);time.sleep(1000)"

    cluster.add_service("n1", "sleeper", [sys.executable, "-c", program], {"HYDRA_VIEW": "/50%/view"})

    wait_until(lambda: proof.exists() and proof.read_text() == "/50%/view", what="the service has its view")
    cluster.node("n1").remove_service("sleeper")
    assert "sleeper" not in states(cluster.supervisor("n1"))


def test_lost_node_is_dead_until_it_comes_back(cluster: Cluster, tmp_path: Path) -> None:
    node = cluster.add_node()
    proof = tmp_path / "pid"
    sleeper = f"import os,time;open({str(proof)!r},'w').write(str(os.getpid()));time.sleep(1000)"
    node.add_service("sleeper", [sys.executable, "-c", sleeper], {})
    wait_until(lambda: proof.exists() and proof.read_text(), what="the service runs")
    (node.ram / "kept").mkdir()

    cluster.kill_node(node.name)

    assert not processes.marked("HYDRA_DEV_NODE", node.mark)
    assert list(node.ram.iterdir()) == []
    with pytest.raises((Temporary, OSError)):
        cluster.supervisor(node.name).getAllProcessInfo()
    wait_until(lambda: cluster.kv().get(keys.alive(node.name))[0] is None, what="its session has ended")

    cluster.start_node(node.name)

    assert cluster.kv().get(keys.alive(node.name))[0]
    wait_until(lambda: states(cluster.supervisor(node.name)).get("sleeper") == "RUNNING", what="as before")


def test_consul_server_comes_back_and_can_be_set_back(cluster: Cluster) -> None:
    kv = cluster.kv()
    kv.txn([Set("hydra/test", b"before")])
    state = cluster.snapshot()
    kv.txn([Set("hydra/test", b"after")])

    cluster.stop_server()
    with pytest.raises(Temporary):
        cluster.kv().get(keys.META)
    cluster.start_server()
    after, _ = kv.get("hydra/test")
    assert after
    assert after.value == b"after"
    cluster.restore(state)

    entry = wait_until(lambda: kv.get("hydra/test")[0], what="the snapshot is in place")
    assert entry.value == b"before"
