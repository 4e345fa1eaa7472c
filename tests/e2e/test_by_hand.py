"""What people do by hand: keys of Consul, registrations, the end of channels and services, a race."""

from __future__ import annotations

import json
import os
import subprocess
from datetime import UTC, datetime
from functools import partial

import pytest

from handlers.adapters.ports import Delete, Set
from handlers.core import codec, keys
from handlers.core.model import Manifest, Release
from handlers.core.version import Version
from tests.e2e.scene import HYDRA, V1, V2, V4, Scene, until

pytestmark = pytest.mark.timeout(600)


def put(scene: Scene, key: str, value: str) -> None:
    """As `consul kv put`, with an operator's token."""
    scene.cluster.kv("developer").txn([Set(key, value.encode())])


def delete(scene: Scene, key: str) -> None:
    """As `consul kv delete`."""
    scene.cluster.kv("developer").txn([Delete(key)])


def test_pin_and_head_that_are_written_by_hand_work_also_with_a_newline(scene: Scene) -> None:
    scene.publish(V1)
    scene.subscribe()
    scene.start("n1")
    scene.await_running(V1)
    scene.publish(V2)
    scene.await_running(V2)
    pin, head = keys.channel_pin(scene.channel), keys.head(scene.channel)

    put(scene, pin, V1)
    scene.await_running(V1)
    delete(scene, pin)
    scene.await_running(V2)
    put(scene, pin, f"  {V1}\n")
    scene.await_running(V1)
    delete(scene, pin)
    scene.await_running(V2)
    put(scene, head, f"{V1}\n")
    scene.await_running(V1)


def test_change_by_hand_is_in_the_history_within_a_minute_and_who_served_what_then(scene: Scene) -> None:
    scene.publish(V1)
    scene.subscribe()
    (replica,) = scene.start("n1")
    scene.publish(V2)
    scene.await_running(V2)
    history = partial(scene.hydra, "history", f"service/{scene.service}", role="reader")
    until("who serves what is recorded", lambda: _ran(history("--at", "0s", "-o", "json")) == f"data {V2}")
    then = now()
    until("that second is over", lambda: now() > then)

    put(scene, keys.service_pin(scene.service, "data"), V1)

    until("it is in the history", lambda: "written by hand" in history(), 60)
    scene.await_running(V1)
    until("the way back is recorded", lambda: _ran(history("--at", "0s", "-o", "json")) == f"data {V1}")
    assert _ran(history("--at", then, "-o", "json")) == f"data {V2}"
    assert replica.id in history("--at", then)


