"""Many requests at once: in order, with an end at the first error, and never all of them in memory."""

import threading
from collections.abc import Iterator

import pytest

from handlers.adapters.parallel import at_once
from handlers.core.errors import Temporary


def test_results_are_in_order_and_little_is_queued() -> None:
    taken, ended, most = 0, 0, 0
    lock = threading.Lock()

    def items() -> Iterator[int]:
        nonlocal taken, most
        for number in range(2000):
            taken += 1
            most = max(most, taken - ended)
            yield number

    def work(number: int) -> int:
        nonlocal ended
        with lock:
            ended += 1
        return number * 2

    assert at_once(work, items(), 4) == [number * 2 for number in range(2000)]
    assert most <= 4 * 8 + 1


def test_the_first_error_ends_it() -> None:
    begun: list[int] = []

    def work(number: int) -> int:
        begun.append(number)
        if number in (3, 5):
            raise Temporary(f"no {number}")
        return number

    with pytest.raises(Temporary, match="no 3"):
        at_once(work, range(10_000), 2)
    assert len(begun) < 1000
