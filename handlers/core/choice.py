"""Which version a publish takes: the newest complete one of every dataset, all equal, none in the future.

`hydra publish` looks at the object store and describes what is there as one `Offer` per dataset; `choose`
decides, or says in a table what each dataset has, so that a person sees which pipeline is behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from msgspec import Struct, field

from handlers.core.errors import SourceNotReady, Usage
from handlers.core.version import Version, newest_common


class Offer(Struct, frozen=True, kw_only=True):
    """What the object store has of one dataset.

    `listed` are all versions with a name there; `complete` those that were looked at and are whole;
    `incomplete` those that were looked at and are not, with the reason. `own` = a rhythm of its own.
    """

    name: str
    source: str
    own: bool = False
    listed: tuple[Version, ...] = ()
    complete: tuple[Version, ...] = ()
    incomplete: Mapping[Version, str] = field(default_factory=dict)


class Choice(Struct, frozen=True, kw_only=True):
    """The release's version, and the version of each dataset (another one only for an own rhythm)."""

    version: Version
    datasets: Mapping[str, Version]


def candidates(listed: Iterable[Version], now: datetime) -> list[Version]:
    """The versions worth a look, newest first: those that are not in the future of `now`."""
    limit = Version.of(now)
    return sorted((v for v in set(listed) if v <= limit), reverse=True)


def choose(offers: Sequence[Offer], now: datetime, asked: Version | None = None) -> Choice:
    """The version to publish; `asked` is the one that a person wants.

    Raises `SourceNotReady` with a table when a dataset has no complete version or the newest ones differ,
    `Usage` when `asked` is in the future.
    """
    if asked and asked > Version.of(now):
        raise Usage(
            f"version {asked} is in the future (it is {Version.of(now)} UTC); versions are never ahead"
        )
    newest = newest_common({offer.name: offer.complete for offer in offers}, now)
    found = {name: version for name, version in newest.items() if version}
    if without := [offer for offer in offers if offer.name not in found]:
        names = ", ".join(offer.name for offer in without)
        what = f"{asked} is not there, or not complete" if asked else "no complete version"
        raise SourceNotReady(f"{what} of {names}:\n{table(offers, now)}")
    shared = {found[offer.name] for offer in offers if not offer.own}
    if len(shared) > 1:
        rows, advice = table(offers, now), _advice(offers, now)
        raise SourceNotReady(f"the newest complete versions of the datasets differ:\n{rows}\n{advice}")
    return Choice(version=asked or max(shared or found.values()), datasets=found)


def table(offers: Sequence[Offer], now: datetime) -> str:
    """What each dataset has, as aligned text."""
    newest = newest_common({offer.name: offer.complete for offer in offers}, now)
    rows = [("DATASET", "NEWEST COMPLETE", "WHAT ELSE IS THERE")]
    rows += [(offer.name, newest[offer.name] or "none", _else(offer, now)) for offer in offers]
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    return "\n".join(f"  {a.ljust(widths[0])}  {b.ljust(widths[1])}  {c}".rstrip() for a, b, c in rows)


def _else(offer: Offer, now: datetime) -> str:
    limit = Version.of(now)
    said = [f"{v} {offer.incomplete[v]}" for v in sorted(offer.incomplete, reverse=True)[:3]]
    said += [f"{v} is in the future" for v in sorted(offer.listed, reverse=True) if v > limit][:2]
    older = sorted(set(offer.listed) - set(offer.complete) - set(offer.incomplete), reverse=True)
    said += [f"{v}" for v in older if v <= limit][:2]
    own = "own rhythm" if offer.own else ""
    nothing = "" if offer.listed or offer.complete else f"nothing like a version below {offer.source}"
    return "; ".join(filter(None, (own, *said, nothing)))


def _advice(offers: Sequence[Offer], now: datetime) -> str:
    """Which version might do, when the newest do not match."""
    shared = [set(o.listed) - set(o.incomplete) for o in offers if not o.own]
    common = candidates(set.intersection(*shared) if shared else (), now)
    wait = "Wait until all have the same newest version (--wait-source 1h)"
    return f"{wait}, or publish one that all have: --version {common[0]}" if common else f"{wait}."
