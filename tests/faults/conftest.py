"""A node in the field and the servers around it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import servers
from tests.faults.field import Field
from tests.faults.server import FaultyS3


@pytest.fixture
def server() -> Iterator[FaultyS3]:
    """An S3 server that behaves until it gets rules."""
    with FaultyS3() as made:
        yield made


@pytest.fixture
def field(tmp_path: Path, consul: servers.Consul, server: FaultyS3) -> Field:
    """A node that holds nothing yet."""
    return Field.at(tmp_path / "node" / "root", consul, server)