def now() -> str:
    """The time, as exactly as the record has it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _ran(answer: str) -> str:
    """What the only instance of the only service ran."""
    (runs,) = json.loads(answer)["services"].values()
    return next(iter((runs or {}).values()), "")


@pytest.mark.parametrize("part", ["pin", "head"])
def test_c9_bad_value_that_is_written_by_hand_is_held_off_with_an_alarm(scene: Scene, part: str) -> None:
    scene.publish(V1)
    scene.subscribe()
    (replica,) = scene.start("n1")
    scene.await_running(V1)
    loads = scene.answer(replica)[1]["loads"]
    key = keys.channel(scene.channel) + part

    for wrong, words in (("tomorrow", "tomorrow"), (V4, f"names {V4}, which is no release")):
        put(scene, key, wrong)
        until("status tells of it", partial(_is_told, scene, words))
        assert scene.runs(replica, V1)
        assert scene.answer(replica)[1]["loads"] == loads

    put(scene, key, V1)
    until("all is well again", lambda: str(scene.channel) not in scene.troubles())


def _is_told(scene: Scene, words: str) -> bool:
    return words in scene.troubles()


def test_instance_that_is_registered_by_hand_without_health_is_served_and_ends(scene: Scene) -> None:
    """A batch job, say: it has no port, it only reads its view."""
    scene.publish(V1)
    scene.subscribe(reload="none")
    scene.hydra("register", scene.service, "nightly", "--node", "n2")
    view = scene.cluster.root("n2") / "views" / scene.service / "nightly"
    value = view / "data" / "index" / "value.json"

    until("it has its view", lambda: value.exists() and V1 in value.read_text())
    scene.publish(V2)
    until("it was moved", lambda: V2 in value.read_text())
    until("it is ready", lambda: (view / "state").read_text() == "ready")
    scene.hydra("deregister", scene.service, "nightly", "--node", "n2")

    until("its view is gone", lambda: not view.exists())


def test_unsubscribed_service_loses_its_data_and_nobody_else_does(scene: Scene) -> None:
    other = scene.sibling("stays")
    for each in (scene, other):
        each.publish(V1)
        each.subscribe()
        each.start("n1")
        each.await_running(V1)
    (replica,) = other.replicas
    scene.cluster.node("n1").remove_service(scene.replicas[0].id)  # it does not read its data any more

    scene.hydra("unsubscribe", scene.service, "--reason", "replaced by something better")
    scene.deregister(scene.replicas[0])

    until("its data is gone", lambda: not scene.folder("n1", V1).exists())
    until("its documents are gone", lambda: not documents_of(scene))
    assert other.runs(replica, V1)
    assert other.holds("n1", V1)
    other.publish(V2)
    other.await_running(V2)
    other.close()


def documents_of(scene: Scene) -> list[str]:
    """Keys that are left of the service, its past aside."""
    entries = scene.cluster.kv().list(keys.ROOT).entries
    past = (keys.AUDIT, keys.SERVED)
    return [key for key in entries if f"/{scene.service}" in key and not key.startswith(past)]


def test_deleted_channel_goes_from_nodes_and_consul_and_s3_stays(scene: Scene) -> None:
    other = scene.sibling("stays")
    scene.publish(V1)
    other.publish(V1)
    scene.subscribe("--channel", f"more={other.channel}")
    (replica,) = scene.start("n1")
    until("it has both", lambda: scene.releases(replica) == {"data": V1, "more": V1})
    scene.hydra("channel", "delete", other.channel, code=2)  # somebody reads it

    scene.subscribe()
    until("it reads one", lambda: scene.releases(replica) == {"data": V1})
    scene.hydra("channel", "delete", other.channel, "--reason", "the trial is over")

    until("nobody is to hold it", lambda: not other.wanted("n1", V1))
    assert other.folder("n1", V1).exists()  # what a view used just before stays until it moves on
    scene.publish(V2)
    scene.await_running(V2)
    until("its data is gone", lambda: not other.folder("n1", V1).exists())
    until("its documents are gone", lambda: not scene.cluster.kv().list(keys.releases(other.channel)).entries)
    assert other.s3.list_objects_v2(Bucket=other.space)["KeyCount"] == 3


def test_subscription_that_vanishes_without_a_tombstone_is_held_with_an_alarm(scene: Scene) -> None:
    scene.publish(V1)
    scene.subscribe()
    (replica,) = scene.start("n1")
    scene.await_running(V1)
    entry, _ = scene.cluster.kv().get(keys.subscription(scene.service))
    assert entry

    scene.cluster.kv().txn([Delete(keys.subscription(scene.service))])

    until("status tells of it", lambda: "its subscription is missing" in scene.troubles())
    scene.publish(V2)
    scene.await_running(V2)  # it goes on as it was last planned
    assert scene.holds("n1", V1)
    scene.cluster.kv().txn([Set(keys.subscription(scene.service), entry.value)])
    until("all is well again", lambda: "subscription is missing" not in scene.troubles())
    assert scene.runs(replica, V2)


def test_c8_two_racing_publishers_lose_no_release(scene: Scene) -> None:
    """Each of eight is published or refused as a conflict; sequences are 1, 2, 3 … without a gap."""
    versions = [Version.parse(f"2026-02-{day:02}T00-00-00") for day in range(1, 9)]
    for version in versions:
        scene.upload(version)
    env = {**os.environ, **scene.cluster.env("publisher")}
    words = [*HYDRA, "publish", str(scene.template), "--channel", scene.channel, "--version"]

    racing = [
        subprocess.Popen([*words, v], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for v in versions
    ]
    ended = {}
    for version, process in zip(versions, racing, strict=True):
        said = process.communicate(timeout=120)[1]
        assert process.returncode in (0, 5), said
        ended[version] = process.returncode

    published = {version for version, code in ended.items() if code == 0}
    entries = scene.cluster.kv().list(keys.releases(scene.channel)).entries
    releases = [codec.decode(Release, entry.value, key) for key, entry in entries.items()]
    assert {r.version for r in releases} == published
    assert sorted(r.sequence for r in releases) == list(range(1, len(published) + 1))
    head, _ = scene.cluster.kv().get(keys.head(scene.channel))
    assert head
    assert head.value.decode() == max(releases, key=lambda r: r.sequence).version
    for release in releases:
        entry, _ = scene.cluster.kv().get(keys.manifest(scene.channel, release.version))
        assert entry
        assert codec.digest(entry.value) == release.manifest.digest
        assert codec.decode(Manifest, entry.value, entry.key).files
    for version in sorted(set(versions) - published):  # whoever lost publishes again
        scene.hydra(*words[len(HYDRA) :], version, role="publisher")
    assert len(scene.cluster.kv().list(keys.releases(scene.channel)).entries) == len(versions)


def test_token_of_one_role_cannot_do_the_work_of_another(scene: Scene) -> None:
    scene.publish(V1)
    scene.upload(V2)
    before = scene.cluster.kv().list(keys.channel(scene.channel)).entries

    scene.hydra("publish", str(scene.template), "--channel", scene.channel, role="reader", code=4)
    scene.hydra("pin", scene.channel, V1, role="reader", code=4)
    scene.hydra("subscribe", scene.service, "--channel", scene.channel, role="publisher", code=4)
    scene.hydra("reject", scene.channel, V1, role="reader", code=4)

    after = scene.cluster.kv().list(keys.channel(scene.channel)).entries
    assert {k: e.index for k, e in after.items()} == {k: e.index for k, e in before.items()}
