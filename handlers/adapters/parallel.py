"""The same work on many things at once, in threads: requests wait, they do not compute."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

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
