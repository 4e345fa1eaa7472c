"""record on a real Consul: what it noticed survives it, and what it must tell is told until it arrives."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from msgspec.structs import replace

from handlers.adapters.kv import ConsulKV
from handlers.adapters.lock import cluster_lock
from handlers.adapters.ports import CheckSession, Delete, Set
from handlers.core import codec, keys, model
from handlers.core.errors import Conflict
from handlers.core.served import at
from handlers.record import AGAIN_S, DOUBT_S, ROLE, Recorder
from handlers.settings import Notify
from tests.cli.desk import Desk
from tests.core.worlds import COMPLETE, PLACES, Cluster, v
from tests.handlers.test_plan import context


@dataclass
class Scene:
    """A cluster in a real KV, and a recorder whose clocks the test moves."""

    kv: ConsulKV
    root: Path
    fence: CheckSession
    notify: Notify = field(default_factory=Notify)
    now: datetime = datetime(2026, 6, 1, tzinfo=UTC)
    recorder: Recorder = field(init=False)

    def __post_init__(self) -> None:
        cluster = Cluster()
        cluster.publish(1)
        cluster.publish(2)
        cluster[keys.head(PLACES)] = v(1).encode()
        cluster.subscribe()
        cluster.node("n1", COMPLETE)
        cluster.runs("n1", places=1)
        self.cluster = cluster
        self.kv.txn([Set(key, raw) for key, raw in cluster.items()])
        self.restart()

    def restart(self) -> None:
        """Another process, or another planner, goes on from what is in the KV."""
        ctx = context(self.kv, self.root)
        ctx = replace(ctx, settings=replace(ctx.settings, notify=self.notify))
        self.recorder = Recorder(ctx, self.fence, lambda: self.now, lambda: self.now.timestamp())  # noqa: PLW0108 - `now` moves

    def look(self, seconds: float = 1) -> str:
        self.now += timedelta(seconds=seconds)
        return self.recorder.look()

    def runs(self, number: int) -> None:
        self.cluster.runs("n1", places=number)
        key = keys.states("n1")
        self.kv.txn([Set(key, self.cluster[key])])

    def history(self, owner: str = f"channel/{PLACES}") -> list[model.Audit]:
        found = self.kv.list(f"{keys.AUDIT}{owner}/").entries
        return [codec.decode(model.Audit, e.value, key) for key, e in sorted(found.items())]

    def told(self) -> model.Told:
        entry, _ = self.kv.get(keys.recorded("told"))
        assert entry
        return codec.decode(model.Told, entry.value, "told")


@pytest.fixture
def fence(kv: ConsulKV, tmp_path: Path) -> Iterator[CheckSession]:
    ctx = context(kv, tmp_path)
    with cluster_lock(kv, ctx.local, ROLE, node=ctx.node, ttl_s=15) as held:
        yield held


@pytest.fixture
def scene(kv: ConsulKV, tmp_path: Path, fence: CheckSession) -> Scene:
    made = Scene(kv, tmp_path, fence)
    made.look()
    return made


def test_who_served_what_is_recorded_and_goes_on_after_a_restart(scene: Scene) -> None:
    before = scene.now
    assert scene.look() == ""
    scene.runs(2)
    scene.restart()
    assert "1 instance recorded" in scene.look()
    scene.now += timedelta(days=1)
    scene.runs(1)
    scene.look()

    found = scene.kv.list(f"{keys.SERVED}{COMPLETE}/").entries
    documents = [codec.decode(model.Served, e.value, key) for key, e in found.items()]
    assert len(documents) == 2
    moments = [before, before + timedelta(seconds=5), scene.now]
    told = [at(documents, moment.strftime("%Y-%m-%dT%H:%M:%SZ")) for moment in moments]
    assert told == [{"n1/i0": f"places {v(n)}"} for n in (1, 2, 1)]
    desk = Desk(scene.root, consul=scene.kv, now=scene.now)
    shown = desk.ok("history", f"service/{COMPLETE}", "--at", "23h", "-o", "json").json
    assert shown["services"] == {COMPLETE: {"n1/i0": f"places {v(2)}"}}
    assert f"places {v(2)}" in desk.ok("history", "--at", "2026-06-01T00:00:10").out
    assert "nothing is recorded from then" in desk.ok("history", "--at", "2026-05-01").out
    assert desk.run("history", "--at", "2027-01-01").code == 2
    assert desk.run("history", "--at", "soon").code == 2
    assert desk.run("history", "service/prod/search/nobody", "--at", "1h").code == 2


def test_key_put_by_hand_is_in_the_history_and_what_a_command_did_is_there_once(
    scene: Scene,
) -> None:
    desk = Desk(scene.root, consul=scene.kv, now=scene.now)
    desk.ok("pin", PLACES, v(1), "--reason", "by a command")
    scene.kv.txn([Set(keys.head(PLACES), v(2).encode())])
    scene.look()
    scene.restart()  # what was doubted is looked at again
    scene.look(DOUBT_S)
    scene.look(DOUBT_S)

    by_command, by_hand = sorted(scene.history(), key=lambda entry: entry.action, reverse=True)
    assert by_command.who == "eve"
    assert (by_hand.who, by_hand.action) == ("somebody by hand", "changed by hand")
    assert (by_hand.before, by_hand.after) == (v(1), v(2))
    assert scene.look(60) == ""
    desk.ok("unpin", PLACES)
    scene.kv.txn([Delete(keys.channel_pin(PLACES))])
    scene.look(DOUBT_S)
    scene.look(DOUBT_S)
    assert len(scene.history()) == 3


def test_pin_that_is_deleted_by_hand_is_in_the_history(scene: Scene) -> None:
    scene.kv.txn([Set(keys.service_pin(COMPLETE, "places"), v(1).encode())])
    scene.look()
    scene.look(DOUBT_S)
    scene.kv.txn([Delete(keys.service_pin(COMPLETE, "places"))])
    scene.look()
    scene.look(DOUBT_S)

    found = {entry.action: entry for entry in scene.history(f"service/{COMPLETE}")}
    assert found["written by hand"].after == v(1)
    assert found["deleted by hand"].before == v(1)


def test_snapshot_that_is_restored_makes_no_history(scene: Scene) -> None:
    scene.kv.txn([Set(keys.head(PLACES), v(2).encode())])
    key = keys.recorded("channels")
    entry, _ = scene.kv.get(key)
    assert entry
    later = codec.decode(model.Orders, entry.value, key)
    seen = {name: f"999999999 {v(2)}" for name in later.seen}
    scene.kv.txn([Set(key, codec.encode(replace(later, seen=seen, index=999999999)))])

    scene.look()
    scene.look(DOUBT_S)

    assert scene.history() == []


def test_wiped_kv_and_a_lost_lock_write_nothing(scene: Scene) -> None:
    scene.runs(2)
    scene.kv.txn([Delete(keys.META)])
    assert scene.look() == ""
    scene.kv.txn([Set(keys.META, scene.cluster[keys.META])])
    scene.kv.destroy_session(scene.fence.session)

    with pytest.raises(Conflict):
        scene.look()


class Heard(BaseHTTPRequestHandler):
    """Takes events; refuses them while `refuses`."""

    events: list[dict[str, str]]
    refuses = False

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not type(self).refuses:
            self.events.append(body)
        self.send_response(503 if type(self).refuses else 204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Not a line per request."""


