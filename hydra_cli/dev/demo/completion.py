"""A place-name completion service, as any team would write it: it has never heard of Hydra.

All that it knows is a directory, `HYDRA_VIEW`: `$HYDRA_VIEW/<alias>` leads to the datasets to use now, and
`$HYDRA_VIEW/state` holds `ready` while it may take traffic. It imports nothing of this project.

    GET  /complete?q=mun   places whose name begins with `mun`, and the version of each dataset used
    GET  /healthz          200 while the state file says `ready` and data is loaded, else 503
    GET  /version          the version of all three, and of each one
    GET  /stats            how it does with this data: answers so far, places per answer
    POST /reload           open what the view points to now beside what is in use, then swap
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import mmap
import os
import struct
import sys
import threading
import time
import unicodedata
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from keyvi.dictionary import Dictionary

FIRST_LOOK_S = 0.1  # how often an instance without data looks whether there is some
CANDIDATES = 20  # how many completions the index is asked for; it returns some more
RANKING_HEADER = struct.Struct("<8s24sII")  # magic, version, number of places, bytes of text
RANKING_MAGIC = b"RANKING1"


def folded(text: str) -> str:
    """How a name is looked up: without case and accents."""
    parts = unicodedata.normalize("NFKD", text.casefold())
    return "".join(character for character in parts if not unicodedata.combining(character))


class Ranking:
    """The ranking table, mapped into memory: name, country and population by number of place."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._map = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        magic, version, count, text_bytes = RANKING_HEADER.unpack_from(self._map)
        if magic != RANKING_MAGIC:
            raise ValueError(f"{path} is not a ranking table")
        self.version = version.rstrip(b"\0").decode()
        populations = RANKING_HEADER.size
        offsets = populations + 4 * count
        texts = offsets + 4 * (count + 1)
        self._populations = self._map[populations:offsets].cast("I")
        self._offsets = self._map[offsets:texts].cast("I")
        self._texts = self._map[texts : texts + text_bytes]

    def place(self, number: int) -> tuple[str, str, int]:
        """Name, country code and population of one place."""
        text = bytes(self._texts[self._offsets[number] : self._offsets[number + 1]]).decode()
        name, _, country = text.rpartition("\t")
        return name, country, self._populations[number]


class Data:
    """The three datasets of one release, opened together."""

    def __init__(self, link: Path) -> None:
        home = Path(os.path.realpath(link))  # once: from here on a link that is flipped does not concern us
        self.index = Dictionary(str(home / "index" / "places.kv"))
        self.ranking = Ranking(home / "ranking" / "ranking.bin")
        self.settings: dict[str, Any] = json.loads((home / "settings" / "settings.json").read_text())
        self._counting = threading.Lock()
        self._answers = self._places = 0

    def versions(self) -> dict[str, str]:
        """What each of the three files says of itself."""
        index = json.loads(self.index.manifest())["version"]
        return {"index": index, "ranking": self.ranking.version, "settings": self.settings["version"]}

    def complete(self, query: str) -> list[dict[str, Any]]:
        """The places whose name begins with `query`, the most important first."""
        boost: dict[str, float] = self.settings["boost"]
        found = []
        for match in self.index.complete_prefix(folded(query), CANDIDATES):
            name, country, population = self.ranking.place(match.value)
            score = math.log10(population + 1) + boost.get(country, 0.0)
            found.append((score, {"name": name, "country": country, "population": population}))
        found.sort(key=lambda scored: -scored[0])
        chosen = [place for _, place in found[: self.settings["limit"]]]
        with self._counting:
            self._answers, self._places = self._answers + 1, self._places + len(chosen)
        return chosen

    def stats(self) -> dict[str, float]:
        """How it does with this data; without an answer there is nothing to tell of it."""
        with self._counting:
            answers, shown = self._answers, self._places
        return {"answers": answers, **({"places_per_answer": shown / answers} if answers else {})}


class Completion:
    """What the service is using now, and how it changes to something else."""

    def __init__(self, view: Path, alias: str) -> None:
        self._view = view
        self._alias = alias
        self._one_at_a_time = threading.Lock()
        self.data: Data | None = None

    def reload(self) -> dict[str, str]:
        """Open what the view points to, beside what is in use; then swap. Answers go on all the time."""
        with self._one_at_a_time:
            fresh = Data(self._view / self._alias)
            versions = fresh.versions()
            self.data = fresh
        print(f"using {versions}", file=sys.stderr, flush=True)
        return versions

    def wait_for_data(self) -> None:
        """Look until there is something to begin with."""
        while self.data is None:
            try:
                self.reload()
            except (OSError, ValueError):
                time.sleep(FIRST_LOOK_S)

    def trouble(self) -> str:
        """Why no traffic should come here, or nothing."""
        try:
            state = (self._view / "state").read_text().strip()
        except OSError as error:
            return f"no state: {error.strerror}"
        if state != "ready":
            return f"state is {state}"
        return "" if self.data else "no data yet"


class Requests(BaseHTTPRequestHandler):
    """One connection; `completion` is set by `serve`."""

    completion: Completion
    protocol_version = "HTTP/1.1"  # connections stay open between requests
    wbufsize = -1  # header and body in one packet: two would wait for each other's acknowledgement
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Complete a name, or say how things are."""
        url = urlsplit(self.path)
        data = self.completion.data  # one look: the whole answer comes from this release
        if url.path == "/healthz":
            trouble = self.completion.trouble()
            self.answer(503 if trouble else 200, {"trouble": trouble})
        elif url.path not in ("/complete", "/version", "/stats"):
            self.answer(404, {"error": "try /complete?q=, /version, /stats or /healthz"})
        elif data is None:
            self.answer(503, {"error": "no data yet"})
        elif url.path == "/stats":
            self.answer(200, data.stats())
        elif url.path == "/version":
            versions = data.versions()
            self.answer(200, {"version": "/".join(sorted(set(versions.values()))), **versions})
        else:
            query = parse_qs(url.query).get("q", [""])[0]
            self.answer(200, {"places": data.complete(query), "versions": data.versions()})

    def do_POST(self) -> None:
        """Take over what the view shows now."""
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path != "/reload":
            self.answer(404, {"error": "try /reload"})
            return
        try:
            self.answer(200, self.completion.reload())
        except (OSError, ValueError) as error:
            self.answer(500, {"error": str(error)})

    def answer(self, status: int, body: dict[str, Any]) -> None:
        """Send `body` as JSON."""
        content = json.dumps(body, ensure_ascii=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (named by the base class)
        """A line per request would be the most expensive part of answering one."""


class Server(ThreadingHTTPServer):
    """A thread per connection; a burst of new connections is queued, not refused."""

    daemon_threads = True
    request_queue_size = 256


def serve(view: Path, alias: str, port: int) -> None:
    """Answer on 127.0.0.1:`port` until killed."""
    completion = Completion(view, alias)
    threading.Thread(target=completion.wait_for_data, daemon=True).start()
    handler = type("BoundRequests", (Requests,), {"completion": completion})
    Server(("127.0.0.1", port), handler).serve_forever()


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("--port", type=int, required=True)
    arguments.add_argument("--alias", default="places")
    given = arguments.parse_args()
    with contextlib.suppress(PermissionError):
        os.nice(-5)  # a service has a machine that is less busy than one with three nodes on it
    serve(Path(os.environ["HYDRA_VIEW"]), given.alias, given.port)
