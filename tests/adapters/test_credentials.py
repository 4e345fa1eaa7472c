"""Who a machine is to S3, the standard ways: each on the real library against a service as clouds have it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from handlers.adapters.credentials import KeyRing
from handlers.adapters.sigv4 import Credentials
from handlers.core.errors import Denied

STS = """<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
<AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>web-key</AccessKeyId>
<SecretAccessKey>web-secret</SecretAccessKey><SessionToken>web-token</SessionToken>
<Expiration>{expiration}</Expiration></Credentials></AssumeRoleWithWebIdentityResult>
</AssumeRoleWithWebIdentityResponse>"""


class Cloud(ThreadingHTTPServer):
    """Instance metadata, a container's credentials and STS, as far as they give out keys."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []
        self.life_s = 3600.0
        self.given = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def expiration(self) -> str:
        return (datetime.now(UTC) + timedelta(seconds=self.life_s)).strftime("%Y-%m-%dT%H:%M:%SZ")

    def keys(self, kind: str) -> bytes:
        self.given += 1
        row = {
            "Code": "Success",
            "AccessKeyId": f"{kind}-key",
            "SecretAccessKey": f"{kind}-secret",
            "Token": f"{kind}-token-{self.given}",
            "Expiration": self.expiration(),
        }
        return json.dumps(row).encode()


class Handler(BaseHTTPRequestHandler):
    server: Cloud

    def log_message(self, *args: object) -> None:
        """Nothing: pytest shows what fails."""

    def do_PUT(self) -> None:
        self.answer(b"session-token")

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.path.endswith("/security-credentials/"):
            self.answer(b"node-role")
        elif self.path.endswith("/node-role"):
            self.answer(self.server.keys("instance"))
        else:
            self.answer(self.server.keys("container"))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.asked.append(parse_qs(body)["WebIdentityToken"][0])
        self.answer(STS.format(expiration=self.server.expiration()).encode())

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    """The machine's own identity; without it the real address of clouds would be asked."""
    monkeypatch.setenv("HOME", str(tmp_path))
    with Cloud() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", server.url)
        monkeypatch.setenv("AWS_METADATA_SERVICE_TIMEOUT", "30")  # a second, where nobody says so
        yield server
        server.shutdown()


def test_keys_of_the_environment_need_no_library(cloud: Cloud) -> None:
    ring = KeyRing({"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": "t"})

    assert ring.given() == Credentials("k", "s", "t")
    assert not cloud.asked


def test_the_role_of_the_instance(cloud: Cloud) -> None:
    found = KeyRing({}).found()

    assert (found.key, found.secret) == ("instance-key", "instance-secret")
    assert found.token.startswith("instance-token")


def test_the_role_of_the_container(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{cloud.url}/container")

    assert KeyRing({}).found().key == "container-key"


def test_web_identity_is_that_of_the_given_environment(cloud: Cloud, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("signed-by-the-cluster")
    environ = {
        "AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "token"),
        "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/hydra",
        "AWS_ENDPOINT_URL_STS": cloud.url,
    }

    found = KeyRing(environ).found()

    assert (found.key, found.secret, found.token) == ("web-key", "web-secret", "web-token")
    assert "signed-by-the-cluster" in cloud.asked


def test_a_profile_of_the_given_file(cloud: Cloud, tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    file.write_text("[two]\naws_access_key_id = two-key\naws_secret_access_key = two-secret\n")

    found = KeyRing({"AWS_PROFILE": "two", "AWS_SHARED_CREDENTIALS_FILE": str(file)}).found()

    assert found == Credentials("two-key", "two-secret")


def test_who_names_a_file_does_not_become_the_machine(cloud: Cloud, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")

    with pytest.raises(Denied, match="no credentials"):
        KeyRing({"AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "empty")}).found()
    assert not cloud.asked


def test_the_keys_of_the_process_are_not_those_that_were_given(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "process-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "process-secret")

    assert KeyRing({}).found().key == "instance-key"


def test_keys_that_run_out_are_renewed(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{cloud.url}/container")
    cloud.life_s = 60  # less than the library's margin: each use asks for new ones
    ring = KeyRing({})

    first, second = ring.found().token, ring.found().token

    assert first != second


def test_the_secret_is_never_printed(cloud: Cloud) -> None:
    assert "secret" not in repr(KeyRing({}).found())
