"""A real Prometheus for tests: it scrapes what a test names, and answers what is asked of it."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from hydra_cli.dev.ports import free_port
from hydra_cli.dev.servers import HOST, await_ready, start
from hydra_cli.programs import program


@contextlib.contextmanager
def prometheus(folder: Path, targets: Mapping[str, int], every_s: int) -> Iterator[str]:
    """Its URL, while it scrapes `/metrics` at these ports every so often; `instance` is their name.

    An answer may take as long; after one that took longer, nothing is known until the next.
    """
    port = free_port()
    groups = [{"targets": [f"{HOST}:{p}"], "labels": {"instance": name}} for name, p in targets.items()]
    times = {"scrape_interval": f"{every_s}s", "scrape_timeout": f"{every_s}s"}
    # services that do not say in which format they answer
    job = {"job_name": "tests", "fallback_scrape_protocol": "PrometheusText0.0.4", "static_configs": groups}
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "prometheus.yml"
    config.write_text(json.dumps({"global": times, "scrape_configs": [job]}))  # JSON is YAML
    words = {
        "config.file": config,
        "storage.tsdb.path": folder / "data",
        "web.listen-address": f"{HOST}:{port}",
    }
    command = [str(program("prometheus")), *(f"--{name}={value}" for name, value in words.items())]
    running = start("prometheus", command, folder / "prometheus.log")
    try:
        await_ready(running, lambda: _is_ready(port), 60)
        yield f"http://{HOST}:{port}"
    finally:
        running.stop()


@contextlib.contextmanager
def page(text: str) -> Iterator[int]:
    """The port of a web server that answers everything with this text."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            """Not a line per request."""

    with ThreadingHTTPServer((HOST, 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", "/-/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
