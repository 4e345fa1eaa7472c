"""Does to a real cluster what the schedule says, by the means of people, platforms and bad luck."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from operator import itemgetter
from typing import TypeVar

from handlers.core.errors import HydraError
from handlers.core.version import Version
from hydra_cli.dev import processes
from hydra_cli.dev.access import PLANNER_NODE
from hydra_cli.dev.demo.harm import wipe
from hydra_cli.dev.demo.sight import Replica
from hydra_cli.dev.processes import Process
from tests.chaos.catalog import AGREES_S, disputed
from tests.chaos.cuts import Cuts
from tests.chaos.promises import RECOVER, STOP
from tests.chaos.recorder import Recorder
from tests.chaos.schedule import ORDERS, Act, Kind
from tests.chaos.victims import command_of, found_in, is_handler, is_program, is_reader, is_template, whose
from tests.chaos.world import RESTORED
from tests.e2e.scene import Scene, until

FIRST = datetime(2026, 1, 1, tzinfo=UTC)
BUDGETS = (
    ("--max-unavailable", "1"),
    ("--max-unavailable", "2"),
    ("--max-unavailable", "50%"),
    ("--max-unavailable", "0"),
    ("--min-available", "1"),
    ("--min-available", "60%"),
)
FEWEST, MOST = 3, 6  # replicas
RUNS_S = 2.0  # how long to wait for a handler that runs
PATIENCE_S = 10.0  # of somebody who is about to type a command
Undo = Callable[[], None]
T = TypeVar("T")


class Actions:
    """`scene` has its service; `say` gets a line for each thing that is done."""

    def __init__(self, scene: Scene, recorder: Recorder, cuts: Cuts, say: Callable[[str], None]) -> None:
        self._scene, self._cluster, self._recorder, self._say = scene, scene.cluster, recorder, say
        self._cuts = cuts
        self._published: list[Version] = []
        self._snapshot, self._restored = b"", False
        self._ill: set[str] = set()  # nodes that nobody can work on now
        self._doings: Mapping[Kind, Callable[[Act], Undo | None]] = {
            Kind.PUBLISH: self._publish,
            Kind.PUBLISH_SICK: lambda act: self._publish(act, sick=True),
            Kind.ROLLBACK: lambda _: self._hydra("rollback", scene.channel),
            Kind.PIN: self._pin,
            Kind.UNPIN: lambda _: self._hydra("unpin", f"channel/{scene.channel}"),
            Kind.BUDGET: lambda act: self._hydra("subscribe", scene.service, *_chosen(BUDGETS, act)),
            Kind.PAUSE: lambda _: self._hydra("rollout", "pause", scene.service),
            Kind.RESUME: lambda _: self._hydra("rollout", "resume", scene.service),
            Kind.ADD: self._add,
            Kind.REMOVE: self._remove,
            Kind.KILL_HANDLER: lambda act: self._kill(act, self._handlers(RUNS_S)),
            Kind.KILL_PROGRAM: lambda act: self._kill(act, self._all(is_program)),
            Kind.KILL_TEMPLATE: lambda act: self._kill(act, self._all(is_template)),
            Kind.KILL_SERVICE: lambda act: self._kill(act, self._all(is_reader)),
            Kind.FREEZE_HANDLER: lambda act: self._freeze_one(act, self._handlers(RUNS_S)),
            Kind.FREEZE_TEMPLATE: lambda act: self._freeze_one(act, self._all(is_template)),
            Kind.FREEZE_SERVICE: lambda act: self._freeze_one(act, self._all(is_reader)),
            Kind.FREEZE_PLANNER: lambda _: self._freeze(PLANNER_NODE, self._of_node(PLANNER_NODE)),
            Kind.FREEZE_CONSUL: lambda _: self._freeze("the server", self._server()),
            Kind.KILL_CONSUL: self._kill_consul,
            Kind.PARTITION: self._partition,
            Kind.KILL_AGENT: self._kill_agent,
            Kind.KILL_NODE: self._kill_node,
            Kind.WIPE: self._wipe,
            Kind.RESTORE: self._restore,
        }

    def perform(self, acts: Sequence[Act]) -> None:
        """Do all at their times, or as soon after as the one before is done, and end them all.

        What people do, they do one after the other, while misfortunes go on; what is overdue they leave, so
        that a slow machine makes fewer things happen, and no longer runs.
        """
        self._snapshot = self._cluster.snapshot()
        began = time.monotonic()
        undos: list[tuple[float, Undo]] = []
        orders: list[Future[object]] = []
        with ThreadPoolExecutor(1, "people") as people:
            for act in acts:
                undos = self._end_due(undos, began + act.at_s)
                _sleep_until(began + act.at_s)
                if act.kind in ORDERS:
                    orders.append(people.submit(self._do_unless_late, act, began))
                elif undo := self._do(act):
                    undos = sorted([*undos, (time.monotonic() + act.lasts_s, undo)], key=itemgetter(0))
            self._end_due(undos, float("inf"))
        for order in orders:
            order.result()  # raises what nobody expected

    def _end_due(self, undos: list[tuple[float, Undo]], until_s: float) -> list[tuple[float, Undo]]:
        """End what is to be ended by then, or is overdue; the rest."""
        while undos and undos[0][0] <= max(until_s, time.monotonic()):
            (due, undo), *undos = undos
            _sleep_until(due)
            undo()
        return undos

    def first_release(self) -> None:
        """Publish what the service begins with."""
        self._scene.publish(self._next())

    def start(self, *nodes: str) -> None:
        """Start one replica on each, and let it be seen; also where telling Consul of it fails."""
        known = list(self._scene.replicas)
        try:
            self._scene.start(*nodes, by_hand=False)
        finally:
            fresh = [r for r in self._scene.replicas if r not in known]
            for replica in fresh:
                self._cuts.reach(replica)
            self._recorder.watch(fresh)

    def calm(self) -> None:
        """Take back all orders, and publish a good release; from then on, a minute counts.

        A restore is over when Consul's catalog, which was restored too, is right again.
        """
        scene = self._scene
        # 2: there is none
        until("the pin is gone", partial(self._orderly, "unpin", f"channel/{scene.channel}", codes=(0, 2)))
        until("rollouts go on", partial(self._orderly, "rollout", "resume", scene.service))
        until("the budget is 1", partial(self._orderly, "subscribe", scene.service, *BUDGETS[0]))
        for replica in scene.replicas:
            until(f"{replica.id} is registered", partial(self._registered, replica))
        until("the catalog is what the agents know", self._catalog_is_right, AGREES_S)
        until("a good release is published", self._published_well)
        self._recorder.did(STOP)

    # --- doing

    def _do_unless_late(self, act: Act, began: float) -> None:
        if time.monotonic() <= began + act.at_s + PATIENCE_S:
            self._do(act)

    def _do(self, act: Act) -> Undo | None:
        try:
            return self._doings[act.kind](act)
        except (AssertionError, HydraError, OSError) as e:
            # with Consul away or a node dead, a command fails: that is how it should be
            self._note(act.kind, "", f"failed: {str(e).strip().splitlines()[-1]}")
            return None

    def _note(self, what: str, whom: str = "", said: str = "") -> None:
        self._recorder.did(what, whom, said)
        self._say(" ".join(filter(None, (what, whom, said))))

    def _hydra(self, *words: str) -> None:
        self._note(" ".join(words[:2]), "", " ".join(words[2:]))
        self._scene.hydra(*words)

    def _orderly(self, *words: str, codes: Sequence[int] = (0,)) -> bool:
        """The command ended with one of `codes`."""
        for code in codes:
            with contextlib.suppress(AssertionError):
                self._scene.hydra(*words, code=code)
                return True
        return False

    # --- people

    def _next(self) -> Version:
        self._published.append(Version.of(FIRST + timedelta(hours=len(self._published))))
        return self._published[-1]

    def _publish(self, act: Act, *, sick: bool = False) -> None:
        if act.pick < 0.3:
            self._snapshot = self._cluster.snapshot()
        version = self._next()
        self._note(act.kind, "", version)
        self._scene.publish(version, **({"sick": True} if sick else {}))

    def _published_well(self) -> bool:
        with contextlib.suppress(AssertionError):
            version = self._next()
            self._scene.publish(version)
            self._note(Kind.PUBLISH, "", version)
            return True
        return False

    def _pin(self, act: Act) -> None:
        version = _chosen(self._published[-3:], act)
        self._hydra("pin", f"channel/{self._scene.channel}", version)

    def _add(self, act: Act) -> None:
        if len(self._scene.replicas) < MOST and (nodes := self._well()):
            node = _chosen(nodes, act)
            self._note(act.kind, node)
            self.start(node)

    def _remove(self, act: Act) -> None:
        replicas = [replica for replica in self._scene.replicas if replica.node not in self._ill]
        if len(self._scene.replicas) > FEWEST and replicas:
            replica = _chosen(replicas, act)
            self._note(act.kind, replica.id)
            self._scene.remove(replica)

    def _registered(self, replica: Replica) -> bool:
        with contextlib.suppress(HydraError):
            self._scene.register(replica, by_hand=False)
            return True
        return False

    def _catalog_is_right(self) -> bool:
        with contextlib.suppress(HydraError):
            return not disputed(self._cluster, self._scene.space)
        return False

    def _well(self) -> list[str]:
        return [node for node in self._cluster.nodes if node not in self._ill]

    # --- processes

    def _kill(self, act: Act, found: Sequence[Process]) -> None:
        if found:
            process = _chosen(found, act)
            self._note(act.kind, whose(process), command_of(process))
            process.send(signal.SIGKILL)

    def _freeze_one(self, act: Act, found: Sequence[Process]) -> Undo | None:
        if not found:
            return None
        process = _chosen(found, act)
        return self._freeze(command_of(process), [process])

    def _freeze(self, what: str, found: Sequence[Process]) -> Undo:
        whom = whose(found[0]) if found else ""
        self._note("freeze", whom, what)
        for process in found:
            process.send(signal.SIGSTOP)

        def thaw() -> None:
            for process in found:
                process.send(signal.SIGCONT)
            self._note("continue", whom, what)

        return thaw

    def _server(self) -> list[Process]:
        running = self._cluster._backbone._server_runs
        assert running
        return [process for process in [processes.find(running.process.pid)] if process]

    def _kill_consul(self, act: Act) -> Undo:
        self._note(act.kind)
        self._cluster.stop_server(kill=True)

        def again() -> None:
            self._cluster.start_server()
            self._note("start the Consul server")

        return again

    def _all(self, wanted: Callable[[list[bytes]], bool]) -> list[Process]:
        return found_in(self._cluster, wanted)

    def _handlers(self, wait_s: float) -> list[Process]:
        end = time.monotonic() + wait_s
        while not (found := self._all(is_handler)) and time.monotonic() < end:
            time.sleep(0.05)
        return found

    def _of_node(self, node: str) -> list[Process]:
        return [p for p in self._all(bool) if whose(p) == node]

    # --- nodes

    def _partition(self, act: Act) -> Undo:
        node = _chosen(self._cluster.nodes, act)
        self._ill.add(node)
        self._note(act.kind, node)
        block = contextlib.ExitStack()
        block.enter_context(self._cuts.cut_off(node))

        def again() -> None:
            block.close()
            self._note("connect a node", node)
            self._ill.discard(node)

        return again

    def _kill_agent(self, act: Act) -> Undo:
        node = self._cluster.node(_chosen(self._cluster.nodes, act))
        self._ill.add(node.name)
        self._note(act.kind, node.name)
        node.running[1].kill()

        def again() -> None:
            node.start_agent()
            self._note("start an agent", node.name)
            self._ill.discard(node.name)

        return again

    def _kill_node(self, act: Act) -> Undo:
        node = _chosen(self._cluster.nodes, act)
        self._ill.add(node)
        self._note(act.kind, node)
        self._cluster.kill_node(node)

        def again() -> None:
            self._note("start a node", node)
            self._cluster.start_node(node)
            self._ill.discard(node)

        return again

    def _wipe(self, act: Act) -> None:
        node = _chosen(self._well(), act)
        self._note(act.kind, node)
        wipe(self._cluster.root(node), ["disk", "ram"])

    # --- the KV

    def _restore(self, act: Act) -> Undo:
        self._note(act.kind)
        try:
            self._cluster.restore(self._snapshot)
        finally:
            self._recorder.did(RESTORED)
            self._recorder.look()
        self._restored = True
        return self.recover

    def recover(self) -> None:
        """Say that a restored KV counts, as an operator who looks whether nodes hold off: again and again.

        A node may be back, and say what it knows, only after this was said for the others.
        """
        if self._restored and self._orderly("recover", codes=(3,)):
            self._note(RECOVER)
            self._orderly("recover", "--yes")


def _chosen(among: Sequence[T], act: Act) -> T:
    return among[int(act.pick * len(among))]


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))
