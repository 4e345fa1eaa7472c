"""The Kubernetes API over TLS: what goes wrong there may be right at the next try, and ends no program."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from handlers.adapters.pods import Api, pods_of
from handlers.core.errors import Temporary


@pytest.fixture
def port() -> Iterator[int]:
    """Of a server that says something else than TLS to whoever connects."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    talk, _ = listening.accept()
                except OSError:
                    return
                with talk:
                    talk.recv(4096)
                    talk.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1]


def test_error_of_tls_may_be_over_at_the_next_try(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = {"name": "n", "cluster": {"server": f"https://127.0.0.1:{port}"}}
    context = {"name": "n", "context": {"cluster": "n", "user": "n"}}
    who = {"name": "n", "user": {"token": "t"}}
    lists = {"clusters": [where], "users": [who], "contexts": [context]}
    file = tmp_path / "kubeconfig"
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", "current-context": "n", **lists}))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(file))

    with pytest.raises(Temporary, match=r"^GET /api/v1/pods: SSLError: "):
        Api({}).list(pods_of("n1"))
