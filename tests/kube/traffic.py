"""A client that asks a service steadily and never again: `traffic.py URL RATE LOG`, until SIGTERM.

One JSON line per request: when it began, how long it took, the answer, or what went wrong. Runs inside a
node's network namespace, with the standard library alone.
"""

from __future__ import annotations

import http.client
import json
import signal
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

WORKERS, LIMIT_S = 4, 5.0
over = threading.Event()


def ask(host: str, port: int) -> dict[str, object]:
    began = time.time()
    connection = http.client.HTTPConnection(host, port, timeout=LIMIT_S)
    try:
        connection.request("GET", "/")
        response = connection.getresponse()
        body = json.loads(response.read())
        trouble = "" if response.status == 200 and body.get("left") else f"HTTP {response.status}: {body}"
    except (OSError, http.client.HTTPException, ValueError) as e:
        body, trouble = {}, f"{type(e).__name__}: {e}"
    finally:
        connection.close()
    return {"at": began, "took": time.time() - began, "body": body, "trouble": trouble}


def work(host: str, port: int, pause_s: float, lines: list[str]) -> None:
    due = time.monotonic()
    while not over.wait(max(0.0, due - time.monotonic())):
        due += pause_s
        lines.append(json.dumps(ask(host, port)))


def main() -> None:
    url, rate, log = urlsplit(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3])
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    lines: list[str] = []
    words = (url.hostname or "", url.port or 80, WORKERS / rate, lines)
    workers = [threading.Thread(target=work, args=words) for _ in range(WORKERS)]
    for worker in workers:
        worker.start()
    over.wait()
    for worker in workers:
        worker.join()
    log.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
