"""A service in a pod, which reads its view and knows nothing of Hydra: `service.py PORT [watch]`.

GET / : what it has loaded of both datasets, and its name. GET /healthz: 200 once it has loaded something.
POST /reload and SIGHUP: load the view again; a release whose data says `refuse` is not taken, and one that it
starts with leaves it without any. `watch`: load it whenever it points elsewhere. The files that it has loaded
stay mapped, as an index would. SIGTERM: ends when its requests have.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

VIEW = Path(os.environ["HYDRA_VIEW"])
loaded: dict[str, str] = {}
mapped: dict[str, mmap.mmap] = {}


def load() -> None:
    """All files below one resolved link: never of two releases."""
    folder = (VIEW / "data").resolve(strict=True)
    maps = {name: mapping(folder / name / "value") for name in ("left", "right")}
    fresh = {name: data[:].decode() for name, data in maps.items()}
    if "refuse" in fresh.values():
        raise ValueError("this data is not for me")
    loaded.update(fresh)
    mapped.update(maps)  # the last reference to those before


def mapping(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def load_if_it_can() -> None:
    try:
        load()
    except (OSError, ValueError) as e:
        print(f"keeps what it has: {e}", file=sys.stderr, flush=True)


def keep_up() -> None:
    seen = None
    while True:
        if (now := os.path.realpath(VIEW / "data")) != seen:
            load_if_it_can()
            seen = now
        time.sleep(0.1)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status = 200 if loaded or self.path == "/" else 503
        self.answer(status, {"pod": os.environ.get("POD_NAME", ""), **loaded})

    def do_POST(self) -> None:
        try:
            load()
        except (OSError, ValueError) as e:
            self.answer(500, {"error": str(e)})
            return
        self.answer(200, dict(loaded))

    def answer(self, status: int, content: dict[str, str]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = False  # requests under way end before the process does
    request_queue_size = 128


if __name__ == "__main__":
    if (VIEW / "data").exists():
        load_if_it_can()
    if "watch" in sys.argv[2:]:
        threading.Thread(target=keep_up, daemon=True).start()
    server = Server(("", int(sys.argv[1])), Handler)
    signal.signal(signal.SIGHUP, lambda *_: load_if_it_can())
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    server.serve_forever()
    server.server_close()
