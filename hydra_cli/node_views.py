"""Nodes, as people and programs read them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

from handlers.core.model import State
from handlers.core.world import NodeFacts, replicas_of
from hydra_cli.output import Block, Cell, Line, Table, Tone, size

STATE_TONES = {State.SUCCESS: Tone.GOOD, State.FAILED: Tone.BAD, State.DOWNLOADING: Tone.WARN}


class Nodes(Struct, frozen=True):
    """All nodes."""

    nodes: Sequence[NodeFacts]

    def data(self) -> Mapping[str, Any]:
        """One object per node."""
        return {"nodes": [node_data(facts) for facts in self.nodes]}

    def blocks(self) -> Iterator[Block]:
        """A table."""
        yield node_table(self.nodes)


class OneNode(Struct, frozen=True):
    """One node: what it should hold, how far it is, and its instances."""

    facts: NodeFacts

    def data(self) -> Mapping[str, Any]:
        """The node with releases, volumes, labels, instances."""
        facts = self.facts
        info = facts.info
        return {
            **node_data(facts),
            "volumes": {
                name: {"class": volume.cls, "free": free(facts).get(name)}
                for name, volume in (info.volumes if info else {}).items()
            },
            "labels": dict(info.labels) if info else {},
            "versions": dict(info.versions) if info else {},
            "instances": [
                {
                    "service": r.instance.service,
                    "id": r.instance.id,
                    "state": r.state.state if r.state else None,
                    "releases": dict(r.state.releases) if r.state else {},
                    "reason": r.state.reason if r.state else "",
                }
                for r in replicas_of(facts)
            ],
        }  # fmt: skip

    def blocks(self) -> Iterator[Block]:
        """Alarms first, then releases, instances, volumes."""
        facts = self.facts
        condition = condition_of(facts)
        yield Line(f"node {facts.name}: {condition.text}", condition.tone or Tone.HEAD)
        if facts.cordon:
            yield Line(f"cordoned by {facts.cordon.who}: {facts.cordon.why}", Tone.WARN)
        for alarm in facts.complaints:
            yield Line(f"alarm: {alarm}", Tone.BAD)
        yield Table(("RELEASE", "STATE", "WHY", "DETAIL"), _release_rows(facts), title="Releases")
        rows = [
            (r.instance.service, r.instance.id, r.state.state if r.state else "not seen yet",
             ", ".join(f"{a} {v}" for a, v in sorted(r.state.releases.items())) if r.state else "",
             r.state.reason if r.state else "")
            for r in replicas_of(facts)
        ]  # fmt: skip
        yield Table(("SERVICE", "INSTANCE", "STATE", "RUNS", "REASON"), rows, title="Instances")
        volumes = facts.info.volumes if facts.info else {}
        shown = [
            (n, v.cls, size(free(facts)[n]) if n in free(facts) else "?") for n, v in sorted(volumes.items())
        ]
        yield Table(("VOLUME", "CLASS", "FREE"), shown, title="Volumes", right=frozenset({"FREE"}))


def node_table(
    nodes: Sequence[NodeFacts], title: str = "", to_fetch: Mapping[str, int] | None = None
) -> Table:
    """Nodes with what they hold, what they still have `to_fetch` (bytes by name) and how fast they load."""
    fetched = {name: size(count) for name, count in (to_fetch or {}).items()}
    rows: list[list[Cell | str]] = []
    for facts in nodes:
        states = [status.state for status in facts.actual.releases.values()] if facts.actual else []
        wanted = len(facts.desired.releases) if facts.desired else 0
        failed = states.count(State.FAILED)
        held = f"{states.count(State.SUCCESS)}/{wanted}"
        rows.append([
            facts.name,
            condition_of(facts),
            Cell(held + (f", {failed} failed" if failed else ""), Tone.BAD if failed else Tone.PLAIN),
            fetched.get(facts.name, ""),
            loading(facts),
            str(sum(1 for _ in replicas_of(facts))),
            ", ".join(f"{name} {size(count)}" for name, count in sorted(free(facts).items())),
        ])  # fmt: skip
    columns = ("NODE", "CONDITION", "RELEASES", "TO FETCH", "LOADING", "INSTANCES", "FREE")
    return Table(columns, rows, title=title, empty="no nodes; `hydra node run` makes this machine one",
                 right=frozenset({"TO FETCH", "INSTANCES"}))  # fmt: skip


def condition_of(facts: NodeFacts) -> Cell:
    """Whether the node is there, in one word."""
    if facts.gone:
        return Cell("forgotten", Tone.DIM)
    if not facts.known:
        return Cell("lost", Tone.WARN)
    if not facts.alive:
        return Cell("dead", Tone.BAD)
    if facts.cordon:
        return Cell("cordoned", Tone.WARN)
    if facts.complaints:
        return Cell("alarm", Tone.BAD)
    return Cell("alive", Tone.GOOD)


def loading(facts: NodeFacts) -> str:
    """How far the downloads of a node are; empty when there are none."""
    found = facts.progress.downloads.values() if facts.progress else ()
    busy = facts.actual and any(s.state is State.DOWNLOADING for s in facts.actual.releases.values())
    done, total, speed = (sum(getattr(d, n) for d in found) for n in ("done", "total", "speed"))
    if not busy:
        return ""
    return (
        f"{100 * done // total} % of {size(total)}" + (f", {size(speed)}/s" if speed else "")
        if total
        else "begins"
    )


def free(facts: NodeFacts) -> Mapping[str, int]:
    """Free bytes by volume, as the node last said."""
    return facts.progress.free if facts.progress else {}


def node_data(facts: NodeFacts) -> dict[str, Any]:
    """A node as JSON."""
    actual = facts.actual
    downloads = facts.progress.downloads if facts.progress else {}
    return {
        "node": facts.name,
        "alive": facts.alive,
        "known": facts.known,
        "cordoned": facts.cordon is not None,
        "generation": {
            "desired": facts.desired.generation if facts.desired else None,
            "actual": actual.generation if actual else None,
        },
        "releases": {
            release: {
                "state": status.state,
                "reason": status.reason,
                **(
                    {"done": d.done, "total": d.total, "speed": d.speed}
                    if (d := downloads.get(release))
                    else {}
                ),
            }
            for release, status in sorted(actual.releases.items())
        }
        if actual
        else {},
        "instances": sum(1 for _ in replicas_of(facts)),
        "free": dict(free(facts)),
        "alarms": list(facts.complaints),
    }


def _release_rows(facts: NodeFacts) -> list[list[Cell | str]]:
    wanted = facts.desired.releases if facts.desired else {}
    held = facts.actual.releases if facts.actual else {}
    rows: list[list[Cell | str]] = []
    for release in sorted({*wanted, *held}):
        status = held.get(release)
        state = (
            Cell(status.state, STATE_TONES.get(status.state, Tone.PLAIN)) if status else Cell("", Tone.DIM)
        )
        why = ", ".join(wanted[release].why) if release in wanted else "not desired any more"
        rows.append([release, state, why, status.reason if status else "the node has not taken it over yet"])
    return rows
