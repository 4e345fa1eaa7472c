"""Figure 2: from a publish until 1,000 nodes have read what it means for them.

The planner is the real one, `hydra node run --planner`: supervisord, one `consul watch` per row, the
handler. The nodes are 1,000 waiting blocking queries, and every answer is checked. Two fleets: 20 services
on 50 nodes each, and one service on all nodes.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from handlers import settings
from handlers.adapters.ports import KV, Set
from handlers.core import codec, keys
from handlers.core.model import Meta
from handlers.core.version import Version
from hydra_cli.dev.node import path_of_programs, supervised
from hydra_cli.dev.servers import Running
from tests import servers
from tests.bench import fleet
from tests.bench.fleet import Fleet
from tests.bench.report import Findings, Row, median
from tests.bench.watchers import Read, Watchers, raise_open_files

FLEETS = (Fleet(1000, 20), Fleet(1000, 1))
RUNS = 7
AIM_MS = 1000
LIMIT_S = 120.0
PLANNER = "planner"
_QUIET_S = settings.Limits().plan_pause_s + 1.0


@dataclass
class Seen:
    """What the queries brought since the last publish: desired states by key, turns of the planner."""

    fleet: Fleet
    wanted: bytes = b""
    reads: dict[str, Read] = field(default_factory=dict)
    taken: float | None = None
    free: float | None = None
    lock_moved: float = 0.0
    complete: asyncio.Event = field(default_factory=asyncio.Event)

    def expect(self, version: Version) -> None:
        """Forget all, and wait for `version` to be the target everywhere."""
        self.wanted = f'"target": "{version}"'.encode()
        self.reads, self.taken, self.free = {}, None, None
        self.complete.clear()

    def take(self, key: str, read: Read) -> None:
        """Note what a query brought."""
        if key == keys.lock("plan"):
            self.lock_moved = read.at
            if read.session and self.taken is None:
                self.taken = read.at
            elif not read.session and self.taken is not None and self.free is None:
                self.free = read.at
        elif self.wanted in read.value and key not in self.reads:
            self.reads[key] = read
            if len(self.reads) == self.fleet.nodes:
                self.complete.set()

    @property
    def resting(self) -> bool:
        """No planner has its turn, and none had for so long that the next publish is no burst."""
        idle_s = time.time() - self.lock_moved
        return (self.taken is None or self.free is not None) and idle_s > _QUIET_S


@dataclass(frozen=True)
class Run:
    """One publish, in milliseconds since its transaction was sent."""

    announced: float
    turn: float
    first: float
    last: float
    over: float


def measure() -> Findings:
    """Both fleets, several publishes each."""
    raise_open_files(max(fleet.nodes for fleet in FLEETS))
    findings = Findings()
    for which in FLEETS:
        with TemporaryDirectory(prefix="hydra-bench-") as name:
            runs = asyncio.run(_measured(Path(name), which))
        what = f"publish → {which.nodes:,} nodes have read it, {which.services} service(s)"
        findings.rows.append(Row(2, what, [run.last for run in runs], aim=AIM_MS))
        for name, step in _STEPS.items():
            findings.rows.append(Row(2, f"   … until {step}", [getattr(run, name) for run in runs]))
        findings.rows.append(Row(2, "   plan's own turn", [run.over - run.turn for run in runs]))
        spread = median([run.last - run.first for run in runs])
        findings.notes.append(
            f"(2) {which.services} service(s): first to last node {spread:.0f} ms (median); in each of "
            f"{len(runs)} publishes every node's document was checked: its node, service, target and release."
        )
    return findings


_STEPS = {
    "announced": "the publish transaction is done",
    "turn": "plan has its turn (watch, start, session, lock)",
    "first": "the first node has read it",
    "over": "plan has ended its turn",
}


async def _measured(folder: Path, which: Fleet) -> list[Run]:
    with servers.consul_server(folder / "consul") as consul:
        kv = consul.kv()
        await asyncio.to_thread(_prepare, kv, which)
        with _planner(folder, consul):
            async with _watching(consul, which) as (seen, watchers):
                sequences = range(2, 2 + RUNS + 1)
                runs = [await _publish(kv, seen, watchers, sequence) for sequence in sequences]
        return runs[1:]  # the first one warms the caches of the server and of the file system


def _prepare(kv: KV, which: Fleet) -> None:
    """A fleet that serves its first release, and no planner yet."""
    first = fleet.version(1)
    fleet.write(kv, [Set(keys.META, codec.encode(Meta(environments=("prod",))))])
    fleet.publish(kv, 1)
    fleet.write(kv, list(which.documents(first)))


@contextlib.contextmanager
def _planner(folder: Path, consul: servers.Consul) -> Iterator[Running]:
    """A planner, as a machine runs one."""
    environment = {
        "PATH": path_of_programs(),
        "HYDRA_ROOT": str(folder / "root"),
        "HYDRA_NODE": PLANNER,
        **consul.environment(),
    }
    running = supervised(PLANNER, folder, environment, "--planner")
    try:
        yield running
    finally:
        running.stop()


@contextlib.asynccontextmanager
async def _watching(consul: servers.Consul, which: Fleet) -> AsyncIterator[tuple[Seen, Watchers]]:
    """The queries of all nodes, once the planner has written all that the first release means."""
    seen = Seen(which)
    seen.expect(fleet.version(1))
    watched = [keys.lock("plan"), *(keys.desired(node) for node in which.names)]
    watchers = Watchers(consul.address, consul.token, watched, seen.take)
    await watchers.start()
    try:
        await watchers.until(seen.complete, LIMIT_S)
        yield seen, watchers
    finally:
        await watchers.stop()


async def _publish(kv: KV, seen: Seen, watchers: Watchers, sequence: int) -> Run:
    """One publish to a fleet at rest; raises AssertionError when a node read what is not meant for it."""
    await _until(lambda: seen.resting)
    seen.expect(fleet.version(sequence))
    begin = time.time()
    version = await asyncio.to_thread(fleet.publish, kv, sequence)
    announced = time.time()
    await watchers.until(seen.complete, LIMIT_S)
    await _until(lambda: seen.free is not None)
    for node in seen.fleet.names:
        wrong = seen.fleet.wrong(node, seen.reads[keys.desired(node)].value, version)
        assert not wrong, wrong
    times = [read.at for read in seen.reads.values()]
    moments = (announced, seen.taken or 0.0, min(times), max(times), seen.free or 0.0)
    return Run(*((moment - begin) * 1000 for moment in moments))


async def _until(true: Callable[[], bool]) -> None:
    end = time.time() + LIMIT_S
    while not true():
        if time.time() > end:
            raise TimeoutError(f"not true after {LIMIT_S:g} s")
        await asyncio.sleep(0.05)
