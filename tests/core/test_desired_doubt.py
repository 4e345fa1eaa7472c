"""What plan makes of documents that are missing, wrong or not to be read: it goes on as planned."""

from __future__ import annotations

import pytest
from msgspec import structs

from handlers.core import codec, keys, model
from tests.core.worlds import (
    COMPLETE,
    PLACES,
    ROUTE,
    STREETS,
    Cluster,
    rid,
    table,
    texts,
    three_nodes,
    v,
)


@pytest.fixture
def cluster() -> Cluster:
    return three_nodes()


class TestHeldOff:
    """What is wrong or missing leaves things as they were, with an alarm."""

    @pytest.mark.parametrize(
        "value", [b"tomorrow", b"", b"\xff", v(9).encode(), b'{"version": 3}', b"{}", b"[", b"null"]
    )
    @pytest.mark.parametrize(
        "key",
        [keys.head(PLACES), keys.channel_pin(PLACES), keys.service_pin(COMPLETE, "places")],
        ids=["head", "pin", "service-pin"],
    )
    def test_bad_version_keeps_the_last_target(self, cluster: Cluster, key: str, value: bytes) -> None:
        cluster.run()
        cluster.publish(3)
        cluster[key] = value
        made = cluster.run()
        assert cluster.alias().target == v(2)
        assert cluster.held() >= {rid(1), rid(2)}
        assert "stay with" in texts(made) or "last good state is held" in texts(made)

    def test_rejecting_works_while_a_pin_is_bad(self, cluster: Cluster) -> None:
        cluster.run()
        cluster[keys.channel_pin(PLACES)] = b"oops"
        cluster.reject(2)
        assert table(cluster) == (v(1), v(1), "")

    def test_halt_outlives_verdicts_that_do_not_parse(self, cluster: Cluster) -> None:
        cluster.judge(2)
        cluster.run()
        cluster[keys.verdicts(COMPLETE)] = b"{"
        assert table(cluster) == (v(2), v(1), "halted on n1 (x): does not load")

    def test_service_that_comes_while_the_head_is_bad_waits_for_it(self, cluster: Cluster) -> None:
        cluster[keys.head(PLACES)] = b"?"
        cluster.subscribe(ROUTE, places=PLACES)
        cluster.node("n4", ROUTE)
        cluster.run()
        assert cluster.alias("n4", service=ROUTE).held == "the channel's head cannot be read"
        cluster.publish(3)
        cluster.run()
        assert cluster.alias("n4", service=ROUTE).target == v(3)

    def test_missing_head_keeps_the_last_target(self, cluster: Cluster) -> None:
        cluster.run()
        cluster.drop(keys.head(PLACES))
        made = cluster.run()
        assert cluster.alias().target == v(2)
        assert "the head is missing" in texts(made)

    def test_header_that_does_not_parse_is_not_taken_and_not_dropped(self, cluster: Cluster) -> None:
        cluster.run()
        before = cluster.held()
        cluster[keys.release(PLACES, v(2))] = b"{"
        cluster.run()
        assert cluster.alias().target == v(2)
        assert cluster.held() == before

    def test_header_that_was_changed_is_not_taken(self, cluster: Cluster) -> None:
        cluster.run()
        before = cluster.desired("n1").releases[rid(2)]
        cluster[keys.release(PLACES, v(2))] = cluster[keys.release(PLACES, v(2))].replace(
            b"s3://b", b"s3://x"
        )
        cluster.node("n4", COMPLETE)
        made = cluster.run()
        assert cluster.desired("n1").releases[rid(2)] == before
        assert cluster.desired("n4").releases[rid(2)].digest == before.digest
        assert "was changed" in texts(made)

    @pytest.mark.parametrize("value", [None, b"{", b'{"format": 2}'], ids=["gone", "malformed", "newer"])
    def test_lost_subscription_goes_on_as_planned(self, cluster: Cluster, value: bytes | None) -> None:
        cluster.run()
        before = cluster.desired("n1")
        key = keys.subscription(COMPLETE)
        cluster.drop(key)
        if value is not None:
            cluster[key] = value
        made = cluster.run()
        assert made.changed == ()
        assert cluster.desired("n1") == before
        assert any(alarm.object == f"service/{COMPLETE}" for alarm in made.alarms.alarms)
        cluster.reject(2)
        assert table(cluster)[0] == v(1)

    def test_new_node_of_a_service_with_lost_subscription_gets_the_same_plan(self, cluster: Cluster) -> None:
        cluster.run()
        cluster.drop(keys.service(COMPLETE))
        cluster.node("n4", COMPLETE)
        cluster.run()
        assert cluster.alias("n4") == cluster.alias("n1")
        assert cluster.held("n4") == {rid(1), rid(2)}

    def test_vanished_channel_is_held_without_tombstone(self, cluster: Cluster) -> None:
        cluster.run()
        before = cluster.held()
        cluster.drop(keys.channel(PLACES), keys.releases(PLACES))
        made = cluster.run()
        part = cluster.alias()
        assert (part.target, part.start) == (v(2), v(1))
        assert part.held == f"channel {PLACES} does not exist"
        assert cluster.held() == before
        assert "does not exist" in texts(made)

    def test_subscription_to_a_missing_channel_alarms_and_the_rest_goes_on(self, cluster: Cluster) -> None:
        cluster.subscribe(places=PLACES, roads=STREETS)
        made = cluster.run()
        assert cluster.alias().target == v(2)
        assert cluster.alias(alias="roads") == model.AliasPlan(
            channel=STREETS, held=f"channel {STREETS} does not exist"
        )
        assert f"reads {STREETS}" in texts(made)

    def test_instances_without_subscription_are_an_alarm(self, cluster: Cluster) -> None:
        cluster.node("n4", ROUTE)
        made = cluster.run()
        assert cluster.desired("n4").services == {}
        assert "has instances, but no subscription" in texts(made)

    @pytest.mark.parametrize("value", [None, b"[]"], ids=["gone", "malformed"])
    def test_lost_instances_document_keeps_services_and_data(
        self, cluster: Cluster, value: bytes | None
    ) -> None:
        cluster.run()
        before = cluster.desired("n1")
        cluster.drop(keys.instances("n1"))
        if value is not None:
            cluster[keys.instances("n1")] = value
        made = cluster.run()
        after = cluster.desired("n1")
        assert after.services == before.services
        assert after.releases.keys() == before.releases.keys()
        assert any(alarm.object == "node/n1" for alarm in made.alarms.alarms)

    def test_unknown_instances_keep_a_release_from_being_proven(self, cluster: Cluster) -> None:
        cluster.run()
        cluster[keys.instances("n3")] = b"?"
        for name in ("n1", "n2"):
            cluster.runs(name, places=2)
        assert table(cluster)[1] == v(1)

    def test_unreadable_states_let_nothing_go(self, cluster: Cluster) -> None:
        for number in (3, 4, 5):
            cluster.run()
            cluster.publish(number)
        cluster.run()
        before = cluster.held()
        cluster[keys.states("n1")] = b"oops"
        for name in ("n2", "n3"):
            cluster.runs(name, places=5)
        cluster.publish(6)
        cluster.run()
        assert cluster.held() == before | {rid(6)}

    def test_what_discover_cannot_understand_is_an_alarm(self, cluster: Cluster) -> None:
        cluster.run()
        known = codec.decode(model.Instances, cluster[keys.instances("n3")], "n3")
        wrong = "Consul service 'api': meta hydra_service: no such name"
        cluster.put(keys.instances("n3"), structs.replace(known, alarms=(wrong,)))
        assert texts(cluster.run()) == f"node/n3: {wrong}"

    def test_forgotten_node_is_left_alone_without_alarm(self, cluster: Cluster) -> None:
        cluster.run()
        before = cluster[keys.desired("n3")]
        cluster.forget("n3")
        cluster.publish(3)
        made = cluster.run()
        assert cluster[keys.desired("n3")] == before
        assert texts(made) == ""

    def test_forgotten_node_that_came_back_is_planned(self, cluster: Cluster) -> None:
        cluster.run()
        cluster.forget("n3")
        cluster.node("n3", COMPLETE)
        cluster.publish(3)
        cluster.run()
        assert rid(3) in cluster.held("n3")

    def test_node_that_lost_its_documents_is_left_alone(self, cluster: Cluster) -> None:
        cluster.run()
        before = cluster[keys.desired("n3")]
        cluster.drop(keys.node("n3"))
        cluster.publish(3)
        made = cluster.run()
        assert cluster[keys.desired("n3")] == before
        assert "lost its documents below nodes/" in texts(made)

    def test_lost_desired_is_made_again_from_what_the_node_says(self, cluster: Cluster) -> None:
        cluster.settings(keep_on_nodes=3)
        for number in (3, 4):
            cluster.run()
            cluster.publish(number)
        cluster.run()
        before = cluster.held()
        generation = cluster.desired("n1").generation
        status = {release: model.ReleaseStatus(state=model.State.SUCCESS) for release in before}
        cluster.put(keys.actual("n1"), model.Actual(node="n1", generation=generation, releases=status))
        cluster.drop(keys.desired("n1"))
        cluster.run()
        assert cluster.held() == before
        assert cluster.desired("n1").generation > generation

    def test_control_that_does_not_parse_keeps_a_rollout_paused(self, cluster: Cluster) -> None:
        cluster.control(paused=True)
        cluster.run()
        cluster[keys.control(COMPLETE)] = b"{"
        cluster.publish(3)
        cluster.run()
        assert cluster.desired("n1").services[COMPLETE].paused
        assert cluster.alias().target == v(2)

    def test_pin_of_an_alias_that_is_not_read_is_an_alarm(self, cluster: Cluster) -> None:
        cluster[keys.service_pin(COMPLETE, "roads")] = v(1).encode()
        assert "pins alias roads" in texts(cluster.run())

    def test_reserved_alias_in_a_handwritten_subscription_is_held_off(self, cluster: Cluster) -> None:
        cluster.run()
        before = cluster.desired("n1")
        cluster[keys.subscription(COMPLETE)] = b'{"format": 1, "channels": {"state": "prod/search/places"}}'
        made = cluster.run()
        assert cluster.desired("n1") == before
        assert "alias 'state' is taken" in texts(made)

    def test_more_alarms_than_fit_are_counted(self) -> None:
        cluster = Cluster()
        for number in range(300):
            cluster[f"{keys.ROOT}channels/{number}"] = b""
        alarms = cluster.run().alarms.alarms
        assert len(alarms) == 201
        assert any(alarm.text == "100 more are not listed" for alarm in alarms)
