"""Requests of whoever publishes: many at once, in threads, and again where the store is away for a moment."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from handlers.core.errors import Temporary

TRIES = 5
T = TypeVar("T")
U = TypeVar("U")


def at_once(work: Callable[[T], U], items: Iterable[T], most: int) -> list[U]:
    """The results in order, with up to `most` at work; the first error (in order) ends it and is raised."""
    with ThreadPoolExecutor(most) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def patiently(work: Callable[[], T]) -> T:
    """The result, after a few tries where the store is away or breaks off; `Temporary` after the last."""
    pause_s = 0.2
    for _ in range(TRIES - 1):
        try:
            return work()
        except Temporary:
            time.sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s *= 2
    return work()
