"""A service for tests, which reads its view and knows nothing of Hydra: `tiny_service.py PORT [refuse]`.

GET /health: 200 while its state file says ready and it has loaded something, other than what a file `broken`
in its view names. POST /reload, SIGHUP: load the view again; with `refuse` it fails. GET /info: what it has.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

VIEW = Path(os.environ["HYDRA_VIEW"])
MODE = sys.argv[2] if len(sys.argv) > 2 else ""
loaded: dict[str, Any] = {"places": None}
kept: list[Any] = []


def load() -> None:
    folder = (VIEW / "places").resolve(strict=True)
    with (folder / "table" / "file").open("rb") as file:
        fresh = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    kept[:] = [fresh]
    loaded["places"] = folder.name


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/info":
            self.answer(200, json.dumps({"release": loaded["places"], "all": {"by": loaded}}))
            return
        ready = (VIEW / "state").read_text() == "ready" if (VIEW / "state").exists() else False
        broken = (VIEW / "broken").read_text() if (VIEW / "broken").exists() else None
        well = ready and loaded["places"] not in (None, broken)
        self.answer(200 if well else 503, "well" if well else "not now")

    def do_POST(self) -> None:
        if MODE == "refuse":
            self.answer(500, "cannot load it\nand a long traceback")
            return
        load()
        self.answer(200, "loaded")

    def answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: Any) -> None:
        pass


if __name__ == "__main__":
    signal.signal(signal.SIGHUP, lambda *_: load())
    if (VIEW / "places").exists():
        load()
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
