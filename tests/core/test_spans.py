import hypothesis.strategies as st
from hypothesis import given

from handlers.core.spans import ranges


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 5), st.integers(1, 9))
def test_ranges_cover_what_is_missing_and_nothing_else(missing: list[bool], chunks: int, unit: int) -> None:
    spans = [(n * unit, (n + 1) * unit) for n, lacks in enumerate(missing) if lacks]

    found = list(ranges(spans, chunks * unit))

    covered = [at for start, end in found for at in range(start, end)]
    assert covered == [at for start, end in spans for at in range(start, end)]
    assert all(end - start <= chunks * unit for start, end in found)


def test_neighbours_share_a_request() -> None:
    assert list(ranges([(0, 8), (8, 16), (24, 32), (32, 35)], 16)) == [(0, 16), (24, 35)]
