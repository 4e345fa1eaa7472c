"""Ports of local servers: what one process has got, no other one gets while that lives."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest

from hydra_cli.dev.ports import free_port

OTHER = """
import random, sys
random.seed(7)
from hydra_cli.dev.ports import free_port
print(free_port(), flush=True)
sys.stdin.read()
"""


def test_port_of_another_process_is_not_given_out_before_that_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OTHER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout
        taken = int(other.stdout.readline())
        offered = iter([taken, taken + 1 if taken < 29_999 else taken - 1])
        monkeypatch.setattr(
            random, "randint", lambda *_: next(offered, None) or random.randrange(10_000, 30_000)
        )

        assert free_port() != taken  # nobody listens there

        other.communicate()
    monkeypatch.setattr(random, "randint", lambda *_: taken)
    assert free_port() == taken
