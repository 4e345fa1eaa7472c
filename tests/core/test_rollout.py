"""The steps of one instance: a table of situations, each with what comes next."""

from collections.abc import Mapping
from typing import Any

import pytest
from msgspec.structs import replace

from handlers.core.aims import Goal, goal, start
from handlers.core.model import AliasPlan, InstanceState, Ready, ServicePlan, Step, Verdict, Verdicts
from handlers.core.names import Channel, Service
from handlers.core.reasons import Reason
from handlers.core.rollout import Do, Facts, advance, blamed, settled
from handlers.core.version import ReleaseId, Version

C = Channel("prod/search/places")
D = Channel("prod/search/ranks")
V1, V2, V3 = (Version(f"2026-01-0{n}T00-00-00") for n in (1, 2, 3))
OLD, NEW = {"places": V1}, {"places": V2}
PLAN = ServicePlan(aliases={"places": AliasPlan(channel=C, target=V2, start=V1)}, drain_s=5, deadline_s=60)
IDLE = InstanceState(
    service=Service("prod/search/api"), id="a", incarnation="1", state=Ready.READY, releases=OLD, served=True
)
OUT = replace(IDLE, state=Ready.DRAINING, step=Step.DRAIN, moving=NEW)
AT_NEW, AT_OLD = Goal(NEW), Goal(OLD)
QUIET = Facts(in_service=False, shown="draining", view=OLD, quiet_s=5)


def here(*_: object) -> str:
    return ""


def verdicts(version: Version = V2, word: str = "halted") -> Verdicts:
    found = Verdict(id="v1", verdict=word, reason="it broke", node="n", instance="a")
    return Verdicts(releases={ReleaseId.of(C, version): found})


def aliases(**of_places: Any) -> ServicePlan:
    return replace(PLAN, aliases={"places": replace(PLAN.aliases["places"], **of_places)})


@pytest.mark.parametrize(
    ("plan", "found", "usable", "expected", "reason"),
    [
        (PLAN, Verdicts(), here, NEW, ""),
        (PLAN, verdicts(), here, OLD, "halted: it broke"),
        (PLAN, verdicts(word="bad"), here, OLD, "bad: it broke"),
        (PLAN, verdicts(V3), here, NEW, ""),
        (replace(PLAN, retry=("v1",)), verdicts(), here, NEW, ""),
        (PLAN, Verdicts(), lambda c, v: f"no {v}", OLD, f"no {V2}"),
        (aliases(held="no such release"), Verdicts(), here, OLD, "no such release"),
        (aliases(target=None), Verdicts(), here, OLD, ""),
        (aliases(target=V1, held="ignored"), Verdicts(), here, OLD, ""),
        (replace(PLAN, aliases={}), Verdicts(), here, OLD, ""),
    ],
)
def test_goal(
    plan: ServicePlan, found: Verdicts, usable: Any, expected: Mapping[str, Version], reason: str
) -> None:
    aim = goal(IDLE, plan, found, usable)

    assert aim.releases == expected
    assert reason in aim.reason
    assert bool(reason) == bool(aim.reason)


def test_a_new_alias_begins_at_its_start_version() -> None:
    plan = replace(PLAN, aliases={**PLAN.aliases, "ranks": AliasPlan(channel=D, target=V3, start=V2)})

    assert goal(IDLE, plan, Verdicts(), here).releases == {"places": V2, "ranks": V2}
    assert goal(IDLE, plan, Verdicts(), lambda c, v: "no" if c == D else "").releases == NEW


def test_a_new_alias_whose_release_failed_stays_away() -> None:
    plan = replace(PLAN, aliases={**PLAN.aliases, "ranks": AliasPlan(channel=D, target=V3, start=V3)})
    failed = Verdict(id="v1", verdict="halted", reason="it broke", node="n", instance="a")
    found = Verdicts(releases={ReleaseId.of(D, V3): failed})

    aim = goal(replace(IDLE, releases=NEW), plan, found, here)

    assert aim.releases == NEW
    assert "halted: it broke" in aim.reason
    assert goal(IDLE, replace(plan, retry=("v1",)), found, here).releases == {**NEW, "ranks": V3}


READS_D = aliases(channel=D, target=V1)
AT_D, AT_C = (Goal.of({"places": ReleaseId.of(channel, V1)}) for channel in (D, C))


def test_alias_that_reads_another_channel_moves_though_the_version_has_the_same_name() -> None:
    state = replace(IDLE, channels={"places": C})

    aim = goal(state, READS_D, Verdicts(), here)

    assert aim == AT_D
    assert not settled(state, aim)
    assert advance(state, aim, Facts(in_service=True), READS_D).do is Do.ASK
    assert goal(state, READS_D, Verdicts(), lambda *_: "not here") == replace(AT_C, reason="not here")
    assert settled(replace(state, channels={"places": D}), aim)


