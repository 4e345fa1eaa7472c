"""A service for tests: it answers from what its view shows, and can be made to fail by the data itself.

It knows nothing of Hydra but its view (`HYDRA_VIEW`) and imports nothing of this project. Each dataset is one
file `value.json` with the version that it belongs to; the one of `settings` also says how this release fares:

    sick      its health check fails
    errors    the number that GET /stats says; without it there is no traffic to tell of
    refuse    the text of a 500 that its reload ends with
    slow_s    how long its reload takes
    settle_s  how long after that it is not in service and does not confirm
    loads_by  a file: its reload goes on until this is there
    settles_by  a file: until this is there, it is not in service and does not confirm

SIGUSR1 makes the service sick until it loads something else.

    GET  /complete    the version of each dataset that this answer is made of
    GET  /healthz     200 while the state file says `ready` and the data is well, else 503
    GET  /metrics     what /stats says, for Prometheus
    GET  /stats       how it does with this release, as its own measurements say
    GET  /version     the same versions, and one for all; how often and in which process it was loaded
    POST /reload      load what the view points to now (so does SIGHUP)
"""

from __future__ import annotations

import argparse
import contextlib
import json
import mmap
import os
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

DATASETS = ("index", "ranking", "settings")
LOOK_S = 0.05


class Refused(Exception):
    """The data says that it cannot be loaded."""


class Data:
    """One release as it was loaded. Its files stay mapped for as long as it is in use."""

    def __init__(self, link: Path) -> None:
        home = Path(os.path.realpath(link))  # once: a view that is flipped meanwhile does not mix releases
        self.home = home
        self._maps = [_mapped(home / name / "value.json") for name in DATASETS]
        values = [json.loads(m[:]) for m in self._maps]
        self.versions = {name: value["version"] for name, value in zip(DATASETS, values, strict=True)}
        self.fares: dict[str, Any] = values[-1]
        time.sleep(self.fares.get("slow_s", 0))
        while not self._is_open("loads_by"):
            time.sleep(LOOK_S)
        self._settled_at = time.monotonic() + self.fares.get("settle_s", 0)
        if "refuse" in self.fares:
            raise Refused(self.fares["refuse"])

    @property
    def settled(self) -> bool:
        """It has had the time that it takes."""
        return bool(time.monotonic() >= self._settled_at) and self._is_open("settles_by")

    def _is_open(self, name: str) -> bool:
        return name not in self.fares or Path(self.fares[name]).exists()


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


class Reader:
    """What the service is using now."""

    def __init__(self, view: Path, alias: str) -> None:
        self.view, self.alias = view, alias
        self.data: Data | None = None
        self.loads = 0
        self._one_at_a_time = threading.Lock()

    def load(self) -> None:
        """Load what the view points to beside what is in use, then swap."""
        with self._one_at_a_time:
            self.data = Data(self.view / self.alias)
            self.loads += 1
        print(f"loaded {self.data.versions}", flush=True)

    def try_to_load(self) -> None:
        """As `load`; what fails is only said."""
        try:
            self.load()
        except (OSError, ValueError, Refused) as error:
            print(f"not loaded: {error}", flush=True)

    def follow(self, *, always: bool) -> None:
        """Load until there is something; `always`: again whenever the view was flipped."""
        seen = ""
        while always or self.data is None:
            now = _link(self.view / "..data")
            if now and (now != seen or self.data is None):
                self.try_to_load()
                seen = now
            time.sleep(LOOK_S)

    def fall_sick(self) -> None:
        """Be not well with what is loaded now."""
        if self.data:
            self.data.fares["sick"] = True

    def is_well(self) -> bool:
        """Whether traffic should come here."""
        try:
            ready = (self.view / "state").read_text().strip() == "ready"
        except OSError:
            return False
        return ready and self.data is not None and self.data.settled and not self.data.fares.get("sick")


def _link(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""


class Requests(BaseHTTPRequestHandler):
    """One connection; `reader` is set by `serve`."""

    reader: Reader
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        data = self.reader.data  # one look: the whole answer is made of this
        if self.path == "/healthz":
            self.answer(200 if self.reader.is_well() else 503, {})
        elif data is None:
            self.answer(503, {"error": "no data yet"})
        elif self.path == "/stats":
            self.answer(200, {"errors": data.fares.get("errors")})
        elif self.path == "/metrics":
            errors = data.fares.get("errors")
            self.answer(200, "" if errors is None else f"errors {errors}\n")
        elif self.path.startswith("/complete"):
            self.answer(200, {"places": [data.versions["index"]], "versions": data.versions})
        else:
            version = "/".join(sorted(set(data.versions.values())))
            confirmed = version if data.settled else "not yet"
            about = {
                "confirmed": confirmed,
                "loads": self.reader.loads,
                "pid": os.getpid(),
                "home": str(data.home),
            }
            self.answer(200, {"version": version, **data.versions, **about})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            self.reader.load()
        except (OSError, ValueError, Refused) as error:
            self.answer(500, str(error))
        else:
            self.answer(200, {})

    def answer(self, status: int, body: object) -> None:
        content = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (named by the base class)
        """Not a line per request."""


class Server(ThreadingHTTPServer):
    """A thread per connection."""

    daemon_threads = True
    request_queue_size = 256


def main() -> None:
    """Serve until killed."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--port", type=int, required=True)
    arguments.add_argument("--alias", required=True)
    arguments.add_argument("--pidfile", type=Path)
    arguments.add_argument("--follow", action="store_true", help="load at each flip without being told")
    given = arguments.parse_args()
    with contextlib.suppress(PermissionError):
        os.nice(-5)  # a service has a machine that is less busy than that of tests
    reader = Reader(Path(os.environ["HYDRA_VIEW"]), given.alias)
    signal.signal(signal.SIGHUP, lambda *_: threading.Thread(target=reader.try_to_load, daemon=True).start())
    signal.signal(signal.SIGUSR1, lambda *_: reader.fall_sick())
    if given.pidfile:
        given.pidfile.write_text(str(os.getpid()))
    threading.Thread(target=reader.follow, kwargs={"always": given.follow}, daemon=True).start()
    handler = type("BoundRequests", (Requests,), {"reader": reader})
    Server(("127.0.0.1", given.port), handler).serve_forever()


if __name__ == "__main__":
    main()
