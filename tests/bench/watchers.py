"""Blocking queries of many nodes in one asyncio process: who has read what, and when.

One kept-alive connection per key, as every `consul watch` has. The HTTP here knows just what the Consul agent
answers (lengths and chunks); a client library would take most of the processors that are measured.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

WAIT = "300s"


class QueryFailed(Exception):
    """Consul answered a blocking query with another status than 200."""


@dataclass(frozen=True)
class Read:
    """What one blocking query brought: when its last byte was here, index, session, value."""

    at: float
    index: int
    session: str
    value: bytes


@dataclass
class Watchers:
    """One blocking query per key, again and again; every change is passed to `on_read`.

    `on_read` is called in the event loop, so it must be quick.
    """

    address: str
    token: str
    keys: Sequence[str]
    on_read: Callable[[str, Read], None]
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def start(self) -> None:
        """Connect, read all keys once, and leave a query waiting on each."""
        first = [asyncio.Event() for _ in self.keys]
        self._tasks = [
            asyncio.create_task(self._follow(key, event)) for key, event in zip(self.keys, first, strict=True)
        ]
        await self._or_failure(asyncio.create_task(_all(first)))

    async def until(self, event: asyncio.Event, limit_s: float | None = None) -> None:
        """Wait for `event`; raises `TimeoutError` after `limit_s`, or what went wrong with a query."""
        await asyncio.wait_for(self._or_failure(asyncio.create_task(_all([event]))), limit_s)

    async def stop(self) -> None:
        """End all queries."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _or_failure(self, waiting: asyncio.Task[None]) -> None:
        done, _ = await asyncio.wait([waiting, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
        if waiting not in done:
            waiting.cancel()
            next(iter(done)).result()

    async def _follow(self, key: str, first: asyncio.Event) -> None:
        host, _, port = self.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        index = 0
        try:
            while True:
                writer.write(request(key, index, self.address, self.token))
                status, headers, body = await answer(reader)
                if status not in (200, 404):
                    raise QueryFailed(f"{key}: {status} {body.decode(errors='replace')[:200]}")
                index = int(headers["x-consul-index"])
                first.set()
                self.on_read(key, read_of(body))
        finally:
            writer.close()


async def _all(events: Sequence[asyncio.Event]) -> None:
    for event in events:
        await event.wait()


def request(key: str, index: int, host: str, token: str) -> bytes:
    """The query for `key` after `index` (0: at once)."""
    blocking = f"?index={index}&wait={WAIT}" if index else ""
    lines = [
        f"GET /v1/kv/{quote(key)}{blocking} HTTP/1.1",
        f"Host: {host}",
        f"X-Consul-Token: {token}",
        "",
        "",
    ]
    return "\r\n".join(lines).encode()


async def answer(reader: asyncio.StreamReader) -> tuple[int, Mapping[str, str], bytes]:
    """Status, headers (names in small letters) and body of one answer."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    status = int(lines[0].split(" ")[1])
    pairs = (line.partition(":") for line in lines[1:] if line)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    if headers.get("transfer-encoding") != "chunked":
        return status, headers, await reader.readexactly(int(headers.get("content-length", "0")))
    chunks = []
    while size := int((await reader.readline()).split(b";")[0], 16):
        chunks.append((await reader.readexactly(size + 2))[:-2])
    await reader.readexactly(2)
    return status, headers, b"".join(chunks)


def read_of(body: bytes) -> Read:
    """The one entry of Consul's answer, read now; without session and value when there is no such key."""
    at = time.time()
    if not body:
        return Read(at, 0, "", b"")
    (row,) = json.loads(body)
    return Read(at, row["ModifyIndex"], row.get("Session", ""), base64.b64decode(row["Value"] or ""))


def raise_open_files(connections: int) -> None:
    """Let this process hold that many connections; raises OSError where the system does not."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + 256
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))
