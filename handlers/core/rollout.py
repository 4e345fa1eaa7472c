"""What an instance needs next on the way to where it should go.

One move of an instance is a walk over the steps of `model.Step`:

    idle -> drain -> flip -> reload -> confirm -> warm -> return -> idle
              ^        ^                                      |
              |        +-- failed: back to the old release, the new one gets a verdict
              +----------- superseded while `ready`: out again, to the newest target

`aims.goal` says where it should go, `advance` what to do now and which state to write once it is done. Every
step may be repeated: a run that dies anywhere is followed by one that reads the state and goes on.
`handlers.reload` observes and acts.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from msgspec import Struct, field
from msgspec.structs import replace

from handlers.core.aims import Goal, release_ids
from handlers.core.model import InstanceState, Ready, ServicePlan, Step
from handlers.core.names import InstanceKey
from handlers.core.reasons import Reason
from handlers.core.version import ReleaseId, Version

DRAIN_NODE = "drain-node"  # policy.RamPolicy
DELETE = "delete"  # policy.DeleteReload


def settled(state: InstanceState, aim: Goal) -> bool:
    """Whether the instance runs what it should, loaded from where it should be."""
    return stays(state, aim) and not aim.media.keys() - state.media.keys()


def stays(state: InstanceState, aim: Goal) -> bool:
    """Whether the instance should have the releases that it has confirmed."""
    return aim.releases == state.releases and not _repointed(state, aim)


def _repointed(state: InstanceState, aim: Goal) -> bool:
    """Whether an alias should read another channel than the one that the instance has confirmed."""
    return any(state.channels.get(alias, channel) != channel for alias, channel in aim.channels.items())


class Facts(Struct, frozen=True, kw_only=True):
    """What is seen of an instance at one moment.

    `shown` is the word in its state file, `view` where its view points; `astray`: to a channel that is not
    the aim's, under some alias. `quiet_s`: for how long it has been seen out of service; `phase_s`: for how
    long this phase has lasted while it could be observed. `called`: None = the reload was not called, or has
    not ended; "" = done; else how it failed, `denied` = for want of rights: another try would fail as well.
    `confirmed`: None = cannot be seen; "" = yes; else what is seen instead.
    """

    in_service: bool | None = None
    shown: str = ""
    view: Mapping[str, Version] = field(default_factory=dict)
    astray: bool = False
    quiet_s: float = 0.0
    phase_s: float = 0.0
    called: str | None = None
    denied: bool = False
    confirmed: str | None = None


class Do(Enum):
    """What to do before the state is written."""

    NOTHING = "nothing"
    CREATE = "create the view"
    ENTER = "create the view, and enter as one that is out for a reload"
    ASK = "ask for a slot"
    FLIP = "flip the view"
    CALL = "call the reload"
    FINISH = "leave the slot"
    HALT = "write a verdict"


class Next(Struct, frozen=True):
    """Do `do`, then write `state` (nothing to write when it is the state that was given)."""

    do: Do
    state: InstanceState
    error: str = ""


def advance(state: InstanceState, aim: Goal, facts: Facts, plan: ServicePlan, frozen: bool = False) -> Next:
    """The next step of one instance. `aim` comes from `goal`, for an instance without a view from `start`."""
    if state.state is Ready.WAITING:
        return _begin(state, aim)
    match state.step:
        case Step.FILL:
            return _first_call(state, facts)
        case Step.DRAIN:
            return _drain(state, aim, facts, plan)
        case Step.FLIP:
            return _flip(state, aim, plan)
        case Step.RELOAD:
            return _reload(state, aim, facts, plan)
        case Step.CONFIRM:
            return _confirm(state, aim, facts, plan)
        case Step.WARM:
            return _warm(state, aim, facts)
        case Step.RETURN:
            return _return(state, aim, facts, plan)
        case _:
            return _rest(state, aim, facts, plan, frozen)


def _begin(state: InstanceState, aim: Goal) -> Next:
    if not aim.releases:
        return Next(Do.NOTHING, replace(state, reason=aim.reason))
    if aim.begins:
        begun = replace(state, releases=aim.begins.releases, channels=aim.begins.channels, media=aim.media)
        return Next(Do.ENTER, replace(_ready(begun, Reason.RETURNING.say()), moving=aim.releases))
    ready = replace(state, state=Ready.READY, step=Step.FILL, reason=Reason.FIRST.say())
    return Next(Do.CREATE, replace(ready, releases=aim.releases, channels=aim.channels, media=aim.media))


def _first_call(state: InstanceState, facts: Facts) -> Next:
    """A process that came before its view hears of it; one that came after has loaded it already."""
    if facts.called is None:
        return Next(Do.CALL, state)
    reason = Reason.FIRST_FAILED.say(error=facts.called) if facts.called else ""
    return Next(Do.NOTHING, replace(state, step=Step.IDLE, reason=reason))


def _rest(state: InstanceState, aim: Goal, facts: Facts, plan: ServicePlan, frozen: bool) -> Next:
    served = state.served or bool(facts.in_service)
    kept = state.media
    if stays(state, aim):
        # only then `aim` tells what is in RAM of what it runs; until its view is flipped it reads from there
        kept = {name: medium for name, medium in state.media.items() if name in aim.media}
    calm = replace(state, step=Step.IDLE, served=served, media=kept)
    if settled(calm, aim):
        failed = state.reason.startswith(Reason.FIRST_FAILED.split("{", maxsplit=1)[0]) and not served
        return Next(Do.NOTHING, replace(calm, reason=state.reason if failed else aim.reason))
    if frozen:
        return Next(Do.NOTHING, replace(calm, reason=Reason.FROZEN.say()))
    if plan.paused:
        return Next(Do.NOTHING, replace(calm, reason=Reason.PAUSED.say()))
    if stays(calm, aim) and not plan.lets_go(InstanceKey.of(state.service, state.id)):
        # `aim` keeps the turns of releases; a move to another medium has its turn with them
        return Next(Do.NOTHING, replace(calm, reason=Reason.TURN.say(why=plan.waits)))
    return Next(Do.ASK, _out(calm, aim, Step.DRAIN, Reason.DRAINING.say()))


def _out(state: InstanceState, aim: Goal, step: Step, reason: str) -> InstanceState:
    # a move that only changes the medium starts and ends at the same releases, and is no way back
    back = stays(state, aim) and state.step not in (Step.IDLE, Step.ADMIT)
    return replace(state, state=Ready.DRAINING, step=step, moving=aim.releases, reason=reason, back=back)


def _superseded(state: InstanceState, aim: Goal, facts: Facts) -> bool:
    """Whether the view was flipped to something else than what is wanted by now."""
    return aim.releases != state.moving or facts.astray


def _drain(state: InstanceState, aim: Goal, facts: Facts, plan: ServicePlan) -> Next:
    if facts.view == aim.releases and not facts.astray and settled(state, aim):
        # nothing was flipped yet, and the order was taken back
        reason = Reason.RETURNING.say()
        return Next(
            Do.NOTHING,
            replace(state, state=Ready.READY, step=Step.RETURN, moving=state.releases, reason=reason),
        )
    if aim.releases != state.moving:
        return Next(Do.NOTHING, _out(state, aim, Step.DRAIN, Reason.SUPERSEDED.say()))
    if facts.in_service is None:
        return Next(Do.NOTHING, replace(state, reason=Reason.CANNOT_SEE.say()))
    if facts.shown != Ready.DRAINING:
        return Next(Do.NOTHING, replace(state, reason=Reason.NOT_SHOWN.say(word=Ready.DRAINING)))
    if facts.in_service and facts.phase_s > plan.deadline_s:
        return _halt(state, aim, Reason.NOT_DRAINED.say(seconds=facts.phase_s))
    if facts.in_service or facts.quiet_s < plan.drain_s:
        return Next(Do.NOTHING, replace(state, reason=Reason.DRAINING.say()))
    return Next(Do.NOTHING, replace(state, step=Step.FLIP, reason=Reason.RELOADING.say()))


def _flip(state: InstanceState, aim: Goal, plan: ServicePlan) -> Next:
    if aim.releases != state.moving:
        return Next(Do.NOTHING, _out(state, aim, Step.FLIP, Reason.SUPERSEDED.say()))
    if plan.reload == DELETE:
        # its process never sees other data: the view of the one that comes instead is made with it
        return Next(Do.NOTHING, replace(state, step=Step.RELOAD, reason=Reason.REPLACING.say()))
    return Next(Do.FLIP, replace(state, step=Step.RELOAD, media=aim.media, reason=Reason.RELOADING.say()))


def _reload(state: InstanceState, aim: Goal, facts: Facts, plan: ServicePlan) -> Next:
    if plan.reload == DELETE and facts.view == state.moving:
        # on its way back without having been deleted
        return Next(Do.NOTHING, replace(state, step=Step.CONFIRM, reason=Reason.RETURNING.say()))
    if facts.called is None:
        return Next(Do.CALL, state)
    if _superseded(state, aim, facts):
        return Next(Do.NOTHING, _out(state, aim, Step.FLIP, Reason.SUPERSEDED.say()))
    if not facts.called:
        seen = Reason.CONFIRMING.say(seen="nothing seen yet")
        return Next(Do.NOTHING, replace(state, step=Step.CONFIRM, reason=seen))
    if stays(state, aim) and facts.phase_s <= plan.deadline_s and not facts.denied:
        return Next(Do.CALL, replace(state, reason=Reason.WENT_BACK.say(error=facts.called)))
    return _halt(state, aim, facts.called)


def _confirm(state: InstanceState, aim: Goal, facts: Facts, plan: ServicePlan) -> Next:
    if _superseded(state, aim, facts):
        return Next(Do.NOTHING, _out(state, aim, Step.FLIP, Reason.SUPERSEDED.say()))
    if facts.confirmed is None:
        return Next(Do.NOTHING, replace(state, reason=Reason.CANNOT_SEE.say()))
    if not facts.confirmed:
        return _confirmed(state, aim, facts, plan)
    if facts.phase_s > plan.deadline_s:
        return _halt(state, aim, Reason.NOT_CONFIRMED.say(seconds=facts.phase_s, seen=facts.confirmed))
    return Next(Do.NOTHING, replace(state, reason=Reason.CONFIRMING.say(seen=facts.confirmed)))


def _confirmed(state: InstanceState, aim: Goal, facts: Facts, plan: ServicePlan) -> Next:
    """Back into service; with `drain-node` only once it has loaded from RAM, as long as there is time."""
    if plan.ram == DRAIN_NODE and facts.phase_s <= plan.deadline_s:
        if aim.media.keys() - state.media.keys():
            # it has let go of the old copy, and the new one is there: load once more, from RAM
            return Next(Do.NOTHING, replace(state, step=Step.FLIP, reason=Reason.RELOADING.say()))
        if aim.awaits_ram and not state.back:
            return Next(Do.NOTHING, replace(state, reason=Reason.AWAITS_RAM.say()))
    if plan.warm_up:
        return Next(Do.NOTHING, replace(state, step=Step.WARM, reason=Reason.WARMING.say(how=plan.warm_up)))
    return Next(Do.NOTHING, _ready(state, Reason.RETURNING.say()))


def _warm(state: InstanceState, aim: Goal, facts: Facts) -> Next:
    """New data that does not get warm is as good as not loaded; with the old data it comes back anyway."""
    if facts.called is None:
        return Next(Do.CALL, state)
    if _superseded(state, aim, facts):
        return Next(Do.NOTHING, _out(state, aim, Step.FLIP, Reason.SUPERSEDED.say()))
    if facts.called and not stays(state, aim):
        return _halt(state, aim, Reason.NOT_WARM.say(error=facts.called))
    return Next(Do.NOTHING, _ready(state, Reason.RETURNING.say()))


def _ready(state: InstanceState, reason: str) -> InstanceState:
    return replace(state, state=Ready.READY, step=Step.RETURN, reason=reason)


def _return(state: InstanceState, aim: Goal, facts: Facts, plan: ServicePlan) -> Next:
    if _superseded(state, aim, facts):
        return Next(Do.NOTHING, _out(state, aim, Step.DRAIN, Reason.SUPERSEDED.say()))
    if facts.in_service is None:
        return Next(Do.NOTHING, replace(state, reason=Reason.CANNOT_SEE.say()))
    if facts.shown != Ready.READY:
        return Next(Do.NOTHING, replace(state, reason=Reason.NOT_SHOWN.say(word=Ready.READY)))
    if facts.in_service:
        return Next(Do.FINISH, replace(_done(state, aim, ""), served=True))
    if facts.phase_s > plan.deadline_s:
        return _halt(state, aim, Reason.NOT_BACK.say(seconds=facts.phase_s))
    return Next(Do.NOTHING, replace(state, reason=Reason.RETURNING.say()))


def _done(state: InstanceState, aim: Goal, reason: str) -> InstanceState:
    return replace(
        state,
        state=Ready.READY,
        step=Step.IDLE,
        releases=state.moving,
        channels=aim.channels,
        moving={},
        back=False,
        reason=reason,
    )


def _halt(state: InstanceState, aim: Goal, error: str) -> Next:
    """The new release failed: back to the old one. The way back failed: let go, and let its health speak.

    A move that only gives up an alias has no release to blame and no way back: it lets go as well.
    """
    if state.moving.items() <= state.releases.items() and not _repointed(state, aim):
        given_up = Reason.GAVE_UP.say(error=error)
        if state.step is Step.RETURN:
            return Next(Do.FINISH, _done(state, aim, given_up))
        return Next(Do.NOTHING, _ready(state, given_up))
    # an instance that says `ready` may have traffic again, so it drains before its view is flipped
    step = Step.DRAIN if state.state is Ready.READY or state.step is Step.DRAIN else Step.FLIP
    before = Goal(state.releases, channels=state.channels)
    return Next(Do.HALT, _out(state, before, step, Reason.WENT_BACK.say(error=error)), error)


def blamed(state: InstanceState, aim: Goal) -> tuple[ReleaseId, ...]:
    """The releases that get the verdict when the move of `state` fails: all that it would have changed."""
    return tuple(
        release
        for alias, release in sorted(release_ids(state.moving, aim.channels).items())
        if not state.runs(alias, release.channel, release.version)
    )
