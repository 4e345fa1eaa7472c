"""Readiness files by a real consul-template on a real Consul: never blank, never unready by mistake."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec import structs

from handlers.adapters.local import LocalState
from handlers.adapters.ports import Delete, Set
from handlers.adapters.templates import CONFIG, PID, STATES, TOLD, Templates
from handlers.adapters.views import Views, readiness
from handlers.core import codec, keys
from handlers.core.model import InstanceState, Ready, States
from handlers.core.names import InstanceKey, Service
from handlers.core.version import Version
from tests.servers import Consul, wait_until

S = Service("prod/search/api")
A, B = InstanceKey.of(S, "a"), InstanceKey.of(S, 'b "${x}" {{ y }}')
NODE = "n1"
STATE = InstanceState(
    service=S,
    id="a",
    incarnation="1",
    state=Ready.READY,
    releases={"places": Version("2026-01-01T00-00-00")},
    reason='a <word> & "two"\nlines',
    since="2026-01-01T00:00:00Z",
)
BASE = """
consul { retry { attempts = 0, max_backoff = "2s" } }
max_stale = "0s"
block_query_wait = "60s"
"""


class Node:
    """The folders of one node, its consul-template, and the document behind it."""

    def __init__(self, root: Path, consul: Consul) -> None:
        self.root, self.consul, self.kv = root, consul, consul.kv()
        self.local, self.views = LocalState(root), Views(root)
        self.templates = Templates(self.views, self.local, NODE)
        for key in (A, B):
            self.views.path(key).mkdir(parents=True)

    def remember(self, sequence: int, **words: str) -> None:
        self.local.write(STATES, document(sequence, **words))

    def write(self, raw: bytes) -> None:
        self.kv.txn([Set(keys.states(NODE), raw)])

    def shows(self, key: InstanceKey, word: str) -> None:
        wait_until(lambda: self.views.shown(key) == word, what=f"{key} shows {word}")

    def told(self, key: InstanceKey) -> dict[str, object]:
        """What `readiness.json` says."""
        return dict(json.loads((self.views.path(key) / "readiness.json").read_bytes()))


def document(sequence: int, **words: str) -> bytes:
    named = {"a": A, "b": B}
    states = {named[n]: structs.replace(STATE, id=named[n].segment, state=Ready(w)) for n, w in words.items()}
    return codec.encode(States(node=NODE, sequence=sequence, instances=states))


@pytest.fixture
def node(tmp_path: Path, consul: Consul) -> Node:
    node = Node(tmp_path / "root", consul)
    node.remember(1, a="ready", b="ready")
    node.templates.write([A, B])
    return node


@pytest.fixture
def running(node: Node, programs: Callable[[str], Path]) -> Iterator["subprocess.Popen[bytes]"]:
    base = node.root / "base.hcl"
    base.write_text(f'{BASE}pid_file = "{node.local.path(PID)}"\n')
    command: list[str | Path] = [
        programs("consul-template"),
        f"-config={base}",
        f"-config={node.local.path(CONFIG)}",
    ]
    with (node.root / "log").open("wb") as log:
        process = subprocess.Popen(command, env={**os.environ, **node.consul.environment()}, stderr=log)
    try:
        yield process
        assert process.poll() is None, (node.root / "log").read_text()
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


@pytest.mark.usefixtures("running")
def test_files_follow_the_document(node: Node) -> None:
    node.write(document(2, a="ready"))
    node.shows(A, "ready")
    node.shows(B, "waiting")

    node.write(document(3, a="draining", b="ready"))

    node.shows(A, "draining")
    node.shows(B, "ready")
    draining = json.loads(readiness(structs.replace(STATE, state=Ready.DRAINING)))
    # Each file is written by itself: one follows the other within moments.
    wait_until(lambda: node.told(A) == draining, what="readiness.json of A follows too")
    wait_until(lambda: node.told(B).get("id") == B.segment, what="readiness.json of B follows too")


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize(
    "raw", [b'{"half', b"", b"{}", b"[]", b'"text"', b'{"sequence": 9}', b'{"sequence": "9"}']
)
def test_a_document_that_makes_no_sense_takes_nobody_out(node: Node, raw: bytes) -> None:
    node.write(document(2, a="ready"))
    node.shows(A, "ready")
    node.shows(B, "waiting")

    node.write(raw)
    # the other instance shows when the next good document has gone through all templates
    node.write(document(3, a="ready", b="draining"))
    node.shows(B, "draining")

    assert node.views.shown(A) == "ready"
    assert node.told(A)["state"] == "ready"


@pytest.mark.usefixtures("running")
def test_an_older_document_and_a_deleted_one_take_nobody_out(node: Node) -> None:
    node.write(document(5, a="ready", b="draining"))
    node.shows(B, "draining")
    node.remember(5, a="ready", b="draining")

    node.write(document(2, b="waiting"))  # as a restored snapshot does
    node.kv.txn([Delete(keys.states(NODE))])
    node.write(document(6, a="ready", b="ready"))
    node.shows(B, "ready")

    assert node.views.shown(A) == "ready"


@pytest.mark.usefixtures("running")
def test_new_instances_are_rendered_after_hup_and_old_ones_not_brought_back(node: Node) -> None:
    node.write(document(2, a="ready", b="ready"))
    node.shows(B, "ready")
    wait_until(lambda: node.templates.tell() is None, what="it is known that consul-template is up to date")

    time.sleep(0.02)  # file systems tell time in steps, and what is as old as the last HUP is told again
    node.templates.write([A])
    time.sleep(0.02)
    wait_until(lambda: node.templates.tell() is None, what="consul-template is told")
    told = node.local.path(TOLD).stat().st_mtime
    node.views.remove(B)
    node.write(document(3, a="draining"))

    node.shows(A, "draining")
    assert B not in node.views.instances()
    assert node.templates.tell() is None
    assert node.local.path(TOLD).stat().st_mtime == told
    node.views.path(B).mkdir()
    node.templates.write([A, B])
    wait_until(lambda: node.templates.tell() is None, what="consul-template is told")
    node.shows(B, "waiting")


def test_files_stay_while_consul_is_away(node: Node, running: "subprocess.Popen[bytes]") -> None:
    node.write(document(2, a="draining", b="ready"))
    node.shows(A, "draining")
    node.consul.kill()
    try:
        node.templates.write([A])
        wait_until(lambda: node.templates.tell() is None, what="consul-template is told")
        assert node.views.shown(A) == "draining"
        assert running.poll() is None
    finally:
        node.consul.start()
    wait_until(lambda: node.kv.get_json("status/leader")[0], what="Consul is back")


def test_nobody_is_told_when_consul_template_is_not_there(node: Node) -> None:
    assert node.templates.tell() is None
    node.local.write(PID, str(os.getpid()).encode())  # a stale file: the number is somebody else's now
    assert node.templates.tell() is None


def test_templates_wait_for_the_file_that_they_read(tmp_path: Path, consul: Consul) -> None:
    """consul-template ends when a file that a template reads is missing."""
    fresh = Node(tmp_path / "fresh", consul)

    fresh.templates.write([A])

    assert fresh.local.read(CONFIG) is None
