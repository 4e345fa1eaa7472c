"""How many instances of a service may be out of service at the same time, as its subscription says it.

`max_unavailable` is a count or a percentage of the instances, rounded down, but at least 1 unless it says 0;
so a small service is moved as well. `min_available`, where it is given, is used in its place: a count or a
percentage (rounded up) that stays in service, however many there are.
"""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from handlers.core.errors import Usage

Amount = int | str
"""A count (`3`), or a share as text (`25%`)."""


class Budget(Struct, frozen=True):
    """Both texts of a subscription; see `handlers.core.admission` for what is counted."""

    max_unavailable: Amount = 1
    min_available: Amount | None = None
    by: str = ""  # what it comes from, where nobody gave one

    @property
    def fixed(self) -> bool:
        """Whether it is the same for any number of instances."""
        return self.min_available is None and isinstance(self.max_unavailable, int)

    def of(self, instances: int) -> int:
        """How many of `instances` may be out; never negative."""
        if self.min_available is not None:
            return max(0, instances - _count(self.min_available, instances, up=True))
        if not isinstance(self.max_unavailable, str):
            return self.max_unavailable
        count = _count(self.max_unavailable, instances, up=False)
        return max(1, count) if _percent(self.max_unavailable) else 0

    def say(self, instances: int) -> str:
        """The number, and what it was made of: `2 (25% of 8)`."""
        made = []
        if self.min_available is not None:
            made.append(f"{self.min_available} of {instances} must be available")
        elif not self.fixed:
            made.append(f"{self.max_unavailable} of {instances}")
        if self.by:
            made.append(f"by {self.by}")
        return f"{self.of(instances)} ({', '.join(made)})" if made else str(self.of(instances))


class Amounts(Protocol):
    """A `Subscription` or a `ServicePlan`."""

    @property
    def max_unavailable(self) -> Amount: ...
    @property
    def min_available(self) -> Amount | None: ...
    @property
    def budget_by(self) -> str: ...


def budget_of(amounts: Amounts) -> Budget:
    """The budget of a document."""
    return Budget(amounts.max_unavailable, amounts.min_available, amounts.budget_by)


def parse_amount(value: object) -> Amount:
    """`3`, `"3"` or `"25%"`, as documents and the command line have them; raises `Usage`."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str):
        number, percent, rest = value.partition("%")
        if number.isascii() and number.isdecimal() and not rest and len(number) < 10:
            if not percent:
                return int(number)
            if int(number) <= 100:
                return f"{int(number)}%"
    raise Usage(f"{value!r} is neither a number like 3 nor a percentage like 25%")


def _percent(text: str) -> int:
    return int(text.removesuffix("%"))


def _count(amount: Amount, instances: int, *, up: bool) -> int:
    if isinstance(amount, int):
        return amount
    share = instances * _percent(amount)
    return -(-share // 100) if up else share // 100
