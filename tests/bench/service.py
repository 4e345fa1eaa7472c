"""A service as the benchmarks need it: reloads when told, and notes what happened when in a log of its own.

    python service.py PORT VIEW LOG [CHECK]

It knows nothing but its view, and imports nothing of this project. With CHECK (the id of a TTL check at the
agent that CONSUL_HTTP_ADDR names) it tells Consul itself as soon as it goes in or out of service; without,
Consul asks at /healthz. LOG gets `<event> <when> <seconds>`, when in seconds since the epoch: the words of
its state file as it saw them, and `load` with its time.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

LOOK_S = 0.005
REPEAT_S = 2.0  # a TTL check has to be told again and again


class Instance:
    """What this replica has loaded, and the word in its state file."""

    def __init__(self, view: Path, log: Path) -> None:
        self._view, self._log = view, log
        self.digests: dict[str, str] = {}
        self.word = ""

    def load(self) -> None:
        """Read what the view points to; raises OSError when there is nothing yet."""
        began = time.time()
        home = Path(os.path.realpath(self._view / "places"))
        files = sorted(path for folder in home.iterdir() for path in folder.iterdir())
        self.digests = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
        self._note("load", began, time.time() - began)

    def look(self) -> None:
        """Read the state file; before the first load, see whether there is something to load."""
        try:
            word = (self._view / "state").read_text().strip()
            if not self.digests:
                self.load()
        except OSError:
            return
        if word != self.word:
            self.word = word
            self._note(word, time.time(), 0.0)

    @property
    def in_service(self) -> bool:
        """Whether it may get traffic."""
        return bool(self.digests) and self.word == "ready"

    def _note(self, event: str, when: float, took: float) -> None:
        with self._log.open("a") as log:
            log.write(f"{event} {when:.6f} {took:.6f}\n")


def live(instance: Instance, check: str) -> None:
    """Look at the view for ever; tell Consul about every change, and now and then what it knows already."""
    told, when = "", 0.0
    while True:
        instance.look()
        word = "pass" if instance.in_service else "fail"
        if check and (word != told or time.monotonic() - when > REPEAT_S):
            tell(word, check)
            told, when = word, time.monotonic()
        time.sleep(LOOK_S)


def tell(word: str, check: str) -> None:
    """Say `pass` or `fail` for the check."""
    host, _, port = os.environ["CONSUL_HTTP_ADDR"].rpartition(":")
    agent = http.client.HTTPConnection(host, int(port), timeout=10)
    headers = {"X-Consul-Token": os.environ.get("CONSUL_HTTP_TOKEN", "")}
    agent.request("PUT", f"/v1/agent/check/{word}/{check}", headers=headers)
    agent.getresponse().read()
    agent.close()


def main(port: int, view: Path, log: Path, check: str = "") -> None:
    """Answer until killed."""
    instance = Instance(view, log)

    class Requests(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(200 if instance.in_service else 503)

        def do_POST(self) -> None:
            instance.load()
            self._answer(200)

        def _answer(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (named by the base class)
            pass

    threading.Thread(target=live, args=(instance, check), daemon=True).start()
    ThreadingHTTPServer(("127.0.0.1", port), Requests).serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:])
