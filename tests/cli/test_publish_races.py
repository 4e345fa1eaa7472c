"""`hydra publish` against others: who wins a race, what an operator forbids, what is left by hand."""

from __future__ import annotations

from collections.abc import Sequence

from handlers.adapters.ports import Op
from handlers.core import codec, keys, model
from handlers.core.errors import Temporary
from tests.cli.desk import PLACES, Desk, v

HEAD = keys.head(PLACES)
NVME = """
DATA_TEMPLATE = {"index": {"SourcePath": f"s3://data/index/{VERSION_PLACEHOLDER}/", "Placement": "nvme"}}
"""


def test_lost_race_is_a_conflict_and_nothing_is_written(desk: Desk) -> None:
    desk.data(1)
    desk.publish()
    desk.data(2)

    def faster(_: Sequence[Op]) -> None:
        desk.kv.before_txn = lambda _: None
        desk.kv.put(HEAD, v(1).encode() + b"\n")

    desk.kv.before_txn = faster

    answer = desk.publish()

    assert answer.code == 5
    assert "nothing was written: run it again" in answer.err
    assert desk.value(keys.release(PLACES, v(2))) is None
    assert desk.publish().code == 0


def test_lost_race_against_the_very_same_release_is_no_conflict(desk: Desk) -> None:
    desk.data(1)

    def same(_: Sequence[Op]) -> None:
        desk.kv.before_txn = lambda _: None
        assert desk.publish("--note", "mine").code == 0

    desk.kv.before_txn = same

    assert desk.publish("-o", "json").json["result"] == "unchanged"


def test_lost_answer_is_looked_up_and_not_taken_for_a_failure(desk: Desk) -> None:
    desk.data(1)

    def lose(_: Sequence[Op]) -> None:
        desk.kv.after_txn = lambda _: None
        raise Temporary("no answer from Consul")

    desk.kv.after_txn = lose

    assert desk.publish("-o", "json").json["result"] == "published"


def test_consul_away_before_the_write_is_unavailable(desk: Desk) -> None:
    desk.data(1)

    def away(_: Sequence[Op]) -> None:
        raise Temporary("no answer from Consul")

    desk.kv.before_txn = away

    assert desk.publish().code == 10
    assert desk.value(HEAD) is None


def test_rejected_version_is_refused_until_it_is_accepted(desk: Desk) -> None:
    desk.data(1)
    desk.kv.put(keys.rejected(PLACES, v(1)), codec.encode(model.Rejected(who="ann", why="wrong")))

    answer = desk.publish()

    assert answer.code == 9
    assert "is rejected by ann: wrong" in answer.err
    assert desk.value(HEAD) is None


def test_deleted_channel_is_refused_until_it_is_restored(desk: Desk) -> None:
    desk.data(1)
    desk.publish()
    desk.ok("channel", "delete", PLACES, "--reason", "over")
    desk.data(2)

    answer = desk.publish()

    assert (answer.code, "was deleted by eve (over)" in answer.err) == (2, True)
    desk.ok("channel", "set", PLACES, "--restore")
    assert desk.publish().code == 0


def test_head_that_was_written_wrongly_by_hand_is_replaced(desk: Desk) -> None:
    desk.data(1)
    desk.kv.put(HEAD, b"oops")

    assert desk.publish().code == 0
    assert desk.value(HEAD) == v(1).encode()


def test_volume_class_must_be_offered_by_some_node(desk: Desk) -> None:
    desk.data(1)
    publish = ("publish", desk.template(NVME), "--channel", PLACES)

    refused = desk.run(*publish)
    info = model.NodeInfo(node="n1", volumes={"fast": model.VolumeInfo(cls="nvme")})
    desk.kv.put(keys.info("n1"), codec.encode(info))

    assert (refused.code, "no node has such a volume; known are DISK, RAM" in refused.err) == (2, True)
    assert desk.run(*publish).code == 0
