"""`[notify]` on a real cluster: what happens to a release is told by command and URL, at least once."""

from __future__ import annotations

import contextlib
import json
import shlex
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from handlers.core import keys
from handlers.core.model import Told
from handlers.core.reasons import Reason
from handlers.record import ROLE
from hydra_cli.dev.access import PLANNER_NODE
from tests.e2e.scene import V1, V2, V3, Scene, until

pytestmark = pytest.mark.timeout(300)
Event = dict[str, str]


@dataclass
class Ears:
    """Whoever is told: a command that writes down what it gets, and a URL, which answers 503 at first."""

    folder: Path
    events: list[Event] = field(default_factory=list)
    refused: list[Event] = field(default_factory=list)
    deaf: bool = True
    url: str = ""

    @property
    def script(self) -> Path:
        """The program that `[notify] command` names; it writes a line with its argument and its input."""
        path, said = self.folder / "tell", self.folder / "said"
        text = f"""#!/bin/sh\nprintf '%s\\n%s\\n' "$2" "$(cat)" >> {shlex.quote(str(said))}\n"""
        path.write_text(text)
        path.chmod(0o755)
        return path

    @property
    def said(self) -> list[Event]:
        """What the command was given, each with the sentence that was its argument."""
        file = self.folder / "said"
        lines = file.read_text().splitlines() if file.exists() else []
        pairs = zip(lines[::2], lines[1::2], strict=False)  # the last line may be on its way
        return [{**json.loads(body), "argument": sentence} for sentence, body in pairs]

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """The URL is there for the block."""
        ears = self

        class Heard(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                deaf = ears.deaf  # one look: what is noted as refused is refused
                (ears.refused if deaf else ears.events).append(event)
                self.send_response(503 if deaf else 204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Not a line per request."""

        with ThreadingHTTPServer(("127.0.0.1", 0), Heard) as server:
            self.url = f"http://127.0.0.1:{server.server_port}/hook"
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield
            server.shutdown()


@contextlib.contextmanager
def told(scene: Scene, ears: Ears) -> Iterator[None]:
    """The planner tells these ears for the block."""
    config = scene.cluster.planner_config
    before = config.read_text()
    table = {"command": [str(ears.script), "page"], "url": ears.url, "stuck_after_s": 2}
    rows = "".join(f"{name} = {json.dumps(value)}\n" for name, value in table.items())
    config.write_text(f"{before}\n[notify]\n{rows}")
    try:
        restart_recorder(scene)
        yield
    finally:
        config.write_text(before)
        restart_recorder(scene)


def restart_recorder(scene: Scene) -> None:
    """Kill it; its supervisord starts another, which reads its configuration and records."""
    log = scene.cluster.planner_root / "state" / "log" / "planner" / f"{ROLE}.log"
    begun = log.read_text().count("begins to record")
    until("it runs", partial(scene.running, PLANNER_NODE, ROLE))
    for process in scene.running(PLANNER_NODE, ROLE):
        process.send(signal.SIGKILL)
    until("another one records", lambda: log.read_text().count("begins to record") > begun)


def of(scene: Scene, events: list[Event], kind: str) -> list[Event]:
    """The events of one kind that are about this scene."""
    owners = (f"service/{scene.service}", f"channel/{scene.channel}")
    return [event for event in events if event["kind"] == kind and event["object"] in owners]


def is_noticed(scene: Scene, version: str) -> bool:
    """The recorder has noticed that all run a version."""
    document = scene.document(Told, keys.recorded("told"))
    return document is not None and document.common.get(f"{scene.service} data") == version


def test_published_stuck_halted_and_returned_are_told_by_command_and_url_until_they_arrive(
    scene: Scene, tmp_path: Path
) -> None:
    scene.publish(V1)
    scene.subscribe("--drain-time", "600s")
    first, second = scene.start("n1", "n2")
    scene.await_running(V1)
    until("the recorder has seen it", partial(is_noticed, scene, V1))
    ears = Ears(tmp_path)

    def heard(kind: str, part: str = "") -> Event:
        """The first such event at the URL, which the command got as well, with the sentence beside it."""
        event = until(
            f"{kind} is told", lambda: [e for e in of(scene, ears.events, kind) if part in e["text"]]
        )[0]
        assert {**event, "argument": event["text"]} in ears.said
        return dict(event)

    with ears.listening(), told(scene, ears):
        scene.publish(V2, refuse="the index is damaged")
        until("the URL was asked in vain", lambda: of(scene, ears.refused, "published"))
        ears.deaf = False
        restart_recorder(scene)

        assert heard("published")["text"].startswith(f"{scene.channel}: {V2} is published by ")
        assert len(of(scene, ears.said, "published")) > 1  # it was told before it was sure to have arrived
        stuck = heard("stuck")["text"]
        assert any(stuck.startswith(f"{scene.service}: {r.id} on {r.node} ") for r in (first, second))
        assert any(reason.told_in(stuck) for reason in Reason)
        scene.subscribe("--drain-time", "0s")
        assert "the index is damaged" in heard("halted")["text"]
        scene.await_running(V1)
        gone = f"{scene.service}: no instance runs {scene.channel}@{V2} any more"
        assert heard("returned")["text"] == gone
        scene.publish(V3)
        scene.await_running(V3)
        until("the recorder has seen it", partial(is_noticed, scene, V3))
        scene.hydra("rollback", scene.channel, "--reason", "found by hand")
        back = f"{scene.service}: all instances are back on {V1} of {scene.channel}, from {V3}"
        assert heard("returned", "are back")["text"] == back
