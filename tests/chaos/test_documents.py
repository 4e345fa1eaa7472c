"""From Hydra's keys to events: what is new, in the order of Consul's index."""

from __future__ import annotations

from collections.abc import Mapping

from handlers.adapters.ports import Entry
from handlers.core import codec, keys
from handlers.core.model import (
    Desired,
    Hold,
    InstanceState,
    ManifestRef,
    Ready,
    Release,
    SlotEntry,
    Slots,
    States,
    Subscription,
    Verdict,
    Verdicts,
)
from handlers.core.names import Channel, InstanceKey, Service
from handlers.core.version import ReleaseId, Version
from tests.chaos import events
from tests.chaos.documents import ALIAS, Documents

CHANNEL, SERVICE = Channel("dev/chaos/data"), Service("dev/chaos/reader")
V1 = Version.parse("2026-01-01T00-00-00")
ID = ReleaseId.of(CHANNEL, V1)


def entries(*documents: tuple[str, bytes]) -> Mapping[str, Entry]:
    return {key: Entry(key, raw, index) for index, (key, raw) in enumerate(documents, 1)}


def states(sequence: int, state: Ready = Ready.READY) -> tuple[str, bytes]:
    own = InstanceState(
        service=SERVICE, id="i1", incarnation="7", state=state, releases={ALIAS: V1}, served=True
    )
    document = States(node="n1", sequence=sequence, instances={InstanceKey.of(SERVICE, "i1"): own})
    return keys.states("n1"), codec.encode(document)


def test_all_that_counts_becomes_events_in_order_of_the_index() -> None:
    release = Release(
        channel=CHANNEL, version=V1, sequence=3, datasets={}, manifest=ManifestRef(digest="", bytes=0)
    )
    verdict = Verdict(id="1", verdict="halted", reason="", node="n1", instance="i1")
    out = {"n1.i1": SlotEntry(node="n1", instance="i1", incarnation="7")}
    now = entries(
        (keys.info("n1"), b"{}"),
        (keys.release(CHANNEL, V1), codec.encode(release)),
        (keys.head(CHANNEL), V1.encode()),
        (keys.subscription(SERVICE), codec.encode(Subscription(max_unavailable="25%"))),
        states(5),
        (keys.slots(SERVICE), codec.encode(Slots(out=out))),
        (keys.channel_pin(CHANNEL), f" {V1}\n".encode()),
        (keys.verdicts(SERVICE), codec.encode(Verdicts(releases={ID: verdict}))),
    )

    dead, known, head, budget, reported, slots, pinned, bad = Documents(CHANNEL, SERVICE).changes(
        1.0, {}, now, frozenset()
    )

    assert dead == events.Dead(1.0, frozenset({"n1"}))
    assert isinstance(known, events.Releases)
    assert known.known[V1][0] == 3
    assert head == events.Head(1.0, V1)
    assert budget == events.Budget(1.0, "25%", None)
    instance = events.Instance(incarnation="7", release=V1)
    assert reported == events.Reported(1.0, "n1", 5, {"i1": instance})
    assert slots == events.Slots(1.0, frozenset({"i1"}))
    assert (pinned, bad) == (events.Pinned(1.0, frozenset({V1})), events.Bad(1.0, frozenset({V1})))


def test_only_what_changed_is_told() -> None:
    documents = Documents(CHANNEL, SERVICE)
    before = entries((keys.alive("n1"), b""), states(5))
    documents.changes(1.0, {}, before, frozenset())
    now = {**before, keys.states("n1"): Entry(*states(6, Ready.DRAINING), 9)}

    (reported,) = documents.changes(2.0, before, now, frozenset())

    assert isinstance(reported, events.Reported)
    assert (reported.sequence, reported.instances["i1"].state) == (6, "draining")
    assert documents.dead(3.0, frozenset({"n1"})) == [events.Dead(3.0, frozenset({"n1"}))]
    assert documents.dead(4.0, frozenset({"n1"})) == []


def test_releases_of_other_channels_are_not_among_what_a_node_is_to_hold() -> None:
    other = ReleaseId.of(Channel("dev/other/data"), V1)
    holds = {ID: Hold(digest="", sequence=3), other: Hold(digest="", sequence=1)}
    desired = Desired(node="n1", generation=1, releases=holds)

    assert Documents(CHANNEL, SERVICE).wanted(codec.encode(desired)) == {V1}
