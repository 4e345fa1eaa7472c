"""Who served what: the record of one service as it goes on, and what it says of a moment of the past.

Pure; `record` writes it from `states/<node>`, `hydra history --at` reads it. An instance runs what it last
confirmed; on a dead node it runs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from handlers.core.model import Served, ServedChange
from handlers.core.names import Service
from handlers.core.world import World

MOST_CHANGES = 500  # of one document, whose size has a limit; then the next one begins


def running(world: World) -> dict[Service, dict[str, str]]:
    """By service what each instance (`<node>/<id>`) runs now: `<alias> <version>`, joined by commas."""
    found: dict[Service, dict[str, str]] = {}
    for node in world.nodes.values():
        if not node.alive or not node.states:
            continue
        for state in node.states.instances.values():
            if state.releases:
                runs = ", ".join(f"{alias} {version}" for alias, version in sorted(state.releases.items()))
                found.setdefault(state.service, {})[f"{node.name}/{state.id}"] = runs
    return found


def recorded(before: Served | None, now: Mapping[str, str], when: str) -> list[Served]:
    """The documents to write when instances run `now` at the time `when` (ISO, UTC); the last one goes on.

    Nothing when nothing changed. A document ends with its day, or when it has many changes.
    """
    if before is None:
        return [_begun(now, when)] if now else []
    known = after(before)
    moved = {name: now.get(name, "") for name in {*known, *now} if known.get(name, "") != now.get(name, "")}
    if not moved:
        return []
    if before.since[:10] != when[:10] or len(before.changes) >= MOST_CHANGES:
        return [replace(before, until=when), _begun(now, when)]
    changes = tuple(
        ServedChange(when=when, releases=runs, instances=tuple(names)) for runs, names in _grouped(moved)
    )
    return [replace(before, changes=before.changes + changes)]


def after(document: Served, when: str = "9") -> dict[str, str]:
    """What each instance ran at `when`, by the record that covers it; default: at its end."""
    runs = {name: releases for releases, names in document.start.items() for name in names}
    for change in document.changes:
        if change.when <= when:
            runs |= dict.fromkeys(change.instances, change.releases)
    return {name: releases for name, releases in runs.items() if releases}


def at(documents: Iterable[Served], when: str) -> dict[str, str] | None:
    """What each instance of a service ran at `when`; None when no record reaches back so far."""
    older = [document for document in documents if document.since <= when]
    return after(max(older, key=lambda document: document.since), when) if older else None


def _begun(now: Mapping[str, str], when: str) -> Served:
    return Served(since=when, start={runs: tuple(names) for runs, names in _grouped(now)})


def _grouped(runs: Mapping[str, str]) -> list[tuple[str, list[str]]]:
    groups: dict[str, list[str]] = {}
    for name, releases in sorted(runs.items()):
        groups.setdefault(releases, []).append(name)
    return sorted(groups.items())
