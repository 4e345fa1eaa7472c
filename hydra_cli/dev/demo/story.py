"""The story of the demo, scene by scene; each waits for what it shows, never for a time to pass."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from handlers.core.model import Ready
from hydra_cli.dev.demo import figures, traffic
from hydra_cli.dev.demo.editions import EDITIONS, Edition
from hydra_cli.dev.demo.figures import Figures, Request, Times
from hydra_cli.dev.demo.harm import kill_download, refilled, wipe
from hydra_cli.dev.demo.show import Show
from hydra_cli.dev.demo.stage import BALLAST_FILES, CANARY, CHANNEL, RATE, SERVICE, SUBSCRIPTION, Stage
from hydra_cli.output import size

FIRST, SECOND, BROKEN, LAST = EDITIONS
LIMIT_S = 120.0  # for anything that a scene waits for
CALM_S = 1  # of traffic before anything changes
MOVES = 3  # of each replica: second release, back, last release
CANARY_MOVES = 2  # of one replica: to the broken release, and back


class Story:
    """Tells it once, on a stage that is set up by `begin` and taken down by whoever made it."""

    def __init__(self, stage: Stage, show: Show) -> None:
        self._stage, self._show = stage, show

    def tell(self) -> Figures:
        """All scenes; raises `HydraError` when something that belongs to the story did not happen."""
        self._cluster()
        self._first_release()
        self._service()
        self._second_release()
        self._rollback()
        self._canary()
        self._killed_download()
        self._wiped_node()
        return self._measured()

    def _cluster(self) -> None:
        self._show.scene("three nodes, each with Consul, supervisord and Hydra's handlers; an S3 server")
        self._stage.up()
        self._world = self._stage.world
        self._show.look_at(self._world)
        self._show.note(f"Consul's UI is at {self._stage.ui}")
        self._hydra("init", "--env", CHANNEL.env)

    def _first_release(self) -> None:
        self._show.scene(f"publish: {FIRST.title}, an index, a ranking table and a configuration file")
        self._publish(FIRST)

    def _service(self) -> None:
        self._show.scene("a service in four replicas, which knows nothing of all this but its view")
        self._stage.start_replicas()
        for replica in self._world.replicas:
            self._show.note(f"{replica.id} on {replica.node} waits for data")
        begin = time.time()
        self._hydra("subscribe", *SUBSCRIPTION)
        self._wait("all nodes hold the first release", lambda: self._all_hold(FIRST))
        self._note_since(begin, "all nodes are filled")
        replicas = len(self._world.replicas)
        self._wait("all replicas are in service", lambda: self._stage.in_service() == replicas)
        self._note_since(begin, "all replicas are in service")
        self._stage.start_traffic()
        self._show.note(f"from now on {RATE} requests/s, none of them tried twice")
        self._wait("all replicas answer from the first release", lambda: self._all_answer(FIRST))
        self._stage.upload_ballast(LAST)
        enough = RATE * CALM_S
        self._wait(f"{enough} answers", lambda: self._world.seen.traffic["answered"] >= enough)

    def _second_release(self) -> None:
        self._show.scene(f"second release: {SECOND.title}; one replica at a time")
        self._publish(SECOND)
        self._follow_moves(SECOND, since=self._world.seen.heads[SECOND.version])

    def _rollback(self) -> None:
        self._show.scene("rollback: the second release is rejected, the first one is still on all nodes")
        self._hydra("rollback", CHANNEL, "--reason", "too many villages")
        self._wait("the rejection is in Consul", lambda: SECOND.version in self._world.seen.rejected)
        self._follow_moves(FIRST, since=self._world.seen.rejected[SECOND.version])

    def _canary(self) -> None:
        self._show.scene(f"third release, a broken one: {BROKEN.title}; one replica tries it first")
        self._hydra("subscribe", SERVICE, *CANARY)
        self._publish(BROKEN)
        self._wait("the canary is found bad", lambda: BROKEN.version in self._world.seen.bad)
        found = self._world.seen.bad[BROKEN.version]
        self._show.note(f"the canary is bad: {self._world.seen.why_bad[BROKEN.version]}")
        self._wait("the canary is back", lambda: self._all_run(FIRST) and self._all_answer(FIRST))
        self._note_since(found, "all replicas answer from the proven release")

    def _killed_download(self) -> None:
        node = self._stage.nodes[1]
        root = self._stage.root(node)
        self._show.scene(f"fourth release: {LAST.title}; kill -9 in mid-download on {node}")
        self._publish(LAST, ballast=True)
        hit = kill_download(root, CHANNEL, LAST.version, BALLAST_FILES // 4, LIMIT_S)
        self._show.note(f"$ kill -9 {hit.pid}   ({hit.program}, {size(hit.bytes)} of the release on disk)")
        self._wait(f"{node} holds the fourth release", lambda: self._world.holds(node, LAST.version))
        kept = hit.kept(root, CHANNEL, LAST.version)
        self._show.note(f"the next run kept {size(kept)} in finished files and fetched the rest")
        self._follow_moves(LAST, since=self._world.seen.heads[LAST.version])

    def _wiped_node(self) -> None:
        node = self._stage.nodes[2]
        root, volumes = self._stage.root(node), self._stage.disks(node)
        self._show.scene(f"all data of {node} is deleted under its running replica")
        begin = self._wiped_at = time.time()
        lost = wipe(root, volumes)
        self._show.note(f"{len(lost)} files with {size(sum(lost.values()))} are gone; its replica goes on")
        wanted = self._world.wanted_on(node)
        self._wait(f"{node} is filled again", lambda: refilled(root, volumes, lost, wanted))
        self._wait(f"{node} says so", lambda: self._world.holds(node, LAST.version))
        self._note_since(begin, "filled again")
        self._wait("all replicas answer from the fourth release", lambda: self._all_answer(LAST))

    def _measured(self) -> Figures:
        self._show.scene("the traffic ends")
        requests = self._stage.stop_traffic()
        seen = self._world.seen
        moves = figures.outages(seen.marks)
        typical_s, slow_s = figures.percentiles(requests)
        return Figures(
            requests=len(requests),
            rate=figures.rate(requests),
            failed=sum(bool(request.trouble) for request in requests),
            mixed=sum(request.mixed for request in requests),
            # a drain is as long as requests may take that are answered in time by default
            late=len(figures.late((r for r in requests if r.done - r.sent <= traffic.LIMIT_S), moves)),
            # after the wipe its replica may load the same release once more, when that is in memory again
            moves=sum(move.flipped < self._wiped_at for move in moves),
            moves_due=MOVES * len(self._world.replicas) + CANARY_MOVES,
            tried=len(figures.answering(requests, BROKEN.version)),
            most_out=seen.most_out,
            fewest_in_service=seen.traffic["fewest"] or 0,
            late_sends=seen.traffic["late_sends"],
            oldest_view_s=seen.traffic["oldest_view_s"],
            typical_s=typical_s,
            slow_s=slow_s,
            spans=figures.spans(self._times(requests)),
            reasons=Counter(request.trouble for request in requests if request.trouble),
        )

    def _times(self, requests: list[Request]) -> Times:
        seen, names = self._world.seen, [replica.id for replica in self._world.replicas]
        published, rejected = seen.heads[SECOND.version], seen.rejected[SECOND.version]
        arrivals = seen.first_bytes.get(SECOND.version, {}).values()
        drains = (m.at for m in seen.marks if m.what == Ready.DRAINING and m.at > rejected)
        return Times(
            published=published,
            first_byte=min(arrivals, default=None),
            all_serving=figures.all_serving(requests, names, SECOND.version, published),
            rejected=rejected,
            first_drain=min(drains, default=None),
            found_bad=seen.bad.get(BROKEN.version),
            last_from_it=figures.last_from(requests, BROKEN.version),
            all_back=figures.all_serving(requests, names, FIRST.version, rejected),
        )

    def _publish(self, edition: Edition, *, ballast: bool = False) -> None:
        self._stage.upload(edition)
        template = self._stage.template(ballast=ballast)
        where = ("--env", CHANNEL.env, "-n", CHANNEL.namespace, "--release", CHANNEL.name)
        self._hydra("publish", str(template), *where)
        self._wait("the head is in Consul", lambda: edition.version in self._world.seen.heads)

    def _hydra(self, *words: str) -> None:
        """Run a command as a person would; show it, and the first line of what it said."""
        self._show.note(f"$ hydra {' '.join(words)}")
        self._show.note(f"  {self._stage.hydra(*words).strip().partition(chr(10))[0]}")

    def _follow_moves(self, edition: Edition, since: float) -> None:
        """Wait until all replicas are in service and answer from the edition; say who did when."""
        waiting = list(self._world.replicas)
        while waiting:
            self._wait(
                f"{', '.join(r.id for r in waiting)} should answer from {edition.version}",
                lambda: any(self._world.answers(r, edition.version) for r in waiting),
            )
            for replica in [r for r in waiting if self._world.answers(r, edition.version)]:
                waiting.remove(replica)
                self._note_since(since, f"{replica.id} on {replica.node} answers from {edition.version}")
        self._wait("nobody is on the way any more", lambda: self._all_run(edition))

    def _all_hold(self, edition: Edition) -> bool:
        return all(self._world.holds(node, edition.version) for node in self._stage.nodes)

    def _all_run(self, edition: Edition) -> bool:
        return all(self._world.runs(replica, edition.version) for replica in self._world.replicas)

    def _all_answer(self, edition: Edition) -> bool:
        return all(self._world.answers(replica, edition.version) for replica in self._world.replicas)

    def _wait(self, what: str, condition: Callable[[], object]) -> None:
        self._world.wait(what, condition, LIMIT_S)

    def _note_since(self, begin: float, text: str) -> None:
        self._show.note(f"{text} after {time.time() - begin:.1f} s")
