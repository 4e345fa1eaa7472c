"""What the demo counts as failed, mixed and late, row by row."""

from __future__ import annotations

import dataclasses

import pytest

from hydra_cli.dev.demo.figures import (
    Figures,
    Mark,
    Outage,
    Request,
    Times,
    all_serving,
    answering,
    last_from,
    late,
    outages,
    percentiles,
    spans,
)

OLD, NEW = ("2019-12-15T00-00-00",) * 3, ("2019-12-16T00-00-00",) * 3


def request(sent: float, done: float, replica: str = "r1", versions: tuple[str, ...] = OLD) -> Request:
    return Request(due=sent, sent=sent, done=done, replica=replica, trouble="", versions=versions)


def test_row_of_the_traffic_log_is_read_as_it_was_written() -> None:
    row = dict.fromkeys(("index", "ranking", "settings"), OLD[0])
    row |= {"due": "1.0", "sent": "1.5", "done": "2.0", "replica": "r1", "trouble": ""}
    assert Request.from_row(row) == Request(1.0, 1.5, 2.0, "r1", "", OLD)


def test_row_of_a_failed_request_has_no_versions() -> None:
    row = dict.fromkeys(("index", "ranking", "settings"), "")
    row |= {"due": "1.0", "sent": "1.5", "done": "2.0", "replica": "", "trouble": "no replica in service"}
    failed = Request.from_row(row)
    assert failed.versions == ()
    assert not failed.mixed


def test_answer_with_parts_of_two_releases_is_mixed() -> None:
    assert request(0, 1, versions=(OLD[0], OLD[0], NEW[0])).mixed
    assert not request(0, 1, versions=NEW).mixed


def test_flip_after_a_drain_until_ready_is_an_outage() -> None:
    marks = [Mark(1, "r1", "ready"), Mark(2, "r1", "draining"), Mark(4, "r1", "flip"), Mark(5, "r1", "ready")]
    assert outages(marks) == [Outage("r1", 4, 5)]


def test_first_view_of_a_new_replica_is_no_outage() -> None:
    assert outages([Mark(1, "r1", "waiting"), Mark(2, "r1", "flip"), Mark(3, "r1", "ready")]) == []


def test_drain_that_was_called_off_is_no_outage() -> None:
    marks = [Mark(2, "r1", "draining"), Mark(3, "r1", "ready"), Mark(4, "r1", "flip"), Mark(5, "r1", "ready")]
    assert outages(marks) == []


def test_return_to_the_old_release_within_one_drain_is_one_outage() -> None:
    marks = [Mark(2, "r1", "draining"), Mark(4, "r1", "flip"), Mark(6, "r1", "flip"), Mark(7, "r1", "ready")]
    assert outages(marks) == [Outage("r1", 4, 7)]


def test_replica_that_never_returned_is_out_for_ever() -> None:
    assert outages([Mark(2, "r1", "draining"), Mark(4, "r1", "flip")]) == [Outage("r1", 4, float("inf"))]


def test_marks_of_several_replicas_do_not_mix() -> None:
    marks = [Mark(1, "r1", "draining"), Mark(2, "r2", "flip"), Mark(3, "r2", "ready"), Mark(4, "r1", "flip")]
    assert outages(marks) == [Outage("r1", 4, float("inf"))]


@pytest.mark.parametrize(
    ("sent", "done", "counts"),
    [
        (1.0, 2.0, False),  # answered while draining
        (3.0, 3.9, False),
        (3.9, 4.1, True),  # in hand when the drain was over
        (4.2, 4.3, True),  # came in between
        (4.9, 5.1, True),  # came before the return
        (3.0, 6.0, True),  # in hand all the time
        (5.0, 5.1, False),  # came at the return
    ],
)
def test_request_in_hand_between_drain_and_return_is_late(sent: float, done: float, counts: bool) -> None:
    asked = request(sent, done)
    assert late([asked], [Outage("r1", 4.0, 5.0)]) == ([asked] if counts else [])


def test_request_at_another_replica_is_never_late() -> None:
    assert late([request(4.2, 4.3, replica="r2")], [Outage("r1", 4.0, 5.0)]) == []


def test_all_are_serving_when_the_last_replica_answered_first_from_the_release() -> None:
    rows = [
        request(1, 2, "r1", NEW),
        request(3, 4, "r2", OLD),
        request(5, 6, "r2", NEW),
        request(7, 8, "r2", NEW),
    ]
    assert all_serving(rows, ["r1", "r2"], NEW[0], since=0.5) == 6


def test_all_are_not_serving_while_one_never_answered_from_the_release() -> None:
    rows = [request(1, 2, "r1", NEW), request(3, 4, "r2", OLD)]
    assert all_serving(rows, ["r1", "r2"], NEW[0], since=0.5) is None


def test_answers_of_an_earlier_scene_do_not_count() -> None:
    rows = [request(1, 2, "r1", OLD), request(9, 10, "r1", OLD)]
    assert all_serving(rows, ["r1"], OLD[0], since=5) == 10


def test_who_answered_from_a_release_and_when_last_is_told_by_any_part_of_an_answer() -> None:
    rows = [
        request(1, 2, "r1", OLD),
        request(3, 4, "r2", (OLD[0], OLD[0], NEW[0])),
        request(5, 6, "r2", NEW),
        request(7, 8, "r1", OLD),
    ]
    assert answering(rows, NEW[0]) == {"r2"}
    assert last_from(rows, NEW[0]) == 6
    assert last_from(rows[:1], NEW[0]) is None


def test_span_of_something_never_seen_is_unknown() -> None:
    found = spans(Times(published=1.0, first_byte=1.5))
    assert found["publish → first byte on a node"] == 0.5
    assert found["publish → all serving"] is None


def test_percentiles_leave_failed_requests_out() -> None:
    failed = dataclasses.replace(request(0, 100), trouble="no answer in time")
    typical, slow = percentiles([*(request(0, n / 100) for n in range(1, 101)), failed])
    assert typical == pytest.approx(0.505)
    assert slow == pytest.approx(0.9999)


GOOD = Figures(
    requests=1000,
    rate=220,
    failed=0,
    mixed=0,
    late=0,
    moves=12,
    moves_due=12,
    tried=1,
    most_out=1,
    fewest_in_service=3,
    late_sends=0,
    oldest_view_s=0.4,
    typical_s=0.001,
    slow_s=0.002,
    spans={"publish → all serving": 12.0},
)


def test_clean_run_has_no_shortcomings() -> None:
    assert GOOD.shortcomings() == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"failed": 1}, "1 of 1000 requests failed"),
        ({"mixed": 2}, "2 of 1000 requests mixed two releases"),
        ({"late": 3}, "3 of 1000 requests came late"),
        ({"most_out": 2}, "2 replicas were out at a time"),
        ({"tried": 0}, "0 replicas answered from the broken release, 1 was due"),
        ({"tried": 4}, "4 replicas answered from the broken release, 1 was due"),
        ({"moves": 0}, "0 moves of replicas were seen, 12 were due"),
        ({"requests": 0}, "no request was sent"),
        ({"rate": 150.0}, "150 requests/s"),
        ({"spans": {"rollback → all back": None}}, "never seen: rollback → all back"),
    ],
)
def test_each_shortcoming_is_said(change: dict[str, object], said: str) -> None:
    found = dataclasses.replace(GOOD, **change).shortcomings()  # type: ignore[arg-type]
    assert len(found) == 1
    assert said in found[0]
