"""Parts of files: which of their bytes are still to be fetched, and how to divide them into requests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

Span = tuple[int, int]
"""Where bytes begin and end in a file, the end excluded."""


def ranges(missing: Sequence[Span], most: int) -> Iterator[Span]:
    """Neighbouring spans together, as long as a range of at most `most` bytes may be."""
    start = end = -1
    for first, last in missing:
        if first == end and last - start <= most:
            end = last
            continue
        if end > start:
            yield start, end
        start, end = first, last
    if end > start:
        yield start, end
