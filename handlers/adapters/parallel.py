"""Requests of whoever publishes: many at once, in threads, and again where the store is away for a moment."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from handlers.core.errors import Temporary

TRIES = 5
_QUEUED_EACH = 8  # for each at work, so that nobody waits for work while one takes longer
T = TypeVar("T")
U = TypeVar("U")


def at_once(work: Callable[[T], U], items: Iterable[T], most: int) -> list[U]:
    """The results in order, with up to `most` at work; the first error (in order) ends it and is raised.

    Not all are queued at once: a release may have 100,000 objects, and each in the queue takes a kilobyte.
    """
    results: list[U] = []
    queued: deque[Future[U]] = deque()
    with ThreadPoolExecutor(most) as pool:
        try:
            for item in items:
                queued.append(pool.submit(work, item))
                if len(queued) >= most * _QUEUED_EACH:
                    results.append(queued.popleft().result())
            return results + [future.result() for future in queued]
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
