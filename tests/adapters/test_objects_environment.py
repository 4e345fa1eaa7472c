"""Which credentials the object store is asked with: those of the given environment, not of the process."""

from __future__ import annotations

import uuid

import pytest

from handlers.adapters.objects import S3Objects
from handlers.adapters.ports import Source
from tests.servers import S3


def test_given_environment_is_enough_to_write_and_list(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = f"bucket-{uuid.uuid4().hex[:8]}"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "else")
    objects = S3Objects(environ=s3.environment())
    objects.make_bucket(bucket)
    objects.make_bucket(bucket)
    objects.put(Source(bucket, "folder/file"), b"content")
    assert [found.key for found in objects.list(Source(bucket, "folder/"))] == ["folder/file"]
