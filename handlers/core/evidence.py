"""What speaks for a release before a whole service runs it: that its check was good, or an operator."""

from __future__ import annotations

from datetime import datetime

from handlers.core.gate import Outcome
from handlers.core.model import Subscription
from handlers.core.service_plans import Aliases, Proven
from handlers.core.targets import in_force
from handlers.core.version import ReleaseId
from handlers.core.world import ServiceFacts, World


def unproven(aliases: Aliases, proven: Proven) -> set[ReleaseId]:
    """The targets that nobody has proven yet, of channels of which something else is proven."""
    return {
        ReleaseId.of(part.channel, part.target)
        for part in aliases.values()
        if part.target is not None and part.target not in (known := proven.get(part.channel, ())) and known
    }


def checked(facts: ServiceFacts, release: ReleaseId) -> bool:
    """Whether the check of canaries passed the release.

    An instance that halts writes its verdict in the place of a good one; plan remembers that this was there.
    """
    verdict = facts.verdicts.releases.get(release)
    if verdict is None or verdict.verdict not in tuple(Outcome):
        return release in facts.rollouts.passed
    return verdict.verdict == Outcome.GOOD and verdict.id not in facts.control.retry


def wanted_at_once(
    world: World, facts: ServiceFacts, subscription: Subscription, release: ReleaseId, now: datetime
) -> bool:
    """Whether an operator wants the release without a check: by `promote`, or by a pin while that lasts."""
    if release in facts.control.promote:
        return True
    channel = world.channels.get(release.channel)
    pins = [facts.pins.get(a) for a, name in subscription.channels.items() if name == release.channel]
    pins.append(channel.pin if channel else None)
    return any(pin is not None and pin.version == release.version and in_force(pin, now) for pin in pins)
