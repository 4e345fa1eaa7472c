"""`hydra publish --wait`: look on until every live instance runs the release, or never will."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from msgspec import Struct

from handlers.adapters.ports import KV
from handlers.core.errors import NotTakenOver, Timeout
from handlers.core.names import Channel, Service
from handlers.core.takeover import Progress, Stage, Takeover, taken_over
from handlers.core.version import Version
from hydra_cli.context import Context
from hydra_cli.feed import ROLLOUT, Feed
from hydra_cli.output import Block, Cell, Line, Screen, Table, Tone, rendered, size, span

_TONES = {Stage.RUNS: Tone.GOOD, Stage.FAILED: Tone.BAD, Stage.BLOCKED: Tone.BAD, Stage.MOVING: Tone.WARN}
_LONGEST_LOOK_S = 5.0
_ROWS = 30  # of instances on a terminal; those that are done go first
Show = Callable[[Takeover], None]


class Outcome(Struct, frozen=True):
    """How the wait ended, after `seconds`; `in_time` False = before everybody was there."""

    takeover: Takeover
    seconds: float
    in_time: bool

    def data(self) -> Mapping[str, Any]:
        """Every instance, what blocks, and whether all run it."""
        take = self.takeover
        return {
            "complete": take.complete,
            "seconds": round(self.seconds, 1),
            "services": list(take.services),
            "instances": [
                {
                    "service": i.service,
                    "node": i.node,
                    "instance": i.instance,
                    "stage": i.stage,
                    "reason": i.reason,
                }
                for i in take.instances
            ],
            "blocked": dict(take.blocked),
        }

    def blocks(self) -> Iterator[Block]:
        """One sentence."""
        take = self.takeover
        if not take.services:
            yield Line(f"no service is subscribed to {take.release.channel}: nobody to wait for", Tone.WARN)
        elif take.complete:
            said = f"all {len(take.instances)} live instances of {_services(take)} run {take.release.version}"
            yield Line(f"{said} after {span(self.seconds)}", Tone.GOOD)
        else:
            yield Line(f"{take.running} of {len(take.instances)} live instances run {take.release.version}")

    def judge(self) -> None:
        """Raise what the exit code of the command stands for."""
        take = self.takeover
        if take.complete:
            return
        if self.in_time:
            why = "; ".join(f"{service}: {reason}" for service, reason in sorted(take.blocked.items()))
            raise NotTakenOver(f"{take.release} is published but not taken over: {why}")
        late = [_sentence(i) for i in take.instances if i.stage is not Stage.RUNS]
        more = f" and {len(late) - 5} more" if len(late) > 5 else ""
        raise Timeout(f"after {span(self.seconds)} not all run {take.release}: {'; '.join(late[:5])}{more}")


def wait_for(context: Context, kv: KV, channel: Channel, version: Version, timeout_s: float) -> Outcome:
    """Look on until everybody runs the version or will not, for at most `timeout_s`."""
    began = time.monotonic()
    latest: Takeover | None = None
    with Feed(kv, *ROLLOUT) as feed, _display(context.screen) as show:
        while True:
            left = began + timeout_s - time.monotonic()
            world = feed.next(min(max(left, 0.0), _LONGEST_LOOK_S))
            if world:
                latest = taken_over(world, channel, version)
                show(latest)
            seconds = time.monotonic() - began
            if latest and latest.settled:
                return Outcome(latest, seconds, in_time=True)
            if seconds >= timeout_s:
                if latest is None:
                    raise Timeout(
                        f"nothing could be seen within {span(timeout_s)}: {feed.trouble or 'no answer'}"
                    )
                return Outcome(latest, seconds, in_time=False)


@contextlib.contextmanager
def _display(screen: Screen) -> Iterator[Show]:
    """Progress on stderr: a live picture on a terminal, else one line per change."""
    if not screen.live:
        yield _Lines(screen).show
        return
    from rich.live import Live

    with Live(console=screen.console(), refresh_per_second=4, transient=True) as live:
        yield lambda take: live.update(rendered(_picture(take)))


class _Lines:
    """One line for each instance that got further; bytes alone are no change."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._said: dict[tuple[Service, str, str], tuple[Stage, str]] = {}

    def show(self, take: Takeover) -> None:
        """Say what changed since the last call."""
        for one in take.instances:
            name = (one.service, one.node, one.instance)
            if self._said.get(name) != (one.stage, one.reason):
                self._said[name] = (one.stage, one.reason)
                counts = f"{take.running}/{len(take.instances)}"
                self._screen.note(f"[{counts}] {_sentence(one)}", Tone.PLAIN)


def _picture(take: Takeover) -> Table:
    """The instances that are not there yet, and how many are."""
    order = [s for s in Stage if s is not Stage.RUNS] + [Stage.RUNS]
    rows = sorted(take.instances, key=lambda i: (order.index(i.stage), i.service, i.node, i.instance))
    cells = [
        (i.service, i.node, i.instance, Cell(i.stage, _TONES.get(i.stage, Tone.PLAIN)), _detail(i))
        for i in rows
    ]
    hidden = f", {len(rows) - _ROWS} more below" if len(rows) > _ROWS else ""
    title = f"{take.release}: {take.running} of {len(rows)} live instances run it{hidden}"
    return Table(("SERVICE", "NODE", "INSTANCE", "STAGE", "DETAIL"), cells[:_ROWS], title=title)


def _detail(one: Progress) -> str:
    if one.stage is Stage.DOWNLOADING and one.total_bytes:
        share = 100 * one.done_bytes // one.total_bytes
        speed = f", {size(one.speed)}/s" if one.speed else ""
        return f"{share} % of {size(one.total_bytes)}{speed}"
    return one.reason


def _sentence(one: Progress) -> str:
    reason = f" ({one.reason})" if one.reason else ""
    return f"{one.service} {one.instance} on {one.node}: {one.stage}{reason}"


def _services(take: Takeover) -> str:
    return take.services[0] if len(take.services) == 1 else f"{len(take.services)} services"
