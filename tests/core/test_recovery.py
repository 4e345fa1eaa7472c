"""A KV that lost something: what nodes know is put back, and then what is planned is what they run."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from handlers.core import codec, keys, model
from handlers.core.acceptance import RECOVER
from handlers.core.entries import read
from handlers.core.names import InstanceKey
from handlers.core.recovery import Kept, difference, environments, lost
from handlers.core.world import World
from tests.core.worlds import COMPLETE, PLACES, Cluster, rid, v


def running(*heads: int) -> Cluster:
    """Two nodes that run the last of `heads`; everything planned, applied and confirmed."""
    cluster = Cluster()
    for head in heads:
        cluster.publish(head)
        cluster[keys.manifest(PLACES, v(head))] = b"the files"
    cluster.subscribe()
    for node in ("n1", "n2"):
        cluster.node(node, COMPLETE)
    for _ in range(2):
        cluster.run()
        for node in ("n1", "n2"):
            cluster.runs(node, places=heads[-1])
    report(cluster)
    return cluster


def report(cluster: Cluster) -> None:
    for node in ("n1", "n2"):
        desired = cluster.desired(node)
        done = {release: model.ReleaseStatus(state=model.State.SUCCESS) for release in desired.releases}
        cluster.put(keys.actual(node), model.Actual(node=node, generation=desired.generation, releases=done))


def kept(cluster: Cluster, node: str = "n1", **more: object) -> Kept:
    """What the node has in its local state."""
    desired = cluster.desired(node)
    headers = {r: cluster[keys.release(r.channel, r.version)] for r in desired.releases}
    manifests = dict.fromkeys(headers, b"the files")
    return Kept(desired=desired, headers=headers, manifests=manifests, **more)  # type: ignore[arg-type]


def look(cluster: Cluster) -> World:
    """The world with the index of every key, as `adapters.snapshot` reads it."""
    return read(cluster, dict.fromkeys(cluster, 1))


def put_back(cluster: Cluster, memory: Kept) -> list[str]:
    found, cannot = lost(memory, look(cluster))
    for one in found:
        cluster.update(one.puts)
    return cannot


def go_on(cluster: Cluster) -> None:
    """As `hydra recover` does without `--from`."""
    found = difference(look(cluster))
    served = environments(look(cluster))
    cluster.put(keys.META, model.Meta(environments=served, generation_floor=found.floor))


def targets(cluster: Cluster) -> set[tuple[str, object, str]]:
    return {(node, cluster.alias(node).target, cluster.alias(node).held) for node in ("n1", "n2")}


def wiped(cluster: Cluster) -> Cluster:
    """Everything is gone but what nodes wrote since."""
    fresh = Cluster({})
    fresh.update({key: raw for key, raw in cluster.items() if key.startswith((keys.ACTUAL, keys.STATES))})
    return fresh


def return_of_nodes(cluster: Cluster, before: Cluster) -> None:
    """discover writes what it knows as soon as there is a meta."""
    cluster.update({key: raw for key, raw in before.items() if key.startswith(keys.NODES)})


def test_kv_that_is_not_behind_needs_nothing() -> None:
    cluster = running(1, 2)

    found = difference(look(cluster))

    assert (found.holds, found.nodes, found.releases) == (False, (), ())
    assert lost(kept(cluster), look(cluster)) == ([], [])


def test_restored_kv_shows_what_it_does_not_know_and_goes_on_above_it() -> None:
    older, cluster = running(1), running(1, 2)
    before = targets(cluster)
    older.update({key: cluster[key] for key in (keys.actual("n1"), keys.actual("n2"), keys.states("n1"))})
    applied = cluster.desired("n1").generation
    older.put(keys.actual("n2"), model.Actual(node="n2", generation=applied + 5))

    found = difference(look(older))

    assert found.holds
    assert (found.floor, found.releases) == (applied + 5, (rid(2),))
    assert put_back(older, kept(cluster)) == []
    go_on(older)
    made = older.run()
    assert not made.held
    assert targets(older) == before
    assert {r.version for r in older.held()} == {v(1), v(2)}
    assert older.desired("n1").generation > applied + 5


@pytest.mark.parametrize("case", ["head", "channel pin", "service pin", "rejected", "halted", "paused"])
def test_wiped_kv_is_put_back_so_that_what_is_planned_is_what_runs(case: str) -> None:
    cluster = running(1, 2)
    if case == "channel pin":
        cluster[keys.channel_pin(PLACES)] = v(1).encode()
    elif case == "service pin":
        cluster[keys.service_pin(COMPLETE, "places")] = v(1).encode()
    elif case == "rejected":
        cluster.reject(2)
    elif case == "halted":
        cluster.publish(3)
        cluster[keys.manifest(PLACES, v(3))] = b"the files"
        cluster.judge(3)
    elif case == "paused":
        cluster.control(paused=True)
    cluster.run()
    report(cluster)
    before = {target for _, target, _ in targets(cluster)}, bool(cluster.alias().held)
    holds = cluster.held()
    empty = wiped(cluster)
    assert difference(look(empty)).holds

    assert put_back(empty, kept(cluster)) == []
    go_on(empty)
    return_of_nodes(empty, cluster)
    made = empty.run()

    assert not made.held
    assert ({target for _, target, _ in targets(empty)}, bool(empty.alias().held)) == before
    assert empty.held() >= holds
    assert empty.desired("n1").services[COMPLETE].paused == (case == "paused")


def test_node_that_met_the_same_generation_with_other_content_asks_for_a_floor() -> None:
    cluster = running(1)
    generation = cluster.desired("n1").generation
    refused = model.Actual(node="n1", generation=generation, alarms=(f"planned anew; {RECOVER}",))
    cluster.put(keys.actual("n1"), refused)

    found = difference(look(cluster))

    assert found.refused
    assert found.holds


def test_release_whose_sequence_or_version_is_taken_by_now_is_not_put_back() -> None:
    cluster, other = running(1, 2), running(1)
    other.publish(3, sequence=2)
    found, cannot = lost(kept(cluster), look(other))
    assert cannot == [f"{rid(2)}: its sequence 2 is that of {v(3)} by now"]
    assert [one for one in found if keys.release(PLACES, v(2)) in one.puts] == []

    other = running(1)
    other.publish(2, placement=model.RAM)
    assert lost(kept(cluster), look(other))[1] == [f"{rid(2)}: the KV has another release of this version"]


def test_release_without_its_bodies_and_what_has_a_tombstone_is_not_put_back() -> None:
    cluster = running(1, 2)
    bare = Kept(desired=cluster.desired("n1"))
    assert len(lost(bare, look(Cluster({})))[1]) == len(cluster.held()) > 0

    gone = Cluster()
    gone.delete_channel()
    gone.unsubscribe()
    assert lost(kept(cluster), look(gone)) == ([], [])


def test_list_of_files_that_lies_beside_the_data_is_named_again() -> None:
    cluster = running(1)
    header = codec.decode(model.Release, cluster[keys.release(PLACES, v(1))], "header")
    ref = model.ManifestRef(digest="sha256:1", bytes=9, object="s3://b/list.json")
    raw = codec.encode(replace(header, manifest=ref))
    hold = model.Hold(digest=codec.digest(raw), sequence=1)
    desired = replace(cluster.desired("n1"), releases={rid(1): hold})

    found, _ = lost(
        Kept(desired=desired, headers={rid(1): raw}, manifests={rid(1): b"files"}), look(Cluster())
    )

    there = codec.decode(model.ManifestElsewhere, found[0].puts[keys.manifest(PLACES, v(1))], "manifest")
    assert (there.object, there.digest, there.bytes) == (ref.object, ref.digest, ref.bytes)


def test_registrations_of_the_node_come_back_where_it_has_none() -> None:
    cluster = running(1)
    instance = model.Instance(service=COMPLETE, id="nightly", incarnation="1")
    key = InstanceKey.of(COMPLETE, "nightly")
    memory = kept(cluster, by_hand={key: instance})

    put_back(cluster, memory)

    again = codec.decode(model.Instances, cluster[keys.registrations("n1")], "registrations")
    assert again.instances == {key: instance}
    assert lost(memory, look(cluster)) == ([], [])
