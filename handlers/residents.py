"""Instances come and go: the first state and view of a new one, the end of one that is gone, their files.

Used by `handlers.reload`. What is decided here lies on this node; only writing the states needs Consul, and
while it is away a new instance gets its view and readiness files all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from msgspec.structs import replace

from handlers import log
from handlers.adapters.templates import Templates
from handlers.adapters.views import Views
from handlers.cache import Cache
from handlers.core.aims import Goal, start
from handlers.core.model import Instance, InstanceState, Ready, ServicePlan, Step
from handlers.core.names import Channel, InstanceKey
from handlers.core.reasons import Reason
from handlers.core.rollout import DELETE, Facts, advance
from handlers.core.version import ReleaseId, Version
from handlers.home import Home
from handlers.moves import Moves
from handlers.statebook import StateBook


class Residents:
    """The instances of one node as a whole."""

    def __init__(
        self, home: Home, book: StateBook, views: Views, templates: Templates, cache: Cache, moves: Moves
    ) -> None:
        self._home, self._book, self._views = home, book, views
        self._templates, self._cache, self._moves = templates, cache, moves
        self._templated: frozenset[InstanceKey] | None = None

    def complete(self, channel: Channel, version: Version) -> str:
        """Why a release is not on this node; empty when it is."""
        if self._home.complete(channel, version):
            return ""
        return Reason.INCOMPLETE.say(release=ReleaseId.of(channel, version))

    def usable(self, channel: Channel, version: Version) -> str:
        """Why nobody should begin with a release now; empty when all of it is where it should be."""
        return self.complete(channel, version) or self._cache.reason(channel, version)

    def aim(self, plan: ServicePlan, usable: Callable[[Channel, Version], str]) -> Goal:
        """What a new instance begins with."""
        found = start(plan, usable, self._home.holds)
        return replace(found, media=self._cache.media(found.ids))

    def arrivals(self) -> None:
        """Give new instances, and new incarnations, their first state."""
        known = self._book.instances
        changes = {}
        for key, instance in self._home.here.items():
            state = known.get(key)
            if state is None or state.incarnation != instance.incarnation:
                changes[key] = self._arrived(key, instance, state)
        if changes:
            self._book.commit(changes)

    def departures(self) -> None:
        """End what is gone: states, template configuration, readiness files, view, in this order."""
        if self._home.instances is None:
            return
        here = self._home.here.keys()
        for key in sorted(self._book.instances.keys() - here):
            log.info("reload", "instance ended", instance=key)
            plan, step = self._home.plan(key), self._book.instances[key].step
            replaced = plan is not None and plan.reload == DELETE and step is Step.RELOAD
            self._moves.end(key, replaced=replaced)
        gone = self._views.instances() - here - self._book.instances.keys()
        if gone:
            self.files()
        for key in sorted(gone):
            self._views.remove(key)

    def files(self) -> float | None:
        """Readiness files of all instances: the first from here, then by consul-template.

        Returns the seconds after which to come again, None when consul-template knows all it should.
        """
        keys = frozenset(self._book.instances)
        for key in keys & self._home.here.keys():
            self._views.write_first(key, self._book.instances[key])
        if keys != self._templated:
            self._templates.write(keys)
            self._templated = keys
        return self._templates.tell()

    def without_consul(self, why: str) -> None:
        """New instances get their view and readiness files; nothing else changes."""
        changes = {}
        for key, instance in self._home.here.items():
            known, plan = self._book.instances.get(key), self._home.plan(key)
            if plan is None or (known is not None and known.state is not Ready.WAITING):
                continue
            state = known or self._arrived(key, instance, None)
            aim = self.aim(plan, self.usable)
            if state.state is Ready.WAITING and aim.releases:
                self._views.flip(key, aim.ids)
                state = advance(state, aim, Facts(), plan).state
            if state.state is Ready.READY:
                changes[key] = replace(state, since=_now())
        if changes:
            log.info("reload", "views without Consul", instances=",".join(sorted(changes)), reason=why)
            self._book.commit_here(changes)
            for key, state in changes.items():
                self._views.write_first(key, state, anew=True)
            self.files()

    def _arrived(self, key: InstanceKey, instance: Instance, before: InstanceState | None) -> InstanceState:
        """The first state of an instance, or of the next incarnation of one.

        One that has a view keeps it and is `ready` at once: a registration that was made anew (by an agent
        that lost its data, say) must not take a running service down.
        """
        if before is not None:
            # also where instances are frozen: it has read its view before it was seen here
            return replace(before, incarnation=instance.incarnation, id=instance.id, served=False)
        plan = self._home.plan(key)
        fresh = InstanceState(
            service=instance.service,
            id=instance.id,
            incarnation=instance.incarnation,
            state=Ready.WAITING,
            reason=Reason.NO_PLAN.say(),
            since=_now(),
        )
        view = self._views.current(key)
        wanted = {alias: part.channel for alias, part in plan.aliases.items()} if plan else {}
        if not view or {alias: release.channel for alias, release in view.items()} != wanted:
            return fresh
        found = Goal.of(view)
        ready = replace(fresh, state=Ready.READY, releases=found.releases, channels=found.channels, reason="")
        return replace(ready, media=self._cache.media(view))


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
