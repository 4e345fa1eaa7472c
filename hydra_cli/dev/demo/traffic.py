"""The traffic client: a fixed rate of requests at the completion service, whatever happens to it.

A program of its own (`python -m hydra_cli.dev.demo.traffic`), so that nothing the demo does slows it
down. It finds replicas as any client would, by the Consul health API, and is unforgiving: the rate is
kept open-loop (what is due is sent, however many answers are outstanding), nothing is tried twice, an
answer has one second, and the health view that chooses the replica was confirmed by Consul at most one
second ago. Every request becomes a row of the log; a line of JSON with the sums so far goes to stdout
four times a second. It ends when its stdin does, so it never outlives the demo.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import csv
import http.client
import json
import os
import random
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import urlsplit

LIMIT_S = 1.0  # for one request, from sending to the last byte, unless told otherwise
VIEW_AGE_S = 1.0  # the oldest health view that may choose a replica
HELD_MS = 400  # how long Consul may hold a question about health when nothing changes
LATE_SEND_S = 0.1  # a request sent this long after it was due is counted as a late send
REPORT_S = 0.25
FIELDS = ("due", "sent", "done", "replica", "trouble", "index", "ranking", "settings")
NAMES = ["shanghai", "beijing", "istanbul", "moscow", "tokyo", "lagos", "delhi", "london", "madrid"]
QUERIES = tuple(
    name[:length] for name in NAMES for length in (3, 4, 5)
)  # in every release there is a place for each


@dataclass(frozen=True)
class Replica:
    """A replica that Consul says is in service."""

    id: str
    address: tuple[str, int]


@dataclass(frozen=True)
class HealthView:
    """Who is in service, and when Consul said so (monotonic seconds)."""

    replicas: tuple[Replica, ...] = ()
    confirmed: float = float("-inf")

    @property
    def age_s(self) -> float:
        """How old it is now."""
        return time.monotonic() - self.confirmed


class Health:
    """Keeps the health view fresh from a thread, by blocking queries: a change comes at once."""

    def __init__(self, address: str, token: str, service: str) -> None:
        url = urlsplit(address if "//" in address else f"//{address}")
        self._target = (url.hostname or "127.0.0.1", url.port or 8500)
        self._headers = {"X-Consul-Token": token} if token else {}
        self._path = f"/v1/health/service/{service}?passing&wait={HELD_MS}ms&index="
        self.view = HealthView()
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        while True:
            connection = http.client.HTTPConnection(*self._target, timeout=5 + HELD_MS / 1000)
            try:
                self._ask_for_ever(connection)
            except (OSError, http.client.HTTPException, ValueError):
                time.sleep(0.05)  # Consul is away: the view grows old, which the requests notice
            finally:
                connection.close()

    def _ask_for_ever(self, connection: http.client.HTTPConnection) -> None:
        index = "0"
        while True:
            connection.request("GET", self._path + index, headers=self._headers)
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 200:
                raise ValueError(f"Consul answered {answer.status}")
            found = (row["Service"] for row in json.loads(body))
            replicas = tuple(Replica(s["ID"], (s["Address"] or "127.0.0.1", s["Port"])) for s in found)
            self.view = HealthView(replicas, time.monotonic())
            index = answer.headers.get("X-Consul-Index", "0")


class Failed(Exception):
    """A request was not answered as it should be; the text is the reason in the log."""


class Connection:
    """One open HTTP/1.1 connection; used for one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, address: tuple[str, int]) -> Connection:
        """Connect; raises OSError."""
        return cls(*await asyncio.open_connection(*address))

    async def get(self, path: str) -> tuple[int, bytes]:
        """Status and body; raises OSError, EOFError and ValueError."""
        self._writer.write(f"GET {path} HTTP/1.1\r\nHost: completion\r\n\r\n".encode())
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        return int(head[0].split()[1]), await self._reader.readexactly(int(fields["content-length"]))

    def close(self) -> None:
        """Let go of it."""
        self._writer.close()


@dataclass
class Sums:
    """What happened so far; goes to the demo as JSON."""

    answered: int = 0
    failed: int = 0
    mixed: int = 0
    late_sends: int = 0
    oldest_view_s: float = 0.0
    fewest: int | None = None  # replicas in a health view that was used
    reasons: Counter[str] = field(default_factory=Counter)
    serves: dict[str, str] = field(default_factory=dict)  # by replica: the version that it answered with last

    def report(self, view: HealthView) -> dict[str, Any]:
        """The sums, and who is in service now."""
        return {**vars(self), "passing": sorted(replica.id for replica in view.replicas), "at": time.time()}


