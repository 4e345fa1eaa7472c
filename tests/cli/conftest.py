"""Fixtures of the command line's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.desk import Desk


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """A command line on a Consul and an S3 in memory; `prod` is initialised, nothing is published."""
    made = Desk(tmp_path)
    made.init()
    return made
