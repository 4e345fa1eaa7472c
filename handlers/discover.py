"""`discover`: keep `nodes/<node>/instances`, `info` and `alive` true. Runs until it is ended.

    Consul catalog + pods + registrations by hand + what was known before  ->  nodes/<node>/instances

Threads block on everything that may change the picture and ring; the one loop then reads it all anew,
decides in `core.discovery`, and writes: first to the local state (reload works from that while Consul is
away), then to the KV. While `meta` is missing, the KV was wiped or never set up, and nothing is written.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping

from handlers import log, pulse
from handlers.adapters.ports import Cas, Listing
from handlers.alive import Alive
from handlers.context import Context, agent_name
from handlers.core import codec, keys
from handlers.core.discovery import Discovery, discover
from handlers.core.errors import Conflict, HydraError, Malformed, Temporary
from handlers.core.model import Instances, NodeInfo, count
from handlers.podwatch import PodReader
from handlers.registers import RETRY_S, Registers
from handlers.runner import Runner, command

_INSTANCES, _NODE = "instances", "discovered-node"


def run(ctx: Context) -> str:
    """Keep the node's documents true until the process is ended; does not return."""
    ring = threading.Event()
    node = Discoverer(ctx, pods=_pods(ctx, ring.set) if ctx.settings.kubernetes else None)
    for read in node.registers.blocks:
        threading.Thread(target=_listen, args=(read, ring), name=read.__name__, daemon=True).start()
    said = ""
    while True:
        ring.clear()
        sentence, wait_s = node.attempt()
        if sentence != said:
            log.info("discover", sentence, node=ctx.node)
            said = sentence
        ring.wait(wait_s)


def _listen(read: Callable[[int], int], ring: threading.Event) -> None:
    """Ring when `read`, which blocks on an index and returns the next one, comes back with another one."""
    index = 0
    while True:
        try:
            fresh = read(index)
        except HydraError:
            index = 0  # so that whatever happened in between rings
            time.sleep(RETRY_S)
            continue
        if fresh != index:
            index = fresh
            ring.set()


def _pods(ctx: Context, ring: Callable[[], None]) -> PodReader:
    """Begin to watch this node's pods."""
    from handlers.adapters.errands import Errands
    from handlers.adapters.mirror import Mirror
    from handlers.adapters.pods import Api, Query, pods_of
    from handlers.adapters.views import Views
    from handlers.home import Home
    from handlers.nodedesk import NodeDesk
    from handlers.poddesk import PodDesk
    from handlers.podwatch import PodWatch, keep_looking

    api = Api()
    itself = Query("v1", "nodes", selectors={"fieldSelector": f"metadata.name={ctx.node}"})
    pods, node = Mirror(api, pods_of(ctx.node), ring), Mirror(api, itself, ring)
    pods.start()
    node.start()
    watch = PodWatch(api, pods, node, Views(ctx.settings.root), ctx.settings.environment, ring)
    keep_looking("pods", watch.look)
    keep_looking("errands", PodDesk(api, pods, Errands(ctx.local)).look)
    if ctx.settings.marks:
        home = Home(ctx.settings.root, ctx.local)
        keep_looking("node", NodeDesk(api, node, home, ctx.settings.marks).look)
    return watch


