"""`python -m tests.chaos`: chaos for some minutes, then the verdict.

Ends with 0 when every promise was kept, else with 1, the seed, and the history of what each breach is about.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from handlers.core.errors import HydraError
from hydra_cli.dev.cluster import Cluster
from hydra_cli.dev.demo.crowd import Crowd
from tests.chaos import events
from tests.chaos.actions import Actions
from tests.chaos.cuts import Cuts
from tests.chaos.events import Event
from tests.chaos.promises import CONVERGED_S, awaited, broken
from tests.chaos.recorder import Recorder
from tests.chaos.schedule import Act, directed, schedule
from tests.chaos.world import Breach
from tests.e2e.scene import Scene, until

NODES = 3
PLACES = ("n1", "n1", "n2", "n3")  # of the first replicas
RATE = 20.0  # requests per second
HISTORY_S = 90.0  # before a breach
MOST_LINES = 150
LIMITS = {"unused_grace_s": 5, "idle_grace_s": 5}
# A client's health view may be a second old, and a request take one.
POLICY = ("--drain-time", "2s", "--deadline", "30s", "--confirm", "http://:/version#version")


def main(arguments: Sequence[str]) -> int:
    """Run; the exit code."""
    parser = argparse.ArgumentParser("python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="the schedule is a function of it  [default: a fresh one]")
    parser.add_argument("--minutes", type=float, default=5.0, help="how long things are done  [default: 5]")
    parser.add_argument("--acts", type=directed, help="these things instead of what the seed says")
    given = parser.parse_args(arguments)
    seed = secrets.randbelow(2**32) if given.seed is None else given.seed
    for name in list(os.environ):  # the Consul and the S3 of whoever runs this are not for chaos
        if name.startswith(("CONSUL_", "AWS_", "HYDRA_")) and name != "HYDRA_CACHE":
            del os.environ[name]
    acts = given.acts or schedule(seed, 60 * given.minutes)
    what = f"{len(acts)} acts" if given.acts else f"seed {seed}, {given.minutes:g} minutes"
    print(f"chaos: {what}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="hydra-chaos-"))
    try:
        seen = _run(folder, acts)
    except BaseException:
        print(f"chaos: seed {seed} could not be finished; logs are in {folder}", flush=True)
        raise
    found = broken(seen)
    _report(seed, folder, seen, found)
    if not found:
        _remove(folder)
    return 1 if found else 0


def _run(folder: Path, acts: Sequence[Act]) -> list[Event]:
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:7.1f} s  {text}", flush=True)

    with Cluster(folder, nodes=NODES, limits=LIMITS) as cluster, Cuts(cluster) as cuts:
        say(f"a node is cut off {cuts.how}")
        scene = Scene(cluster, "chaos")
        roots = {node: cluster.root(node) for node in cluster.nodes}
        recorder = Recorder(cluster.kv, scene.channel, scene.service, scene.space, roots)
        actions = Actions(scene, recorder, cuts, say)
        actions.first_release()
        scene.subscribe(*POLICY)
        actions.start(*PLACES)
        recorder.start()
        until("all replicas are in service", lambda: len(scene.healthy()) >= len(PLACES))
        crowd = Crowd(scene.space, RATE, folder / "requests.csv", cluster.env("reader"), lambda _: None)
        try:
            actions.perform(acts)
            actions.calm()
            _await_convergence(recorder, actions, say)
            recorder.asked(crowd.end())
        finally:
            crowd.kill()
        recorder.stop()
    return recorder.so_far()


def _await_convergence(recorder: Recorder, actions: Actions, say: Callable[[str], None]) -> None:
    began = time.monotonic()
    while (missing := awaited(recorder.so_far())) and time.monotonic() < began + CONVERGED_S + 1:
        actions.recover()
        time.sleep(1)
    say(f"after {time.monotonic() - began:.0f} s: {missing or 'converged'}")


def _report(seed: int, folder: Path, seen: Sequence[Event], found: Sequence[Breach]) -> None:
    kinds = Counter(type(event).__name__ for event in seen)
    requests = [event for event in seen if isinstance(event, events.Asked)]
    failed = sum(bool(request.trouble) for request in requests)
    drains = sum(isinstance(event, events.Shown) and event.word == "draining" for event in seen)
    print(
        f"chaos: {kinds['Did']} things done, {drains} drains, {kinds['Head']} heads, {len(requests)} requests"
        f" ({failed} without a good answer)"
    )
    if not found:
        print(f"chaos: seed {seed}: every promise was kept", flush=True)
        return
    log = folder / "events.jsonl"
    log.write_text("".join(f"{events.as_line(e)}\n" for e in sorted(seen, key=lambda event: event.at)))
    for breach in _first_of_each(found):
        print(f"\nBROKEN: {breach.promise}, at {breach.at:.3f}: {breach.text}")
        objects = breach.objects
        lines = events.history(
            [e for e in seen if not isinstance(e, events.Asked)], objects, breach.at - HISTORY_S, breach.at
        )
        print("\n".join(sorted(lines)[-MOST_LINES:]))
    print(f"\nchaos: seed {seed}: {len(found)} breaches; all events are in {log}", flush=True)


def _first_of_each(found: Sequence[Breach]) -> list[Breach]:
    firsts: dict[str, Breach] = {}
    for breach in found:
        firsts.setdefault(breach.promise, breach)
    return list(firsts.values())


def _remove(folder: Path) -> None:
    """Complete data is read-only, folders too."""
    for path, _, _ in os.walk(folder):
        Path(path).chmod(0o755)
    shutil.rmtree(folder)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except HydraError as e:
        sys.exit(f"chaos: {e}")
