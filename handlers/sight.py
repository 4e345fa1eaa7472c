"""What is seen of one instance at a moment: health, files, calls under way, and how long it has lasted.

Observing costs no waiting: what takes long runs in feeds and tasks, which wake `handlers.reload`. All memory
in here is lost with the run, which only extends deadlines and drain times.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from msgspec import Struct

from handlers.adapters.service import Health
from handlers.adapters.views import Views, versions
from handlers.census import IN_SERVICE, Prober
from handlers.core.aims import Goal, release_ids
from handlers.core.model import Instance, InstanceState, Ready, ServicePlan, Step, Verdicts
from handlers.core.names import Channel, InstanceKey
from handlers.core.policy import ByHealth, Confirm, Drain, Policy, Reload, WarmUp, makes_another
from handlers.core.rollout import Facts
from handlers.core.version import ReleaseId
from handlers.feeds import Feeds, Seen, Task

QUICK_S, POLL_S, TICK_S = 0.05, 0.1, 1.0
FIRST_CALL_S = 10.0  # a new instance may not listen yet; it then reads its view when it does
LONGEST_GAP_S = 5.0  # a run that was stopped for longer did not observe all that time


class Services(Prober, Protocol):
    """`adapters.service.Services`, or a fake that passes the same tests."""

    def maintenance(self, instance: Instance, on: bool) -> None: ...

    def reload(self, how: Reload, key: InstanceKey, instance: Instance, limit_s: float) -> None: ...

    def warm_up(self, how: WarmUp, key: InstanceKey, instance: Instance, limit_s: float) -> None: ...

    def confirmed(
        self,
        how: Confirm,
        key: InstanceKey,
        instance: Instance,
        new: Mapping[str, ReleaseId],
        old: Mapping[str, ReleaseId],
    ) -> str: ...


class Case(Struct, frozen=True, kw_only=True):
    """One instance in one round: what it is, and what it should be."""

    key: InstanceKey
    instance: Instance
    plan: ServicePlan
    policy: Policy
    aim: Goal
    frozen: bool
    verdicts: Verdicts
    verdicts_index: int

    @property
    def channels(self) -> dict[str, Channel]:
        """What the service reads, by alias."""
        return {alias: part.channel for alias, part in self.plan.aliases.items()}


class _Track(Struct):
    """What is remembered of one instance. `seconds`: how long its phase has lasted while it could be seen."""

    first_seen: float
    phase: object = None
    seconds: float = 0.0
    counted_at: float = 0.0
    quiet_since: float | None = None
    task: Task | None = None
    called_for: object = None
    called_at: float = 0.0
    switched_for: object = None


class Sight:
    """The instances of one node, as one run sees them."""

    def __init__(
        self,
        node: str,
        views: Views,
        services: Services,
        feeds: Feeds,
        wake: threading.Event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._node, self._views, self._services = node, views, services
        self._feeds, self._wake, self._clock = feeds, wake, clock
        self._tracks: dict[InstanceKey, _Track] = {}

    def facts(self, case: Case, state: InstanceState) -> Facts:
        """What is seen of the instance now; also sees to Consul's maintenance mode. Raises `HydraError`."""
        track = self._tracks.setdefault(case.key, _Track(self._clock()))
        shown = self._views.shown(case.key)
        told = state.step in (Step.DRAIN, Step.RETURN)
        health = self._health(case, state, shown) if told or not state.served else Health.UNSEEN
        in_service = IN_SERVICE[health]
        if health is Health.GONE and state.step is not Step.DRAIN:
            in_service = None  # it may be about to come back under the same name
        self._count(track, state, not told or (shown == state.state and in_service is not None))
        drained = state.step is Step.DRAIN and shown == Ready.DRAINING and in_service is False
        now = self._clock()
        track.quiet_since = (now if track.quiet_since is None else track.quiet_since) if drained else None
        self._switch_maintenance(case, state, track)
        view, channels = self._views.current(case.key), case.aim.channels
        confirmed = self._confirmed(case, state) if state.step is Step.CONFIRM else None
        if track.seconds > case.plan.deadline_s:
            confirmed = self._excused(case, confirmed)
        return Facts(
            in_service=in_service,
            shown=shown,
            view=versions(view, {**case.channels, **channels}),
            astray=any(release.channel != channels.get(a, release.channel) for a, release in view.items()),
            quiet_s=0.0 if track.quiet_since is None else now - track.quiet_since,
            phase_s=track.seconds,
            called=self._excused(case, self._called(track, state)),
            denied=track.task is not None and track.task.denied,
            confirmed=confirmed,
        )

    def call(self, case: Case, state: InstanceState) -> None:
        """Start the reload or the warm-up of the instance, unless it is under way or failed only just now."""
        track = self._tracks[case.key]
        if track.task is not None and (track.task.result is None or self._clock() < track.called_at + TICK_S):
            return
        limit_s = (
            case.plan.deadline_s if state.step is not Step.FILL else min(FIRST_CALL_S, case.plan.deadline_s)
        )
        track.called_for, track.called_at = _call_of(state), self._clock()
        track.task = Task(f"{state.step} {case.key}", self._work(case, state.step, limit_s), self._wake)

    def _work(self, case: Case, step: Step, limit_s: float) -> Callable[[], None]:
        key, instance, how = case.key, case.instance, case.policy
        warm_up = how.warm_up
        if step is Step.FILL and makes_another(how.reload):
            return lambda: None
        if step is Step.WARM and warm_up is not None:
            return lambda: self._services.warm_up(warm_up, key, instance, limit_s)
        return lambda: self._services.reload(how.reload, key, instance, limit_s)

    def due(self, case: Case, state: InstanceState, facts: Facts) -> float | None:
        """Seconds until it should be looked at again, if nothing wakes earlier; None = nothing to do."""
        if state.state is Ready.WAITING:
            return None  # sync writes `actual` when the release is here
        if state.step in (Step.DRAIN, Step.RETURN) and facts.shown != state.state:
            return QUICK_S
        if state.step is Step.DRAIN and facts.in_service is False:
            return max(0.001, case.plan.drain_s - facts.quiet_s)
        if state.step is Step.IDLE:
            waited = self._clock() - self._tracks[case.key].first_seen
            return TICK_S if not state.served and waited < case.plan.deadline_s else None
        return TICK_S

    def listen(self, instance: Instance) -> None:
        """Wake when the health of an instance changes that the next admission will ask for."""
        if instance.health == "consul":
            self._listing(instance.consul_name)

    def end_maintenance(self, instance: Instance) -> None:
        """End a maintenance mode that Hydra may have set, whatever the subscription says now."""
        if instance.health == "consul":
            self._services.maintenance(instance, False)

    def forget(self, key: InstanceKey) -> None:
        """The instance is gone."""
        self._tracks.pop(key, None)

    def _health(self, case: Case, state: InstanceState, shown: str) -> Health:
        instance = case.instance
        if instance.health in ("none", "kubernetes"):
            return self._services.health(instance, self._node, [], shown == Ready.READY == state.state)
        if instance.health == "consul":
            seen = self._listing(instance.consul_name)
            return (
                self._services.health(instance, self._node, seen.value, False)
                if seen.known
                else Health.UNSEEN
            )
        url = self._feeds.see(
            f"health {case.key} {_place(instance)}",
            lambda *_: (self._services.health(instance, self._node, [], False), 0),
            POLL_S,
        )
        return url.value if url.known else Health.UNSEEN

    def _listing(self, name: str) -> Seen:
        return self._feeds.see(
            f"health {name}", lambda after, wait_s: self._services.listing(name, after=after, wait_s=wait_s)
        )

    def _count(self, track: _Track, state: InstanceState, observable: bool) -> None:
        phase = (state.step is Step.DRAIN, dict(state.moving), state.back, state.incarnation)
        now = self._clock()
        if track.phase != phase:
            track.phase, track.seconds = phase, 0.0
        elif observable:
            track.seconds += min(now - track.counted_at, LONGEST_GAP_S)
        track.counted_at = now

    def _called(self, track: _Track, state: InstanceState) -> str | None:
        if track.called_for != _call_of(state):
            track.task, track.called_for = None, None
        return track.task.result if track.task else None

    def _excused(self, case: Case, failure: str | None) -> str | None:
        """How something failed; None where Consul does not know the instance any more.

        Then it was taken away, which says nothing of the release: it ends, or is asked again when it is back.
        """
        if failure and case.instance.health == "consul":
            rows, _ = self._services.listing(case.instance.consul_name)
            if self._services.health(case.instance, self._node, rows, False) is Health.GONE:
                return None
        return failure

    def _confirmed(self, case: Case, state: InstanceState) -> str | None:
        if isinstance(case.policy.confirm, ByHealth):
            return ""
        new = release_ids(state.moving, case.aim.channels)
        old = release_ids(state.releases, {a: state.channels.get(a, c) for a, c in case.channels.items()})
        seen = self._feeds.see(
            f"confirm {case.key} {sorted(new.items())} {_place(case.instance)}",
            lambda *_: (self._services.confirmed(case.policy.confirm, case.key, case.instance, new, old), 0),
            POLL_S,
        )
        return seen.value if seen.known else None

    def _switch_maintenance(self, case: Case, state: InstanceState, track: _Track) -> None:
        """Set or end Consul's maintenance mode, once per phase."""
        if state.step not in (Step.DRAIN, Step.RETURN):
            return
        if case.policy.drain is not Drain.MAINTENANCE:
            # the subscription may have changed since the instance went out
            if state.step is Step.RETURN and track.switched_for != (state.step, track.phase):
                self.end_maintenance(case.instance)
                track.switched_for = (state.step, track.phase)
            return
        if track.switched_for != (state.step, track.phase):
            self._services.maintenance(case.instance, state.step is Step.DRAIN)
            track.switched_for = (state.step, track.phase)


def _place(instance: Instance) -> str:
    """Where an instance is asked: it may be registered anew, elsewhere, while it moves."""
    return f"{instance.incarnation} {instance.health} {instance.address}:{instance.port}"


def _call_of(state: InstanceState) -> object:
    return (state.step, dict(state.moving), state.back, state.incarnation, tuple(sorted(state.media)))