def test_failed_release_of_another_channel_is_blamed_and_left_for_the_old_one() -> None:
    out = changed(step=Step.RELOAD, moving=OLD, channels={"places": C})

    failed = advance(out, AT_D, Facts(called="500", view=OLD), READS_D)

    assert (failed.do, failed.state.step, failed.state.moving) == (Do.HALT, Step.FLIP, OLD)
    assert failed.state.back
    assert blamed(out, AT_D) == (ReleaseId.of(D, V1),)
    verdict = Verdict(id="v1", verdict="halted", reason="500", node="n", instance="a")
    halted = Verdicts(releases={ReleaseId.of(D, V1): verdict})
    assert goal(failed.state, READS_D, halted, here).ids == AT_C.ids


@pytest.mark.parametrize("step", [Step.RELOAD, Step.CONFIRM, Step.RETURN])
def test_view_that_points_to_another_channel_is_flipped_again(step: Step) -> None:
    """The alias was given the other channel in mid-move, and both have a version of this name."""
    out = changed(step=step, moving=OLD, releases=NEW, channels={"places": C})

    found = advance(out, AT_D, Facts(called="", confirmed="", astray=True), READS_D)

    assert (found.do, found.state.moving) == (Do.NOTHING, OLD)
    assert found.state.step is (Step.DRAIN if step is Step.RETURN else Step.FLIP)


def test_what_an_instance_runs_is_known_with_its_channel() -> None:
    back = changed(step=Step.RETURN, state=Ready.READY, moving=OLD, channels={"places": C})

    done = advance(back, AT_D, Facts(in_service=True, shown="ready", view=OLD), READS_D)

    assert (done.do, done.state.channels) == (Do.FINISH, {"places": D})
    assert done.state.runs("places", D, V1)
    assert not done.state.runs("places", C, V1)


@pytest.mark.parametrize("step", [Step.RELOAD, Step.CONFIRM])
def test_giving_up_an_alias_ends_though_it_fails(step: Step) -> None:
    """No release is to blame, and going back to the alias would begin it all again."""
    out = changed(step=step, releases={**OLD, "gone": V1}, moving=OLD)

    found = advance(out, AT_OLD, Facts(called="500", confirmed="nothing", phase_s=61), PLAN)

    assert (found.do, found.state.step, found.state.state) == (Do.NOTHING, Step.RETURN, Ready.READY)
    assert blamed(out, AT_OLD) == ()
    done = advance(found.state, AT_OLD, Facts(in_service=True, shown="ready"), PLAN).state
    assert (done.step, done.releases) == (Step.IDLE, OLD)


@pytest.mark.parametrize(
    ("plan", "frozen", "step"),
    [(PLAN, False, Step.DRAIN), (PLAN, True, Step.IDLE), (replace(PLAN, paused=True), False, Step.IDLE)],
    ids=["draining", "frozen", "paused"],
)
def test_instance_reads_from_ram_until_its_view_is_flipped(
    plan: ServicePlan, frozen: bool, step: Step
) -> None:
    """Or the copy would be dropped from under its last requests."""
    state = replace(IDLE, media={"places/table": "RAM"})

    after = advance(state, AT_NEW, Facts(in_service=True), plan, frozen).state

    assert (after.step, after.media) == (step, {"places/table": "RAM"})
    flipped = advance(replace(after, step=Step.FLIP, moving=NEW), AT_NEW, QUIET, PLAN).state
    assert flipped.media == {}


def test_copy_that_is_gone_is_not_read_any_more() -> None:
    state = replace(IDLE, media={"places/table": "RAM"})

    assert advance(state, AT_OLD, Facts(in_service=True), PLAN).state.media == {}


def test_a_dropped_alias_leaves_with_the_next_move() -> None:
    state = replace(IDLE, releases={**OLD, "gone": V1})

    assert goal(state, aliases(target=V1), Verdicts(), here).releases == OLD


def test_a_new_instance_starts_with_all_aliases_or_waits() -> None:
    both = replace(PLAN, aliases={**PLAN.aliases, "ranks": AliasPlan(channel=D, target=V3, start=V2)})

    assert start(both, here) == Goal({"places": V1, "ranks": V2}, channels={"places": C, "ranks": D})
    assert start(both, lambda c, v: "not here" if c == D else "") == Goal({}, "not here")
    assert str(C) in start(aliases(start=None), here).reason
    assert start(replace(PLAN, aliases={}), here) == Goal({}, Reason.NO_PLAN)


def changed(**fields: Any) -> InstanceState:
    return replace(OUT, **fields)


