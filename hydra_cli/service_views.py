"""Services and their instances, as people and programs read them: for status, view and rollout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from msgspec import Struct

from handlers.core.model import Ready, Step
from handlers.core.world import Replica
from hydra_cli.one_service import OneService, plan_of
from hydra_cli.output import Block, Cell, Line, Table, Tone, ago

_OF_VERDICT = ("verdict", "reason", "node", "instance")
STATE_TONES = {Ready.READY: Tone.GOOD, Ready.DRAINING: Tone.WARN, Ready.WAITING: Tone.WARN}


def service_table(services: Sequence[OneService], title: str = "") -> Table:
    """Services with how many replicas are ready, at target, out."""
    rows: list[list[Cell | str]] = []
    for one in services:
        count = len(one.live)
        rows.append([
            one.name,
            Cell(f"{one.ready}/{count}", _ready_tone(one)),
            Cell(f"{one.at_target}/{count}", Tone.GOOD if one.at_target == count else Tone.WARN),
            ", ".join(one.out),
            condition(one),
            ", ".join(f"{alias} {version or 'none yet'}" for alias, version in sorted(one.targets.items())),
        ])  # fmt: skip
    columns = ("SERVICE", "READY", "AT TARGET", "OUT", "ROLLOUT", "TARGET")
    return Table(columns, rows, title=title, empty="no services; `hydra subscribe` makes one")


def _ready_tone(one: OneService) -> Tone:
    """Whoever is out for a reload is expected back; whoever is not ready beyond that is in trouble."""
    if one.ready == len(one.live):
        return Tone.GOOD
    return Tone.WARN if one.ready + len(one.out) >= len(one.live) else Tone.BAD


def condition(one: OneService) -> Cell:
    """What the rollout of a service is doing, in one word."""
    if one.facts.subscription is None or one.facts.deleted:
        return Cell("not subscribed", Tone.WARN)
    if one.verdicts and one.at_target < len(one.live):
        return Cell("halted", Tone.BAD)
    if one.facts.control.paused:
        return Cell("paused", Tone.WARN)
    if not one.live:
        return Cell("no instance", Tone.DIM)
    if one.at_target == len(one.live) and not one.facts.rollouts.stage:
        return Cell("done", Tone.GOOD)
    stage = one.facts.rollouts.stage
    return Cell(f"going on ({stage})" if stage else "going on", Tone.WARN)


def instance_table(one: OneService, now: datetime, title: str = "", view: bool = False) -> Table:
    """The instances of a service; with `view` also where each one's view is, below its node's HYDRA_ROOT."""
    rows: list[list[Cell | str]] = []
    for replica in [*one.live, *one.dead]:
        state = replica.state
        word = state.state if state else "not seen yet"
        tone = STATE_TONES[state.state] if state else Tone.WARN
        row: list[Cell | str] = [
            replica.node.name,
            replica.instance.id,
            Cell(word, tone) if replica.node.alive else Cell("node is dead", Tone.BAD),
            Cell(_step(replica), Tone.WARN),
            ", ".join(f"{alias} {v}" for alias, v in sorted(state.releases.items())) if state else "",
            ago(state.since, now) if state else "",
            _reason(replica),
        ]
        rows.append([*row, view_path(replica)] if view else row)
    columns = ("NODE", "INSTANCE", "STATE", "STEP", "RUNS", "SINCE", "REASON", *(["VIEW"] if view else []))
    return Table(columns, rows, title=title, empty="no instances")


def _reason(replica: Replica) -> str:
    """What its node says of it; else why it is on an older release."""
    if replica.state is None or replica.state.reason:
        return replica.state.reason if replica.state else ""
    plan = plan_of(replica)
    passed = (part.passed for part in plan.of(replica.key).aliases.values()) if plan else ()
    return "; ".join(f"passes over {why}" for why in passed if why)


def view_path(replica: Replica) -> str:
    """Where the instance's view is, below the HYDRA_ROOT of its node."""
    return f"views/{replica.key}"


def _step(replica: Replica) -> str:
    state = replica.state
    if state is None or state.step is Step.IDLE:
        return ""
    to = ", ".join(sorted({*state.moving.values()}))
    return f"{state.step}{' back' if state.back else ''}" + (f" -> {to}" if to else "")


def service_data(one: OneService) -> dict[str, Any]:
    """A service as JSON, with its instances."""
    subscription = one.facts.subscription
    return {
        "service": one.name,
        "subscribed": subscription is not None and not one.facts.deleted,
        "channels": dict(subscription.channels) if subscription else {},
        "reads": subscription.reads if subscription else "",
        "targets": dict(one.targets),
        "pins": {alias: pin.version for alias, pin in one.facts.pins.items()},
        "replicas": {
            "live": len(one.live),
            "ready": one.ready,
            "at_target": one.at_target,
            "dead": len(one.dead),
        },
        "out": list(one.out),
        "rollout": condition(one).text,
        "paused": one.facts.control.paused,
        "stage": one.facts.rollouts.stage,
        "stage_reason": one.facts.rollouts.reason,
        "verdicts": {
            release: {field: getattr(verdict, field) for field in _OF_VERDICT}
            for release, verdict in one.verdicts.items()
        },
        "troubles": one.troubles(),
        "instances": [instance_data(replica) for replica in [*one.live, *one.dead]],
    }  # fmt: skip


def instance_data(replica: Replica) -> dict[str, Any]:
    """An instance as JSON."""
    state = replica.state
    return {
        "node": replica.node.name,
        "node_alive": replica.node.alive,
        "id": replica.instance.id,
        "incarnation": replica.instance.incarnation,
        "address": replica.instance.address,
        "port": replica.instance.port,
        "health": replica.instance.health,
        "reads": replica.instance.reads,
        "state": state.state if state else None,
        "step": state.step if state else None,
        "reason": _reason(replica),
        "releases": dict(state.releases) if state else {},
        "moving": dict(state.moving) if state else {},
        "media": dict(state.media) if state else {},
        "since": state.since if state else "",
        "view": view_path(replica),
    }


class ServiceView(Struct, frozen=True):
    """One service in full: what is wrong, its numbers, its instances."""

    one: OneService
    now: datetime
    view: bool = False

    def data(self) -> Mapping[str, Any]:
        """The service."""
        return service_data(self.one)

    def blocks(self) -> Iterator[Block]:
        """Troubles, numbers, instances."""
        for text in self.one.troubles():
            yield Line(text, Tone.BAD)
        if self.one.facts.rollouts.stage:
            yield Line(self.one.facts.rollouts.title(), Tone.WARN)
        if self.one.facts.gates.releases:
            yield Line(self.one.facts.gates.title(), Tone.WARN)
        yield service_table([self.one])
        yield instance_table(self.one, self.now, title="Instances", view=self.view)