class Traffic:
    """Sends requests and writes down what became of them."""

    def __init__(self, health: Health, log: TextIO, limit_s: float) -> None:
        self._health, self._limit_s = health, limit_s
        self._rows = csv.DictWriter(log, FIELDS)
        self._rows.writeheader()
        self._idle: dict[tuple[str, int], list[Connection]] = {}
        self._dice = random.Random(20191215)
        self.sums = Sums()

    async def request(self, due: float) -> None:
        """One request that is due now (epoch seconds); it never raises, and it is never repeated."""
        row: dict[str, Any] = {"due": due, "sent": time.time(), "replica": "", "trouble": ""}
        self.sums.late_sends += row["sent"] - due > LATE_SEND_S
        try:
            async with asyncio.timeout(self._limit_s):
                versions = await self._answer(row)
        except TimeoutError:
            row["trouble"] = "no answer in time"
        except (Failed, OSError, EOFError, ValueError, KeyError) as error:
            row["trouble"] = str(error) or type(error).__name__
        else:
            row.update(versions)
            self._count_answer(row["replica"], versions)
        row["done"] = time.time()
        if row["trouble"]:
            self.sums.failed += 1
            self.sums.reasons[row["trouble"]] += 1
        self._rows.writerow(row)

    async def _answer(self, row: dict[str, Any]) -> dict[str, str]:
        """The versions in the answer of a replica chosen by chance; raises when it is no good answer."""
        replica = await self._choose()
        row.update(replica=replica.id, sent=time.time())
        idle = self._idle.setdefault(replica.address, [])
        connection = idle.pop() if idle else await Connection.open(replica.address)
        try:
            status, body = await connection.get(f"/complete?q={self._dice.choice(QUERIES)}")
        except BaseException:
            connection.close()  # the rest of an answer may still come: nobody else may read it
            raise
        idle.append(connection)
        if status != 200:
            raise Failed(f"status {status}")
        answer = json.loads(body)
        if not answer["places"]:
            raise Failed("an answer without places")
        return {name: str(answer["versions"][name]) for name in ("index", "ranking", "settings")}

    async def _choose(self) -> Replica:
        """A replica in service; waits for a health view that is fresh enough."""
        while (view := self._health.view).age_s > VIEW_AGE_S:  # noqa: ASYNC110 (a thread makes it fresh)
            await asyncio.sleep(0.005)
        known = len(view.replicas)
        self.sums.fewest = known if self.sums.fewest is None else min(self.sums.fewest, known)
        self.sums.oldest_view_s = max(self.sums.oldest_view_s, view.age_s)
        if not view.replicas:
            raise Failed("no replica in service")
        return self._dice.choice(view.replicas)

    def _count_answer(self, replica: str, versions: dict[str, str]) -> None:
        self.sums.answered += 1
        self.sums.mixed += len(set(versions.values())) > 1
        self.sums.serves[replica] = versions["index"]


async def run(traffic: Traffic, health: Health, rate: float) -> None:
    """Keep the rate until stdin ends, then wait for what is outstanding."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    threading.Thread(
        target=lambda: (sys.stdin.read(), loop.call_soon_threadsafe(ended.set)), daemon=True
    ).start()
    reporter = asyncio.create_task(report(traffic, health))
    outstanding: set[asyncio.Task[None]] = set()
    start, sent = time.time(), 0
    while not ended.is_set():
        while (due := start + sent / rate) <= time.time():
            task = asyncio.create_task(traffic.request(due))
            outstanding.add(task)
            task.add_done_callback(outstanding.discard)
            sent += 1
        await asyncio.sleep(max(0.0, due - time.time()))
    if outstanding:
        await asyncio.wait(outstanding)
    reporter.cancel()
    tell(traffic, health)


async def report(traffic: Traffic, health: Health) -> None:
    """Tell the demo how it goes."""
    while True:
        tell(traffic, health)
        await asyncio.sleep(REPORT_S)


def tell(traffic: Traffic, health: Health) -> None:
    """One line of JSON."""
    print(json.dumps(traffic.sums.report(health.view)), flush=True)


def main() -> None:
    """Read the command line; Consul's address and token come from the environment."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("--service", required=True, help="name in the Consul catalog")
    arguments.add_argument("--rate", type=float, default=220.0, help="requests per second")
    arguments.add_argument("--limit", type=float, default=LIMIT_S, help="seconds for one request")
    arguments.add_argument("--log", type=Path, required=True, help="CSV file with a row per request")
    given = arguments.parse_args()
    with contextlib.suppress(PermissionError):
        os.nice(-5)  # a measuring instrument that has to wait for a processor measures that
    health = Health(
        os.environ.get("CONSUL_HTTP_ADDR", "127.0.0.1:8500"),
        os.environ.get("CONSUL_HTTP_TOKEN", ""),
        given.service,
    )
    with given.log.open("w", newline="", buffering=1 << 16) as log:
        asyncio.run(run(Traffic(health, log, given.limit), health, given.rate))


if __name__ == "__main__":
    main()