READY_AGAIN = changed(state=Ready.READY, step=Step.RETURN)


@pytest.mark.parametrize(
    ("state", "aim", "facts", "do", "step", "word"),
    [
        # a new instance
        (
            replace(IDLE, state=Ready.WAITING, releases={}),
            Goal({}, "why"),
            Facts(),
            Do.NOTHING,
            Step.IDLE,
            "waiting",
        ),
        (replace(IDLE, state=Ready.WAITING, releases={}), AT_OLD, Facts(), Do.CREATE, Step.FILL, "ready"),
        (replace(IDLE, step=Step.FILL), AT_OLD, Facts(), Do.CALL, Step.FILL, "ready"),
        (replace(IDLE, step=Step.FILL), AT_OLD, Facts(called=""), Do.NOTHING, Step.IDLE, "ready"),
        (replace(IDLE, step=Step.FILL), AT_OLD, Facts(called="refused"), Do.NOTHING, Step.IDLE, "ready"),
        # at rest
        (IDLE, AT_OLD, Facts(in_service=True), Do.NOTHING, Step.IDLE, "ready"),
        (IDLE, AT_NEW, Facts(in_service=True), Do.ASK, Step.DRAIN, "draining"),
        (replace(IDLE, step=Step.ADMIT), AT_NEW, Facts(in_service=True), Do.ASK, Step.DRAIN, "draining"),
        (IDLE, Goal(OLD, media={"places/x": "RAM"}), Facts(in_service=True), Do.ASK, Step.DRAIN, "draining"),
        # drain
        (OUT, AT_NEW, QUIET, Do.NOTHING, Step.FLIP, "draining"),
        (OUT, AT_NEW, replace(QUIET, quiet_s=4.9), Do.NOTHING, Step.DRAIN, "draining"),
        (OUT, AT_NEW, replace(QUIET, in_service=True), Do.NOTHING, Step.DRAIN, "draining"),
        (OUT, AT_NEW, replace(QUIET, in_service=None, phase_s=61), Do.NOTHING, Step.DRAIN, "draining"),
        (OUT, AT_NEW, replace(QUIET, shown="ready", phase_s=61), Do.NOTHING, Step.DRAIN, "draining"),
        (OUT, AT_NEW, replace(QUIET, in_service=True, phase_s=61), Do.HALT, Step.DRAIN, "draining"),
        (OUT, AT_OLD, QUIET, Do.NOTHING, Step.RETURN, "ready"),
        (OUT, Goal({"places": V3}), QUIET, Do.NOTHING, Step.DRAIN, "draining"),
        # flip
        (changed(step=Step.FLIP), AT_NEW, QUIET, Do.FLIP, Step.RELOAD, "draining"),
        (changed(step=Step.FLIP), AT_OLD, QUIET, Do.NOTHING, Step.FLIP, "draining"),
        # reload
        (changed(step=Step.RELOAD), AT_NEW, Facts(), Do.CALL, Step.RELOAD, "draining"),
        (changed(step=Step.RELOAD), AT_OLD, Facts(), Do.CALL, Step.RELOAD, "draining"),
        (changed(step=Step.RELOAD), AT_NEW, Facts(called=""), Do.NOTHING, Step.CONFIRM, "draining"),
        (changed(step=Step.RELOAD), AT_OLD, Facts(called=""), Do.NOTHING, Step.FLIP, "draining"),
        (changed(step=Step.RELOAD), AT_NEW, Facts(called="500"), Do.HALT, Step.FLIP, "draining"),
        (
            changed(step=Step.RELOAD, moving=OLD),
            AT_OLD,
            Facts(called="500"),
            Do.CALL,
            Step.RELOAD,
            "draining",
        ),
        (
            changed(step=Step.RELOAD, moving=OLD),
            AT_OLD,
            Facts(called="5", phase_s=61),
            Do.NOTHING,
            Step.RETURN,
            "ready",
        ),
        # confirm
        (changed(step=Step.CONFIRM), AT_NEW, Facts(confirmed=""), Do.NOTHING, Step.RETURN, "ready"),
        (changed(step=Step.CONFIRM), AT_NEW, Facts(confirmed="old"), Do.NOTHING, Step.CONFIRM, "draining"),
        (
            changed(step=Step.CONFIRM),
            AT_NEW,
            Facts(confirmed=None, phase_s=61),
            Do.NOTHING,
            Step.CONFIRM,
            "draining",
        ),
        (
            changed(step=Step.CONFIRM),
            AT_NEW,
            Facts(confirmed="old", phase_s=61),
            Do.HALT,
            Step.FLIP,
            "draining",
        ),
        (changed(step=Step.CONFIRM), AT_OLD, Facts(confirmed=""), Do.NOTHING, Step.FLIP, "draining"),
        # back in service, or not
        (READY_AGAIN, AT_NEW, Facts(in_service=True, shown="ready"), Do.FINISH, Step.IDLE, "ready"),
        (READY_AGAIN, AT_NEW, Facts(in_service=True, shown="draining"), Do.NOTHING, Step.RETURN, "ready"),
        (READY_AGAIN, AT_NEW, Facts(in_service=False, shown="ready"), Do.NOTHING, Step.RETURN, "ready"),
        (
            READY_AGAIN,
            AT_NEW,
            Facts(in_service=None, shown="ready", phase_s=61),
            Do.NOTHING,
            Step.RETURN,
            "ready",
        ),
        (
            READY_AGAIN,
            AT_NEW,
            Facts(in_service=False, shown="ready", phase_s=61),
            Do.HALT,
            Step.DRAIN,
            "draining",
        ),
        (READY_AGAIN, Goal({"places": V3}), Facts(), Do.NOTHING, Step.DRAIN, "draining"),
        (
            replace(READY_AGAIN, moving=OLD),
            AT_OLD,
            Facts(in_service=False, shown="ready", phase_s=61),
            Do.FINISH,
            Step.IDLE,
            "ready",
        ),
    ],
)
def test_next_step(state: InstanceState, aim: Goal, facts: Facts, do: Do, step: Step, word: str) -> None:
    answer = advance(state, aim, facts, PLAN)

    assert (answer.do, answer.state.step, answer.state.state) == (do, step, word)


