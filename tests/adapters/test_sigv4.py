"""Our signatures are those of the library that everybody uses."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import hypothesis.strategies as st
import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials
from hypothesis import given

from handlers.adapters import sigv4
from handlers.adapters.sigv4 import Credentials

HOST = "data.s3.eu-west-1.amazonaws.com"
KEYS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1).filter(
    # a URL library would take these apart
    lambda key: not any(part in ("", ".", "..") for part in key.split("/"))
)


def theirs(
    method: str, sent: str, credentials: Credentials, stamp: str, more: Mapping[str, str] | None = None
) -> str:
    headers = {"X-Amz-Content-SHA256": sigv4.UNSIGNED, **(more or {})}
    request = AWSRequest(method, f"https://{HOST}{sent}", headers=headers)
    request.context["timestamp"] = stamp
    request.context["payload_signing_enabled"] = False
    keys = BotoCredentials(credentials.key, credentials.secret, credentials.token or None)
    auth = S3SigV4Auth(keys, "s3", "eu-west-1")
    request.headers["X-Amz-Date"] = stamp
    if credentials.token:
        request.headers["X-Amz-Security-Token"] = credentials.token
    request.headers["Host"] = HOST
    text = auth.string_to_sign(request, auth.canonical_request(request))
    return str(auth.signature(text, request))


@pytest.mark.parametrize("token", ["", "session-token"])
@pytest.mark.parametrize("query", [{}, {"versionId": "a/b=c+d"}])
@given(key=KEYS)
def test_signatures_are_those_of_botocore(token: str, query: Mapping[str, str], key: str) -> None:
    credentials = Credentials("AKID", "a secret", token)
    now = datetime(2026, 1, 31, 23, 59, 59, tzinfo=UTC)
    sent = sigv4.target(f"/{key}", query)

    ours = sigv4.signed("GET", HOST, sent, credentials, "eu-west-1", now)

    assert ours["authorization"].rpartition("=")[2] == theirs("GET", sent, credentials, "20260131T235959Z")


def test_headers_of_amazons_own_are_signed() -> None:
    credentials, more = Credentials("AKID", "a secret", "token"), {"x-amz-checksum-mode": "ENABLED"}
    now = datetime(2026, 1, 31, 23, 59, 59, tzinfo=UTC)

    ours = sigv4.signed("HEAD", HOST, "/key", credentials, "eu-west-1", now, more)

    assert ours["x-amz-checksum-mode"] == "ENABLED"
    found = ours["authorization"].rpartition("=")[2]
    assert found == theirs("HEAD", "/key", credentials, "20260131T235959Z", more)


def test_secrets_are_not_printed() -> None:
    assert "secret" not in repr(Credentials("AKID", "a secret", "a secret token"))
