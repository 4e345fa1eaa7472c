"""Where an instance goes while releases that need each other come one after the other, or go back."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from handlers.core import keys
from handlers.core.aims import Goal, Usable, goal, start
from handlers.core.model import AliasPlan, Desired, Hold, InstanceState, Ready, ServicePlan, Verdicts
from handlers.core.names import Channel
from handlers.core.reasons import Reason
from handlers.core.version import ReleaseId, Version
from tests.core.test_desired_properties import settled
from tests.core.worlds import COMPLETE, PLACES, STREETS, Cluster, rid, v

BOTH = {"places": PLACES, "streets": STREETS}


def holds(**needs: Mapping[Channel, int]) -> dict[ReleaseId, Hold]:
    """Releases 1 to 4 of both channels; `places_3={STREETS: 2}` is what one of them needs."""
    return {
        rid(n, channel): Hold(digest="", sequence=n, needs=needs.get(f"{alias}_{n}", {}))
        for alias, channel in BOTH.items()
        for n in range(1, 5)
    }


def at(**numbers: int) -> InstanceState:
    """An instance at rest."""
    return InstanceState(
        service=COMPLETE,
        id="i0",
        incarnation="1",
        state=Ready.READY,
        releases={alias: v(n) for alias, n in numbers.items()},
        channels={alias: BOTH[alias] for alias in numbers},
    )


def to(held: str = "", **numbers: int) -> ServicePlan:
    """A plan that targets these; `held` are moves of streets."""
    return ServicePlan(
        aliases={
            a: AliasPlan(channel=BOTH[a], target=v(n), start=v(n), held=held if a == "streets" else "")
            for a, n in numbers.items()
        }
    )


def without(*missing: ReleaseId) -> Usable:
    """All is on the node but these."""

    def usable(channel: Channel, version: Version) -> str:
        release = ReleaseId.of(channel, version)
        return Reason.INCOMPLETE.say(release=release) if release in missing else ""

    return usable


def aim(
    state: InstanceState, plan: ServicePlan, known: Mapping[ReleaseId, Hold], *missing: ReleaseId
) -> tuple[dict[str, Version], str]:
    found = goal(state, plan, Verdicts(), without(*missing), known)
    return dict(found.releases), found.reason


KNOWN = holds(places_2={STREETS: 2})


def test_both_move_at_once_when_the_node_has_both() -> None:
    assert aim(at(places=1, streets=1), to(places=2, streets=2), KNOWN) == (
        {"places": v(2), "streets": v(2)},
        "",
    )


def waiting(*, places: int, streets: int) -> ServicePlan:
    """The same, while release 2 of streets has its canaries elsewhere."""
    return replace(to(places=places, streets=streets), waits="canaries first", fresh=(rid(2, STREETS),))


def test_turn_of_one_release_keeps_no_other_waiting() -> None:
    """Whoever goes back to what is proven waits for nobody."""
    found = goal(at(places=2, streets=1), waiting(places=1, streets=2), Verdicts(), without(), holds())

    assert found.releases == {"places": v(1), "streets": v(1)}
    assert found.reason == Reason.TURN.say(why="canaries first")
    theirs = replace(waiting(places=1, streets=2), goes=("i0",))
    assert goal(at(places=2, streets=1), theirs, Verdicts(), without(), holds()).releases == {
        "places": v(1),
        "streets": v(2),
    }


def test_plan_of_an_older_planner_keeps_all_waiting() -> None:
    plan = replace(waiting(places=2, streets=2), fresh=())

    found = goal(at(places=1, streets=1), plan, Verdicts(), without(), holds())

    assert found.releases == {"places": v(1), "streets": v(1)}


def test_instance_on_its_way_takes_nothing_more_that_is_not_its_turn() -> None:
    """It goes on to what is still its target, and back from what is not."""
    moving = replace(at(places=1, streets=1), moving={"places": v(2), "streets": v(1)})
    plan = replace(waiting(places=2, streets=2), fresh=(rid(2), rid(2, STREETS)))
    assert goal(moving, plan, Verdicts(), without(), holds()).releases == moving.moving

    newer = replace(waiting(places=3, streets=1), fresh=(rid(3),))

    assert goal(moving, newer, Verdicts(), without(), holds()).releases == {"places": v(1), "streets": v(1)}


def test_release_waits_for_what_it_needs() -> None:
    where, why = aim(at(places=1, streets=1), to(places=2, streets=2), KNOWN, rid(2, STREETS))

    assert where == {"places": v(1), "streets": v(1)}
    together = Reason.NEEDS.say(release=rid(2), other=rid(2, STREETS))
    assert why == f"{together}; {Reason.INCOMPLETE.say(release=rid(2, STREETS))}"


def test_what_is_needed_waits_for_the_release_so_that_both_are_loaded_at_once() -> None:
    where, why = aim(at(places=1, streets=1), to(places=2, streets=2), KNOWN, rid(2))

    assert where == {"places": v(1), "streets": v(1)}
    assert Reason.NEEDS.say(release=rid(2, STREETS), other=rid(2)) in why


def test_what_is_needed_does_not_wait_for_a_release_that_is_held() -> None:
    plan = to(places=2, streets=2)
    parts = {**plan.aliases, "places": AliasPlan(channel=PLACES, target=v(2), start=v(1), held="halted")}

    where, _ = aim(at(places=1, streets=1), ServicePlan(aliases=parts), KNOWN)

    assert where == {"places": v(1), "streets": v(2)}


def test_release_does_not_go_without_one_whose_moves_are_held() -> None:
    where, why = aim(at(places=1, streets=1), to("halted", places=2, streets=2), KNOWN)

    assert where == {"places": v(1), "streets": v(1)}
    assert Reason.HELD.told_in(why)
    assert Reason.NEEDS.told_in(why)


def test_need_that_is_met_already_waits_for_nothing() -> None:
    where, why = aim(at(places=1, streets=2), to(places=2, streets=3), KNOWN, rid(3, STREETS))

    assert where == {"places": v(2), "streets": v(2)}
    assert why == Reason.INCOMPLETE.say(release=rid(3, STREETS))


def test_way_back_is_taken_together_as_well() -> None:
    where, why = aim(at(places=2, streets=2), to(places=1, streets=1), KNOWN, rid(1))

    assert where == {"places": v(2), "streets": v(2)}
    assert Reason.NEEDS.say(release=rid(1, STREETS), other=rid(1)) in why
    assert aim(at(places=2, streets=2), to(places=1, streets=1), KNOWN)[0] == {
        "places": v(1),
        "streets": v(1),
    }


def test_channels_that_need_nothing_of_each_other_do_not_wait() -> None:
    where, _ = aim(at(places=1, streets=1), to(places=2, streets=2), holds(), rid(2))

    assert where == {"places": v(1), "streets": v(2)}


def test_what_is_on_the_node_moves_in_one_reload_once_all_of_it_is_in_ram() -> None:
    def usable(channel: Channel, version: Version) -> str:
        release = ReleaseId.of(channel, version)
        return Reason.FILLING.say(release=release) if release == rid(2, STREETS) else ""

    found = goal(at(places=1, streets=1), to(places=2, streets=2), Verdicts(), usable, holds())

    assert dict(found.releases) == {"places": v(1), "streets": v(1)}
    assert found.reason == Reason.FILLING.say(release=rid(2, STREETS))


def test_new_instance_does_not_begin_with_what_does_not_go_together() -> None:
    """A cordoned node may have one without the other."""
    found = start(to(places=2, streets=1), without(), KNOWN)

    assert found == Goal({}, Reason.NEEDS.say(release=rid(2), other=rid(1, STREETS)))


def test_new_instance_that_nothing_fits_says_why() -> None:
    plan = ServicePlan(aliases={"places": AliasPlan(channel=PLACES, held="it cannot read that")})

    assert start(plan, without()).reason == Reason.NONE_FITS.say(held="it cannot read that")


def broken(releases: Mapping[str, ReleaseId], cluster: Cluster) -> bool:
    """Whether one of the releases needs a newer one than another is, by their headers."""
    world = cluster.world()
    headers = {
        alias: facts.by_version.get(release.version)
        for alias, release in releases.items()
        if (facts := world.channels.get(release.channel))
    }
    for header in filter(None, headers.values()):
        for channel, least in header.needs.items():
            needed = world.channels[channel].by_version.get(least) if channel in world.channels else None
            beside = [h for h in headers.values() if h and h.channel == channel]
            if needed and any(h.sequence < needed.sequence for h in beside):
                return True
    return False


@st.composite
def pairs(draw: st.DrawFn) -> Cluster:
    """A service that reads two channels of four releases each, which need each other at random."""
    cluster = Cluster()
    for number in range(1, 5):
        for channel, other in ((PLACES, STREETS), (STREETS, PLACES)):
            # mostly something that is there already, as publishers do
            least = draw(
                st.sampled_from([0, 0, number, number - 1, 4]), label=f"need of {number} of {channel}"
            )
            cluster.publish(number, channel, needs={other: least} if least else None)
    cluster.subscribe(places=PLACES, streets=STREETS)
    cluster.node("n1", COMPLETE)
    return cluster


@settings(max_examples=60, deadline=None)
@given(pairs(), st.data())
def test_no_instance_ever_has_what_does_not_go_together(cluster: Cluster, data: st.DataObject) -> None:
    """Whatever is ordered, is on the node when, and whenever its handler dies: at each flip of a view.

    Once all is there and nobody dies, the instance is where it should be.
    """
    state: InstanceState | None = None
    for turn in range(6):
        for channel in (PLACES, STREETS):
            cluster[keys.channel_pin(channel)] = v(data.draw(st.integers(1, 4), label="pin")).encode()
        desired = settled(cluster).desired("n1")
        here = data.draw(st.sets(st.sampled_from(ALL)), label="complete")
        last = turn == 5
        for _ in range(3):
            found = aimed(state, desired, without(*(set() if last else set(ALL) - here)))
            assert not broken(found.ids, cluster)
            if found.releases and (last or data.draw(st.booleans(), label="the move is not interrupted")):
                state = replace(at(), releases=found.releases, channels=found.channels)
                cluster.runs("n1", **{a: number_of(version) for a, version in found.releases.items()})  # type: ignore[arg-type]
                desired = settled(cluster).desired("n1")
    parts = settled(cluster).desired("n1").services[COMPLETE].aliases
    if all(part.target for part in parts.values()):
        assert state is not None
        assert state.releases == {alias: part.target for alias, part in parts.items()}


ALL = [rid(number, channel) for number in range(1, 5) for channel in BOTH.values()]


def number_of(version: Version) -> int:
    return next(number for number in range(1, 5) if v(number) == version)


def aimed(state: InstanceState | None, desired: Desired, usable: Usable) -> Goal:
    plan = desired.services[COMPLETE]
    if state is None:
        return start(plan, usable, desired.releases)
    return goal(state, plan, Verdicts(), usable, desired.releases)