@pytest.fixture
def hook() -> Iterator[tuple[str, type[Heard]]]:
    handler = type("Bound", (Heard,), {"events": []})
    server = HTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/secret-token", handler
    server.shutdown()
    server.server_close()


def test_event_is_told_by_command_and_url_again_until_it_arrives_also_by_another_planner(
    scene: Scene, hook: tuple[str, type[Heard]], caplog: pytest.LogCaptureFixture
) -> None:
    url, heard = hook
    heard.refuses = True
    script = scene.root / "tell.sh"
    script.write_text(f'#!/bin/sh\ncat > {scene.root}/event.json\necho "$2" >> {scene.root}/said\n')
    script.chmod(0o755)
    scene.notify = Notify(command=(str(script), "page"), url=url)
    scene.restart()
    scene.kv.txn([Set(keys.head(PLACES), v(2).encode())])

    assert "1 left: notify.url: HTTP 503" in scene.look()
    assert [event.kind for event in scene.told().pending] == ["published"]
    assert scene.look() == ""  # not before its time
    heard.refuses = False
    scene.restart()
    assert "told of 1 event" in scene.look(AGAIN_S)

    sentence = f"{PLACES}: {v(2)} is published, 10 bytes"
    assert [event["text"] for event in heard.events] == [sentence]
    assert (scene.root / "said").read_text() == f"{sentence}\n" * 2  # at least once
    assert json.loads((scene.root / "event.json").read_text())["kind"] == "published"
    assert scene.told().pending == ()
    assert "secret-token" not in caplog.text


def test_events_that_nobody_asked_for_are_not_kept(scene: Scene) -> None:
    scene.notify = Notify(command=("true",), events=("halted",))
    scene.restart()
    scene.kv.txn([Set(keys.head(PLACES), v(2).encode())])

    assert scene.look() == ""
    assert scene.told().pending == ()


def test_events_that_nobody_takes_are_kept_up_to_a_number_and_it_is_said_what_is_dropped(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("handlers.record.MOST_PENDING", 2)
    scene.notify = Notify(command=("false",))
    scene.restart()
    for number in (2, 1, 2):
        scene.kv.txn([Set(keys.head(PLACES), v(number).encode())])
        scene.look()

    assert [event.text.split()[1] for event in scene.told().pending] == [v(1), v(2)]
    assert "dropped, the oldest first" in caplog.text