class Discoverer:
    """The state of one running `discover`: what it knows of the instances, and its session."""

    def __init__(
        self,
        ctx: Context,
        clock: Callable[[], float] = time.monotonic,
        pods: PodReader | None = None,
        reloader: Runner | None = None,
    ) -> None:
        self._ctx, self._kv, self._local, self._clock = ctx, ctx.kv, ctx.local, clock
        self.registers, self._reloader = Registers(ctx, pods), reloader or Runner(("reload",), command)
        self._alive = Alive(ctx.kv, ctx.local, ctx.node, ctx.settings.limits.alive_ttl_s)
        self._known: Discovery | None = None
        self._versions: Mapping[str, str] = {}
        self._warned: tuple[str, ...] = ()

    def attempt(self) -> tuple[str, float]:
        """One round: the sentence for the log, and in how many seconds the next one is due at the latest."""
        try:
            sentence = self.converge()
        except Conflict as e:
            return f"lost a race and reads again ({e})", 0.1
        except HydraError as e:
            self.registers.agent = ""  # when it answers again it may be another version, or have another name
            self._without_consul()
            return f"cannot go on now, nothing is dropped meanwhile: {e}", RETRY_S
        return sentence, self._next_s()

    def converge(self) -> str:
        """Read everything, write what differs; the sentence for the log."""
        if not self.registers.agent:
            self._start()
        if self._kv.get(keys.META)[0] is None:
            return "waits for `hydra init` or a snapshot: the KV has no meta, so it is new or was wiped"
        seen = self.registers.read()
        before, there = self._known or self._remembered(seen.node), seen.node.entries
        after = discover(before, seen.reading, self._clock(), self._ctx.settings.limits.drop_after_s)
        document = self._take(after, (*seen.alarms, *after.alarms))
        info_key, info = keys.info(self._ctx.node), codec.encode(self._info(seen.node))
        if info_key not in there:
            self._write(info_key, info, seen.node)  # first: or the node is planned without its labels
        if self.registers.lost:
            self._alive.end()  # others would wait for pods here that nobody sends traffic to
        elif stranger := self._alive.hold(there.get(keys.alive(self._ctx.node)), self.registers.agent):
            return stranger
        self._write(keys.instances(self._ctx.node), document, seen.node)
        if info_key in there:
            self._write(info_key, info, seen.node)
        return f"knows {count(len(after.instances), 'instance')}, {len(after.missing)} of them missing"

    def _take(self, after: Discovery, alarms: tuple[str, ...]) -> bytes:
        """This is what is known now; the document that says so, which reload reads on this node."""
        self._report(after, alarms)
        document = codec.encode(Instances(instances=after.instances, alarms=alarms))
        self._local.write(_INSTANCES, document)
        self._known = after
        return document

    def _without_consul(self) -> None:
        """What can be seen all the same, of pods and at the node's own agent: a new one gets its view."""
        before = self._known or self._remembered(Listing({}, 0))
        reading = self.registers.read_without_consul()
        after = discover(before, reading, self._clock(), self._ctx.settings.limits.drop_after_s)
        if after.instances.keys() != before.instances.keys():
            self._take(after, after.alarms)
            self._reloader.start()  # no watch of Consul's will

    # --- reading ---

    def _start(self) -> None:
        """Learn who the agent is, and tell when this node has another name than before."""
        said, _ = self._kv.get_json("agent/self")
        name = agent_name(self._kv, self._local)
        self._versions = {"consul": str((said or {}).get("Config", {}).get("Version", ""))} | _own_version()
        before = _text(self._local.read(_NODE))
        if before and before != self._ctx.node:
            self._leave(before)
        self._local.write(_NODE, self._ctx.node.encode())
        self.registers.agent = name

    def _leave(self, before: str) -> None:
        """End the old name's being alive; its documents are for an operator to remove."""
        log.warning(
            "discover",
            f"this node was called {before}; what the KV has of {before} is not taken over, and stays until"
            f" `hydra node forget {before}`",
            node=self._ctx.node,
        )
        self._alive.end()

    def _remembered(self, node: Listing) -> Discovery:
        """What the run before knew: from the disk, or where that was emptied, from the KV."""
        entry = node.entries.get(keys.instances(self._ctx.node))
        for raw in (self._local.read(_INSTANCES), entry.value if entry else None):
            if raw is None:
                continue
            try:
                return Discovery(instances=codec.decode(Instances, raw, "instances known before").instances)
            except Malformed as e:
                log.warning("discover", "cannot read what it wrote before", error=e, node=self._ctx.node)
        return Discovery()

    # --- writing ---

    def _write(self, key: str, value: bytes, node: Listing) -> None:
        """Write where it differs, guarded by what was read; raises `Conflict`."""
        old = node.entries.get(key)
        if old is None or old.value != value:
            self._kv.txn([Cas(key, value, old.index if old else 0)])

    def _info(self, node: Listing) -> NodeInfo:
        return NodeInfo(
            node=self._ctx.node,
            consul_node=self.registers.agent,
            volumes=self._ctx.settings.volumes,
            labels=self._labels(node),
            versions=self._versions,
            health=pulse.read(self._ctx.settings.root),
        )

    def _labels(self, node: Listing) -> Mapping[str, str]:
        """Those of the configuration and of the Kubernetes node; while that cannot be seen, as before.

        Raises `Temporary` where it was never seen: a node without its labels would be planned as another one.
        """
        there: Mapping[str, str] | None = self.registers.pods.reading().labels if self.registers.pods else {}
        entry = node.entries.get(keys.info(self._ctx.node))
        if there is None and entry is None:
            raise Temporary(f"the Kubernetes node {self._ctx.node} cannot be seen yet")
        if there is None and entry is not None:
            with contextlib.suppress(Malformed):
                there = codec.decode(NodeInfo, entry.value, entry.key).labels
        return {**(there or {}), **self._ctx.settings.labels}

    def _report(self, after: Discovery, alarms: tuple[str, ...]) -> None:
        """Log what was dropped, and each set of alarms once."""
        for key in after.dropped:
            log.info("discover", "dropped an instance that is gone", node=self._ctx.node, instance=key)
        if alarms != self._warned:
            for alarm in alarms:
                log.warning("discover", alarm, node=self._ctx.node)
            self._warned = alarms

    def _next_s(self) -> float:
        """Until the session must be renewed, or the first missing instance may be dropped."""
        limits = self._ctx.settings.limits
        missing = self._known.missing.values() if self._known else ()
        due = [since + limits.drop_after_s - self._clock() for since in missing]
        return max(0.1, min([limits.alive_ttl_s / 3, *due]))


def _own_version() -> dict[str, str]:
    from importlib import metadata

    try:
        return {"hydra": metadata.version("hydra-datasets")}
    except metadata.PackageNotFoundError:
        return {}


def _text(raw: bytes | None) -> str:
    return (raw or b"").decode(errors="replace").strip()
