"""Which instances of a service may be out of service at the same time.

Asked by `handlers.reload` before it takes an instance out; the answer is then written in one transaction that
fails when anybody changed `slots/<s>` in between.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from msgspec import Struct

from handlers.core.budget import Budget
from handlers.core.model import SlotEntry
from handlers.core.reasons import Reason


class Member(Struct, frozen=True):
    """One instance of a service, anywhere. `in_service` None = nobody can tell now."""

    node: str
    in_service: bool | None
    served: bool


class Admit(Struct, frozen=True):
    """The budget allows it to go out."""


class Repair(Struct, frozen=True):
    """It is out of service anyway: no permission needed, but it is entered all the same."""


class Blocked(Struct, frozen=True):
    """Not now."""

    reason: str


def admission_together(
    mine: Collection[str],
    out: Mapping[str, SlotEntry],
    members: Mapping[str, Member],
    dead: Collection[str],
    budget: Budget,
    numbers: str,
) -> Admit | Blocked:
    """Whether all of `mine` may go out at the same time; counted as `admission` does. `numbers`: what for."""
    if unseen := [slot for slot in mine if slot not in members or members[slot].in_service is None]:
        return Blocked(Reason.UNSEEN.say(who=", ".join(sorted(unseen))))
    away = {slot for slot, entry in out.items() if slot not in mine and entry.node not in dead}
    others = {
        s: m
        for s, m in members.items()
        if s not in mine and s not in away and m.node not in dead and (m.served or m.in_service)
    }
    sick = {slot for slot, member in others.items() if not member.in_service}
    total = len(away) + len(others) + len(mine)
    if len(away) + len(sick) + len(mine) <= budget.of(total):
        return Admit()
    counts = {"count": len(mine), "out": len(away), "sick": len(sick), "budget": budget.say(total)}
    return Blocked(Reason.TOGETHER.say(numbers=numbers, **counts))


def admission(
    me: str,
    out: Mapping[str, SlotEntry],
    members: Mapping[str, Member],
    dead: Collection[str],
    budget: Budget,
) -> Admit | Repair | Blocked:
    """Whether the instance `me` may go out of service, by slot ids (`<node>.<id>`) of its service.

    Counted are entries of `out`, and members that are not in service although they have served; both only on
    nodes that are not `dead`. A member that cannot be seen counts as not in service. A share is one of all
    that are out, in service, or have served.
    """
    own = members.get(me)
    if own is None or own.in_service is None:
        return Blocked(Reason.UNSEEN.say(who=me))
    if not own.in_service:
        return Repair()
    away = {slot for slot, entry in out.items() if slot != me and entry.node not in dead}
    others = {
        s: m
        for s, m in members.items()
        if s != me and s not in away and m.node not in dead and (m.served or m.in_service)
    }
    sick = {slot for slot, member in others.items() if not member.in_service}
    total = len(away) + len(others) + 1
    allowed = budget.of(total)
    if len(away) + len(sick) + 1 <= allowed:
        return Admit()
    unseen = {slot for slot in sick if others[slot].in_service is None}
    if len(away) + len(sick - unseen) + 1 <= allowed:
        return Blocked(Reason.UNSEEN.say(who=", ".join(sorted(unseen))))
    who = ", ".join(sorted(away | sick)[:5])
    return Blocked(
        Reason.BUDGET.say(out=len(away), sick=len(sick), budget=budget.say(total), who=who or "nobody")
    )