def test_success_is_written_with_its_releases() -> None:
    unserved = replace(READY_AGAIN, served=False)

    done = advance(unserved, AT_NEW, Facts(in_service=True, shown="ready"), PLAN).state

    assert (done.releases, done.moving, done.served, done.reason) == (NEW, {}, True, "")


def test_failure_goes_back_without_forgetting_the_old_release() -> None:
    answer = advance(changed(step=Step.RELOAD), AT_NEW, Facts(called="HTTP 500: broken"), PLAN)

    assert answer.error == "HTTP 500: broken"
    assert answer.state.back
    assert answer.state.moving == answer.state.releases == OLD
    assert blamed(changed(step=Step.RELOAD), Goal.of({"places": ReleaseId.of(C, V2)})) == (
        ReleaseId.of(C, V2),
    )


@pytest.mark.parametrize(
    ("denied", "do", "step"), [(False, Do.CALL, Step.RELOAD), (True, Do.NOTHING, Step.RETURN)]
)
def test_way_back_is_tried_again_unless_it_is_denied(denied: bool, do: Do, step: Step) -> None:
    back = changed(step=Step.RELOAD, moving=OLD, back=True)

    answer = advance(back, AT_OLD, Facts(called="HTTP 403: forbidden", denied=denied, phase_s=1), PLAN)

    assert (answer.do, answer.state.step) == (do, step)


def test_an_instance_that_never_served_does_not_count_as_served_when_its_way_back_fails() -> None:
    lost = replace(READY_AGAIN, moving=OLD, served=False)

    done = advance(lost, AT_OLD, Facts(in_service=False, shown="ready", phase_s=61), PLAN).state

    assert not done.served


@pytest.mark.parametrize(("plan", "frozen"), [(replace(PLAN, paused=True), False), (PLAN, True)])
def test_paused_and_frozen_instances_stay(plan: ServicePlan, frozen: bool) -> None:
    answer = advance(IDLE, AT_NEW, Facts(in_service=True), plan, frozen)

    assert (answer.do, answer.state.releases, answer.state.state) == (Do.NOTHING, OLD, Ready.READY)
    assert answer.state.reason in (Reason.PAUSED, Reason.FROZEN)


def test_turn_of_another_release_keeps_no_move_waiting() -> None:
    """`goal` keeps the turns of releases; here only a move to another medium has to have its turn."""
    plan = replace(PLAN, waits="canaries first", fresh=(ReleaseId.of(D, V2),))

    assert advance(IDLE, AT_NEW, Facts(in_service=True), plan).do is Do.ASK
    medium = replace(AT_OLD, media={"places/index": "ram"})
    assert advance(IDLE, medium, Facts(in_service=True), plan).state.reason == Reason.TURN.say(why=plan.waits)


def test_paused_moves_are_finished() -> None:
    assert advance(OUT, AT_NEW, QUIET, replace(PLAN, paused=True)).state.step is Step.FLIP


def test_media_of_copies_that_are_gone_are_forgotten() -> None:
    state = replace(IDLE, media={"places/x": "RAM"})

    assert advance(state, AT_OLD, Facts(), PLAN).state.media == {}
